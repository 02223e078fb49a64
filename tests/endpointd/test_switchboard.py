"""Who gets which server, who waits, and who is told what when the document or its freshness changes."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from prometheus_client import REGISTRY

from endpointd import refusal
from endpointd.refusal import Refusal
from endpointd.routing import switchboard
from endpointd.routing.eviction import Eviction, When
from endpointd.routing.switchboard import Switchboard
from endpointd.routing.table import Backend, Door
from endpointd.servers.connector import READER_RETRY_S, Connector, Found
from endpointd.settings import LimitSettings
from pgtopology.document import TransitionKind
from pgtopology.node import Role
from pgtopology.report import BackendHealth
from testkit.feedserver import document, member
from testkit.ports import free_port

LIMITS = LimitSettings(dial_timeout_s=5.0, hold_max=2)


class Guest:
    """A session as the switchboard sees it."""

    def __init__(self) -> None:
        self.evictions: list[Eviction] = []
        self.pauses: list[bool] = []

    def evict(self, eviction: Eviction) -> None:
        self.evictions.append(eviction)

    def pause(self) -> None:
        self.pauses.append(True)

    def resume(self) -> None:
        self.pauses.append(False)


class Host:
    """A port that takes connections and says nothing, or does not take them."""

    def __init__(self, *, takes: bool = True) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        if takes:
            self.take()

    def take(self) -> None:
        self._socket.listen(100)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    made = [Host(), Host(), Host()]
    yield made
    for host in made:
        host.close()


class Board(Switchboard):
    """A switchboard, and the connector that belongs to it."""

    def __init__(self, *, fallback_to_writer: bool = True, limits: LimitSettings = LIMITS) -> None:
        super().__init__(limits)
        self.connector = Connector(self, fallback_to_writer=fallback_to_writer, draw=Random(3).randrange)


@asynccontextmanager
async def opened(board: Board, door: Door, number: int, guest: Guest, hold_s: float = 0.0) -> AsyncIterator[Backend]:
    """Give the server of a session; the session keeps it until `release`."""
    found = await ask(board, door, number, guest, hold_s)
    assert not isinstance(found, Refusal), found
    backend, link = found.backend, found.link
    try:
        yield backend
    finally:
        link.abort()


async def ask(
    board: Board, door: Door, number: int, guest: Guest, hold_s: float = 0.0, failed: Backend | None = None
) -> Found | Refusal:
    now = asyncio.get_running_loop().time()
    async with asyncio.timeout(20):
        return await board.connector.connect(number, guest, door, failed=failed, hold_until=now + hold_s)


def vouch(board: Switchboard, seconds: float = 60.0) -> None:
    board.vouch(lease_until=asyncio.get_running_loop().time() + seconds)


async def test_sessions_are_counted_spread_and_forgotten(hosts: list[Host]) -> None:
    board = Board()
    board.set_topology(document(*(member(f"n{i}", host.port) for i, host in enumerate(hosts, 1))))
    found: Counter[str] = Counter()
    for number in range(9):
        async with opened(board, Door.READER, number, Guest()) as backend:
            found[backend.node] += 1
            board.connector.answered(backend)
    assert found == {"n1": 3, "n2": 3, "n3": 3}
    assert board.load == {"n1": 3, "n2": 3, "n3": 3}
    assert (
        board.backends() == tuple(BackendHealth(node.name, True) for node in board.topology.members) if board.topology else ()
    )
    for number in range(9):
        board.release(number)
        board.release(number)
    assert board.load == {}


async def test_a_replica_that_refuses_is_passed_over_and_reported(hosts: list[Host]) -> None:
    board = Board()
    board.set_topology(document(member("n1", free_port()), member("n2", hosts[0].port)))
    for number in range(4):
        async with opened(board, Door.READER, number, Guest()) as backend:
            assert backend.node == "n2"
            board.connector.answered(backend)
    assert {health.node: health.answers for health in board.backends()} in ({"n1": False, "n2": True}, {"n2": True})


async def test_with_all_replicas_gone_the_writer_takes_readers_only_if_vouched_for(hosts: list[Host]) -> None:
    board = Board()
    board.set_topology(document(member("n1", hosts[0].port, role=Role.PRIMARY), member("n2", free_port()), writer="n1"))
    assert await ask(board, Door.READER, 1, Guest()) == refusal.unreachable("n2")
    vouch(board)
    async with opened(board, Door.READER, 1, Guest(), hold_s=READER_RETRY_S * 3) as backend:
        assert (backend.node, backend.is_writer) == ("n1", True)
    strict = Board(fallback_to_writer=False)
    strict.set_topology(document(member("n1", hosts[0].port, role=Role.PRIMARY), writer="n1"))
    vouch(strict)
    assert await ask(strict, Door.READER, 1, Guest()) == refusal.no_replica("reader")


async def test_writers_wait_for_a_document_a_writer_and_a_word_for_it(hosts: list[Host]) -> None:
    board = Board()
    waiting = asyncio.create_task(ask(board, Door.WRITER, 1, Guest(), hold_s=10))
    members = (member("n1", hosts[0].port, role=Role.PRIMARY), member("n2", hosts[1].port))
    for step in (
        lambda: board.set_topology(document(*members, epoch=1)),
        lambda: board.set_topology(document(*members, epoch=1, revision=2, writer="n1")),
    ):
        await asyncio.sleep(0)
        assert not waiting.done()
        step()
    await asyncio.sleep(0.02)
    assert not waiting.done()
    vouch(board)
    found = await waiting
    assert not isinstance(found, Refusal)
    assert found.backend.node == "n1"
    found.link.abort()


async def test_no_more_than_hold_max_wait(hosts: list[Host]) -> None:
    board = Board()
    waiting = [asyncio.create_task(ask(board, Door.WRITER, number, Guest(), hold_s=10)) for number in range(2)]
    await asyncio.sleep(0)
    assert await ask(board, Door.WRITER, 3, Guest(), hold_s=10) == refusal.too_many_waiting("writer")
    waiting[0].cancel()
    await asyncio.gather(*waiting[:1], return_exceptions=True)
    assert await ask(board, Door.WRITER, 4, Guest(), hold_s=0.01) == refusal.no_primary("writer")
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_crowd_of_one_address_gives_way_to_another_address_and_not_to_its_own() -> None:
    board = Board()
    told: list[tuple[int, Refusal]] = []

    async def wait(number: int, address: str) -> object:
        return await board.connector.connect(
            number,
            Guest(),
            Door.WRITER,
            failed=None,
            hold_until=asyncio.get_running_loop().time() + 10,
            address=address,
            end=lambda why: told.append((number, why)),
        )

    waiting = [asyncio.create_task(wait(number, "crowd")) for number in range(2)]
    await asyncio.sleep(0)
    assert await wait(2, "crowd") == refusal.too_many_waiting("writer")
    waiting.append(asyncio.create_task(wait(3, "other")))
    await asyncio.sleep(0)
    assert told == [(0, refusal.too_many_clients())]
    assert not waiting[2].done()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_one_tries_a_silent_writer_for_all() -> None:
    """A crowd that waits for a writer that refuses dials it once in a while, not once each, and comes in together."""

    def failures() -> float:
        return REGISTRY.get_sample_value("endpointd_dial_failures_total", {"node": "silent", "reason": "refused"}) or 0

    async def one(number: int) -> None:
        found = await ask(board, Door.WRITER, number, Guest(), hold_s=10)
        assert not isinstance(found, Refusal)
        board.connector.answered(found.backend)
        board.connector.login_over(number)
        found.link.abort()

    dead = Host(takes=False)
    board = Board(limits=LimitSettings(hold_max=1000))
    board.set_topology(document(member("silent", dead.port, role=Role.PRIMARY), writer="silent"))
    vouch(board)
    waiting = [asyncio.create_task(one(number)) for number in range(50)]
    async with asyncio.timeout(10):
        while failures() < 54:
            await asyncio.sleep(0.01)
    began = asyncio.get_running_loop().time()
    dead.take()
    await asyncio.gather(*waiting)
    assert asyncio.get_running_loop().time() - began < 1
    assert failures() < 60
    dead.close()


@pytest.mark.parametrize("turns", range(4))
async def test_a_dial_to_a_writer_that_is_lost_meanwhile_is_given_up(hosts: list[Host], turns: int) -> None:
    """A host that swallows packets keeps nobody from the new writer, also if another document comes while a dial is ending."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port = full.getsockname()[1]
    stuffing = [socket.socket() for _ in range(4)]
    for one in stuffing:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
    board = Board()
    board.set_topology(document(member("n1", port, role=Role.PRIMARY), member("n2", hosts[1].port), writer="n1"))
    vouch(board)
    guest = Guest()
    connecting = asyncio.create_task(ask(board, Door.WRITER, 1, guest, hold_s=10))
    await asyncio.sleep(0.05)
    assert not connecting.done()
    board.set_topology(document(member("n1", port), member("n2", hosts[1].port), epoch=2, revision=2))
    for _ in range(turns):
        await asyncio.sleep(0)
    board.set_topology(document(member("n1", port), member("n2", hosts[1].port), epoch=2, revision=3, writer="n2"))
    vouch(board)
    async with asyncio.timeout(1):
        found = await connecting
    assert not isinstance(found, Refusal)
    assert found.backend.node == "n2"
    assert guest.evictions == []
    found.link.abort()
    for one in (full, *stuffing):
        one.close()


async def test_a_server_that_failed_its_session_is_given_back_and_tried_again_later(hosts: list[Host]) -> None:
    board = Board()
    board.set_topology(document(member("n1", hosts[0].port, role=Role.PRIMARY), writer="n1"))
    vouch(board)
    async with opened(board, Door.WRITER, 1, Guest()) as backend:
        pass
    assert await ask(board, Door.WRITER, 1, Guest(), failed=backend) == refusal.no_primary("writer")
    assert board.load == {}
    found = await ask(board, Door.WRITER, 1, Guest(), hold_s=5, failed=backend)
    assert not isinstance(found, Refusal)
    found.link.abort()


async def test_lost_writers_are_evicted_and_the_report_waits_for_them(hosts: list[Host]) -> None:
    board = Board()
    members = (member("n1", hosts[0].port, role=Role.PRIMARY), member("n2", hosts[1].port), member("n3", hosts[2].port))
    board.set_topology(document(*members, writer="n1", epoch=4))
    vouch(board)
    writer, reader = Guest(), Guest()
    async with opened(board, Door.WRITER, 1, writer), opened(board, Door.READER, 2, reader):
        assert board.stands(1)
        assert not board.must_wait(1)
        board.set_topology(document(*members, epoch=5, revision=2, kind=TransitionKind.SWITCHOVER))
        assert writer.evictions == [Eviction(1, refusal.primary_changed(), When.SAFE_POINT)]
        assert reader.evictions == []
        assert not board.stands(1)
        assert board.stands(2)
        assert board.settled_epoch == 4
        async with asyncio.timeout(5):
            while len(writer.evictions) < 2:
                await asyncio.sleep(0.01)
        assert writer.evictions[1].when is When.NOW
        board.release(1)
        assert board.settled_epoch == 5


async def test_a_report_waits_for_no_session_that_is_left_to_its_server_and_it_ends_at_last(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "LAST_WORDS_S", 0.1)
    board = Board()
    members = (member("n1", hosts[0].port, role=Role.PRIMARY), member("n2", hosts[1].port), member("n3", hosts[2].port))
    board.set_topology(document(*members, writer="n1", epoch=4))
    vouch(board)
    client, stream = Guest(), Guest()
    async with opened(board, Door.WRITER, 1, client), opened(board, Door.WRITER, 2, stream):
        board.leave_to_server(2, refusal.primary_changed())
        board.set_topology(document(*members, epoch=5, revision=2, kind=TransitionKind.SWITCHOVER))
        assert board.settled_epoch == 4
        board.leave_to_server(2, refusal.primary_changed())
        board.leave_to_server(2, refusal.primary_changed())
        assert board.settled_epoch == 4, "a transaction is waited for"
        assert stream.evictions == [Eviction(2, refusal.primary_changed(), When.SAFE_POINT)]
        board.release(1)
        assert board.settled_epoch == 5
        async with asyncio.timeout(5):
            while len(stream.evictions) < 2:
                await asyncio.sleep(0.01)
        assert stream.evictions[1] == Eviction(2, refusal.primary_changed(), When.NOW)
        assert len(client.evictions) == 1


async def test_writers_pause_when_the_word_runs_out_and_go_on_with_a_new_one(hosts: list[Host]) -> None:
    board = Board(limits=LimitSettings(hold_s=0.2))
    board.set_topology(document(member("n1", hosts[0].port, role=Role.PRIMARY), writer="n1"))
    vouch(board, 0.1)
    guest = Guest()
    async with opened(board, Door.WRITER, 1, guest):
        vouch(board, 0.2)
        async with asyncio.timeout(5):
            while not guest.pauses:
                await asyncio.sleep(0.01)
            assert board.must_wait(1)
            board.vouch(heartbeat_until=asyncio.get_running_loop().time() + 0.1)
            assert guest.pauses == [True, False]
            assert not board.must_wait(1)
            while not guest.evictions:
                await asyncio.sleep(0.01)
    assert guest.pauses == [True, False, True]
    assert guest.evictions == [Eviction(1, refusal.primary_unconfirmed(), When.NOW)]


async def test_a_word_for_the_last_writer_is_none_for_the_next(hosts: list[Host]) -> None:
    board = Board()
    members = (member("n1", hosts[0].port), member("n2", hosts[1].port))
    board.set_topology(document(*members, writer="n1"))
    vouch(board)
    assert board.is_vouched
    board.set_topology(document(*members, writer="n2", epoch=2, revision=3))
    assert not board.is_vouched
    assert await ask(board, Door.WRITER, 1, Guest()) == refusal.no_primary("writer")


async def test_every_end_of_a_word_is_noticed_in_time(hosts: list[Host]) -> None:
    board = Board()
    board.set_topology(document(member("n1", hosts[0].port, role=Role.PRIMARY), writer="n1"))
    vouch(board, 0.05)
    guest = Guest()
    async with opened(board, Door.WRITER, 1, guest), asyncio.timeout(3):
        for times in (1, 2, 3):
            while guest.pauses.count(True) < times:
                await asyncio.sleep(0.01)
            vouch(board, 0.05)
    assert guest.pauses == [True, False] * 3
    assert guest.evictions == []
