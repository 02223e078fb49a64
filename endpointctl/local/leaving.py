"""`down`: through the supervisor if there is one, else by the recorded processes themselves."""

from __future__ import annotations

import asyncio
import os
import time

from endpointctl.exits import Failure, Unfinished
from endpointctl.local.control import SupervisorGone
from endpointctl.local.directory import lock, read_plan
from endpointctl.local.layout import Layout
from endpointctl.local.program import own_pids
from endpointctl.local.stopping import ask_writer, stop_cluster
from endpointctl.local.watching import Say, shut_down, supervisor_lives


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
        except SupervisorGone:
            pass
        descriptor = lock(layout)
        if descriptor is not None:
            try:
                return await _stop_without_supervisor(layout, say)
            finally:
                os.close(descriptor)
        if time.monotonic() > deadline:
            raise Failure(f"another `endpointctl up` or `down` is at work in {layout.root}", hint="wait for it, then try again")
        await asyncio.sleep(0.1)


async def _stop_without_supervisor(layout: Layout, say: Say) -> bool:
    plan = read_plan(layout)
    if plan is None or not own_pids(layout, plan):
        return False
    say("the supervisor is gone; its processes are stopped one by one")
    writer = await ask_writer(layout, plan)
    await stop_cluster(layout, plan, writer, say, asyncio.Event())
    layout.record("supervisor").unlink(missing_ok=True)
    say("stopped")
    return True
