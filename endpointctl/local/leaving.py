"""`down`: through the supervisor if there is one, else by the recorded processes themselves."""

from __future__ import annotations

import asyncio
import os
import time

from daemonkit.exits import Failure, Unfinished
from daemonkit.linesocket import PeerGone
from deployment.local.directory import lock
from deployment.local.layout import Layout
from endpointctl.local.watching import Say, shut_down
from supervisor.door import stop_leftovers, supervisor_lives


async def stop_local_cluster(layout: Layout, say: Say, *, timeout_s: float) -> bool:
    """Stop every process of the cluster in *layout*; return whether any ran. Raises Failure, Unfinished."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _stop(layout, say, time.monotonic() + min(timeout_s, 10.0))
    except TimeoutError:
        hint = "run `endpointctl down` again"
        if await supervisor_lives(layout):
            hint += "; a supervisor that stays frozen may be killed, then `down` stops what it left"
        raise Unfinished(f"the cluster did not stop within {timeout_s:g} s", hint=hint) from None


async def _stop(layout: Layout, say: Say, deadline: float) -> bool:
    while True:
        try:
            await shut_down(layout, say)
            say("stopped")
            return True
        except PeerGone:
            pass
        descriptor = lock(layout)
        if descriptor is not None:
            try:
                return await stop_leftovers(layout, say)
            finally:
                os.close(descriptor)
        if time.monotonic() > deadline:
            raise Failure(f"another `endpointctl up` or `down` is at work in {layout.root}", hint="wait for it, then try again")
        await asyncio.sleep(0.1)
