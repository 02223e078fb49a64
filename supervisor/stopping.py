"""Stopping a local cluster in an order that loses nothing.

1. The proxies drain: clients get an SQLSTATE, and nothing new is written.
2. The manager, so that nobody takes what follows for a failure.
3. The writer's noded stops PostgreSQL fast: its last WAL goes to the replicas that are still there.
4. The other nodes, all at once.

Every step has a deadline, after which the process and what is left of its PostgreSQL are killed: that is a crash, and
PostgreSQL recovers from it.  Works on recorded processes, so that it serves the supervisor and, where that is dead, `down`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemonkit.processes import PinnedProcess, describe_process, ended, pin, session_members
from deployment.local.directory import read_plan
from deployment.local.layout import Layout
from deployment.local.plan import MANAGER_PROGRAM, PROXY_PROGRAMS, SUPERVISOR_PROGRAM, Plan
from deployment.local.postmaster import postmaster_of
from supervisor.program import find_program, own_pids
from supervisor.relieved import find_draining

PROXY_STOP_S = 10.0
MANAGER_STOP_S = 5.0
NODE_STOP_S = 30.0
HARSH_STOP_S = 3.0
"""After a second ^C nobody waits longer for anything."""
IMMEDIATE_STOP_S = 5.0
"""What PostgreSQL's immediate shutdown is given before SIGKILL; it is PostgreSQL's own limit for its children."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """Programs that are stopped at the same time."""

    text: str
    names: tuple[str, ...]
    deadline_s: float


def stop_steps(plan: Plan, writer: str | None) -> tuple[Step, ...]:
    """Return the order in which the programs of *plan* are stopped; *writer* is None if nobody knows it."""
    nodes = tuple(node.name for node in plan.everybody)
    first = tuple(name for name in nodes if name == writer)
    rest = tuple(name for name in nodes if name != writer)
    proxies = tuple(proxy.program for proxy in plan.proxies)
    steps = (
        Step("proxy drained" if len(proxies) == 1 else "proxies drained", proxies, PROXY_STOP_S),
        Step("manager stopped", (MANAGER_PROGRAM,), MANAGER_STOP_S),
        Step(f"{', '.join(first)} stopped", first, NODE_STOP_S),
        Step(f"{', '.join(rest)} stopped", rest, NODE_STOP_S),
    )
    return tuple(step for step in steps if step.names)


async def stop_cluster(layout: Layout, plan: Plan, writer: str | None, report: Report, harsh: asyncio.Event) -> None:
    """Stop every program of the cluster; *harsh* shortens all waits once it is set."""
    for step in stop_steps(plan, writer):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_stop_program(layout, name, step.deadline_s, report, harsh)) for name in step.names]
        if any(task.result() for task in tasks):
            report(step.text)
    for node in plan.everybody:
        await _stop_postmaster(layout, node.name, report)


async def stop_node(layout: Layout, name: str, report: Report) -> None:
    """Stop the noded called *name* and its PostgreSQL."""
    await _stop_program(layout, name, NODE_STOP_S, report, asyncio.Event())
    await _stop_postmaster(layout, name, report)


async def stop_leftovers(layout: Layout, report: Report) -> bool:
    """Stop what a supervisor that is gone has left, one by one; return whether anything ran. The directory must be locked."""
    plan = read_plan(layout)
    if plan is None or not own_pids(layout, plan):
        return False
    report("the supervisor is gone; its processes are stopped one by one")
    writer = await ask_writer(layout, plan)
    await stop_cluster(layout, plan, writer, report, asyncio.Event())
    layout.record(SUPERVISOR_PROGRAM).unlink(missing_ok=True)
    report("stopped")
    return True


async def ask_writer(layout: Layout, plan: Plan) -> str | None:
    """Return the writer's name as the manager tells it, or None."""
    from daemonkit.httpanswers import HttpError
    from daemonkit.oneshot import OneShotClient
    from daemonkit.secrets import SecretError, read_secret
    from pgtopology.codec import MessageError, decode
    from pgtopology.status import Status

    try:
        client = OneShotClient(plan.api, read_secret(layout.token))
        return decode(await client.get("/v1/status", timeout_s=1.0), Status).writer
    except (HttpError, MessageError, SecretError):
        return None


async def _stop_program(layout: Layout, name: str, deadline_s: float, report: Report, harsh: asyncio.Event) -> bool:
    """Stop one program, with those of its processes that were relieved; return whether it ran."""
    process = find_program(layout, name)
    all_of_it = [*([process] if process is not None else []), *(find_draining(layout, name) if name in PROXY_PROGRAMS else [])]
    async with asyncio.TaskGroup() as group:
        for each in all_of_it:
            group.create_task(_stop_process(each, name, deadline_s, report, harsh))
    if process is not None:
        layout.record(name).unlink(missing_ok=True)
    return bool(all_of_it)


async def _stop_process(process: PinnedProcess, name: str, deadline_s: float, report: Report, harsh: asyncio.Event) -> None:
    with process:
        pid = process.record.pid
        process.send(signal.SIGTERM)
        if not await ends_within(process, deadline_s, harsh):
            report(f"{name} did not stop in time and is killed")
            process.send(signal.SIGKILL)
            await ended(process)
        await _clear_session(pid)


async def ends_within(process: PinnedProcess, deadline_s: float, harsh: asyncio.Event) -> bool:
    """Wait for the end of *process*; False if the deadline, or the shorter one after *harsh*, has passed."""
    end = asyncio.create_task(ended(process))
    hurry = asyncio.create_task(harsh.wait())
    try:
        await asyncio.wait({end, hurry}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if not end.done() and hurry.done():
            # Daemons take the second SIGTERM as the order to drop everything.
            process.send(signal.SIGTERM)
            await asyncio.wait({end}, timeout=HARSH_STOP_S)
        return end.done()
    finally:
        for task in (end, hurry):
            task.cancel()
        await asyncio.gather(end, hurry, return_exceptions=True)


async def _clear_session(session: int) -> None:
    """Kill what a program left behind in its session (a clone or a rewind under way)."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


async def _stop_postmaster(layout: Layout, name: str, report: Report) -> None:
    """Stop a PostgreSQL whose noded is gone: a fast shutdown, then an immediate one, then SIGKILL."""
    pid = postmaster_of(layout.pgdata(name))
    record = describe_process(name, pid) if pid is not None else None
    process = pin(record) if record is not None else None
    if process is None:
        return
    with process:
        report(f"{name}: PostgreSQL was left behind and is stopped")
        orders: Sequence[tuple[signal.Signals, float]] = (
            (signal.SIGINT, NODE_STOP_S / 3),
            (signal.SIGQUIT, IMMEDIATE_STOP_S),
            (signal.SIGKILL, IMMEDIATE_STOP_S),
        )
        for number, deadline_s in orders:
            process.send(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_s):
                    await ended(process)
                    return
