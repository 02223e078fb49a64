"""From the wish for a cluster to its running supervisor.

Everything that can be refused is refused before anything starts or is written: the directory, the programs, the disk, the
ports.  The lock on the data directory is taken here and handed to the supervisor as an open descriptor, so that there is no
moment in which two `up` could both go on.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from daemonkit.exits import Failure, WrongUsage
from daemonkit.linesocket import PeerGone, ask
from daemonkit.logfiles import last_lines
from daemonkit.logrotation import rotate
from deployment.cluster import PostgresSettings
from deployment.local.directory import (
    DirectoryState,
    inspect_directory,
    lock,
    make_directories,
    make_files,
    make_root,
    make_tokens,
    read_plan,
    require_disk,
    write_passfile,
    write_plan,
    write_settings,
)
from deployment.local.layout import Layout
from deployment.local.plan import (
    BASE_PORT_MAX,
    DEFAULT_BASE_PORT,
    DEFAULT_NODE_COUNT,
    NODE_COUNTS,
    SUPERVISOR_PROGRAM,
    Plan,
    PortUse,
    make_plan,
)
from deployment.local.preferences import Preferences
from deployment.local.settings_files import preferences_in_force, settings_files, why_refused
from deployment.local.tls import make_certificates
from pgtopology.desired import DesiredSettings
from pgtopology.parameters import SettingRefused, check
from pgtopology.supervision import Answer, Order
from supervisor.assembly import LOCK_VARIABLE
from supervisor.commands import program_command, program_environment
from supervisor.ports import Conflict, conflicts, free_base_port
from supervisor.presence import supervisor_lives
from supervisor.program import conflicts_with_others, find_program

AUTO = 0
"""As a base port: find a free block."""
SUPERVISOR_START_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the operator asked `up` for; None where nothing was said."""

    node_count: int | None
    proxy_count: int | None
    base_port: int | None
    pg_bin: Path | None
    preferences: Preferences


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A cluster whose supervisor runs."""

    plan: Plan
    already_ran: bool
    waiting: tuple[str, ...] = ()
    """Programs that ran already and would have other settings by what was asked for now."""


async def start_cluster(layout: Layout, wishes: Wishes) -> Started:
    """Lay the cluster out if it is new, and start its supervisor if none runs. Raises Failure."""
    postgres = wishes.preferences.postgres
    try:
        check(DesiredSettings(parameters=postgres.settings, hba=postgres.hba))
    except SettingRefused as error:
        raise Failure(str(error), hint="take it out of the file given with --config") from error
    state = inspect_directory(layout)
    preferences = wishes.preferences
    if state is DirectoryState.NEW:
        plan = _new_plan(layout, wishes)
        _require_rules(layout, plan, preferences)
        _require_ports(conflicts((*plan.ports, *_pooled_ports(plan, preferences))))
        make_root(layout)
        descriptor = _lock_or_refuse(layout)
        make_files(layout, plan)
    else:
        known = read_plan(layout)
        assert known is not None, "inspect_directory has seen the plan"
        plan = _confirm_plan(layout, known, wishes)
        preferences = _confirm_postgres(layout, known, wishes.preferences)
        _require_rules(layout, plan, preferences)
        free = lock(layout)
        if free is None:
            _require_same_proxies(layout, known, plan)
            await _require_supervisor(layout)
            return Started(plan=known, already_ran=True, waiting=_with_other_settings(layout, known, preferences))
        descriptor = free
        _require_no_leftover_proxy(layout, known, plan)
        _require_ports(conflicts_with_others(layout, plan, _pooled_ports(plan, preferences)))
        make_directories(layout, plan)
        make_tokens(layout)
        if plan != known:
            write_plan(layout, plan)
    try:
        make_certificates(layout, plan, datetime.now(UTC))
        write_passfile(layout, plan)
        write_settings(settings_files(plan, layout, preferences))
        await _start_supervisor(layout, descriptor)
    finally:
        os.close(descriptor)
    return Started(plan=plan, already_ran=False)


def _new_plan(layout: Layout, wishes: Wishes) -> Plan:
    preferred = wishes.preferences.cluster
    asked = wishes.node_count if wishes.node_count is not None else preferred.nodes
    count = asked if asked is not None else DEFAULT_NODE_COUNT
    if count not in NODE_COUNTS:
        raise WrongUsage(f"{count} nodes cannot be started", hint=f"possible are {', '.join(map(str, NODE_COUNTS))}")
    proxies = wishes.proxy_count or preferred.proxies or 1
    named = preferred.pg_bin
    pg_bin = find_pg_bin(wishes.pg_bin or (Path(named).expanduser() if named else None))
    require_disk(layout)
    base_port = wishes.base_port if wishes.base_port is not None else preferred.base_port
    if base_port is None:
        base_port = DEFAULT_BASE_PORT
    if base_port == AUTO:
        try:
            block = make_plan(node_count=count, base_port=0, pg_bin="", proxy_count=proxies)
            base_port = free_base_port((*block.ports, *_pooled_ports(block, wishes.preferences)))
        except OSError as error:
            raise Failure(str(error), hint="name a block with --base-port") from error
    if not 1 <= base_port <= BASE_PORT_MAX:
        raise WrongUsage(f"base port {base_port} is outside 1 to {BASE_PORT_MAX}")
    return make_plan(node_count=count, base_port=base_port, pg_bin=str(pg_bin), proxy_count=proxies, has_tls=_has_tls(pg_bin))


def _confirm_plan(layout: Layout, known: Plan, wishes: Wishes) -> Plan:
    """Return *known*, with its proxies and binaries brought up to date; refuse wishes that contradict it."""
    preferred = wishes.preferences.cluster
    known = msgspec.structs.replace(known, proxy_count=wishes.proxy_count or preferred.proxies or known.proxy_count)
    # The number in a file of preferences is what the cluster began with; it may have grown or shrunk since.
    count = wishes.node_count
    if count is not None and count != len(known.nodes):
        raise Failure(
            f"the cluster in {layout.root} has {len(known.nodes)} nodes, not {count}",
            hint="leave --nodes out (`endpointctl node add` and `node remove` change it), or make another one with --data-dir",
        )
    base_port = wishes.base_port if wishes.base_port is not None else preferred.base_port
    if base_port not in (None, AUTO, known.base_port):
        raise Failure(
            f"the cluster in {layout.root} was made with base port {known.base_port}, not {base_port}",
            hint="leave --base-port out, or make another cluster with --data-dir",
        )
    named = wishes.pg_bin or (Path(preferred.pg_bin).expanduser() if preferred.pg_bin else None)
    if named is None and (Path(known.pg_bin) / "postgres").exists():
        pg_bin = Path(known.pg_bin)
    else:
        pg_bin = find_pg_bin(named)
        _require_same_major(layout, known, pg_bin)
    return msgspec.structs.replace(known, pg_bin=str(pg_bin), has_tls=_has_tls(pg_bin))


def _with_other_settings(layout: Layout, plan: Plan, preferences: Preferences) -> tuple[str, ...]:
    files = settings_files(plan, layout, preferences)
    return tuple(path.stem for path, text in files.items() if not path.exists() or path.read_text() != text)


def _require_same_proxies(layout: Layout, running: Plan, wanted: Plan) -> None:
    if wanted.proxy_count != running.proxy_count:
        raise Failure(
            f"the cluster in {layout.root} runs with {_counted(running.proxy_count)}, not {wanted.proxy_count}",
            hint="`endpointctl down` first, or leave --proxies out",
        )


def _require_no_leftover_proxy(layout: Layout, known: Plan, wanted: Plan) -> None:
    """Raise Failure if a proxy runs without its supervisor that is not wanted any more."""
    for proxy in known.proxies[wanted.proxy_count :]:
        process = find_program(layout, proxy.program)
        if process is not None:
            with process:
                raise Failure(
                    f"{proxy.name} still runs (process {process.record.pid})", hint="stop the cluster with `endpointctl down`"
                )


def _counted(proxies: int) -> str:
    return "1 proxy" if proxies == 1 else f"{proxies} proxies"


def _confirm_postgres(layout: Layout, known: Plan, wished: Preferences) -> Preferences:
    """Return *wished* with the [postgres] table the cluster was made with; refuse another one."""
    try:
        made_with = preferences_in_force(layout, known).postgres
    except ValueError as error:
        raise Failure(f"what the cluster was made with cannot be read in {layout.settings}: {error}") from error
    if wished.postgres not in (PostgresSettings(), made_with):
        raise Failure(
            f"[postgres] of the file is not what the cluster in {layout.root} was made with, which is all it is for",
            hint="settings are changed by `endpointctl config set`; leave the table out, or as it was",
        )
    return msgspec.structs.replace(wished, postgres=made_with)


def find_pg_bin(named: Path | None) -> Path:
    """Return the directory of PostgreSQL's programs: the one named, else the bundled one, else the system's."""
    from noded.postgres.binaries import BinariesError, find_binaries

    try:
        return find_binaries(named.absolute() if named else None, prefer_bundled=True).directory
    except BinariesError as error:
        hint = "`make install` installs the bundled one" if named is None else "name another with --pg-bin"
        raise Failure(str(error), hint=hint) from error


def _require_rules(layout: Layout, plan: Plan, preferences: Preferences) -> None:
    why_not = why_refused(plan, layout, preferences)
    if why_not is not None:
        raise Failure(why_not, hint="mend the file given with --config")


def _has_tls(pg_bin: Path) -> bool:
    from noded.postgres.binaries import find_binaries
    from noded.postgres.tls import has_tls

    return has_tls(find_binaries(pg_bin))


def _require_same_major(layout: Layout, plan: Plan, pg_bin: Path) -> None:
    from noded.postgres.binaries import find_binaries

    major = find_binaries(pg_bin).major
    for node in plan.nodes:
        version_file = layout.pgdata(node.name) / "PG_VERSION"
        if version_file.exists() and (found := version_file.read_text().strip()) != str(major):
            raise Failure(
                f"the data of {node.name} was made by PostgreSQL {found}, and {pg_bin} holds version {major}",
                hint=f"name the programs of PostgreSQL {found} with --pg-bin",
            )


def _pooled_ports(plan: Plan, preferences: Preferences) -> tuple[PortUse, ...]:
    """Return where the pooled endpoints that are wanted will listen."""
    wanted = (preferences.pooled_writer, preferences.pooled_reader)
    return tuple(
        use for proxy in plan.proxies for use, door in zip(proxy.pooled_ports, wanted, strict=True) if door is not None
    )


def _require_ports(taken: list[Conflict]) -> None:
    if not taken:
        return
    first = taken[0]
    more = f" (and {len(taken) - 1} more ports of the cluster are taken)" if len(taken) > 1 else ""
    kind = "UDP" if first.use.udp else "TCP"
    raise Failure(
        f"{kind} port {first.use.port} for {first.use.purpose} is held by {first.holder.description}{more}",
        hint="end that, or choose other ports with --base-port N or --base-port auto",
    )


def _lock_or_refuse(layout: Layout) -> int:
    descriptor = lock(layout)
    if descriptor is None:
        raise Failure(f"another `endpointctl up` is at work in {layout.root}", hint="wait for it")
    return descriptor


async def _require_supervisor(layout: Layout) -> None:
    """Make sure that the lock is held by a supervisor that answers, not by a command at work."""
    deadline = time.monotonic() + SUPERVISOR_START_S
    while True:
        try:
            answer = await ask(layout.control_socket, Order(do="list"), Answer)
        except PeerGone:
            if time.monotonic() > deadline and await supervisor_lives(layout):
                raise Failure(
                    f"the supervisor of the cluster in {layout.root} does not answer",
                    hint="wait for it, or stop the cluster with `endpointctl down`",
                ) from None
            if time.monotonic() > deadline:
                raise Failure(
                    f"another `endpointctl up` or `down` is at work in {layout.root}", hint="wait for it, then try again"
                ) from None
            await asyncio.sleep(0.1)
            continue
        for program in answer.programs:
            if program.state not in ("running", "pausing"):
                await ask(layout.control_socket, Order(do="start", name=program.name), Answer)
        return


async def _start_supervisor(layout: Layout, lock_descriptor: int) -> None:
    log_path = layout.log(SUPERVISOR_PROGRAM)
    rotate(log_path)
    layout.control_socket.unlink(missing_ok=True)
    process = _spawn_supervisor(layout, log_path, lock_descriptor)
    deadline = time.monotonic() + SUPERVISOR_START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            await ask(layout.control_socket, Order(do="list"), Answer)
        except PeerGone:
            await asyncio.sleep(0.02)
            continue
        # It outlives this command on purpose; without this Python would complain that it was not waited for.
        process.returncode = 0
        return
    said = " ".join(last_lines(log_path, 1))
    raise Failure(f"the supervisor did not start: {said}", hint=f"see {log_path}")


def _spawn_supervisor(layout: Layout, log_path: Path, lock_descriptor: int) -> subprocess.Popen[bytes]:
    with log_path.open("ab", buffering=0) as log:
        return subprocess.Popen(
            program_command(layout, SUPERVISOR_PROGRAM),
            cwd=layout.root,
            env={**program_environment(), LOCK_VARIABLE: str(lock_descriptor)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock_descriptor,),
        )
