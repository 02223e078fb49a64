"""What a noded that was killed left behind of long work: programs that go on, and half-made files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from noded.data.clone import remove_tree
from noded.files.layout import Layout
from noded.law.promise import Work
from noded.postgres import processes
from noded.postgres.instance import Instance
from noded.report.settings_check import remove_left_overs

TOOL_GONE_S = 5.0


async def end_tools(instance: Instance) -> None:
    """End copies and rewinds that a killed noded left at work. Raises TimeoutError."""
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


async def sweep_up(layout: Layout) -> None:
    """Remove what lies beside PGDATA and is not finished. Raises OSError."""
    await remove_tree(layout.partial)
    await remove_tree(layout.replaced)
    await remove_left_overs(layout.root)
    layout.tool_passfile.unlink(missing_ok=True)
    layout.init_passfile.unlink(missing_ok=True)
