"""Which parameters of PostgreSQL an operator may give, and which lines of pg_hba.conf; and how a change of them is applied.

Pure, and shared by whoever takes such settings and whoever carries them out.  Whether PostgreSQL itself accepts a value only
PostgreSQL can say.  What carries the cluster's promises is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from pgtopology.desired import DesiredSettings
from pgtopology.hba import why_not_everywhere, why_unsafe

_DURABILITY = "commits would be acknowledged that can be lost"
_CLUSTER = "the cluster decides it"
_PLACE = "noded decides where PostgreSQL listens and where its files are"
_LOG = "noded keeps and rotates PostgreSQL's log"
_TIMING = "failover times depend on it"
_DAMAGE = "data that is damaged or missing would be taken for sound, and copied"

OURS: Mapping[str, str] = {
    "allow_alter_system": "settings come from the cluster's settings, so that all nodes have the same",
    "allow_in_place_tablespaces": "tablespaces lie inside the data directory, where copies and rewinds carry them",
    "application_name": "each client says its own, and standbys and noded's sessions are told apart by it",
    "archive_cleanup_command": _CLUSTER,
    "cluster_name": _CLUSTER,
    "config_file": _PLACE,
    "data_directory": _PLACE,
    "data_sync_retry": _DURABILITY,
    "db_user_namespace": "the cluster's own roles would have other names in each database",
    "external_pid_file": _PLACE,
    "fsync": _DURABILITY,
    "full_page_writes": _DURABILITY,
    "hba_file": _PLACE,
    "hosts_file": _PLACE,
    "hot_standby": "every replica serves reads",
    "hot_standby_feedback": _CLUSTER,
    "ident_file": _PLACE,
    "idle_replication_slot_timeout": "a node that is away for so long would lose its slot, and have to be copied anew",
    "ignore_checksum_failure": _DAMAGE,
    "ignore_invalid_pages": _DAMAGE,
    "include": "settings must be given one by one, so that they can be checked",
    "include_dir": "settings must be given one by one, so that they can be checked",
    "include_if_exists": "settings must be given one by one, so that they can be checked",
    "listen_addresses": _PLACE,
    "log_destination": _LOG,
    "log_directory": _LOG,
    "log_file_mode": _LOG,
    "log_filename": _LOG,
    "log_rotation_age": _LOG,
    "log_rotation_size": _LOG,
    "log_truncate_on_rotation": _LOG,
    "logging_collector": _LOG,
    "max_wal_senders": _CLUSTER,
    "password_encryption": "passwords are kept as SCRAM verifiers only",
    "port": _PLACE,
    "post_auth_delay": _TIMING,
    "pre_auth_delay": _TIMING,
    "primary_conninfo": _CLUSTER,
    "primary_slot_name": _CLUSTER,
    "promote_trigger_file": _CLUSTER,
    "recovery_end_command": _TIMING,
    "recovery_min_apply_delay": _TIMING,
    "recovery_target": _CLUSTER,
    "recovery_target_action": _CLUSTER,
    "recovery_target_inclusive": _CLUSTER,
    "recovery_target_lsn": _CLUSTER,
    "recovery_target_name": _CLUSTER,
    "recovery_target_time": _CLUSTER,
    "recovery_target_timeline": _CLUSTER,
    "recovery_target_xid": _CLUSTER,
    "restart_after_crash": "commits that no other node has would become visible",
    "restore_command": _TIMING,
    "ssl_sni": "the file that it reads would stand on one node only, inside the data, where copies and rewinds replace it",
    "superuser_reserved_connections": "noded keeps connections of its own",
    "sync_replication_slots": f"{_CLUSTER}: on from PostgreSQL 17 on, with wal_level logical",
    "synchronized_standby_slots": _DURABILITY,
    "synchronous_commit": _DURABILITY,
    "synchronous_standby_names": _DURABILITY,
    "unix_socket_directories": _PLACE,
    "unix_socket_group": _PLACE,
    "unix_socket_permissions": _PLACE,
    "update_process_title": "noded tells by it who receives WAL",
    "wal_log_hints": "a former primary could not be rewound",
    "wal_receiver_create_temp_slot": _CLUSTER,
    "wal_receiver_status_interval": _TIMING,
    "wal_receiver_timeout": _TIMING,
    "wal_retrieve_retry_interval": _TIMING,
    "wal_sender_shutdown_timeout": "a writer that is handed over waits until its successor has everything; noded bounds that",
    "zero_damaged_pages": _DAMAGE,
}
"""Parameters that an operator may not give, and why."""

GONE: Mapping[str, str] = {
    "escape_string_warning": "PostgreSQL 19 took it away: a backslash in a plain string is always a backslash",
    "io_workers": 'from PostgreSQL 19 on give "io_min_workers" and "io_max_workers"',
}
"""What a version of PostgreSQL no longer knows, and what to do about it."""

LATELY = frozenset(
    {
        "allow_in_place_tablespaces",
        "application_name",
        "db_user_namespace",
        "dynamic_library_path",
        "idle_replication_slot_timeout",
        "ignore_checksum_failure",
        "ignore_invalid_pages",
        "log_directory",
        "log_file_mode",
        "log_filename",
        "log_rotation_age",
        "log_rotation_size",
        "log_truncate_on_rotation",
        "sync_replication_slots",
        "synchronized_standby_slots",
        "temp_file_limit",
        "unix_socket_group",
        "zero_damaged_pages",
    }
)
"""Of these, what the first versions accepted: where it stands already it is left out."""
MEBIBYTES = {"MB": 1, "GB": 1 << 10, "TB": 1 << 20}
"""What a size is in units of 1 MB, which is what the sizes below are without one."""


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """Between what an operator may choose."""

    least: int
    most: int
    why: str
    is_size: bool = False
    """Whether it is in MB, or with a unit of its own; else it is a count."""
    is_unit_kb: bool = False
    """Whether PostgreSQL takes a size without a unit for kB, not MB."""
    or_none: bool = False
    """Whether -1 means that there is no limit, and may be given too."""

    @property
    def text(self) -> str:
        """For people."""
        unit = "MB" if self.is_size else ""
        return f"{'-1, or ' if self.or_none else ''}{self.least}{unit} to {self.most}{unit}"


BOUNDED: Mapping[str, Bound] = {
    "max_replication_slots": Bound(
        least=20, most=10_000, why="every node has one for every other node, and users' beside them"
    ),
    "max_slot_wal_keep_size": Bound(
        least=4096,
        most=1 << 30,
        is_size=True,
        why="with less a node that was away for a moment would have to be copied anew, without a limit it would fill the disk",
    ),
    "temp_file_limit": Bound(
        least=1024,
        most=1 << 30,
        is_size=True,
        is_unit_kb=True,
        or_none=True,
        why="the list of files of a copy is a temporary file, so with less a lost standby could not be made anew",
    ),
    "wal_keep_size": Bound(least=256, most=1 << 30, is_size=True, why="a copy that is being made may need it"),
}
"""Parameters of which only so much is the operator's to choose."""

OUR_PREFIX = "endpointd."
"""Parameters of this extension's name are our own marks."""

AT_LEAST_THE_WRITERS = (
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_worker_processes",
)
"""A standby needs at least as much of each as the server whose WAL it replays had, or it does not start as a hot standby.
PostgreSQL documentation, "Hot Standby", "Administrator's Overview". max_wal_senders is one more, and ours."""

LEAST_MS: Mapping[str, int] = {"transaction_timeout": 1000}
"""Timeouts that a login is under before a session can choose another, and what leaves it enough time on a busy machine."""

_UNITS_MS = {"us": 0.001, "": 1.0, "ms": 1.0, "s": 1000.0, "min": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}
_DURATION = re.compile(r"\s*([0-9.]+)\s*([a-z]*)\s*")

PARAMETERS_MAX = 400
HBA_LINES_MAX = 500
VALUE_LENGTH_MAX = 4000

_T = TypeVar("_T")

_QUANTITY = re.compile(r"(\d{1,18}) ?([A-Za-z]*)")
_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")


class SettingRefused(ValueError):  # noqa: N818 - a refusal is an answer, not an accident
    """A setting is not the operator's to give; the text is one line that says which and why."""


def check(desired: DesiredSettings) -> None:
    """Raise SettingRefused for the first thing in *desired* that is refused."""
    check_parameters(desired.parameters)
    check_hba(desired.hba)


def check_kept(desired: DesiredSettings) -> None:
    """Raise SettingRefused for the first thing in *desired* that no version accepted: a settings file outlives an upgrade."""
    check_parameters({name: value for name, value in desired.parameters.items() if name.lower() not in LATELY})
    for line in desired.hba:
        if (reason := why_unsafe(line)) is not None:
            raise SettingRefused(reason)


def without_refused(desired: DesiredSettings) -> DesiredSettings:
    """Return *desired* without what is refused: what an earlier version accepted must not keep a server from starting."""
    return msgspec.structs.replace(
        desired,
        parameters={name: value for name, value in desired.parameters.items() if _passes(check_parameters, {name: value})},
        # A line that reads a file worked before, and may be what keeps somebody out.
        hba=tuple(line for line in desired.hba if why_unsafe(line) is None),
    )


def check_parameters(parameters: Mapping[str, str]) -> None:
    """Raise SettingRefused for the first of *parameters* that is ours, or that is no parameter's name."""
    if len(parameters) > PARAMETERS_MAX:
        raise SettingRefused(f"{len(parameters)} parameters are too many; up to {PARAMETERS_MAX} can be given")
    keys: set[str] = set()
    for name, value in parameters.items():
        key = name.lower()
        check_names((name,))
        if key in keys:
            raise SettingRefused(f'"{key}" is given twice')
        keys.add(key)
        if len(value) > VALUE_LENGTH_MAX or not value.isprintable():
            raise SettingRefused(f'the value of "{name}" must be one line of up to {VALUE_LENGTH_MAX} printable characters')
        if key.startswith(OUR_PREFIX):
            raise SettingRefused(f'"{name}" cannot be set: names that begin with "{OUR_PREFIX}" are ours')
        _check_value(name, key, value)


def _check_value(name: str, key: str, value: str) -> None:
    """Raise SettingRefused if the parameter, whose lower-case name is *key*, is ours, or is not ours to give that *value*."""
    if key == "wal_level":
        if value not in ("replica", "logical"):
            raise SettingRefused('"wal_level" must be "replica" or "logical": the nodes replicate from one another')
    elif key == "sync_replication_slots" and value.strip().lower() in ("on", "true", "yes", "1"):
        pass  # as it is
    elif key == "dynamic_library_path":
        if "$libdir" not in value.split(":"):
            why = "$libdir must be one of its directories, because servers load their WAL receiver from it"
            raise SettingRefused(f'"{name}" cannot be "{value}": {why}')
    elif key in BOUNDED:
        _check_bound(name, value, BOUNDED[key])
    elif key in AT_LEAST_THE_WRITERS and not value.strip().isdecimal():
        raise SettingRefused(f'"{name}" must be a whole number, not "{value}"')
    elif key in LEAST_MS and (given_ms := _duration_ms(value)) is not None and 0 < given_ms < LEAST_MS[key]:
        raise SettingRefused(f'"{name}" cannot be "{value}": 0, or {LEAST_MS[key]} ms and more; a login is a transaction too')
    elif key in OURS:
        raise SettingRefused(f'"{name}" cannot be set: {OURS[key]}')


def check_names(names: Iterable[str]) -> None:
    """Raise SettingRefused for the first of *names* that can be no parameter's."""
    for name in names:
        if not _NAME.fullmatch(name.lower()):
            raise SettingRefused(f'"{name}" is not the name of a setting')


def _check_bound(name: str, value: str, bound: Bound) -> None:
    """Raise SettingRefused if *value* is not within *bound*."""
    if bound.or_none and value.strip() == "-1":
        return
    found = _QUANTITY.fullmatch(value.strip())
    unit = found[2] if found is not None else ""
    if found is None or (unit and not (bound.is_size and unit in MEBIBYTES)):
        units = f", in {'kB' if bound.is_unit_kb else 'MB'} or with one of {', '.join(MEBIBYTES)}" if bound.is_size else ""
        raise SettingRefused(f'"{name}" must be a whole number{units}, not "{value}"; accepted is {bound.text}')
    size = int(found[1]) * MEBIBYTES.get(unit, 1) if unit or not bound.is_unit_kb else int(found[1]) >> 10
    if not bound.least <= size <= bound.most:
        raise SettingRefused(f'"{name}" cannot be "{value}": accepted is {bound.text}; {bound.why}')


def check_hba(lines: Sequence[str]) -> None:
    """Raise SettingRefused for the first of *lines* that lets somebody in without a proof, or is not the same everywhere."""
    if len(lines) > HBA_LINES_MAX:
        raise SettingRefused(f"{len(lines)} pg_hba lines are too many; up to {HBA_LINES_MAX} can be given")
    for line in lines:
        if (reason := why_unsafe(line) or why_not_everywhere(line)) is not None:
            raise SettingRefused(reason)


def _duration_ms(value: str) -> float | None:
    """Return what PostgreSQL takes *value* of a timeout for, which it counts in ms; None for what it will refuse itself."""
    found = _DURATION.fullmatch(value)
    if found is None or found[2] not in _UNITS_MS:
        return None
    try:
        return float(found[1]) * _UNITS_MS[found[2]]
    except ValueError:
        return None


def _passes(judge: Callable[[_T], None], given: _T) -> bool:
    try:
        judge(given)
    except SettingRefused:
        return False
    return True
