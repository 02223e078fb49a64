"""The text of PostgreSQL's configuration.

What carries the cluster's promises is given on the command line, where neither ALTER SYSTEM nor a file copied from another
node can override it (S11).  The two settings that change with the roles are the whole of postgresql.auto.conf.  Users'
settings are a file of their own, beside PGDATA; which they may be is `pgtopology.parameters`' business.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noded.law.promise import Configuration
from noded.postgres.tls import ServerTls
from noded.postgres.vouching import MAP
from pgtopology.desired import DesiredSettings
from pgtopology.hba import why_unsafe
from pgtopology.node import Address
from pgtopology.orders import Upstream
from pgtopology.parameters import OUR_PREFIX, SettingRefused
from pgtopology.timing import WAL_RECEIVER_TIMEOUT_MS

CONTROL_ROLE = "endpointd"
REPLICATION_ROLE = "endpointd_replication"
PROBE_ROLE = "endpointd_probe"
SUPERUSER = "postgres"
"""The users' own."""

DATABASE = "endpointd"
"""Ours: what our sessions do disturbs nobody who uses, copies, drops or listens to a database (decision 0012)."""
OTHER_DATABASE = "postgres"
"""Where a server has none of ours yet: it was made by an earlier version."""

IDENT_MAP = "endpointd"
"""Says in pg_ident.conf which user of the operating system is noded."""

DEFAULTS: Mapping[str, str] = {
    "shared_buffers": "32MB",
    "max_connections": "100",
    "wal_level": "replica",
    "max_replication_slots": "20",
    "wal_keep_size": "256MB",
    "max_slot_wal_keep_size": "4GB",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
"""Where ours differ from PostgreSQL's own, or must be known here; operators may give others."""

CERTIFIED_BY = frozenset({"ssl", "ssl_cert_file", "ssl_key_file"})
"""An operator who gives one of these certifies the servers by other means than ours."""

SYNCHRONISES = 17
"""The version from which on PostgreSQL itself carries logical slots over to the next writer."""

_PINNED = "".join(f" -c {name}=0" for name in ("tcp_user_timeout", "statement_timeout", "lock_timeout", "idle_session_timeout"))

WAL_OPTIONS = "-c wal_sender_timeout=60s" + _PINNED
"""For our programs that copy: what is set for everybody must not end them."""

VERSION_PARAMETER = f"{OUR_PREFIX}desired_version"
"""Says in every session which version of the settings the server has read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this server is, and what it is called."""

    major: int
    host: str
    port: int
    socket_dir: Path
    hba_file: Path
    ident_file: Path
    sync_name: str
    is_logical: bool = False
    """Whether it is started with wal_level logical."""


def command_line(place: Place) -> list[str]:
    """Return the options of ``postgres`` for the settings that are the cluster's own."""
    return [part for name, value in _fixed(place).items() for part in ("-c", f"{name}={value}")]


def settings_file(desired: DesiredSettings, demands: Mapping[str, int], tls: ServerTls | None = None) -> bytes:
    """Return the contents of the file with users' settings, which postgresql.conf includes.

    *tls*: what PostgreSQL has, unless users' settings say it.

    *demands*: what a standby needs at least of each parameter, because the writer of its WAL had so much. A line says which
    version it is, so that a session can tell what the server has read.
    """
    chosen = {name.lower(): value for name, value in desired.parameters.items()}
    settings = {**DEFAULTS, **(tls_settings(tls) if tls is not None and not chosen.keys() & CERTIFIED_BY else {}), **chosen}
    for name, demanded in demands.items():
        wanted = settings.get(name, "")
        if not wanted.strip().isdecimal() or int(wanted) < demanded:
            settings[name] = str(demanded)
    lines = [f"{name} = {quote_setting(value)}" for name, value in sorted(settings.items())]
    head = "# Written by noded from the cluster's settings (endpointctl config); changes made here are lost."
    return "\n".join((head, f"{VERSION_PARAMETER} = '{desired.version}'", *lines, "")).encode()


def tls_settings(tls: ServerTls) -> dict[str, str]:
    """Return the settings by which PostgreSQL speaks *tls*, all of which a reload changes."""
    return {
        "ssl": "on",
        "ssl_cert_file": str(tls.certificate),
        "ssl_key_file": str(tls.key),
        **({"ssl_ca_file": str(tls.client_ca)} if tls.client_ca is not None else {}),
        "ssl_min_protocol_version": "TLSv1.2",
    }


def main_file(text: str, *, place: Place, included: Path) -> str:
    """Return *text*, a postgresql.conf that may be another node's, so that it says nothing of ours and ends in our include."""
    kept = without_settings(text, {*_fixed(place), "include_if_exists"})
    return f"{kept}include_if_exists = {quote_setting(str(included))}\n"


def _fixed(place: Place) -> dict[str, str]:
    fixed = {
        # What a WAL receiver calls itself. Here and not in primary_conninfo, which a base copy takes along: only a server that
        # noded started acknowledges under a member's name (S16).
        "cluster_name": place.sync_name,
        "listen_addresses": place.host,
        "port": str(place.port),
        "unix_socket_directories": str(place.socket_dir),
        # Not 0700, which confinement.py refuses; a socket has no use for the bits of execution.
        "unix_socket_permissions": "0600",
        "hba_file": str(place.hba_file),
        "allow_in_place_tablespaces": "on",
        "ident_file": str(place.ident_file),
        "logging_collector": "off",
        "log_destination": "stderr",
        "password_encryption": "scram-sha-256",
        # Durability.
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "wal_log_hints": "on",
        "restart_after_crash": "off",
        # Replication. A frozen upstream is given up after 2 s; a lost one is tried again every 100 ms.
        "hot_standby": "on",
        "hot_standby_feedback": "on",
        "max_wal_senders": "20",
        "wal_receiver_timeout": f"{WAL_RECEIVER_TIMEOUT_MS}ms",
        "wal_receiver_status_interval": "1s",
        "wal_retrieve_retry_interval": "100ms",
        "wal_receiver_create_temp_slot": "off",
        # Who receives, and whether it streams, is read from the process table (S2).
        "update_process_title": "on",
        "primary_slot_name": place.sync_name,
        "recovery_min_apply_delay": "0",
        "recovery_target_timeline": "latest",
        "restore_command": "",
        "recovery_end_command": "",
        "archive_cleanup_command": "",
        # noded's own sessions must get in when users have taken all others (L6).
        "superuser_reserved_connections": "8",
    }
    if place.major >= SYNCHRONISES:
        fixed["allow_alter_system"] = "off"
        # Every standby keeps the logical slots whose owners want them on the next writer too (failover = true).
        fixed["sync_replication_slots"] = "on" if place.is_logical else "off"
    if place.major >= 18:
        fixed["idle_replication_slot_timeout"] = "0"
    return fixed


def is_logical(desired: DesiredSettings) -> bool:
    """Return whether a server that goes by *desired* is started with wal_level logical."""
    return desired.parameters.get("wal_level", DEFAULTS["wal_level"]) == "logical"


def auto_conf(configuration: Configuration, *, major: int, passfile: Path, application_name: str | None = None) -> bytes:
    """Return the contents of postgresql.auto.conf.

    *application_name*: for a server that an earlier version started, whose cluster_name is not the sync name.
    """
    upstream = configuration.upstream
    conninfo = "" if upstream is None else upstream_conninfo(upstream, passfile=passfile, application_name=application_name)
    lines = (
        "# Written by noded, which restores it when it is changed.",
        f"primary_conninfo = {quote_setting(conninfo)}",
        f"synchronous_standby_names = {quote_setting(configuration.synchronous_standby_names)}",
    )
    if major >= SYNCHRONISES:
        # What a subscriber gets, as many copies have as of a commit: it is never ahead of the next writer.
        lines += (f"synchronized_standby_slots = {quote_setting(', '.join(configuration.standby_slots))}",)
    return ("\n".join(lines) + "\n").encode()


def upstream_conninfo(upstream: Upstream, *, passfile: Path, application_name: str | None = None) -> str:
    """Return how a WAL receiver reaches *upstream*; the password comes from *passfile* alone (S2)."""
    return conninfo(
        {
            "host": upstream.address.host,
            "port": str(upstream.address.port),
            "user": REPLICATION_ROLE,
            # Not for WAL: PostgreSQL's worker that keeps logical slots in step logs in there.
            "dbname": DATABASE,
            "passfile": str(passfile),
            **({"application_name": application_name} if application_name is not None else {}),
            **transport(upstream.address.host),
            "connect_timeout": "2",
            "keepalives_idle": "2",
            "keepalives_interval": "1",
            "keepalives_count": "3",
            "tcp_user_timeout": "1500",
            # A frozen standby is given up after 2 s. For this connection only: an archiver or a subscriber that is busy for a
            # moment is not a dead standby. The rest is what a setting for everybody must not do to it.
            "options": "-c wal_sender_timeout=2s" + _PINNED,
        }
    )


def transport(host: str) -> dict[str, str]:
    """Return in what a server at *host* is spoken to: within one machine nobody listens, and TLS would only cost time.

    To others libpq speaks TLS if they have it (sslmode=prefer).
    """
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False
    return {"sslmode": "disable"} if is_here else {}


def conninfo(words: Mapping[str, str]) -> str:
    """Return a libpq connection string."""
    return " ".join(f"{key}={_conninfo_value(value)}" for key, value in words.items())


def _conninfo_value(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return escaped if escaped and " " not in escaped else f"'{escaped}'"


def without_settings(text: str, names: Collection[str]) -> str:
    """Return *text*, a PostgreSQL configuration file, without comments and without the settings *names*.

    What is given on the command line must not stand in the file with another value: at each reload PostgreSQL would
    complain that it cannot change.
    """
    kept: list[str] = []
    for line in text.splitlines():
        words = line.replace("=", " ").split()
        if words and not words[0].startswith("#") and words[0].lower() not in names:
            kept.append(line)
    return "\n".join(kept) + "\n"


def quote_setting(value: str) -> str:
    """Return *value* as a string in a PostgreSQL configuration file."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def quote_literal(value: str) -> str:
    """Return *value* as an SQL literal."""
    body = value.replace("'", "''")
    return f" E'{body.replace(chr(92), chr(92) * 2)}'" if "\\" in value else f"'{body}'"


def passfile_line(password: str, server: Address, role: str = REPLICATION_ROLE) -> bytes:
    """Return the line of a password file that gives *role* its password on *server* and nowhere else.

    A receiver that was requested with an earlier upstream and starts late finds no password for that one (S2).
    """
    return f"{_escaped(server.host)}:{server.port}:*:{role}:{_escaped(password)}\n".encode()


def _escaped(field: str) -> str:
    return field.replace("\\", "\\\\").replace(":", "\\:")


def hba(user_lines: Sequence[str], *, by_peer: bool, vouched: Sequence[str] = ()) -> bytes:
    """Return the contents of pg_hba.conf; *vouched* are the lines for whom proxies vouch for.

    noded's superuser comes through the private unix socket only; users' lines come after ours, so that none of them can
    open it, and before the closing ones. *by_peer*: the kernel vouches for noded, so that no password that SQL can change
    stands between us and the server (decision 0012); otherwise the control role's password does.
    """
    for line in user_lines:
        if (reason := why_unsafe(line)) is not None:
            raise SettingRefused(reason)
    method = f"peer map={IDENT_MAP}" if by_peer else "scram-sha-256"
    lines = [
        "# Written by noded; changes made here are lost.",
        *([f"local {DATABASE},replication {SUPERUSER} {method}"] if by_peer else []),
        f"local all         {CONTROL_ROLE} {method}",
        f"local replication {CONTROL_ROLE} {method}",
        "local all         all scram-sha-256",
        f"host  all         {CONTROL_ROLE} all reject",
        f"host  replication {CONTROL_ROLE} all reject",
        f"host  replication {REPLICATION_ROLE} all scram-sha-256",
        f"host  {DATABASE},{OTHER_DATABASE} {REPLICATION_ROLE} all scram-sha-256",
        f"host  all         {REPLICATION_ROLE} all reject",
        f"host  replication {PROBE_ROLE} all reject",
        f"host  all         {PROBE_ROLE} all scram-sha-256",
        *vouched,
        *user_lines,
        "host  all         all 0.0.0.0/0 scram-sha-256",
        "host  all         all ::/0      scram-sha-256",
        # "all" means every database, and replication is none.
        "host  replication all 0.0.0.0/0 scram-sha-256",
        "host  replication all ::/0      scram-sha-256",
    ]
    return ("\n".join(lines) + "\n").encode()


def ident(text: str, system_user: str | None, vouched: Sequence[str] = ()) -> bytes:
    """Return *text*, a pg_ident.conf, with the lines of our maps, and none of another's in them.

    *system_user*: who noded is to PostgreSQL; None if that user has no name. *vouched*: the lines of the proxies' map.
    """
    kept = [line for line in text.splitlines() if line.split()[:1] not in ([IDENT_MAP], [MAP])]
    ours = [f"{IDENT_MAP} {_quoted_word(system_user)} {role}" for role in (CONTROL_ROLE, SUPERUSER)] if system_user else []
    return ("\n".join([*kept, *ours, *vouched]) + "\n").encode(errors="surrogateescape")


def _quoted_word(word: str) -> str:
    """Return *word* so that pg_ident.conf takes it for no pattern and no keyword."""
    return f'"{word}"'
