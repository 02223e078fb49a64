"""Which parameters of PostgreSQL an operator may give, and which lines of pg_hba.conf; and how a change of them is applied.

Pure, and shared by whoever takes such settings and whoever carries them out.  Whether PostgreSQL itself accepts a value only
PostgreSQL can say.  What carries the cluster's promises is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from pgtopology.desired import DesiredSettings
from pgtopology.hba import why_not_everywhere, why_unsafe

_DURABILITY = "commits would be acknowledged that can be lost"
_CLUSTER = "the cluster decides it"
_PLACE = "noded decides where PostgreSQL listens and where its files are"
_LOG = "noded keeps and rotates PostgreSQL's log"
_TIMING = "failover times depend on it"

OURS: Mapping[str, str] = {
    "allow_alter_system": "settings come from the cluster's settings, so that all nodes have the same",
    "allow_in_place_tablespaces": "tablespaces lie inside the data directory, where copies and rewinds carry them",
    "archive_cleanup_command": _CLUSTER,
    "cluster_name": _CLUSTER,
    "config_file": _PLACE,
    "data_directory": _PLACE,
    "data_sync_retry": _DURABILITY,
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
    "log_directory": _LOG,
    "log_file_mode": _LOG,
    "log_filename": _LOG,
    "log_rotation_age": _LOG,
    "log_rotation_size": _LOG,
    "log_truncate_on_rotation": _LOG,
    "logging_collector": _LOG,
    "max_replication_slots": _CLUSTER,
    "max_slot_wal_keep_size": "a dead node would fill the disk of a living one",
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
    "superuser_reserved_connections": "noded keeps connections of its own",
    "synchronous_commit": _DURABILITY,
    "synchronous_standby_names": _DURABILITY,
    "unix_socket_directories": _PLACE,
    "unix_socket_permissions": _PLACE,
    "update_process_title": "noded tells by it who receives WAL",
    "wal_keep_size": _CLUSTER,
    "wal_log_hints": "a former primary could not be rewound",
    "wal_receiver_create_temp_slot": _CLUSTER,
    "wal_receiver_status_interval": _TIMING,
    "wal_receiver_timeout": _TIMING,
    "wal_retrieve_retry_interval": _TIMING,
}
"""Parameters that an operator may not give, and why."""

LATELY = frozenset(
    {
        "allow_in_place_tablespaces",
        "log_directory",
        "log_file_mode",
        "log_filename",
        "log_rotation_age",
        "log_rotation_size",
        "log_truncate_on_rotation",
    }
)
"""Of these, what the first versions accepted and what did nothing: where it stands already it is left out."""

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

PARAMETERS_MAX = 400
HBA_LINES_MAX = 500
VALUE_LENGTH_MAX = 4000

_T = TypeVar("_T")

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
        if not _NAME.fullmatch(key):
            raise SettingRefused(f'"{name}" is not the name of a setting')
        if key in keys:
            raise SettingRefused(f'"{key}" is given twice')
        keys.add(key)
        if len(value) > VALUE_LENGTH_MAX or not value.isprintable():
            raise SettingRefused(f'the value of "{name}" must be one line of up to {VALUE_LENGTH_MAX} printable characters')
        if key.startswith(OUR_PREFIX):
            raise SettingRefused(f'"{name}" cannot be set: names that begin with "{OUR_PREFIX}" are ours')
        if key == "wal_level":
            if value not in ("replica", "logical"):
                raise SettingRefused('"wal_level" must be "replica" or "logical": the nodes replicate from one another')
        elif key in AT_LEAST_THE_WRITERS and not value.strip().isdecimal():
            raise SettingRefused(f'"{name}" must be a whole number, not "{value}"')
        elif key in OURS:
            raise SettingRefused(f'"{name}" cannot be set: {OURS[key]}')


def check_hba(lines: Sequence[str]) -> None:
    """Raise SettingRefused for the first of *lines* that lets somebody in without a proof, or is not the same everywhere."""
    if len(lines) > HBA_LINES_MAX:
        raise SettingRefused(f"{len(lines)} pg_hba lines are too many; up to {HBA_LINES_MAX} can be given")
    for line in lines:
        if (reason := why_unsafe(line) or why_not_everywhere(line)) is not None:
            raise SettingRefused(reason)


def _passes(judge: Callable[[_T], None], given: _T) -> bool:
    try:
        judge(given)
    except SettingRefused:
        return False
    return True
