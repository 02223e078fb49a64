"""The observer on a real event loop and a real connection: silence counts, the manager's own lateness does not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from aiohttp import web

from cluster_manager.decision.nodeview import NodeSpec, NodeView
from cluster_manager.observer import Observer, now_ms
from pgtopology.codec import encode
from pgtopology.node import Address, NodeName
from pgtopology.observation import Observation, Postmaster, PostmasterState

SAID = Observation(
    node=NodeName("n1"),
    noded_pid=1,
    sequence=1,
    postmaster=Postmaster(state=PostmasterState.RUNNING, pid=2),
    data_dir="/data",
)


@contextlib.asynccontextmanager
async def observing() -> AsyncIterator[Observer]:
    """Give an observer that has heard its node once; the node says nothing more."""

    async def say_once(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(encode(SAID) + b"\n")
        await asyncio.Event().wait()
        return response

    app = web.Application()
    app.router.add_get("/events", say_once)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        noded = Address("127.0.0.1", int(runner.addresses[0][1]))
        spec = NodeSpec(name=SAID.node, zone="z", address=Address("127.0.0.1", 1), noded=noded, dns="n1.test")
        observer = Observer((spec,), "token")
        task = asyncio.create_task(observer.run())
        try:
            async with asyncio.timeout(10):
                while node_of(observer).observation is None:
                    await observer.changed.wait()
                    observer.changed.clear()
                    await asyncio.sleep(0)
            yield observer
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    finally:
        await runner.cleanup()


def node_of(observer: Observer) -> NodeView:
    """Return the only node as known now."""
    return observer.views(now_ms())[0]


async def test_a_node_that_says_nothing_grows_silent() -> None:
    async with observing() as observer, asyncio.timeout(10):
        while node_of(observer).age_ms < 600:
            await asyncio.sleep(0.01)


async def test_time_in_which_the_manager_was_deaf_is_not_the_nodes_silence() -> None:
    async with observing() as observer:
        for _ in range(20):
            await asyncio.sleep(0)
        heard_at = now_ms() - node_of(observer).age_ms
        time.sleep(0.9)  # noqa: ASYNC251 - the loop is blocked, as by a slow disk or a suspended machine
        node = node_of(observer)
        blocked_ms = now_ms() - heard_at
        assert blocked_ms >= 900
        assert node.age_ms <= blocked_ms - 600


async def test_lag_is_discounted_once_only() -> None:
    async with observing() as observer:
        for _ in range(20):
            await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - as above
        first = node_of(observer).age_ms
        assert node_of(observer).age_ms >= first
        async with asyncio.timeout(10):
            while node_of(observer).age_ms < first + 300:
                await asyncio.sleep(0.01)
