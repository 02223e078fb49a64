"""The feed over a real web socket: the document at once, signs of life in between, reports back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest
from aiohttp import web

from cluster_manager.proxies.feed import Feed
from daemonkit.httpclient import HttpClient, HttpRefused
from daemonkit.httpserver import HttpServer
from pgtopology.codec import decode, encode
from pgtopology.epoch import Epoch, Revision
from pgtopology.report import FeedFrame, ProxyReport
from tests.cluster_manager.decision.storycluster import healthy_document

DEADLINE_S = 5.0


@asynccontextmanager
async def served(feed: Feed) -> AsyncIterator[HttpClient]:
    """Serve *feed* on a free port, and give a client of it."""
    routes = [web.get("/v1/feed", feed.handle)]
    async with (
        HttpServer(host="127.0.0.1", port=0, token="secret", routes=routes) as server,
        HttpClient(f"http://127.0.0.1:{server.port}", "secret") as client,
    ):
        yield client


async def next_frame(socket: aiohttp.ClientWebSocketResponse) -> FeedFrame:
    async with asyncio.timeout(DEADLINE_S):
        return decode(await socket.receive_str(), FeedFrame)


async def test_the_document_comes_first_and_then_only_signs_of_life() -> None:
    feed = Feed(lambda: 10_000)
    document = healthy_document()
    feed.publish(document)
    async with served(feed) as client, client.websocket("/v1/feed?proxy=p1", timeout_s=DEADLINE_S) as socket:
        first, second = await next_frame(socket), await next_frame(socket)
    assert first.document == document
    assert (second.document, second.epoch, second.revision) == (None, document.epoch, document.revision)
    assert first.lease_ms == 600


async def test_a_new_document_is_pushed_before_the_next_sign_of_life() -> None:
    feed = Feed(lambda: 10_000)
    feed.publish(healthy_document())
    async with served(feed) as client, client.websocket("/v1/feed?proxy=p1", timeout_s=DEADLINE_S) as socket:
        await next_frame(socket)
        newer = msgspec.structs.replace(healthy_document(), revision=Revision(21), paused=True)
        feed.publish(newer)
        frame = await next_frame(socket)
        while frame.document is None:
            frame = await next_frame(socket)
    assert frame.document == newer


async def test_a_manager_without_the_lease_lends_nothing() -> None:
    feed = Feed(lambda: 0)
    async with served(feed) as client, client.websocket("/v1/feed?proxy=p1", timeout_s=DEADLINE_S) as socket:
        frame = await next_frame(socket)
    assert (frame.lease_ms, frame.document) == (0, None)


async def test_a_report_is_shown_until_the_proxy_leaves() -> None:
    feed = Feed(lambda: 10_000)
    report = ProxyReport(
        name="p1", version="0", epoch=Epoch(4), revision=Revision(20), sessions=7, engine="asyncio", relaxed_sessions=2
    )
    async with served(feed) as client:
        async with client.websocket("/v1/feed?proxy=p1", timeout_s=DEADLINE_S) as socket:
            await socket.send_str(encode(report).decode())
            while not feed.proxies():
                await next_frame(socket)
            (shown,) = feed.proxies()
            assert (shown.name, shown.sessions, shown.epoch, shown.relaxed_sessions) == ("p1", 7, 4, 2)
        async with asyncio.timeout(DEADLINE_S):
            while feed.proxies():
                await asyncio.sleep(0)


async def test_a_report_that_cannot_be_read_ends_the_connection() -> None:
    feed = Feed(lambda: 10_000)
    async with served(feed) as client, client.websocket("/v1/feed?proxy=p1", timeout_s=DEADLINE_S) as socket:
        await socket.send_str("{")
        async with asyncio.timeout(DEADLINE_S):
            while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert socket.closed


async def test_a_proxy_must_say_its_name() -> None:
    async with served(Feed(lambda: 10_000)) as client:
        with pytest.raises(HttpRefused) as refused:
            await client.get("/v1/feed", timeout_s=DEADLINE_S)
    assert refused.value.status == 400
    assert "proxy=NAME" in refused.value.message
