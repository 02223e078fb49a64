"""Managers that come, go, fall silent, speak nonsense or of the past; and what is kept of what they said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from structlog.testing import capture_logs

from daemonkit.durable import write_durably
from daemonkit.version import VERSION
from endpointd.routing.feed import Feed, document_cache
from endpointd.routing.heartbeat_check import HeartbeatCheck
from endpointd.routing.switchboard import Switchboard
from endpointd.settings import LimitSettings
from pgtopology.codec import decode, encode
from pgtopology.document import FORMAT_VERSION, Topology
from pgtopology.node import Role
from pgtopology.report import FeedFrame
from pgtopology.sessions import SessionQuestion, SessionsPage
from testkit.feedserver import TOKEN, FeedServer, document, feed_server, member
from testkit.ports import free_port


def topology(revision: int = 1, **changes: Any) -> Topology:
    return document(
        member("n1", role=Role.PRIMARY), member("n2"), **{"writer": "n1", "epoch": 3, "revision": revision, **changes}
    )


async def answer(question: SessionQuestion) -> AsyncIterator[SessionsPage]:
    yield SessionsPage(question=question.id, proxy="proxy-1", is_last=True, sessions=())


@asynccontextmanager
async def following(directory: Path, *ports: int) -> AsyncIterator[Switchboard]:
    """Give a switchboard that follows the managers at *ports*."""
    board = Switchboard(LimitSettings())
    cache = document_cache(directory / "topology.json")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(cache.run())]
        for port in ports:
            feed = Feed(
                f"http://127.0.0.1:{port}",
                lambda: TOKEN,
                "proxy-1",
                board,
                cache,
                engine="asyncio",
                count=lambda: 5,
                count_relaxed=lambda: 2,
                answer=answer,
            )
            tasks.append(group.create_task(feed.run()))
        yield board
        for task in tasks:
            task.cancel()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_document_is_followed_reported_and_kept(tmp_path: Path) -> None:
    async with feed_server(topology()) as server, following(tmp_path, server.port) as board:
        await until(lambda: board.is_vouched)
        report = await server.wait_for_report(revision=1)
        assert report.relaxed_sessions == 2
        assert (report.name, report.version, report.epoch, report.sessions, report.engine) == (
            "proxy-1",
            VERSION,
            3,
            5,
            "asyncio",
        )
        server.publish(topology(2))
        await server.wait_for_report(revision=2)
        await until(lambda: (tmp_path / "topology.json").exists())
        await until(lambda: document_cache(tmp_path / "topology.json").load() == topology(2))


async def test_a_manager_that_comes_back_is_heard_again(tmp_path: Path) -> None:
    port = free_port()
    with capture_logs() as logs:
        async with following(tmp_path, port) as board:
            for revision in (1, 2):
                server = FeedServer(topology(revision))
                server.port = port
                async with server:
                    await until(lambda revision=revision: board.is_vouched and board.table.revision == revision)
                await until(lambda: not board.is_vouched)
    said = [entry["event"] for entry in logs if entry["event"] in ("feed connected", "no feed")]
    assert said.count("feed connected") == 2


async def test_a_silent_manager_is_called_anew(tmp_path: Path) -> None:
    calls = 0

    async def silent(request: web.Request) -> web.WebSocketResponse:
        nonlocal calls
        calls += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    async with serving(silent) as port, following(tmp_path, port) as board:
        await until(lambda: calls >= 2)
        assert board.topology is None


async def test_nonsense_and_a_newer_format_are_no_feed_and_no_end(tmp_path: Path) -> None:
    words = ["{", "[]", f'{{"format_version": {FORMAT_VERSION + 1}}}']
    good = FeedFrame(lease_ms=600, epoch=topology().epoch, revision=topology().revision, document=topology())

    async def confused(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(words.pop(0) if words else encode(good).decode())
        await asyncio.sleep(1)
        return socket

    with capture_logs() as logs:
        async with serving(confused) as port, following(tmp_path, port) as board:
            await until(lambda: board.topology is not None)
    reasons = [entry["reason"] for entry in logs if entry["event"] == "no feed"]
    assert len(reasons) >= 3
    assert any("newer" in reason for reason in reasons)


async def test_the_past_is_refused_once_and_vouches_for_nothing(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with feed_server(topology(7)) as server, following(tmp_path, server.port) as board:
            await until(lambda: board.is_vouched)
            server.publish(topology(6))
            await until(lambda: not board.is_vouched)
            assert board.table.revision == 7
            server.publish(topology(8))
            await until(lambda: board.is_vouched)
    refusals = [entry for entry in logs if entry["event"] == "document refused"]
    assert len(refusals) == 1
    assert "(3, 7) to (3, 6)" in refusals[0]["reason"]


async def test_a_wrong_token_is_said(tmp_path: Path) -> None:
    async def strict(_request: web.Request) -> web.Response:
        raise web.HTTPUnauthorized

    with capture_logs() as logs:
        async with serving(strict) as port, following(tmp_path, port):
            await until(lambda: any(entry["event"] == "no feed" for entry in logs))
    assert "401" in next(entry["reason"] for entry in logs if entry["event"] == "no feed")


async def test_the_writers_noded_is_asked_before_the_lease_is_over_and_only_then(tmp_path: Path) -> None:
    async with feed_server() as server:
        members = (member("n1", role=Role.PRIMARY, noded_port=server.port), member("n2"))
        server.publish(document(*members, writer="n1"))
        server.heartbeat_age_ms = 10
        async with following(tmp_path, server.port) as board, asyncio.TaskGroup() as group:
            asking = group.create_task(HeartbeatCheck(board, lambda: TOKEN).run())
            clock = asyncio.get_running_loop().time
            await until(lambda: board.freshness.lease_until > clock() + 0.3)
            # Before the first report came back nobody else could vouch; from now on the manager does.
            asked = server.status_requests
            frames = len(server.reports)
            await until(lambda: len(server.reports) >= frames + 4)
            assert server.status_requests <= asked + 1
            asked = server.status_requests
            server.lease_ms = 0
            await until(lambda: server.status_requests > asked)
            assert board.freshness.is_valid(asyncio.get_running_loop().time())
            deadline = asyncio.get_running_loop().time() + 0.7
            while asyncio.get_running_loop().time() < deadline:
                assert board.is_vouched
                await asyncio.sleep(0.02)
            server.heartbeat_age_ms = None
            await until(lambda: not board.is_vouched)
            asking.cancel()


def test_a_cache_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    cache = document_cache(tmp_path / "topology.json")
    assert cache.load() is None
    (tmp_path / "topology.json").mkdir()
    assert cache.load() is None


def test_a_cache_of_a_newer_format_is_none(tmp_path: Path) -> None:
    newer = msgspec.structs.replace(topology(), format_version=FORMAT_VERSION + 1)
    write_durably(tmp_path / "topology.json", encode(newer))
    assert document_cache(tmp_path / "topology.json").load() is None
    write_durably(tmp_path / "topology.json", encode(topology()))
    assert document_cache(tmp_path / "topology.json").load() == topology()
    assert decode(encode(topology()), Topology) == topology()


async def test_a_cache_that_cannot_be_written_is_said_and_tried_again(tmp_path: Path) -> None:
    directory = tmp_path / "missing"
    with capture_logs() as logs:
        async with feed_server(topology()) as server, following(directory, server.port) as board:
            await until(lambda: any("could not be kept" in entry["event"] for entry in logs))
            await until(lambda: board.is_vouched)
            directory.mkdir()
            # No other document is needed for it.
            await until(lambda: (directory / "topology.json").exists())


@asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[int]:
    """Give the port of an HTTP server whose /v1/feed is *handler*."""
    app = web.Application()
    app.router.add_get("/v1/feed", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield int(runner.addresses[0][1])
    finally:
        with contextlib.suppress(TimeoutError):
            await runner.cleanup()
