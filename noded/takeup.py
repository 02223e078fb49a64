"""What a noded does first: bring data, state and a PostgreSQL that may be running into agreement.

A PostgreSQL that outlived its noded is adopted if what it does agrees with the durable state (S10); half-made data is
removed; data that the state does not know, or that cannot be read, is quarantined: not started and not touched, because nobody
knows what it has acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from daemonkit.logs import get_logger
from noded import fence, processes, promise, segments
from noded.clone import remove_tree
from noded.copies import FAILURES
from noded.instance import Instance
from noded.promise import Work
from noded.rehearsal import remove_left_overs
from noded.reporter import Doing
from noded.tools import ToolError
from pgtopology.node import Role
from pgtopology.orders import StopMode

TOOL_GONE_S = 5.0
READY_S = 1.0

_WAY_OUT = "restore it, or have the node made anew (endpointctl node reinit)"


async def take_up(instance: Instance, doing: Doing) -> None:
    """Leave PostgreSQL as the durable state says. What cannot be done stands in *doing* afterwards."""
    try:
        instance.layout.make()
        if instance.state.unreadable is not None:
            doing.blocked = f"{instance.state.unreadable}; {_WAY_OUT}"
            await instance.stop(StopMode.IMMEDIATE)
            return
        await _end_tools(instance)
        await _clear_unfinished(instance, doing)
        if not await _data_is_ours(instance, doing):
            # Nothing of what cannot be vouched for runs on.
            await instance.stop(StopMode.IMMEDIATE)
            return
        if instance.postmaster.adopt():
            await _adopted(instance)
            return
        await instance.stop(StopMode.IMMEDIATE)
        if instance.state.value.wanted and instance.state.value.work is None:
            await instance.start()
    except FAILURES as error:
        get_logger().error("postgresql was not started", error=str(error))
        doing.problem = f"PostgreSQL was not started: {error}"


async def _end_tools(instance: Instance) -> None:
    """End copies and rewinds that a killed noded left at work."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + TOOL_GONE_S
    paths = [instance.layout.partial]
    if instance.state.value.work is Work.REWIND:
        paths.append(instance.layout.pgdata)
    while left := [pid for path in paths for pid in processes.tools_on(path)]:
        if loop.time() > deadline:
            raise TimeoutError(f"processes {left} of an unfinished copy cannot be killed")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.01)


async def _clear_unfinished(instance: Instance, doing: Doing) -> None:
    """Remove half-made data directories."""
    state, layout = instance.state, instance.layout
    work = state.value.work
    if work in (Work.INIT, Work.CLONE):
        # Whichever directory stands now, it is unknown whether it is the old or the new one; both were given up.
        await instance.stop(StopMode.IMMEDIATE)
        await remove_tree(layout.pgdata)
        state.store(promise.no_data(state.value))
    if work is not None:
        doing.problem = f"an earlier {work} was interrupted"
    await remove_tree(layout.partial)
    await remove_tree(layout.replaced)
    await remove_left_overs(layout.root)
    layout.tool_passfile.unlink(missing_ok=True)
    layout.init_passfile.unlink(missing_ok=True)


async def _data_is_ours(instance: Instance, doing: Doing) -> bool:
    """Return whether there is data and it is what the state speaks of."""
    state, layout = instance.state, instance.layout
    known = state.value.system_identifier
    if not instance.has_data():
        if known is not None:
            doing.problem = f"the data directory {layout.pgdata} is gone"
            state.store(promise.no_data(state.value))
        return False
    if known is None:
        doing.blocked = f"{layout.pgdata} has data that {layout.state} knows nothing of; {_WAY_OUT}"
        return False
    try:
        found = (await instance.control_data()).system_identifier
    except (ToolError, ValueError) as error:
        doing.blocked = f"{layout.pgdata} cannot be used: {error}; {_WAY_OUT}"
        return False
    if found != known:
        doing.blocked = f"{layout.pgdata} is of system {found}, but {layout.state} speaks of system {known}"
        return False
    return True


async def _adopted(instance: Instance) -> None:
    """Bring a PostgreSQL that is running already into agreement with the state.

    A writer that may remain one is left as it is; it beats again when PostgreSQL too says that its timeline is the claimed one.
    """
    state = instance.state.value
    if not state.wanted or state.work is not None:
        await instance.stop(StopMode.FAST)
        return
    await instance.learn_demands()
    instance.write_settings()
    await instance.wait_ready(READY_S)
    ended = not instance.layout.standby_signal.exists()
    may_remain = promise.may_remain_primary(state, segments.newest_timeline(instance.layout.wal) if ended else None)
    configuration = promise.standby_configuration(state)
    if await instance.role() is Role.PRIMARY and may_remain:
        instance.configure(promise.writer_configuration(state))
        instance.postmaster.reload()
    elif configuration.upstream is None or await instance.role() is Role.PRIMARY:
        # A promotion may have been on its way when the other noded died; then only a stop is a proof.
        await fence.cut(instance, promoting=may_remain, stop_mode=StopMode.IMMEDIATE)
    else:
        instance.configure(configuration)
        instance.postmaster.reload()
