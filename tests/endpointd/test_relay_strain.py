"""What every relay engine has to bear: byte by byte, all at once, nobody who reads, and ends of every kind, many times over."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from pathlib import Path

import pytest

from endpointd.relay.engine import Engine, Happening
from endpointd.relay.facts import Doing
from pgwire.messages import SYNC, Backend, Frontend, message, query, ready_for_query
from tests.endpointd.enginebench import BYE, ENGINES, ROW, TOKEN, Peer, bench, connected, speaks_tls

RESET = b"\1\0\0\0\0\0\0\0"
BATCH = (
    message(Frontend.PARSE, b"\0select\0\0\0") + message(Frontend.BIND, bytes(8)) + message(Frontend.EXECUTE, bytes(5)) + SYNC
)
ANSWER = message(ord("1")) + ROW + message(Backend.COMMAND_COMPLETE, b"SELECT 1\0") + ready_for_query("I")
PIECE_BYTES = 1 << 20
DUPLEX_S = 240


@pytest.fixture(params=ENGINES, ids=lambda kind: kind.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine there is."""
    return request.param()


async def test_byte_by_byte(engine: Engine) -> None:
    async def trickle(peer: Peer, data: bytes) -> None:
        for pos in range(len(data)):
            await peer.send(data[pos : pos + 1])
            await asyncio.sleep(0)

    async with bench(engine) as b:
        for peer in (b.client, b.server):
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked, answered = BATCH * 4, ANSWER * 4
        await asyncio.gather(trickle(b.client, asked), trickle(b.server, answered))
        assert await b.server.receive(len(asked)) == asked
        assert await b.client.receive(len(answered)) == answered


async def test_when_nobody_reads_all_stands_still_and_nothing_is_lost(engine: Engine) -> None:
    """Both send and neither reads: both directions are clogged at the same time, in bounded memory."""
    async with bench(engine) as b:
        rows, copied = message(Backend.DATA_ROW, bytes(9000)) * 4000, message(ord("d"), b"\1" * 9000) * 4000
        sending = [asyncio.create_task(b.server.send(rows)), asyncio.create_task(b.client.send(copied))]
        before = -1
        async with asyncio.timeout(20):
            while before != (now := b.facts.to_client_bytes + b.facts.to_server_bytes) or not now:
                before = now
                await asyncio.sleep(0.2)
        assert not any(task.done() for task in sending)
        assert 0 < b.facts.held_bytes < 1 << 20
        assert list(await asyncio.gather(b.client.receive(len(rows)), b.server.receive(len(copied)))) == [rows, copied]
        await asyncio.gather(*sending)


@pytest.mark.parametrize("megabytes", [20, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(2 * DUPLEX_S)])])
async def test_both_directions_at_full_speed(engine: Engine, megabytes: int) -> None:
    async def send(peer: Peer, kind: int, seed: int) -> bytes:
        draw, digest = random.Random(seed), hashlib.sha256()
        for _ in range(megabytes):
            # Messages of a few lengths, the longest of which is passed on as it comes.
            body = draw.randbytes(PIECE_BYTES - 1000)
            piece = message(kind, body[:100_000]) + b"".join(
                message(kind, body[at : at + 3000]) for at in range(100_000, len(body), 3000)
            )
            digest.update(piece)
            sent[peer] += len(piece)
            await peer.send(piece)
        return digest.digest()

    async def receive(peer: Peer, sender: Peer, sending: asyncio.Task[bytes]) -> bytes:
        digest, size = hashlib.sha256(), 0
        while not sending.done() or size < sent[sender]:
            data = await peer.receive(min(PIECE_BYTES, max(1, sent[sender] - size)))
            digest.update(data)
            size += len(data)
        return digest.digest()

    async with bench(engine) as b, asyncio.timeout(DUPLEX_S):
        sent = {b.client: 0, b.server: 0}
        up = asyncio.create_task(send(b.client, ord("d"), 1))
        down = asyncio.create_task(send(b.server, Backend.DATA_ROW, 2))
        heard = await asyncio.gather(receive(b.server, b.client, up), receive(b.client, b.server, down))
        assert heard == [await up, await down]
        assert (b.facts.to_server_bytes, b.facts.to_client_bytes) == (sent[b.client], sent[b.server])


async def test_a_client_that_half_closes_gets_a_long_answer_whole(engine: Engine) -> None:
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN)
        await b.client.send(query("select 1"))
        await b.client.say_no_more()
        assert await b.server.receive_all() == query("select 1")
        answer = message(Backend.DATA_ROW, bytes(4000)) * 2000 + ready_for_query("I")
        sending = asyncio.create_task(b.server.send(answer))
        await asyncio.sleep(0.1)  # it is clogged for a while
        assert await b.client.receive(len(answer)) == answer
        await sending
        b.server.close()
        assert await b.client.receive_all() == b""


@pytest.mark.parametrize("what", ["idle", "busy", "clogged"])
async def test_a_reset_of_either_side_ends_the_pair_whatever_is_under_way(engine: Engine, what: str) -> None:
    for side in ("client", "server"):
        async with bench(engine) as b:
            b.answer = lambda _happening: engine.drop(TOKEN, BYE)
            broken, other = (b.client, b.server) if side == "client" else (b.server, b.client)
            if what != "idle":
                await b.ask("select 1")
            sending = None
            if what == "clogged":
                kind = Backend.DATA_ROW if side == "client" else ord("d")
                sending = asyncio.create_task(other.send(message(kind, bytes(9000)) * 4000))
                await b.wait_until(lambda: b.facts.held_bytes > 0)
            broken.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            broken.sock.close()
            await b.wait_for(Happening.CLIENT_ENDED if side == "client" else Happening.SERVER_ENDED)
            if sending is not None:
                sending.cancel()
                await asyncio.wait([sending])


async def test_what_was_queued_before_the_hand_over_is_not_lost(engine: Engine) -> None:
    if speaks_tls(engine):
        pytest.skip("what was queued there is no plaintext")
    (client_link, client), (server_link, server) = await connected(), await connected()
    client_link.pause_reading()
    server_link.pause_reading()
    asked, answered = query("x" * 50_000) * 2, message(Backend.DATA_ROW, bytes(50_000)) * 2
    await client.send(asked)
    await server.send(answered)
    await client.say_no_more()
    await asyncio.sleep(0.05)
    engine.add(TOKEN, client_link, server_link, lambda _happening: None, server_rest=ROW, client_rest=SYNC)
    assert await server.receive(len(SYNC + asked)) == SYNC + asked
    assert await client.receive(len(ROW + answered)) == ROW + answered
    engine.drop(TOKEN)
    client.close()
    server.close()


async def test_a_pause_comes_at_an_exact_safe_point_of_a_pipeline(engine: Engine) -> None:
    """The client sends without waiting; at each pause the server has answered all that it has, and has nothing torn."""
    batches = 3000
    async with bench(engine) as b:
        answered = 0

        async def serve() -> None:
            nonlocal answered
            for number in range(batches):
                assert await b.server.receive(len(BATCH)) == BATCH
                answered += 1
                await b.server.send(ANSWER)
                if number % 16 == 0:
                    await asyncio.sleep(0)

        async def ask() -> None:
            for number in range(batches):
                await b.client.send(BATCH)
                if number % 40 == 0:
                    await asyncio.sleep(0.002)  # else there is no safe point before the last one

        async def read() -> None:
            assert await b.client.receive(len(ANSWER) * batches) == ANSWER * batches

        tasks = [asyncio.create_task(work()) for work in (serve, ask, read)]
        pauses = 0
        async with asyncio.timeout(60):
            while answered < batches:
                await asyncio.sleep(0.003)
                b.told.clear()
                engine.pause(TOKEN)
                await b.wait_for(Happening.PAUSED)
                facts = b.facts
                assert facts.doing is Doing.IDLE
                assert facts.to_server_bytes == answered * len(BATCH)
                assert facts.to_client_bytes == answered * len(ANSWER)
                await asyncio.sleep(0.001)
                assert b.facts.to_server_bytes == facts.to_server_bytes, "nothing of a paused client moves"
                engine.resume(TOKEN)
                pauses += 1
            await asyncio.gather(*tasks)
        assert pauses


async def test_a_pause_waits_for_the_end_of_a_copy(engine: Engine) -> None:
    async with bench(engine) as b:
        await b.ask("copy t from stdin")
        engine.pause(TOKEN)
        await b.answer_with(message(Backend.COPY_IN_RESPONSE, b"\0\0\0"))
        rows = message(Frontend.COPY_DATA, b"row\n") * 1000
        await b.client.send(rows)
        assert await b.server.receive(len(rows)) == rows
        done = message(Frontend.COPY_DONE)
        await b.client.send(done + query("select 2"))
        # What follows is on its way too: the safe point is behind its answer.
        assert await b.server.receive(len(done + query("select 2"))) == done + query("select 2")
        copied = message(Backend.COMMAND_COMPLETE, b"COPY 1000\0") + ready_for_query("I")
        await b.answer_with(copied)
        assert b.told == []
        await b.answer_with(ROW + ready_for_query("I"))
        await b.wait_for(Happening.PAUSED)
        await b.client.send(query("select 3"))
        await asyncio.sleep(0.05)
        assert b.facts.to_server_bytes == len(query("copy t from stdin") + rows + done + query("select 2"))


@pytest.mark.parametrize("cycles", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
async def test_pairs_come_and_go_and_leave_no_descriptor(engine: Engine, cycles: int) -> None:
    """They end in every way: dropped at once, with a farewell, by the client's end, by the server's, and by resets."""

    async def one(number: int) -> None:
        (client_link, client), (server_link, server) = await connected(), await connected()
        told = asyncio.Event()
        engine.add(number, client_link, server_link, lambda _happening: told.set())
        match number % 5:
            case 0:
                pass
            case 1:
                await client.send(query("select"))
                assert await server.receive(len(query("select"))) == query("select")
            case 2:
                client.close()
                await told.wait()
            case 3:
                server.close()
                await told.wait()
            case _:
                _leave_no_port(server)
                server.close()
                await told.wait()
        engine.drop(number, BYE)
        if number % 5 != 2:
            assert await client.receive_all() == BYE
        for each in (client, server):
            _leave_no_port(each)
            each.close()

    async def several(first: int, count: int) -> None:
        for number in range(first, first + count, 20):
            await asyncio.gather(*(one(each) for each in range(number, number + 20)))

    await several(0, 40)
    async with asyncio.timeout(500):
        before = await _settled_descriptors()
        await several(40, cycles)
        while _descriptors() > before:
            await asyncio.sleep(0.05)


def _leave_no_port(end: Peer) -> None:
    """Have *end* close by a reset, unless it is closed: after any other end the port of one side is kept for a minute."""
    if end.sock.fileno() >= 0:
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def _settled_descriptors() -> int:
    """Return how many there are when those who were told goodbye have gone."""
    count = -1
    while count != (count := _descriptors()):
        await asyncio.sleep(1.5)
    return count


async def test_an_engine_that_is_busy_answers_its_owner(engine: Engine) -> None:
    """Bytes move as fast as they can, and facts are asked for in between; each answer is newer."""
    async with bench(engine) as b:
        rows = message(Backend.DATA_ROW, bytes(9000)) * 6000
        sending, reading = asyncio.create_task(b.server.send(rows)), asyncio.create_task(b.client.receive(len(rows)))
        seen = 0
        answers = 0
        async with asyncio.timeout(60):
            while not reading.done():
                now = b.facts.to_client_bytes
                assert now >= seen
                seen = now
                answers += 1
                await asyncio.sleep(0)
        await sending
        assert await reading == rows
        assert answers > 10
