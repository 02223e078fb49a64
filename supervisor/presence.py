"""Whether a supervisor runs, whatever it is: one of an older version of this program too.

It is known by its record, whose command line is compared with what runs, not with what we would start; then by its exact
command line, because a full disk may have kept the record from being written; then by its socket.
"""

from __future__ import annotations

import asyncio

from daemonkit.linesocket import PeerGone, PeerSilent, ask
from daemonkit.processes import PinnedProcess, ended
from deployment.local.layout import Layout
from deployment.local.plan import SUPERVISOR_PROGRAM
from pgtopology.supervision import Answer, Order
from supervisor.program import find_program

POLL_S = 0.1


def find_supervisor(layout: Layout) -> PinnedProcess | None:
    """Return the running supervisor, pinned, or None."""
    return find_program(layout, SUPERVISOR_PROGRAM)


async def supervisor_ended(layout: Layout) -> None:
    """Return once the supervisor has ended; one that does not answer has not."""
    while await supervisor_lives(layout):
        supervisor = find_supervisor(layout)
        if supervisor is not None:
            with supervisor:
                await ended(supervisor)
        else:
            await asyncio.sleep(POLL_S)


async def supervisor_lives(layout: Layout) -> bool:
    """Return whether the supervisor runs, frozen or not."""
    supervisor = find_supervisor(layout)
    if supervisor is not None:
        with supervisor:
            return not supervisor.has_ended
    # It may have found no room to write its record.
    try:
        await ask(layout.control_socket, Order(do="list"), Answer)
    except PeerSilent:
        return True
    except PeerGone:
        return False
    return True
