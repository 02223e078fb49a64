"""Would PostgreSQL take these settings? Asked before anybody writes them down.

PostgreSQL answers itself: `postgres -C shared_memory_size` on a directory with nothing but the control file's copy reads the
configuration, loads libraries and checks what must fit together exactly as a start does, and ends before it takes memory or
a port; where something would change that only a start can, `postgres --check` takes the memory too, beside the running server.
Huge pages are counted, because there may be too few for two servers.  Lines of pg_hba.conf are judged by the running server's
pg_hba_file_rules.  What a start would take and the cluster cannot do is known here: a hot standby needs as much as the writer
had (PostgreSQL documentation, "Hot Standby", "Administrator's Overview"), and logical slots are carried over with wal_level
logical only.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import asyncpg
import msgspec

from daemonkit.durable import write_durably
from noded.postgres import conf
from noded.postgres.huge_pages import held_kb, lacking, read_pool
from noded.postgres.instance import Instance
from noded.postgres.slots import Slot, read_slots
from noded.postgres.tools import ToolError, run_tool
from pgtopology.desired import DesiredSettings
from pgtopology.orders import CheckSettings, SettingsChecked
from pgtopology.parameters import AT_LEAST_THE_WRITERS, GONE, SettingRefused, check, check_hba

DECODES_ON_DEMAND = 19
"""The version from which on a logical slot is enough for PostgreSQL to decode, with wal_level replica too."""

CHECK_TIMEOUT_S = 20.0
ASK_TIMEOUT_S = 2.0
PREFIX = "rehearsal-"

_INVALID = re.compile(r'invalid value for parameter "([^"]+)": ')
_OUTSIDE = re.compile(r'outside the valid range for parameter "([^"]+)"')
_KIND = re.compile(r'parameter "([^"]+)" requires an? ')
_UNKNOWN = re.compile(r'unrecognized configuration parameter "([^"]+)"')
_SEVERITY = re.compile(r"^(?:LOG|WARNING|ERROR|FATAL|HINT|DETAIL|postgres):\s+")
_NOISE = ("skipping missing configuration file", "contains errors", "database system is shut down")

_PARAMETERS = """
SELECT lower(name) AS name, setting, current_setting(name) AS shown, boot_val, context, vartype, unit,
       min_val, max_val, enumvals
  FROM pg_settings WHERE lower(name) = ANY($1)
"""
_HBA_ERRORS = "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL ORDER BY 1 LIMIT 1"

_YES = ("on", "true", "yes", "1")
_NO_MEMORY = "could not map anonymous shared memory"

_LIBRARIES = ("shared_preload_libraries", "session_preload_libraries", "archive_library")
"""Parameters that name libraries: a start loads the first alone, the others come when it is too late to refuse them."""

Parameter = asyncpg.Record


async def check_settings(instance: Instance, question: CheckSettings, turn: asyncio.Lock) -> SettingsChecked:
    """Return what would come of the settings asked about. PostgreSQL runs; *turn* is held while pg_hba.conf is touched.

    Raises SessionError, ToolError, OSError, ValueError if it cannot be found out.
    """
    before, wanted = question.before, question.wanted
    try:
        check(wanted)
    except SettingRefused as error:
        return SettingsChecked(refused=str(error))
    names = sorted({*before.parameters, *wanted.parameters, *question.named, *AT_LEAST_THE_WRITERS, "wal_level"})
    rows = await instance.sessions.observer.rows(_PARAMETERS, names, timeout_s=ASK_TIMEOUT_S)
    known: dict[str, Parameter] = {row["name"]: row for row in rows}
    changed = {name for name in names if before.parameters.get(name) != wanted.parameters.get(name)}
    restart_for = [name for name in sorted(changed) if name in known and _needs_restart(known[name], wanted)]
    refused = _unknown(question.named, known) or await _start_refused(instance, wanted, known, whole=bool(restart_for))
    if refused is None and question.as_writer:
        refused = _too_low(before, wanted, known)
    if refused is None:
        refused = await _slot_in_the_way(instance, before, wanted)
    if refused is None and wanted.hba != before.hba:
        async with turn:
            refused = await _hba_refused(instance, wanted)
    return SettingsChecked(refused=refused, restart_for=tuple(restart_for))


async def remove_left_overs(root: Path) -> None:
    """Remove what a noded that was killed left of its checks."""
    for path in root.glob(f"{PREFIX}*"):
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


async def _start_refused(
    instance: Instance, wanted: DesiredSettings, known: Mapping[str, Parameter], *, whole: bool
) -> str | None:
    """Return why a start with *wanted* would fail, or None; *whole*: up to where it has its memory."""
    layout, loop = instance.layout, asyncio.get_running_loop()
    until = loop.time() + CHECK_TIMEOUT_S
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=layout.root) as folder:
        stage = Path(folder)
        (stage / "global").mkdir(mode=0o700)
        shutil.copyfile(layout.pgdata / "PG_VERSION", stage / "PG_VERSION")
        shutil.copyfile(layout.pgdata / "global" / "pg_control", stage / "global" / "pg_control")
        (stage / "postgresql.conf").write_bytes(conf.settings_file(_with_all_libraries(wanted), {}, instance.usable_tls()))
        place = replace(instance.place, is_logical=conf.is_logical(wanted))
        options = [*conf.command_line(place), "-c", "log_line_prefix="]

        async def run(*what: str) -> str:
            command = instance.binaries.command("postgres", *what, "-D", folder, *options)
            return await run_tool(command, timeout_s=until - loop.time())

        try:
            needed_mb = _number(await run("-C", "shared_memory_size"))
            present_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
            if needed_mb > present_mb:
                needs = f"these settings need {needed_mb} MB of shared memory"
                return f"{needs}, and the machine has {present_mb} MB; lower shared_buffers"
            if not whole:
                return None
            if _is_huge(wanted):
                pool = read_pool(_number(await run("-C", "huge_page_size")))
                needed = _number(await run("-C", "shared_memory_size_in_huge_pages"))
                if (short := lacking(needed, pool, _held_kb(instance))) is not None:
                    return f'"huge_pages" cannot be "{wanted.parameters["huge_pages"]}": {short}'
                options += ["-c", "huge_pages=off"]
        except ToolError as error:
            if not error.output:
                raise
            return complaint(error.output, wanted.parameters, known)
        (stage / "pg_notify").mkdir(mode=0o700)
        try:
            await run("--check")
        except ToolError as error:
            if not error.output:
                raise
            # Where the kernel promises no more memory than it has, the running server's is free by then.
            return None if _NO_MEMORY in error.output and _promises_strictly() else _fatal(error.output)
    return None


def _number(said: str) -> int:
    """Return the number in what `postgres -C` *said*: after a warning or two it is the last line."""
    return next((int(line) for line in reversed(said.splitlines()) if line.strip().removeprefix("-").isdecimal()), 0)


def _fatal(said: str) -> str:
    """Return what ended the server that *said* this."""
    lines = [line for line in said.splitlines() if line.startswith(("FATAL:", "PANIC:"))] or said.splitlines()[-1:]
    return f"PostgreSQL would not start with these settings: {lines[0].partition(':')[2].strip()}"


def _is_huge(wanted: DesiredSettings) -> bool:
    """Return whether a server that gets no huge pages would not start."""
    parameters = {name: value.lower() for name, value in wanted.parameters.items()}
    return parameters.get("huge_pages") in _YES and parameters.get("shared_memory_type", "mmap") == "mmap"


def _held_kb(instance: Instance) -> int:
    with contextlib.suppress(OSError):
        return held_kb(Path(f"/proc/{instance.postmaster.pid}/maps").read_text())
    return 0


def _promises_strictly() -> bool:
    return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"


def _unknown(names: Iterable[str], known: Mapping[str, Parameter]) -> str | None:
    """Return which of *names* is no parameter's, or None. With a dot it may be of an extension that is not loaded yet."""
    unknown = next((name for name in names if name not in known and "." not in name), None)
    return _no_such(unknown) if unknown is not None else None


def _no_such(name: str) -> str:
    why = f": {GONE[name]}" if name in GONE else ""
    return f'there is no parameter "{name}" in this PostgreSQL{why}'


def _with_all_libraries(wanted: DesiredSettings) -> DesiredSettings:
    """Return *wanted* such that a start loads every library that a session or the archiver would: one that is missing on this
    node would refuse each login here, from the next failover on."""
    parameters = wanted.parameters
    lists = [parameters.get(name, "").strip() for name in _LIBRARIES]
    lists += [f'"$libdir/plugins/{name}"' for name in _names(parameters.get("local_preload_libraries", ""))]
    together = ", ".join(text for text in lists if text)
    if not together:
        return wanted
    return msgspec.structs.replace(wanted, parameters={**parameters, "shared_preload_libraries": together})


def _names(text: str) -> list[str]:
    """Return the names in a list of libraries, without the directory that PostgreSQL insists on."""
    return [name.strip().strip('"').removeprefix("$libdir/plugins/") for name in text.split(",") if name.strip()]


def complaint(said: str, parameters: Mapping[str, str], known: Mapping[str, Mapping[str, object] | Parameter]) -> str:
    """Return what PostgreSQL *said* against its configuration as one line: name, value, accepted range."""
    details = {
        _SEVERITY.sub("", line.strip()): _SEVERITY.sub("", below.strip())
        for line, below in itertools.pairwise(said.splitlines())
        if below.strip().startswith("DETAIL:")
    }
    lines = [_SEVERITY.sub("", line.strip()) for line in said.splitlines()]
    lines = [line for line in lines if line and not any(noise in line for noise in _NOISE)]
    for line in lines:
        found = _INVALID.search(line) or _OUTSIDE.search(line) or _KIND.search(line)
        if found is not None:
            name = found[1]
            value = next((value for key, value in parameters.items() if key == name.lower()), "")
            row = known.get(name.lower())
            # Whoever checks more than a range says what: the value may well lie within it.
            why = details.get(line) or (accepted(row) if row is not None else None)
            return f'"{name}" cannot be "{value}"' + (f": {why}" if why is not None else "")
        if unknown := _UNKNOWN.search(line):
            return _no_such(unknown[1])
    return "; ".join(lines[:3]) or "PostgreSQL would not start with these settings"


def accepted(row: Mapping[str, object] | Parameter) -> str:
    """Return what PostgreSQL accepts for a parameter, as pg_settings tells."""
    match row["vartype"]:
        case "bool":
            return "accepted are on and off"
        case "enum":
            choices: object = row["enumvals"]
            return f"accepted are {', '.join(map(str, choices))}" if isinstance(choices, list | tuple) else "see enumvals"
        case "integer" | "real":
            unit = f", in units of {row['unit']} or with a unit of its own" if row["unit"] else ""
            return f"accepted is {row['min_val']} to {row['max_val']}{unit}"
        case _:
            return "PostgreSQL does not accept this text for it"


def _too_low(before: DesiredSettings, wanted: DesiredSettings, known: Mapping[str, Parameter]) -> str | None:
    """Return which parameter would be lower than what the WAL demands of every standby, or None."""
    for name in AT_LEAST_THE_WRITERS:
        row = known.get(name)
        if row is None or before.parameters.get(name) == wanted.parameters.get(name):
            continue
        value = wanted.parameters.get(name, conf.DEFAULTS.get(name, row["boot_val"]))
        if int(value) < int(row["setting"]):
            return (
                f'"{name}" cannot be lowered to {value} while the writer has {row["setting"]}: a standby needs at least as '
                "much as the writer whose WAL it replays, and here every server starts as a standby"
            )
    return None


async def _slot_in_the_way(instance: Instance, before: DesiredSettings, wanted: DesiredSettings) -> str | None:
    """Return why wal_level or max_replication_slots cannot be lowered, or None.

    Asked of every node: a standby's copy of a slot goes some time after the writer's.
    """
    names = ("wal_level", "max_replication_slots")
    if all(_given(wanted, name) == _given(before, name) for name in names):
        return None
    return slots_in_the_way(await read_slots(instance.sessions.observer), before, wanted, major=instance.binaries.major)


def slots_in_the_way(slots: Collection[Slot], before: DesiredSettings, wanted: DesiredSettings, *, major: int) -> str | None:
    """Return why *slots* do not let wal_level or max_replication_slots be lowered, or None.

    PostgreSQL would not start with them. From 19 on it would with logical ones, and go on decoding, because the first of them
    raises its effective_wal_level; but no other node would have a copy of them.
    """
    level, was = (_given(one, "wal_level") for one in (wanted, before))
    room, had = (int(_given(one, "max_replication_slots")) for one in (wanted, before))
    logical = next((slot for slot in slots if not slot.is_physical), None)
    if logical is not None and level not in (was, "logical"):
        copies = "the other nodes keep copies of it with wal_level logical only; " if major >= DECODES_ON_DEMAND else ""
        return (
            f'"wal_level" cannot be "{level}" while there is the logical replication slot "{logical.name}"; '
            f"{copies}drop it first (a standby's copy goes within a minute)"
        )
    if room < had and len(slots) > room:
        return f'"max_replication_slots" cannot be lowered to {room} while there are {len(slots)} replication slots'
    return None


def _given(desired: DesiredSettings, name: str) -> str:
    return desired.parameters.get(name, conf.DEFAULTS[name])


async def _hba_refused(instance: Instance, wanted: DesiredSettings) -> str | None:
    """Return what the running server has against the lines, or None. The file stands for a moment, and nobody reloads it."""
    check_hba(wanted.hba)
    path = instance.layout.hba
    kept = path.read_bytes()
    text = instance.hba(wanted.hba)
    write_durably(path, text)
    try:
        rows = await instance.sessions.observer.rows(_HBA_ERRORS, timeout_s=ASK_TIMEOUT_S)
    finally:
        write_durably(path, kept)
    if not rows:
        return None
    line = text.decode().split("\n")[rows[0]["line_number"] - 1]
    return f'the pg_hba line "{line}" is refused: {rows[0]["error"]}'


def _needs_restart(row: Parameter, wanted: DesiredSettings) -> bool:
    value = wanted.parameters.get(row["name"], conf.DEFAULTS.get(row["name"], row["boot_val"]))
    return row["context"] == "postmaster" and value not in (row["setting"], row["shown"])
