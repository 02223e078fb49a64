"""The text of PostgreSQL's configuration.

What never changes while PostgreSQL runs is given on the command line, where neither ALTER SYSTEM nor a file copied from
another node can override it (S11).  The two settings that do change are the whole of postgresql.auto.conf.  Users'
settings come from noded's settings file; those that carry the cluster's promises are refused with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noded.promise import Configuration
from pgtopology.node import Address
from pgtopology.orders import Upstream

CONTROL_ROLE = "endpointd"
REPLICATION_ROLE = "endpointd_replication"
PROBE_ROLE = "endpointd_probe"

_DURABILITY = "commits would be acknowledged that can be lost"
_CLUSTER = "the cluster decides it"
_PLACE = "noded decides where PostgreSQL listens and where its files are"
_LOG = "noded keeps and rotates PostgreSQL's log"
_TIMING = "failover times depend on it"

OURS: Mapping[str, str] = {
    "allow_alter_system": "settings come from the cluster's settings, so that all nodes have the same",
    "archive_cleanup_command": _CLUSTER,
    "cluster_name": _CLUSTER,
    "config_file": _PLACE,
    "data_directory": _PLACE,
    "external_pid_file": _PLACE,
    "fsync": _DURABILITY,
    "full_page_writes": _DURABILITY,
    "hba_file": _PLACE,
    "hot_standby": "every replica serves reads",
    "hot_standby_feedback": _CLUSTER,
    "ident_file": _PLACE,
    "include": "settings must be given one by one, so that they can be checked",
    "include_dir": "settings must be given one by one, so that they can be checked",
    "include_if_exists": "settings must be given one by one, so that they can be checked",
    "listen_addresses": _PLACE,
    "log_destination": _LOG,
    "logging_collector": _LOG,
    "max_replication_slots": _CLUSTER,
    "max_slot_wal_keep_size": "a dead node would fill the disk of a living one",
    "max_standby_archive_delay": _TIMING,
    "max_standby_streaming_delay": _TIMING,
    "max_wal_senders": _CLUSTER,
    "password_encryption": "passwords are kept as SCRAM verifiers only",
    "port": _PLACE,
    "primary_conninfo": _CLUSTER,
    "primary_slot_name": _CLUSTER,
    "promote_trigger_file": _CLUSTER,
    "recovery_end_command": _TIMING,
    "recovery_min_apply_delay": _TIMING,
    "recovery_target": _CLUSTER,
    "recovery_target_timeline": _CLUSTER,
    "restart_after_crash": "commits that no other node has would become visible",
    "restore_command": _TIMING,
    "superuser_reserved_connections": "noded keeps connections of its own",
    "synchronous_commit": _DURABILITY,
    "synchronous_standby_names": _DURABILITY,
    "unix_socket_directories": _PLACE,
    "unix_socket_permissions": _PLACE,
    "wal_keep_size": _CLUSTER,
    "wal_log_hints": "a former primary could not be rewound",
    "wal_receiver_create_temp_slot": _CLUSTER,
    "wal_receiver_status_interval": _TIMING,
    "wal_receiver_timeout": _TIMING,
    "wal_retrieve_retry_interval": _TIMING,
    "wal_sender_timeout": _TIMING,
}
"""Settings that a user may not give, and why."""


class UserSettingError(ValueError):
    """A setting of the user's is refused; the text says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this server is, and what it is called."""

    name: str
    major: int
    host: str
    port: int
    socket_dir: Path
    hba_file: Path
    sync_name: str


def check_user_settings(settings: Mapping[str, str]) -> None:
    """Raise UserSettingError for the first setting in *settings* that is ours, or that is no setting's name."""
    for name, value in settings.items():
        key = name.lower()
        if not key.replace("_", "").replace(".", "").isalnum():
            raise UserSettingError(f'"{name}" is not the name of a setting')
        if "\n" in value or "\0" in value:
            raise UserSettingError(f'the value of "{name}" must be one line')
        if key == "wal_level":
            if value not in ("replica", "logical"):
                raise UserSettingError('"wal_level" must be "replica" or "logical": the nodes replicate from one another')
        elif key in OURS:
            raise UserSettingError(f'"{name}" cannot be set: {OURS[key]}')


def check_user_hba(lines: Sequence[str]) -> None:
    """Raise UserSettingError for the first line of *lines* that would let somebody in without a proof."""
    for line in lines:
        words = line.split("#", 1)[0].split()
        if "\n" in line or "\0" in line or line.rstrip().endswith("\\"):
            raise UserSettingError("a pg_hba line must be one line")
        if words and words[0].startswith("include"):
            raise UserSettingError(f'the pg_hba line "{line}" is refused: lines must be given one by one')
        if any(word.strip('"') in ("trust", "ident") for word in words[3:]):
            raise UserSettingError(f'the pg_hba line "{line}" is refused: everybody proves who they are')


def command_line(place: Place, user: Mapping[str, str]) -> list[str]:
    """Return the options of ``postgres`` for all settings that do not change while it runs."""
    check_user_settings(user)
    settings = {
        "shared_buffers": "32MB",
        "max_connections": "100",
        "wal_level": "replica",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        **{name.lower(): value for name, value in user.items()},
        **_fixed(place),
    }
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _fixed(place: Place) -> dict[str, str]:
    fixed = {
        "cluster_name": place.name,
        "listen_addresses": place.host,
        "port": str(place.port),
        "unix_socket_directories": str(place.socket_dir),
        "unix_socket_permissions": "0700",
        "hba_file": str(place.hba_file),
        "logging_collector": "off",
        "log_destination": "stderr",
        "password_encryption": "scram-sha-256",
        # Durability.
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "wal_log_hints": "on",
        "restart_after_crash": "off",
        # Replication. A frozen peer is given up after 2 s; a lost one is tried again every 100 ms.
        "hot_standby": "on",
        "hot_standby_feedback": "on",
        "max_wal_senders": "20",
        "max_replication_slots": "20",
        "wal_keep_size": "256MB",
        "max_slot_wal_keep_size": "4GB",
        "wal_sender_timeout": "2s",
        "wal_receiver_timeout": "2s",
        "wal_receiver_status_interval": "1s",
        "wal_retrieve_retry_interval": "100ms",
        "wal_receiver_create_temp_slot": "off",
        "primary_slot_name": place.sync_name,
        # Replay never waits long for a reader, wherever the WAL comes from: a promotion waits for replay.
        "max_standby_streaming_delay": "500ms",
        "max_standby_archive_delay": "500ms",
        "recovery_min_apply_delay": "0",
        "recovery_target_timeline": "latest",
        "restore_command": "",
        "recovery_end_command": "",
        "archive_cleanup_command": "",
        # noded's own sessions must get in when users have taken all others (L6).
        "superuser_reserved_connections": "8",
    }
    if place.major >= 17:
        fixed["allow_alter_system"] = "off"
    return fixed


def auto_conf(configuration: Configuration, *, sync_name: str, passfile: Path) -> bytes:
    """Return the contents of postgresql.auto.conf."""
    upstream = configuration.upstream
    conninfo = "" if upstream is None else upstream_conninfo(upstream, sync_name=sync_name, passfile=passfile)
    lines = (
        "# Written by noded, which restores it when it is changed.",
        f"primary_conninfo = {quote_setting(conninfo)}",
        f"synchronous_standby_names = {quote_setting(configuration.synchronous_standby_names)}",
    )
    return ("\n".join(lines) + "\n").encode()


def upstream_conninfo(upstream: Upstream, *, sync_name: str, passfile: Path) -> str:
    """Return how a WAL receiver reaches *upstream*; the password comes from *passfile* alone (S2)."""
    return conninfo(
        {
            "host": upstream.address.host,
            "port": str(upstream.address.port),
            "user": REPLICATION_ROLE,
            "passfile": str(passfile),
            "application_name": sync_name,
            "connect_timeout": "2",
            "keepalives_idle": "2",
            "keepalives_interval": "1",
            "keepalives_count": "3",
            "tcp_user_timeout": "1500",
        }
    )


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


def hba(user_lines: Sequence[str]) -> bytes:
    """Return the contents of pg_hba.conf.

    noded's superuser comes through the private unix socket only; users' lines come after ours, so that none of them can
    open it, and before the closing ones.
    """
    check_user_hba(user_lines)
    lines = [
        "# Written by noded at every start.",
        f"local all         {CONTROL_ROLE} scram-sha-256",
        f"local replication {CONTROL_ROLE} scram-sha-256",
        "local all         all scram-sha-256",
        f"host  all         {CONTROL_ROLE} all reject",
        f"host  replication {CONTROL_ROLE} all reject",
        f"host  replication {REPLICATION_ROLE} all scram-sha-256",
        f"host  postgres    {REPLICATION_ROLE} all scram-sha-256",
        f"host  all         {REPLICATION_ROLE} all reject",
        f"host  all         {PROBE_ROLE} all scram-sha-256",
        *user_lines,
        "host  all all 0.0.0.0/0 scram-sha-256",
        "host  all all ::/0      scram-sha-256",
    ]
    return ("\n".join(lines) + "\n").encode()
