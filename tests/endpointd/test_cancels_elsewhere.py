"""A cancel request comes to a proxy that does not have its session: the one that has it carries it out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from aiohttp import web

from cluster_manager.proxies.cancels import Cancels
from cluster_manager.proxies.feed import Feed
from daemonkit.httpserver import HttpServer, needs
from daemonkit.principals import Scope, verifier_of
from endpointd.session.elsewhere import STRANGERS_PER_S
from endpointd.session.longkeys import SECRET_BYTES, KeyMint, Origin
from pgtopology.cancels import CancelQuestion, proxy_id
from pgwire.messages import BackendKey
from pgwire.startup import encode_cancel
from testkit.balancer import Balancer, balancer
from testkit.feedserver import TOKEN
from tests.endpointd.conftest import Servers
from tests.endpointd.proxies import Proxy, proxy, successor

STORM = 300
AT_ONCE = 60
"""Fewer than half of `strangers_max`, from where on strangers are hurried."""


class CountingFeed(Feed):
    """Counts what proxies are asked."""

    def __init__(self) -> None:
        super().__init__(lambda: 10_000)
        self.asked: list[int] = []

    def ask_to_cancel(self, question: CancelQuestion, *, asker: str, owner: bytes | None) -> int:
        self.asked.append(super().ask_to_cancel(question, asker=asker, owner=owner))
        return self.asked[-1]


@dataclass(frozen=True)
class Scene:
    """A manager, and two proxies behind a balancer."""

    feed: CountingFeed
    one: Proxy
    two: Proxy
    balancer: Balancer

    async def connect(self, protocol: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
        """Connect to the first proxy; the next connection goes to the other one."""
        return await psycopg.AsyncConnection.connect(
            f"host=127.0.0.1 port={self.balancer.port} user=postgres dbname=postgres max_protocol_version={protocol} "
            "sslmode=disable gssencmode=disable",
            autocommit=True,
        )


async def asleep(session: psycopg.AsyncConnection[tuple[object, ...]], watched_at: Proxy) -> asyncio.Task[str | None]:
    """Have *session* sleep, and return the SQLSTATE of its end to come; the watcher connects to the proxy *watched_at*."""

    async def sleep() -> str | None:
        with pytest.raises(psycopg.Error) as caught:
            await session.execute("select pg_sleep(60)")
        return caught.value.sqlstate

    sleeping = asyncio.create_task(sleep())
    query = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
    watcher = await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=watched_at.writer_port, user="postgres", dbname="postgres", autocommit=True
    )
    async with asyncio.timeout(20), watcher:
        while await (await watcher.execute(query, (session.info.backend_pid,))).fetchone() is None:
            await asyncio.sleep(0.01)
    return sleeping


@asynccontextmanager
async def two_proxies(servers: Servers, directory: Path) -> AsyncIterator[Scene]:
    feed = CountingFeed()
    feed.publish(servers.document())
    routes: list[web.AbstractRouteDef] = [
        *needs(Scope.FEED, routes=[web.get("/v1/feed", feed.handle)]),
        *Cancels(feed).routes(),
    ]
    async with (
        HttpServer(host="127.0.0.1", port=0, verifiers=verifier_of(TOKEN, Scope.ADMIN), routes=routes) as server,
        AsyncExitStack() as stack,
    ):
        running: list[Proxy] = []
        for name in ("proxy-1", "proxy-2"):
            private = directory / f"s-{name}"
            private.mkdir(mode=0o700)
            settings = f'takeover = "{private / "proxy"}"'
            running.append(
                await stack.enter_async_context(proxy(directory / name, [server.port], name=name, in_proxy=settings))
            )
        for one in running:
            await one.wait_for_health(status="serving")
        at = stack.enter_context(balancer([one.writer_port for one in running]))
        yield Scene(feed, running[0], running[1], at)


async def woken(sleeping: asyncio.Task[str | None]) -> bool:
    async with asyncio.timeout(20):
        return await sleeping == "57014"


@pytest.mark.parametrize("protocol", ["3.0", "3.2"])
async def test_a_request_that_comes_to_the_other_proxy_reaches_its_session(
    servers: Servers, tmp_path: Path, protocol: str
) -> None:
    async with two_proxies(servers, tmp_path) as scene:
        session = await scene.connect(protocol)
        sleeping = await asleep(session, scene.two)
        await session.cancel_safe(timeout=20)
        assert await woken(sleeping)
        assert await (await session.execute("select 1")).fetchone() == (1,)
        assert scene.feed.asked == [1]
        assert await scene.two.metric("endpointd_cancels_total", known="yes") == 1
        assert await scene.one.metric("endpointd_cancels_total", known="yes") == 0
        await session.close()


@pytest.mark.parametrize("protocol", ["3.0", "3.2"])
async def test_a_request_reaches_a_session_of_the_other_proxys_former_process(
    servers: Servers, tmp_path: Path, protocol: str
) -> None:
    async with two_proxies(servers, tmp_path) as scene:
        session = await scene.connect(protocol)
        async with successor(scene.one):
            sleeping = await asleep(session, scene.two)
            await session.cancel_safe(timeout=20)
            assert await woken(sleeping)
            assert await scene.two.metric("endpointd_cancels_total", known="yes") == 1
            await session.close()


async def knock(port: int, packets: Sequence[bytes]) -> None:
    """Send each of *packets* on a connection of its own, and see it closed."""
    crowd = asyncio.Semaphore(AT_ONCE)

    async def send(packet: bytes) -> None:
        async with crowd, asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(packet)
            assert await reader.read(-1) == b""
            writer.close()

    await asyncio.gather(*map(send, packets))


async def test_forged_keys_are_asked_about_nowhere(servers: Servers, tmp_path: Path) -> None:
    async with two_proxies(servers, tmp_path) as scene:
        origin = Origin(proxy_id("proxy-1"), b"process1")
        forgers = KeyMint.of_cluster("not the feed's token", origin)
        await knock(
            scene.two.writer_port, [encode_cancel(forgers.issue(pid, os.urandom(SECRET_BYTES))) for pid in range(1, STORM)]
        )
        assert scene.feed.asked == []
        # Of one that was made here, whose session has ended, its proxy alone is asked.
        gone = KeyMint.of_cluster(TOKEN, origin).issue(7, os.urandom(SECRET_BYTES))
        await knock(scene.two.writer_port, [encode_cancel(gone)])
        assert scene.feed.asked == [1]
        await knock(scene.one.writer_port, [encode_cancel(gone)])
        assert scene.feed.asked == [1]
        assert await scene.two.metric("endpointd_cancels_total", known="no") == STORM


async def test_a_storm_of_strangers_requests_stays_where_it_came(servers: Servers, tmp_path: Path) -> None:
    async with two_proxies(servers, tmp_path) as scene:
        clock = asyncio.get_running_loop().time
        began = clock()
        await knock(scene.two.writer_port, [encode_cancel(BackendKey(pid, os.urandom(4))) for pid in range(1, STORM + 1)])
        assert 0 < len(scene.feed.asked) <= STRANGERS_PER_S * (clock() - began + 1.0) + 1
        # PostgreSQL's own long keys are none of ours, and told by no other proxy of this version.
        before = len(scene.feed.asked)
        await knock(scene.two.writer_port, [encode_cancel(BackendKey(1, os.urandom(32)))])
        assert len(scene.feed.asked) == before
        assert await scene.two.metric("endpointd_cancels_total", known="no") == STORM + 1
