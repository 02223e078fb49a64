"""Several processes are one proxy: at the same ports, under the same limits, and one of them alone is lost when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
import pytest_asyncio
from aiohttp import web

from cluster_manager.proxies.feed import Feed
from daemonkit.httpserver import HttpServer, needs
from daemonkit.principals import Scope, verifier_of
from endpointd.workers.crew import SILENCE_S
from pgtopology.epoch import Epoch
from pgwire.startup import encode_startup, make_startup
from testkit.feedserver import TOKEN
from testkit.ports import free_port
from tests.endpointd.conftest import Servers
from tests.endpointd.proxies import Proxy, proxy, successor

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[object, ...]]
SETTLES_S = 60.0
"""For what takes a second where nothing else runs."""


LISTEN = "0A"
"""A state, as /proc/net/tcp has it."""


def clients(pid: int, port: int) -> int:
    """Return how many connections the process *pid* has accepted at *port*, and has still."""
    own: set[str] = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # of a descriptor that was closed meanwhile
            own.add(str(entry.readlink()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for line in lines if line[1].endswith(f":{port:04X}") and line[3] != LISTEN and f"socket:[{line[9]}]" in own)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def until(is_met: Callable[[], bool], wanted: str) -> None:
    try:
        async with asyncio.timeout(SETTLES_S):
            while not is_met():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not {wanted}") from None


async def value(connection: Connection, statement: str = "select pg_backend_pid()") -> object:
    row = await (await connection.execute(statement.encode())).fetchone()
    assert row is not None
    return row[0]


@dataclass(frozen=True)
class Scene:
    """A manager's feed, a proxy with two processes, and the servers."""

    feed: Feed
    proxy: Proxy
    servers: Servers
    meeting: Path
    """The directory of their sockets."""

    @property
    def main(self) -> int:
        return self.proxy.process.pid

    @property
    def worker(self) -> int:
        (pid,) = children(self.main)
        return pid

    async def connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(
            host="127.0.0.1", port=self.proxy.writer_port, user="postgres", dbname="postgres", autocommit=True,
            sslmode="disable", gssencmode="disable",
        )  # fmt: skip

    async def without(self, other: int, pid: int, act: Callable[[], Awaitable[T]]) -> T:
        """Do *act*, whose connection is accepted by the process *pid*, because *other* stands still until then."""
        before = clients(pid, self.proxy.writer_port)
        os.kill(other, signal.SIGSTOP)
        try:
            acting = asyncio.ensure_future(act())
            await until(lambda: acting.done() or clients(pid, self.proxy.writer_port) > before, "accepted")
        finally:
            os.kill(other, signal.SIGCONT)
        return await acting

    async def at_main(self) -> Connection:
        return await self.without(self.worker, self.main, self.connect)

    async def at_worker(self) -> Connection:
        return await self.without(self.main, self.worker, self.connect)

    async def said(self, words: str, times: int = 1) -> None:
        """Wait until the log, which all of them write, says *words* so many *times*."""
        await until(lambda: self.proxy.log.read_text().count(words) >= times, f"{words!r} in the log")

    async def wait_for_worker(self, *, other_than: int = 0) -> None:
        """Wait until there is a worker that serves."""
        await until(
            lambda: any(len(one.pids) == 2 and other_than not in one.pids for one in self.feed.proxies()),
            "two processes report",
        )
        await self.said("endpoint open", 4)


@pytest_asyncio.fixture
async def start(
    servers: Servers, tmp_path: Path
) -> AsyncIterator[Callable[[str], contextlib.AbstractAsyncContextManager[Scene]]]:
    @contextlib.asynccontextmanager
    async def running(limits: str = "") -> AsyncIterator[Scene]:
        feed = Feed(lambda: 10_000)
        feed.publish(servers.document())
        routes: list[web.AbstractRouteDef] = [*needs(Scope.FEED, routes=[web.get("/v1/feed", feed.handle)])]
        private = tmp_path / "s"
        private.mkdir(mode=0o700)
        settings = f'takeover = "{private / "proxy"}"\nworkers = 2'
        async with (
            HttpServer(host="127.0.0.1", port=0, verifiers=verifier_of(TOKEN, Scope.ADMIN), routes=routes) as server,
            proxy(tmp_path / "proxy", [server.port], in_proxy=settings, limits=limits) as one,
        ):
            await one.wait_for_health(status="serving")
            scene = Scene(feed, one, servers, private)
            await scene.wait_for_worker()
            yield scene

    yield running


Start = Callable[..., contextlib.AbstractAsyncContextManager[Scene]]


async def test_both_serve_and_are_one_to_whoever_asks(start: Start) -> None:
    async with start() as scene:
        first, second = await scene.at_main(), await scene.at_worker()
        pids = {await value(first), await value(second)}
        views = (await scene.proxy.sessions()).sessions
        assert {view.backend_pid for view in views} == pids
        # Each numbers its own, so that a number names one session of the proxy.
        assert sorted(view.session % 2 for view in views) == [0, 1]
        await scene.proxy.wait_for_health(sessions=2)
        assert await scene.proxy.metric("endpointd_sessions", endpoint="writer", node="n1") == 2
        assert await scene.proxy.metric("endpointd_sessions_opened_total", endpoint="writer", node="n1") == 2
        assert await scene.proxy.metric("endpointd_epoch") == 1
        await until(lambda: [one.sessions for one in scene.feed.proxies()] == [2], "both are reported")
        (status,) = scene.feed.proxies()
        assert (status.name, status.pids) == ("proxy-1", tuple(sorted((scene.main, scene.worker))))
        words = Path(f"/proc/{scene.worker}/cmdline").read_bytes().split(b"\0")
        assert words[words.index(b"--worker") + 1] == b"1"
        await first.close()
        await second.close()


@pytest.mark.parametrize("limit", ["sessions_max = 5", "per_user_max = 5", "per_database_max = 5"])
async def test_a_limit_is_exact_however_many_come_at_once_and_to_whom(start: Start, limit: str) -> None:
    async with start(limit) as scene:

        async def attempt() -> Connection | str | None:
            try:
                return await scene.connect()
            except psycopg.OperationalError as error:
                return str(error)

        for _ in range(3):
            outcomes = await asyncio.gather(*(attempt() for _ in range(40)))
            inside = [one for one in outcomes if isinstance(one, psycopg.AsyncConnection)]
            assert len(inside) == 5, outcomes
            assert all("too many connections" in str(one) for one in outcomes if not isinstance(one, psycopg.AsyncConnection))
            for one in inside:
                await one.close()
            await until(lambda: [one.sessions for one in scene.feed.proxies()] == [0], "all have left")


async def test_the_places_of_a_worker_that_dies_are_free_and_nobody_elses_session_ends(start: Start) -> None:
    async with start("sessions_max = 4") as scene:
        mine = [await scene.at_main(), await scene.at_main()]
        lost = [await scene.at_worker(), await scene.at_worker()]
        backends = [await value(one) for one in mine]
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            await scene.connect()
        killed = scene.worker
        numbers = {view.session for view in (await scene.proxy.sessions()).sessions}
        assert await scene.proxy.metric("endpointd_sessions_opened_total", endpoint="writer", node="n1") == 4
        os.kill(killed, signal.SIGKILL)
        for one in lost:
            with pytest.raises(psycopg.OperationalError):
                await value(one)
        await scene.said("a worker has ended, with its sessions")
        await until(
            lambda: [path.name for path in scene.meeting.iterdir() if path.name.endswith(f".{killed}")] == [],
            "what it left behind is gone",
        )
        assert await scene.proxy.metric("endpointd_sessions_opened_total", endpoint="writer", node="n1") == 4
        assert await scene.proxy.metric("endpointd_sessions", endpoint="writer", node="n1") == 2
        assert await scene.proxy.metric("endpointd_workers_ended_total") == 1
        again = [await scene.connect(), await scene.connect()]
        assert [await value(one) for one in mine] == backends
        await scene.said("endpoint open", 6)
        await scene.wait_for_worker(other_than=killed)
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            await scene.at_worker()
        assert await scene.proxy.metric("endpointd_processes") == 2
        await mine.pop().close()
        await until(lambda: [one.sessions for one in scene.feed.proxies()] == [3], "one has left")
        again.append(await scene.at_worker())
        backend = await value(again[-1])
        (number,) = [view.session for view in (await scene.proxy.sessions()).sessions if view.backend_pid == backend]
        assert number % 2 == 0
        assert number not in numbers
        for one in (*mine, *again):
            await one.close()


async def test_the_workers_end_with_the_main_process_and_say_so(start: Start) -> None:
    async with start() as scene:
        session, worker = await scene.at_worker(), scene.worker
        os.kill(scene.main, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{worker}").exists(), "the worker has ended")
        with pytest.raises(psycopg.errors.AdminShutdown):
            await value(session)
        with pytest.raises(psycopg.OperationalError, match="Connection refused"):
            await scene.connect()
        await scene.proxy.process.wait()


async def test_a_worker_that_stands_still_keeps_the_manager_waiting_and_is_ended(start: Start) -> None:
    async with start() as scene:
        session, worker = await scene.at_worker(), scene.worker
        mine = await scene.at_main()
        os.kill(worker, signal.SIGSTOP)
        scene.feed.publish(scene.servers.document(epoch=2, revision=2))
        await until(lambda: any(one.epoch == 1 for one in scene.feed.proxies()), "one process has an earlier epoch")
        await scene.proxy.wait_for_health(epoch=2)
        # The main process has no session of the earlier writer, but the barrier asks every process (F2, S14).
        assert not scene.feed.are_settled(Epoch(2))
        await scene.said("a worker stands still and is ended")
        await until(lambda: scene.feed.are_settled(Epoch(2)), "settled")
        with pytest.raises(psycopg.OperationalError):
            await value(session)
        await mine.close()


async def test_a_main_process_that_stood_still_holds_it_against_nobody(start: Start) -> None:
    async with start() as scene:
        session, worker = await scene.at_worker(), scene.worker
        backend = await value(session)
        os.kill(scene.main, signal.SIGSTOP)
        try:
            await asyncio.sleep(SILENCE_S + 1)  # as a machine that is paused, whose clock goes on
        finally:
            os.kill(scene.main, signal.SIGCONT)
        await scene.proxy.wait_for_health(status="serving")
        await (await scene.connect()).close()
        assert await value(session) == backend
        assert scene.worker == worker
        await session.close()


async def sleep(session: Connection) -> str | None:
    """Return how the sleep of *session* ends."""
    with pytest.raises(psycopg.Error) as caught:
        await session.execute("select pg_sleep(60)")
    return caught.value.sqlstate


async def until_asleep(session: Connection, watcher: Connection) -> None:
    """Wait until the server of *session* is asleep."""
    query = f"select count(*) from pg_stat_activity where pid = {session.info.backend_pid} and wait_event = 'PgSleep'"
    async with asyncio.timeout(SETTLES_S):
        while await value(watcher, query) != 1:
            await asyncio.sleep(0.01)


async def test_a_process_that_stands_still_keeps_no_cancel_request_waiting_that_another_one_carries_out(start: Start) -> None:
    async with start() as scene:
        mine, theirs, still = await scene.at_main(), await scene.at_worker(), scene.worker
        async with successor(scene.proxy) as second:
            await scene.said("endpoint open", 8)
            sleeping = asyncio.create_task(sleep(mine))
            await until_asleep(mine, theirs)
            (worker,) = children(second.process.pid)
            os.kill(still, signal.SIGSTOP)
            try:
                await scene.without(worker, second.process.pid, lambda: mine.cancel_safe(timeout=20))
            finally:
                os.kill(still, signal.SIGCONT)
            async with asyncio.timeout(SETTLES_S):
                assert await sleeping == "57014"
            assert await second.metric("endpointd_cancels_total", known="yes") == 1
            await mine.close()
            await theirs.close()


async def test_a_cancel_request_that_one_accepts_reaches_the_session_of_the_other(start: Start) -> None:
    async with start() as scene:
        session = await scene.at_worker()
        sleeping = asyncio.create_task(sleep(session))
        watcher = await scene.at_main()
        await until_asleep(session, watcher)
        await scene.without(scene.worker, scene.main, lambda: session.cancel_safe(timeout=20))
        async with asyncio.timeout(SETTLES_S):
            assert await sleeping == "57014"
        await watcher.close()
        await session.close()


async def test_a_takeover_relieves_all_of_them_and_each_ends_after_its_sessions(start: Start) -> None:
    async with start() as scene:
        mine, theirs, worker = await scene.at_main(), await scene.at_worker(), scene.worker
        backends = [await value(mine), await value(theirs)]
        over = asyncio.Event()
        failures: list[str] = []

        async def knock() -> None:
            while not over.is_set() and not failures:
                try:
                    await (await scene.connect()).close()
                except psycopg.OperationalError as error:
                    failures.append(str(error))

        knocking = [asyncio.create_task(knock()) for _ in range(4)]
        async with successor(scene.proxy):
            assert [await value(mine), await value(theirs)] == backends
            over.set()
            await asyncio.gather(*knocking)
            assert failures == []
            draining = f"proxy-1.draining-{scene.main}"
            await until(
                lambda: any(one.name == draining and one.sessions == 2 and len(one.pids) == 2 for one in scene.feed.proxies()),
                "both drain under one name",
            )
            assert Path(f"/proc/{worker}/cmdline").read_bytes().startswith(b"draining\0")
            await scene.said("endpoint open", 8)
            await theirs.close()
            await until(lambda: not Path(f"/proc/{worker}").exists(), "the worker has ended")
            assert await value(mine) == backends[0]
            await mine.close()
            async with asyncio.timeout(SETTLES_S):
                assert await scene.proxy.process.wait() == 0


async def test_a_worker_that_is_started_again_goes_by_what_its_main_process_goes_by(start: Start) -> None:
    async with start("per_user_max = 3") as scene:
        door = f'[[instances]]\nnode = "n2"\nport = {free_port()}\n[limits]'
        for number, change in enumerate(
            (("per_user_max = 3", "per_user_max = 1"), ("[limits]", door), (door, "[limits]\nodd = 1"))
        ):
            scene.proxy.reload(change)
            await scene.said("settings read anew" if number < 2 else "reload failed", (2, 4, 1)[number])
            killed = scene.worker
            os.kill(killed, signal.SIGKILL)
            await scene.said("endpoint open", 4 + 2 * (number + 1))
            await scene.wait_for_worker(other_than=killed)
            session = await scene.at_worker()
            with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
                await scene.at_main()
            await session.close()
            await until(lambda: [one.sessions for one in scene.feed.proxies()] == [0], "all have left")
        assert "exit_status=-9" in scene.proxy.log.read_text()
        assert "exit_status=1" not in scene.proxy.log.read_text()


async def test_settings_are_read_anew_by_all_and_a_stop_ends_all(start: Start) -> None:
    async with start("per_user_max = 1") as scene:
        scene.proxy.reload(("per_user_max = 1", "per_user_max = 2"))
        await scene.said("settings read anew", 2)
        sessions = [await scene.at_main(), await scene.at_worker()]
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            await scene.at_worker()
        worker = scene.worker
        # As service managers do, which tell every process of a group: for the worker that must not count twice.
        os.kill(worker, signal.SIGTERM)
        scene.proxy.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SETTLES_S):
            assert await scene.proxy.process.wait() == 0
        assert not Path(f"/proc/{worker}").exists()
        for one in sessions:
            with pytest.raises(psycopg.errors.AdminShutdown):
                await value(one)


async def test_names_in_another_encoding_come_in_at_each(start: Start) -> None:
    async with start() as scene:
        server = scene.servers.n1
        server.sql("create database latin template template0 encoding 'LATIN1' locale_provider libc locale 'C'")
        server.sql("set client_encoding = 'UTF8'; create role \"caf\u00e9\" login", "latin")
        packet = encode_startup(make_startup("caf\udce9", "postgres"))

        async def log_in() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", scene.proxy.writer_port)
            writer.write(packet)
            async with asyncio.timeout(SETTLES_S):
                answer = await reader.read(1)
            writer.close()
            return answer

        try:
            assert await scene.without(scene.worker, scene.main, log_in) == b"R"
            assert await scene.without(scene.main, scene.worker, log_in) == b"R"
        finally:
            await until(lambda: [one.sessions for one in scene.feed.proxies()] == [0], "all have left")
            server.sql("set client_encoding = 'UTF8'; drop role \"caf\u00e9\"", "latin")
            server.sql("drop database latin")


async def test_more_than_one_need_a_place_to_meet(servers: Servers, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="workers: more than one need takeover"):
        async with proxy(tmp_path / "p", [1], in_proxy="workers = 2"):
            pass
    with pytest.raises(AssertionError, match="workers"):
        async with proxy(tmp_path / "q", [1], in_proxy="workers = 17"):
            pass
