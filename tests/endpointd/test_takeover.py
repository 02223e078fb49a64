"""One proxy relieves another: nobody is refused, no session ends, and whoever dies in between leaves the other one serving."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psycopg
import pytest
import pytest_asyncio

from daemonkit.version import VERSION
from endpointd.takeover.channel import Channel, ChannelError
from endpointd.takeover.words import Answer, Order, Standing, Step, agreed, lacking
from testkit.feedserver import FeedServer, feed_server
from tests.endpointd.conftest import Servers
from tests.endpointd.proxies import Proxy, proxy, successor


def test_the_newest_version_that_both_speak_holds() -> None:
    def order(speaks_from: int, speaks_to: int) -> Order:
        return Order(do="take_over", speaks_from=speaks_from, speaks_to=speaks_to, pid=1, version="")

    assert agreed(order(1, 1)) == 1
    assert agreed(order(1, 7)) == 1
    assert agreed(order(2, 7)) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "lacks"),
    [
        ({}, {}, None),
        ({"epoch": 3, "revision": 9}, {"epoch": 3, "revision": 9, "is_vouched": False}, None),
        ({"epoch": 2, "revision": 12}, {"epoch": 3, "revision": 9}, "the document of epoch 3, revision 9"),
        ({"epoch": 3, "revision": 9}, {"epoch": 3, "revision": 9, "is_vouched": True}, "a word for the writer"),
        ({"is_vouched": True}, {"is_vouched": True, "knows_roles": True}, "the cluster's roles"),
        ({"epoch": 4, "is_vouched": True, "knows_roles": True}, {"epoch": 3, "is_vouched": True, "knows_roles": True}, None),
    ],
)
def test_a_successor_is_ready_when_it_lacks_nothing_that_its_predecessor_has(
    mine: dict[str, int], theirs: dict[str, int], lacks: str | None
) -> None:
    def standing(changes: dict[str, int]) -> Standing:
        return msgspec.structs.replace(Standing(pid=1, version=""), **changes)

    assert lacking(standing(mine), standing(theirs)) == lacks


class Scene:
    """A manager, and a proxy that can be relieved."""

    def __init__(self, feed: FeedServer, first: Proxy, socket: Path) -> None:
        self.feed = feed
        self.first = first
        self.socket = socket

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.first.writer_port, user="postgres", dbname="postgres", autocommit=True
        )

    async def ask(self, order: Order) -> Answer:
        with await Channel.connect(self.socket) as channel:
            channel.send(order)
            return await channel.receive(Answer)

    async def serving_pid(self) -> int:
        standing = (await self.ask(Order(do="look", pid=os.getpid(), version=VERSION))).standing
        assert standing is not None
        return standing.pid


@pytest_asyncio.fixture
async def scene(servers: Servers, tmp_path: Path) -> AsyncIterator[Scene]:
    private = tmp_path / "s"
    private.mkdir(mode=0o700)
    socket = private / "proxy"
    async with (
        feed_server(servers.document()) as feed,
        proxy(tmp_path / "proxy", [feed.port], in_proxy=f'takeover = "{socket}"') as first,
    ):
        await first.wait_for_health(status="serving")
        yield Scene(feed, first, socket)


async def value(connection: psycopg.Connection[tuple[object, ...]], statement: str = "select pg_backend_pid()") -> object:
    def ask() -> object:
        row = connection.execute(statement.encode()).fetchone()
        assert row is not None
        return row[0]

    return await asyncio.to_thread(ask)


async def test_a_session_lives_on_and_its_process_ends_after_it(scene: Scene) -> None:
    with await asyncio.to_thread(scene.connect) as session:
        backend = await value(session)
        async with successor(scene.first) as second:
            assert await scene.serving_pid() == second.process.pid
            assert (await second.health()).sessions == 0
            assert await value(session) == backend
            name = f"proxy-1.draining-{scene.first.process.pid}"
            report = await scene.feed.wait_for_report(name=name)
            assert (report.is_draining, report.sessions) == (True, 1)
            assert Path(f"/proc/{scene.first.process.pid}/cmdline").read_bytes().startswith(b"draining\0")
            async with asyncio.timeout(10):
                while await second.metric("endpointd_draining_sessions", pid=str(scene.first.process.pid)) != 1:
                    await asyncio.sleep(0.05)
            with await asyncio.to_thread(scene.connect) as fresh:
                assert await value(fresh) != backend
            session.close()
            async with asyncio.timeout(10):
                assert await scene.first.process.wait() == 0
            assert sorted(path.name for path in scene.socket.parent.iterdir()) == ["proxy"]


async def test_a_cancel_request_reaches_a_session_of_the_process_that_drains(scene: Scene) -> None:
    with await asyncio.to_thread(scene.connect) as session:
        await value(session)
        async with successor(scene.first), successor(scene.first) as third:
            asleep = asyncio.create_task(asyncio.to_thread(session.execute, "select pg_sleep(60)"))
            with await asyncio.to_thread(scene.connect) as watcher:
                while not await value(watcher, "select count(*) from pg_stat_activity where query like 'select pg_sleep(60)'"):
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(session.cancel_safe)
            with pytest.raises(psycopg.errors.QueryCanceled):
                async with asyncio.timeout(10):
                    await asleep
            assert await third.metric("endpointd_cancels_total", known="yes") == 1


async def test_after_the_time_for_draining_a_session_ends_at_a_safe_point(servers: Servers, tmp_path: Path) -> None:
    private = tmp_path / "s"
    private.mkdir(mode=0o700)
    settings = f'takeover = "{private / "proxy"}"\ndrain_timeout_s = 0.5'
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "p", [feed.port], in_proxy=settings) as first:
        scene = Scene(feed, first, private / "proxy")
        await first.wait_for_health(status="serving")
        with await asyncio.to_thread(scene.connect) as session:
            await value(session)
            async with successor(first):
                async with asyncio.timeout(10):
                    assert await first.process.wait() == 0
                with pytest.raises(psycopg.errors.AdminShutdown):
                    await value(session)


async def test_one_that_drains_can_be_told_to_stop(scene: Scene) -> None:
    with await asyncio.to_thread(scene.connect) as session:
        await value(session)
        async with successor(scene.first):
            scene.first.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await scene.first.process.wait() == 0
            with pytest.raises(psycopg.errors.AdminShutdown):
                await value(session)


async def test_a_successor_that_is_killed_while_it_waits_leaves_the_other_one_serving(scene: Scene) -> None:
    # It cannot be ready: the manager says nothing to those that come now.
    lease, scene.feed.lease_ms = scene.feed.lease_ms, -1
    cached = scene.first.config.with_name("topology.json")
    async with asyncio.timeout(30):
        while not cached.exists():
            await asyncio.sleep(0.05)
    cached.unlink()
    process = scene.first.another()
    await scene.first.wait_for_log("waits before it takes over")
    process.kill()
    await process.wait()
    scene.feed.lease_ms = lease
    await scene.first.wait_for_log("this one serves on")
    with await asyncio.to_thread(scene.connect) as session:
        await value(session)
    assert await scene.serving_pid() == scene.first.process.pid


@pytest.mark.parametrize("last", ["take_over", "ready", "go"])
async def test_a_successor_that_goes_away_at_any_step_leaves_the_other_one_serving(scene: Scene, last: str) -> None:
    with await asyncio.to_thread(scene.connect) as session:
        backend = await value(session)
        with await Channel.connect(scene.socket) as channel:
            channel.send(Order(do="take_over", pid=os.getpid(), version=VERSION))
            answer = await channel.receive(Answer)
            descriptors = channel.take_descriptors()
            assert [place.port for place in answer.places] == [
                scene.first.writer_port,
                scene.first.reader_port,
                scene.first.http_port,
            ]
            assert len(descriptors) == len(answer.places)
            if last != "take_over":
                channel.send(Step(step="ready"))
            waiting: list[asyncio.Task[psycopg.Connection[tuple[object, ...]]]] = []
            if last == "go":
                assert (await channel.receive(Step)).step == "go"
                waiting.append(asyncio.create_task(asyncio.to_thread(scene.connect)))
        for each in descriptors:
            os.close(each)
        await scene.first.wait_for_log("this one serves on")
        for client in waiting:
            (await client).close()
        with await asyncio.to_thread(scene.connect) as fresh:
            await value(fresh)
        assert await value(session) == backend
        assert await scene.serving_pid() == scene.first.process.pid


async def test_who_speaks_another_version_is_told_so_and_a_second_one_waits_its_turn(scene: Scene) -> None:
    other = await scene.ask(Order(do="take_over", speaks_from=9, speaks_to=9, pid=7, version="9.0"))
    assert other.error == "process 7 of version 9.0 speaks another version of the takeover"
    with await Channel.connect(scene.socket) as channel:
        channel.send(Order(do="take_over", pid=1, version=VERSION))
        await channel.receive(Answer)
        second = await scene.ask(Order(do="take_over", pid=2, version=VERSION))
        assert second.error == "another process takes over already"


async def test_a_new_process_that_wants_a_port_of_others_says_so_and_the_old_one_serves_on(scene: Scene) -> None:
    foreign = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0)
    port = foreign.sockets[0].getsockname()[1]
    scene.first.config.write_text(scene.first.config.read_text().replace(str(scene.first.reader_port), str(port)))
    process = scene.first.another()
    async with asyncio.timeout(20):
        assert await process.wait() == 1
    await scene.first.wait_for_log(f"cannot listen on 127.0.0.1:{port} for endpoint reader: Address already in use")
    with await asyncio.to_thread(scene.connect) as session:
        await value(session)
    assert await scene.serving_pid() == scene.first.process.pid
    foreign.close()


async def test_a_socket_that_others_can_reach_is_refused(servers: Servers, tmp_path: Path) -> None:
    private = tmp_path / "s"
    private.mkdir()
    private.chmod(0o755)
    async with feed_server(servers.document()) as feed:
        with pytest.raises(AssertionError, match="is open to other users; expected mode 0700"):
            async with proxy(tmp_path / "p", [feed.port], in_proxy=f'takeover = "{private / "proxy"}"'):
                pass


async def test_strange_words_at_the_socket_end_the_connection_alone(scene: Scene) -> None:
    reader, writer = await asyncio.open_unix_connection(scene.socket)
    writer.write(b'{"do":"nonsense"}\n')
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    with await Channel.connect(scene.socket) as channel:
        channel.send(Step(step="go"))
        with pytest.raises(ChannelError):
            await channel.receive(Answer)
    assert await scene.serving_pid() == scene.first.process.pid
