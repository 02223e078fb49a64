"""Ends the WAL receiver, and sees it gone: the process table has the last word (S2)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from noded.postgres import processes
from noded.postgres.instance import Instance

RECEIVER_GONE_S = 0.2
RECEIVER_POLL_S = 0.001


async def receiver_is_gone(instance: Instance) -> bool:
    """Signal the receiver and return whether none is seen within the time allowed."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RECEIVER_GONE_S
    signalled: set[int] = set()
    if instance.postmaster.pid is not None:
        # It brings no WAL, but would wait for an upstream that hangs, and a promotion for it.
        for pid in processes.slot_synchronisers(instance.postmaster.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    while (postmaster := instance.postmaster.pid) is not None:
        try:
            left = processes.possible_receivers(postmaster)
        except OSError:
            left = [postmaster]  # who cannot look has not seen that it is gone
        if not left:
            return True
        if loop.time() >= deadline:
            return False
        # A child that has not named itself yet may be anybody's backend and is only waited for.
        with contextlib.suppress(OSError):
            for pid in set(processes.receivers(postmaster)) - signalled:
                signalled.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(RECEIVER_POLL_S)
    return False
