"""Who is connected through which proxy, and ending some of them: a manager's API, two proxies, real servers and clients."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psycopg
import pytest
from aiohttp import web

from cluster_manager.api.sessions import SessionsApi
from cluster_manager.proxies.feed import Feed
from cluster_manager.proxies.inquiries import Inquiries
from cluster_manager.record.journal import Journal
from daemonkit.httpclient import HttpClient, HttpRefused
from daemonkit.httpserver import HttpServer, needs
from daemonkit.principals import Scope, verifier_of
from pgtopology.codec import decode
from pgtopology.epoch import Epoch
from pgtopology.sessions import SessionsEnded, SessionsPage, SessionsTold, SessionView
from testkit.feedserver import TOKEN, document
from tests.endpointd.conftest import Servers
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.test_failover import connect, sqlstate_of, value

OPERATOR = "an operator's token"
READER = "a reader's token"


@dataclass(frozen=True)
class House:
    """A manager's API, and proxies that follow it."""

    port: int
    feed: Feed
    journal: Journal
    proxies: tuple[Proxy, ...]

    async def sessions(self, query: str = "") -> tuple[dict[str, SessionView], SessionsTold]:
        """Return the sessions of all proxies by their ids."""
        found: dict[str, SessionView] = {}
        async with HttpClient(f"http://127.0.0.1:{self.port}", READER) as client:
            lines = [line async for line in client.lines(f"/v1/sessions{query}", idle_timeout_s=10)]
        for line in lines[:-1]:
            page = decode(line, SessionsPage)
            found.update((f"{page.proxy}:{view.session}", view) for view in page.sessions)
        return found, decode(lines[-1], SessionsTold)

    async def end(self, token: str = OPERATOR, **body: object) -> SessionsEnded:
        async with HttpClient(f"http://127.0.0.1:{self.port}", token) as client:
            return decode(await client.post("/v1/sessions/end", msgspec.json.encode(body), timeout_s=20), SessionsEnded)


@asynccontextmanager
async def house(servers: Servers, directory: Path, names: Iterable[str] = ("proxy-1", "proxy-2")) -> AsyncIterator[House]:
    feed = Feed(lambda: 10_000)
    feed.publish(servers.document())
    with Journal(directory / "journal.jsonl") as journal:
        api = SessionsApi(Inquiries(feed), journal, lambda: Epoch(1))
        verifiers = verifier_of(OPERATOR, Scope.OPERATE) | verifier_of(READER, Scope.READ) | verifier_of(TOKEN, Scope.ADMIN)
        routes = [*needs(Scope.FEED, routes=[web.get("/v1/feed", feed.handle)]), *api.routes()]
        async with (
            HttpServer(host="127.0.0.1", port=0, verifiers=verifiers, routes=routes) as server,
            AsyncExitStack() as stack,
        ):
            running = [await stack.enter_async_context(proxy(directory / name, [server.port], name=name)) for name in names]
            for one in running:
                await one.wait_for_health(status="serving")
            yield House(server.port, feed, journal, tuple(running))


async def pid_of(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> int:
    return int(str(await value(connection, "select pg_backend_pid()")))


async def test_everybody_is_shown_with_what_is_known_of_them(servers: Servers, tmp_path: Path) -> None:
    async with house(servers, tmp_path) as here:
        one, two = here.proxies
        idle = await connect(one.writer_port, application_name="till")
        open_ = await connect(two.writer_port)
        pids = [await pid_of(idle), await pid_of(open_)]
        await open_.set_autocommit(False)
        await open_.execute("select 1")
        reading = await connect(two.reader_port)
        found, told = await here.sessions()
        assert told.proxies == ("proxy-1", "proxy-2")
        assert told.silent == ()
        by_pid: dict[int | None, tuple[str, SessionView]] = {view.backend_pid: (one, view) for one, view in found.items()}
        assert len(found) == 3
        name, till = by_pid[pids[0]]
        assert name.startswith("proxy-1:")
        assert (till.activity, till.node, till.is_writer, till.endpoint) == ("idle", "n1", True, "writer")
        assert (till.application_name, till.waits) == ("till", None)
        host, _, port = till.client.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) not in (one.writer_port, two.writer_port)
        assert till.to_client_bytes > 0
        name, other = by_pid[pids[1]]
        assert name.startswith("proxy-2:")
        assert other.activity == "in_transaction"
        at_reader = next(view for view in found.values() if view.endpoint == "reader")
        assert (at_reader.node in ("n2", "n3"), at_reader.is_writer) == (True, False)
        for query, count in {
            "?endpoint=reader": 1, "?node=n1": 2, "?state=in_transaction": 1, "?state=login": 0, "?user=nobody": 0,
        }.items():  # fmt: skip
            assert len((await here.sessions(query))[0]) == count, query
        for connection in (idle, open_, reading):
            await connection.close()


async def test_a_session_is_ended_by_its_id_and_nobody_else(servers: Servers, tmp_path: Path) -> None:
    async with house(servers, tmp_path) as here:
        first, second = [await connect(one.writer_port) for one in here.proxies]
        pid = await pid_of(first)
        found, _ = await here.sessions()
        wanted = next(name for name, view in found.items() if view.backend_pid == pid)
        with pytest.raises(HttpRefused, match="operate"):
            await here.end(READER, ids=[wanted])
        ended = await here.end(ids=[wanted, "proxy-2:999", "proxy-9:1"])
        assert ended.ended == (wanted,)
        assert ended.missing == ("proxy-2:999", "proxy-9:1")
        with pytest.raises(psycopg.errors.AdminShutdown, match="terminating connection due to administrator command"):
            await first.execute("select 1")
        assert await value(second, "select 1") == "1"
        told = {event.kind: event for event in here.journal.since(0)}
        assert wanted in told["sessions.ended"].message
        assert told["operator.sessions"].message.startswith("somebody at 127.0.0.1: POST /v1/sessions/end")
        await here.proxies[0].wait_for_log("terminated")
        await second.close()


async def test_what_an_ended_session_was_busy_with_ends_too(servers: Servers, tmp_path: Path) -> None:
    async with house(servers, tmp_path, ("proxy-1",)) as here:
        busy, watcher = await connect(here.proxies[0].reader_port), await connect(here.proxies[0].writer_port)
        pid = await pid_of(busy)
        node = next(view.node for view in (await here.sessions("?endpoint=reader"))[0].values())
        server = {"n2": servers.n2, "n3": servers.n3}[str(node)]
        running = asyncio.create_task(sqlstate_of(busy, "select pg_sleep(600)"))
        async with asyncio.timeout(20):
            while not (await here.sessions("?state=busy"))[0]:
                await asyncio.sleep(0.01)
        ended = await here.end(which={"endpoint": "reader", "state": "busy"})
        assert len(ended.ended) == 1
        assert await running == "57P01"
        async with asyncio.timeout(20):
            while server.sql(f"select count(*) from pg_stat_activity where pid = {pid}") != "0":
                await asyncio.sleep(0.05)
        assert await value(watcher, "select 1") == "1"
        await watcher.close()


async def test_a_login_that_is_held_says_why_and_can_be_ended(servers: Servers, tmp_path: Path) -> None:
    async with house(servers, tmp_path, ("proxy-1",)) as here:
        here.feed.publish(document(*servers.document().members, epoch=2, revision=2))
        await here.proxies[0].wait_for_health(epoch=2)
        waiting = asyncio.create_task(connect(here.proxies[0].writer_port))
        async with asyncio.timeout(20):
            while not (found := (await here.sessions("?state=connecting"))[0]):
                await asyncio.sleep(0.01)
        (view,) = found.values()
        assert view.waits == 'no primary is available for endpoint "writer"'
        assert (view.backend_pid, view.node, view.is_writer) == (None, None, None)
        await here.end(which={"state": "login"})
        with pytest.raises(psycopg.OperationalError, match="terminating connection due to administrator command"):
            await waiting


async def test_a_proxy_that_stands_still_is_named_and_keeps_nobody_waiting_for_long(servers: Servers, tmp_path: Path) -> None:
    async with house(servers, tmp_path) as here:
        one = await connect(here.proxies[0].writer_port)
        here.proxies[1].process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(15):
                found, told = await here.sessions()
        finally:
            here.proxies[1].process.send_signal(signal.SIGCONT)
        assert len(found) == 1
        assert (told.proxies, told.silent) in {(("proxy-1",), ("proxy-2",)), (("proxy-1",), ())}
        await one.close()


async def test_what_cannot_be_asked_for_is_refused_with_what_can(servers: Servers, tmp_path: Path) -> None:
    async with house(servers, tmp_path, ()) as here:
        with pytest.raises(HttpRefused, match="told apart by user, database, endpoint, node, state, not by colour"):
            await here.sessions("?colour=red")
        with pytest.raises(HttpRefused, match='"42" is no session: expected is a proxy and a number, such as proxy-1:42'):
            await here.end(ids=["42"])
        with pytest.raises(HttpRefused, match="either ids or which"):
            await here.end()
        with pytest.raises(HttpRefused, match="either ids or which"):
            await here.end(ids=["proxy-1:1"], which={})
