"""The observer on a real event loop and a real connection: silence counts, the manager's own lateness does not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from aiohttp import web

from cluster_manager.decision.nodeview import NodeSpec, NodeView
from cluster_manager.loop.events import Event, Observed
from cluster_manager.loop.nodes import Nodes
from cluster_manager.shell.clock import now_ms
from cluster_manager.shell.observer import Observer
from pgtopology.codec import encode
from pgtopology.node import Address
from testkit.documents import observation

SAID = observation()


class Heard:
    """What an observer has heard, less what it was too late to hear, as the manager's loop has it."""

    def __init__(self, spec: NodeSpec) -> None:
        self.nodes = Nodes((spec,))
        self.observer = Observer((spec,), "token", self.tell, lambda: None)

    def tell(self, event: Event) -> None:
        if isinstance(event, Observed):
            self.nodes.take(event.observation, now_ms())

    def node(self) -> NodeView:
        """Return the only node as known now."""
        now = now_ms()
        self.nodes.discount(self.observer.missed_ms(now), now)
        return self.nodes.views(now)[0]


@contextlib.asynccontextmanager
async def observing() -> AsyncIterator[Heard]:
    """Give what was heard of a node that spoke once, and says nothing more."""

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
        heard = Heard(spec)
        task = asyncio.create_task(heard.observer.run())
        try:
            async with asyncio.timeout(10):
                while heard.node().observation is None:
                    await asyncio.sleep(0.01)
            yield heard
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    finally:
        await runner.cleanup()


async def test_a_node_that_says_nothing_grows_silent() -> None:
    async with observing() as heard, asyncio.timeout(10):
        while heard.node().age_ms < 600:
            await asyncio.sleep(0.01)


async def test_time_in_which_the_manager_was_deaf_is_not_the_nodes_silence() -> None:
    async with observing() as heard:
        for _ in range(20):
            await asyncio.sleep(0)
        heard_at = now_ms() - heard.node().age_ms
        time.sleep(0.9)  # noqa: ASYNC251 - the loop is blocked, as by a slow disk or a suspended machine
        node = heard.node()
        blocked_ms = now_ms() - heard_at
        assert blocked_ms >= 900
        assert node.age_ms <= blocked_ms - 600


async def test_lag_is_discounted_once_only() -> None:
    async with observing() as heard:
        for _ in range(20):
            await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - as above
        first = heard.node().age_ms
        assert heard.node().age_ms >= first
        async with asyncio.timeout(10):
            while heard.node().age_ms < first + 300:
                await asyncio.sleep(0.01)
