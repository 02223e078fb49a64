"""What every relay engine has to do, over real sockets. One more engine is one more parameter."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl

import pytest

from endpointd.relay.asyncio_engine import HELD_BYTES_MAX
from endpointd.relay.choice import make_engine, why_not_native
from endpointd.relay.engine import Engine, Happening, KeepingEngine
from endpointd.relay.facts import Doing
from endpointd.relay.relaxed import Relaxed
from endpointd.relay.safepoint import SYNC_WAIT_ROUTINE
from endpointd.wire.link import WRITE_BYTES_HIGH, Link
from endpointd.wire.looseend import LooseEnd
from pgwire.messages import (
    TERMINATE,
    Backend,
    Frontend,
    Report,
    encode_report,
    error_response,
    message,
    query,
    ready_for_query,
)
from tests.endpointd.enginebench import BYE, ENGINES, ROW, TOKEN, Bench, Peer, bench, connected, encrypted, speaks_tls


@pytest.fixture(params=ENGINES, ids=lambda kind: kind.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine there is."""
    return request.param()


async def test_bytes_pass_both_ways_unchanged(engine: Engine) -> None:
    """Messages of all sizes, in both directions at once, in chunks of all sizes."""
    chance = random.Random(5)
    parts = [message(Backend.DATA_ROW, chance.randbytes(chance.choice((0, 1, 100, 5000, 70_000, 300_000)))) for _ in range(300)]
    rows = b"".join(parts)
    copied = b"".join(message(ord("d"), chance.randbytes(chance.choice((10, 9000, 100_000)))) for _ in range(300))

    async def send_cut(peer: Peer, data: bytes) -> None:
        pos = 0
        while pos < len(data):
            size = chance.choice((1, 7, 1000, 65_536, 1_000_000))
            await peer.send(data[pos : pos + size])
            pos += size

    async with bench(engine) as b:
        *_, to_client, to_server = await asyncio.gather(
            send_cut(b.server, rows), send_cut(b.client, copied), b.client.receive(len(rows)), b.server.receive(len(copied))
        )
        assert to_client == rows
        assert to_server == copied
        facts = engine.facts(TOKEN)
        assert (facts.to_client_bytes, facts.to_server_bytes, facts.held_bytes) == (len(rows), len(copied), 0)


async def test_what_was_read_before_the_hand_over_comes_first(engine: Engine) -> None:
    async with bench(engine, server_rest=ROW + ROW[:3], client_rest=query("a")) as b:
        await b.server.send(ROW[3:] + BYE)
        await b.client.send(query("b"))
        assert await b.client.receive(len(ROW) * 2 + len(BYE)) == ROW + ROW + BYE
        assert await b.server.receive(len(query("a")) * 2) == query("a") + query("b")


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_side_that_does_not_read_stops_the_other(engine: Engine, side: str) -> None:
    async with bench(engine) as b:
        sender, receiver = (b.server, b.client) if side == "client" else (b.client, b.server)
        kind = Backend.DATA_ROW if side == "client" else ord("d")
        data = message(kind, bytes(9000)) * 10_000
        sending = asyncio.create_task(sender.send(data))

        async def stalled() -> int:
            before = -1
            while True:
                facts = engine.facts(TOKEN)
                now = facts.to_client_bytes + facts.to_server_bytes
                if now and now == before:
                    return facts.held_bytes
                before = now
                await asyncio.sleep(0.2)

        async with asyncio.timeout(20):
            held = await stalled()
        assert not sending.done()
        assert 0 < held <= WRITE_BYTES_HIGH + 2 * HELD_BYTES_MAX
        assert await receiver.receive(len(data)) == data
        await sending


async def test_the_end_of_a_side_is_told_after_its_last_words_were_passed_on(engine: Engine) -> None:
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN, BYE)
        await b.server.send(ROW * 100_000 + ROW[:-1])
        b.server.close()
        # The row that was not finished is not passed on, so that the error stands between two messages.
        assert await b.client.receive_all() == ROW * 100_000 + BYE
        assert b.told == [Happening.SERVER_ENDED]


async def test_a_client_that_terminates_and_leaves_is_heard_by_the_server(engine: Engine) -> None:
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN)
        last = query("select 1") + message(ord("X"))
        await b.client.send(last)
        b.client.close()
        assert await b.server.receive_all() == last
        b.server.close()
        await b.wait_for(Happening.SERVER_ENDED)


async def test_a_client_that_half_closes_gets_what_it_asked_for(engine: Engine) -> None:
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN)
        await b.client.send(query("select 1"))
        await b.client.say_no_more()
        assert await b.server.receive_all() == query("select 1")
        answer = ROW * 1000 + ready_for_query("I")
        await b.server.send(answer)
        assert b.told == []
        b.server.close()
        assert await b.client.receive_all() == answer
        assert b.told == [Happening.SERVER_ENDED]


async def test_an_idle_client_that_half_closes_has_left(engine: Engine) -> None:
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN)
        await b.client.say_no_more()
        await b.wait_for(Happening.CLIENT_ENDED)


async def test_a_client_that_breaks_off_has_left_whatever_is_under_way(engine: Engine) -> None:
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN)
        await b.client.send(query("select 1"))
        await b.wait_until(lambda: b.facts.doing is Doing.BUSY)
        b.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        b.client.close()
        await b.wait_for(Happening.CLIENT_ENDED)


async def test_a_client_that_is_cut_off_in_tls_has_left_whatever_is_under_way(engine: Engine) -> None:
    if not speaks_tls(engine):
        pytest.skip("who ends in plaintext needs no goodbye")
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN)
        await b.client.send(query("select 1"))
        await b.wait_until(lambda: b.facts.doing is Doing.BUSY)
        b.client.sock.shutdown(socket.SHUT_WR)  # as whoever stands between could do: no goodbye
        await b.wait_for(Happening.CLIENT_ENDED)
        assert await b.server.receive_all() == query("select 1")


async def test_what_tls_does_not_understand_is_a_broken_connection(engine: Engine) -> None:
    if not speaks_tls(engine):
        pytest.skip("there is no TLS")
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN, BYE)
        await b.ask("select 1")
        b.client.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody sealed
        await b.wait_for(Happening.CLIENT_ENDED)


async def test_a_reset_is_an_end(engine: Engine) -> None:
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN, BYE)
        b.server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        b.server.close()
        assert await b.client.receive_all() == BYE


async def test_a_message_too_long_to_be_held_is_passed_on_and_never_broken_by_an_error(engine: Engine) -> None:
    async with bench(engine) as b:
        long = message(Backend.DATA_ROW, bytes(HELD_BYTES_MAX * 3))
        await b.server.send(long[: HELD_BYTES_MAX * 2])
        assert await b.client.receive(HELD_BYTES_MAX * 2) == long[: HELD_BYTES_MAX * 2]
        await b.server.send(long[HELD_BYTES_MAX * 2 :] + long[:HELD_BYTES_MAX])
        assert await b.client.receive(HELD_BYTES_MAX + 5) == long[HELD_BYTES_MAX * 2 :]
        await b.wait_until(lambda: engine.facts(TOKEN).to_client_bytes == len(long) + HELD_BYTES_MAX)
        engine.drop(TOKEN, BYE)
        assert await b.client.receive_all() == long[:HELD_BYTES_MAX]


async def test_after_a_long_message_errors_are_possible_again(engine: Engine) -> None:
    async with bench(engine) as b:
        long = message(Backend.DATA_ROW, bytes(HELD_BYTES_MAX * 3))
        await b.server.send(long + ROW[:4])
        assert await b.client.receive(len(long)) == long
        engine.drop(TOKEN, BYE)
        assert await b.client.receive_all() == BYE


async def test_a_pause_waits_for_the_safe_point_and_keeps_what_the_client_says(engine: Engine) -> None:
    async with bench(engine) as b:
        await b.client.send(query("select 1"))
        await b.server.receive(len(query("select 1")))
        engine.pause(TOKEN)
        engine.pause(TOKEN)
        assert b.told == []
        await b.server.send(ROW)
        await b.client.receive(len(ROW))
        assert b.told == []
        await b.server.send(ready_for_query("T"))
        await b.client.receive(6)
        await b.client.send(query("commit"))
        assert await b.server.receive(len(query("commit"))) == query("commit")
        assert b.told == []
        await b.server.send(ready_for_query("I"))
        await b.wait_for(Happening.PAUSED)
        await b.client.receive(6)
        await b.client.send(query("select 2"))
        await b.server.send(ROW)
        assert await b.client.receive(len(ROW)) == ROW
        assert engine.facts(TOKEN).to_server_bytes == len(query("select 1") + query("commit"))
        engine.resume(TOKEN)
        assert await b.server.receive(len(query("select 2"))) == query("select 2")
        assert b.told == [Happening.PAUSED]


async def test_an_idle_session_pauses_at_once_and_can_be_ended_there(engine: Engine) -> None:
    async with bench(engine) as b:
        engine.pause(TOKEN)
        await b.wait_for(Happening.PAUSED)
        engine.drop(TOKEN, BYE)
        assert await b.client.receive_all() == BYE
        assert await b.server.receive_all() == b""


async def test_a_paused_session_notices_the_end_of_its_server(engine: Engine) -> None:
    async with bench(engine) as b:
        engine.pause(TOKEN)
        b.server.close()
        await b.wait_for(Happening.SERVER_ENDED)


async def test_a_commit_that_is_not_confirmed_is_held_back(engine: Engine) -> None:
    warning = encode_report(
        Backend.NOTICE_RESPONSE, Report((("S", "WARNING"), ("V", "WARNING"), ("M", "x"), ("R", SYNC_WAIT_ROUTINE)))
    )
    done = message(Backend.COMMAND_COMPLETE, b"COMMIT\0") + ready_for_query("I")
    for cut in (1, len(ROW) + 3, len(ROW + warning) - 1, len(ROW + warning), len(ROW + warning) + 1):
        async with bench(engine) as b:
            b.answer = lambda _happening: engine.drop(TOKEN, BYE)
            stream = ROW + warning + done
            await b.server.send(stream[:cut])

            with contextlib.suppress(ConnectionError):
                await b.server.send(stream[cut:])
            assert await b.client.receive_all() == ROW + warning + BYE
            assert b.told == [Happening.COMMIT_UNCONFIRMED]


async def test_a_success_in_doubt_is_held_back_from_its_first_byte(engine: Engine) -> None:
    done = message(Backend.COMMAND_COMPLETE, b"COMMIT\0") + ready_for_query("I")
    stream = ROW + done
    for cut in range(1, len(stream)):
        async with bench(engine, watch=Relaxed.WARNINGS) as b:
            engine.cancel_begins(TOKEN)
            b.answer = lambda _happening: engine.drop(TOKEN, BYE)
            await b.server.send(stream[:cut])
            if cut > len(ROW):
                assert await b.client.receive(len(ROW)) == ROW
            with contextlib.suppress(ConnectionError):
                await b.server.send(stream[cut:])
            rest = await b.client.receive_all()
            assert rest == (BYE if cut > len(ROW) else ROW + BYE), cut
            assert b.told == [Happening.COMMIT_IN_DOUBT]


async def test_a_client_that_sends_nonsense_is_told(engine: Engine) -> None:
    async with bench(engine) as b:
        b.answer = lambda _happening: engine.drop(TOKEN, BYE)
        await b.client.send(query("select 1"))
        await b.server.receive(len(query("select 1")))
        await b.client.send(b"Q\0\0\0\0nonsense")
        assert await b.client.receive_all() == BYE
        assert b.told == [Happening.CLIENT_NOT_UNDERSTOOD]
        assert await b.server.receive_all() == b""


async def test_a_server_that_sends_nonsense_is_gone(engine: Engine) -> None:
    async with bench(engine) as b:
        await b.server.send(b"D\xff\xff\xff\xff")
        await b.wait_for(Happening.SERVER_ENDED)


async def test_a_stream_is_told_of_and_goes_on_both_ways(engine: Engine) -> None:
    async with bench(engine) as b:
        await b.client.send(query("start"))
        await b.server.receive(len(query("start")))
        engine.pause(TOKEN)
        assert b.told == []
        wal = message(Backend.COPY_BOTH_RESPONSE, b"") + message(ord("d"), b"wal")
        await b.server.send(wal)
        await b.wait_for(Happening.STREAMING)
        assert await b.client.receive(len(wal)) == wal
        b.told.clear()
        engine.pause(TOKEN)
        await b.wait_for(Happening.STREAMING)  # whoever asks once more is told once more
        assert b.facts.is_streaming
        await b.client.send(message(ord("d"), b"status"))
        assert await b.server.receive(11) == message(ord("d"), b"status")
        await b.client.send(message(ord("c")))
        await b.server.send(message(ord("c")) + ready_for_query("I"))
        await b.wait_for(Happening.PAUSED)


async def test_a_side_that_is_gone_before_the_hand_over_is_told(engine: Engine) -> None:
    client_link, client = await connected()
    server_link, server = await connected()
    server.close()
    async with asyncio.timeout(5):
        while not server_link.has_ended:
            await asyncio.sleep(0.005)
    told: list[Happening] = []
    engine.add(TOKEN, client_link, server_link, told.append, server_rest=ROW)
    async with asyncio.timeout(5):
        while told != [Happening.SERVER_ENDED]:
            await asyncio.sleep(0.005)
    engine.drop(TOKEN, BYE)
    assert await client.receive_all() == ROW + BYE
    engine.drop(TOKEN)
    client.close()


async def test_a_goodbye_is_not_overtaken_by_a_reset(engine: Engine) -> None:
    """The client is in the middle of sending when it is told; it can finish that and then reads why, and a clean end."""
    async with bench(engine) as b:
        engine.pause(TOKEN)
        await b.wait_for(Happening.PAUSED)
        await b.client.send(query("x" * 100_000))
        engine.drop(TOKEN, BYE)
        await b.client.send(query("y" * 100_000))
        assert await b.client.receive_all() == BYE


async def test_a_client_that_never_closes_is_closed(engine: Engine) -> None:
    async with bench(engine) as b:
        engine.drop(TOKEN, BYE)
        assert await b.client.receive_all() == BYE
        with pytest.raises(ConnectionError):  # noqa: PT012 - one of many sends finds out
            async with asyncio.timeout(10):
                while True:
                    await b.client.send(b"still here")
                    await asyncio.sleep(0.05)


async def test_what_a_session_is_doing_is_known(engine: Engine) -> None:
    async with bench(engine, watch=Relaxed.NONE) as b:
        assert b.facts.doing is Doing.IDLE, "a relay begins behind the login"
        await b.ask("begin")
        assert (b.facts.doing, b.facts.is_awaited, b.facts.may_have_committed) == (Doing.BUSY, True, True)
        await b.answer_with(message(Backend.COMMAND_COMPLETE, b"BEGIN\0") + ready_for_query("T"))
        assert (b.facts.doing, b.facts.is_awaited) == (Doing.IN_TRANSACTION, False)
        await b.ask("insert")
        assert (b.facts.doing, b.facts.may_have_committed) == (Doing.BUSY, False), "nothing under way ends the block"
        await b.ask("commit")
        assert b.facts.may_have_committed
        assert b.told == []


async def test_without_a_watch_whatever_is_under_way_may_have_committed_and_nothing_is_told(engine: Engine) -> None:
    async with bench(engine) as b:
        await b.ask("set synchronous_commit = off")
        await b.answer_with(ready_for_query("T"))
        await b.ask("insert")
        assert b.facts.may_have_committed
        assert b.told == []


async def test_what_a_watched_client_relaxes_is_told_once_and_what_is_known_is_not(engine: Engine) -> None:
    async with bench(engine, watch=Relaxed.WARNINGS) as b:
        for _ in range(2):
            await b.ask("set synchronous_commit = off; set client_min_messages = error")
            await b.answer_with(ready_for_query("I"))
        await b.wait_for(Happening.COMMITS_RELAXED)
        assert b.told == [Happening.COMMITS_RELAXED]
    async with bench(engine, watch=Relaxed.NONE) as b:
        for _ in range(2):
            await b.ask("set client_min_messages = error")
            await b.answer_with(ready_for_query("I"))
        await b.wait_for(Happening.WARNINGS_HIDDEN)
        assert b.told == [Happening.WARNINGS_HIDDEN]
        await b.ask("insert")
        engine.cancel_begins(TOKEN)
        await b.server.send(message(Backend.COMMAND_COMPLETE, b"INSERT 0 1\0"))
        await b.wait_for(Happening.COMMIT_IN_DOUBT)


async def test_a_request_that_was_delivered_before_the_statement_leaves_no_doubt(engine: Engine) -> None:
    async with bench(engine, watch=Relaxed.WARNINGS) as b:
        engine.cancel_begins(TOKEN)
        engine.cancel_ended(TOKEN)
        await b.ask("insert")
        await b.answer_with(message(Backend.COMMAND_COMPLETE, b"INSERT 0 1\0") + ready_for_query("I"))
        assert b.told == []


async def test_how_it_ended_is_known_until_the_pair_is_dropped(engine: Engine) -> None:
    async with bench(engine) as b:
        await b.ask("select 1")
        await b.client.send(message(ord("X")))
        await b.wait_until(lambda: b.facts.client_terminated)
        await b.client.say_no_more()
        await b.wait_until(lambda: b.facts.client_has_ended)
        await b.server.send(error_response("FATAL", "57P01", "bye"))
        b.server.close()
        await b.wait_for(Happening.SERVER_ENDED)
        facts = b.facts
        assert facts.server_said_goodbye
        assert facts.is_awaited
        assert facts.to_server_bytes == len(query("select 1") + message(ord("X")))
        assert facts.to_client_bytes == len(error_response("FATAL", "57P01", "bye"))


async def test_a_server_can_be_given_back_before_the_client_is_told(engine: Engine) -> None:
    async with bench(engine) as b:
        engine.pause(TOKEN)
        await b.wait_for(Happening.PAUSED)
        engine.close_server(TOKEN)
        assert await b.server.receive_all() == b""
        b.server.close()
        assert b.facts.doing is Doing.IDLE
        engine.drop(TOKEN, BYE)
        assert await b.client.receive_all() == BYE
        assert b.told == [Happening.PAUSED], "that the server has ended is no news"


async def test_a_halted_pair_moves_nothing_more_and_what_is_known_of_it_stays(engine: Engine) -> None:
    async with bench(engine) as b:
        await b.ask("begin")
        await b.answer_with(ready_for_query("T"))
        facts = engine.halt(TOKEN)
        assert facts.doing is Doing.IN_TRANSACTION
        await b.client.send(query("commit"))
        await b.server.send(ROW)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await b.server.receive(1)
        assert engine.halt(TOKEN) == facts
        assert b.told == []
        engine.drop(TOKEN, BYE)
        assert await b.client.receive_all() == BYE
        assert await b.server.receive_all() in (b"", b"reset")


async def test_a_pair_that_is_over_is_no_error(engine: Engine) -> None:
    async with bench(engine) as b:
        engine.drop(TOKEN)
        engine.drop(TOKEN, BYE)
        engine.cancel_begins(TOKEN)
        engine.cancel_ended(TOKEN)
        assert await b.client.receive_all() == b""


KEEPING = [kind for kind in ENGINES if hasattr(kind, "take_server")]


@pytest.fixture(params=KEEPING, ids=lambda kind: kind.name)
def keeping(request: pytest.FixtureRequest) -> KeepingEngine:
    """Each engine that can give a server's end back."""
    made = request.param()
    assert isinstance(made, KeepingEngine)
    return made


async def link_of(end: LooseEnd | None) -> Link:
    """Return a link of the end that an engine has given back."""
    assert end is not None
    return await end.link()


async def test_the_server_of_a_client_that_leaves_idle_is_given_back_and_hears_nothing_of_it(keeping: KeepingEngine) -> None:
    for leave in (lambda b: b.client.send(TERMINATE), lambda b: b.client.say_no_more()):
        async with bench(keeping, keeps_server=True) as b:
            await b.ask("select 1")
            await b.answer_with(ready_for_query("I"))
            await leave(b)
            await b.wait_for(Happening.CLIENT_ENDED)
            keeping.halt(TOKEN)
            server = await link_of(keeping.take_server(TOKEN))
            keeping.drop(TOKEN)
            assert await b.client.receive_all() == b""
            server.resume_reading()
            server.write(query("discard all"))
            assert await b.server.receive(len(query("discard all"))) == query("discard all")
            server.close()


async def test_a_client_that_leaves_otherwise_takes_its_server_along(keeping: KeepingEngine) -> None:
    async def in_a_transaction(b: Bench) -> bytes:
        await b.ask("begin")
        await b.answer_with(ready_for_query("T"))
        await b.client.send(TERMINATE)
        return TERMINATE

    async def busy(b: Bench) -> bytes:
        await b.ask("select 1")
        await b.client.send(TERMINATE)
        return TERMINATE

    async def without_an_answer_to_wait_for(b: Bench) -> bytes:
        said = message(Frontend.PARSE, b"\0\0\0\0") + message(Frontend.FLUSH)
        await b.client.send(said)
        assert await b.server.receive(len(said)) == said
        await b.client.send(TERMINATE)
        return TERMINATE

    async def in_pieces(b: Bench) -> bytes:
        await b.client.send(TERMINATE[:2])
        assert await b.server.receive(2) == TERMINATE[:2]
        await b.client.send(TERMINATE[2:])
        return TERMINATE[2:]

    for leave in (in_a_transaction, busy, without_an_answer_to_wait_for, in_pieces):
        async with bench(keeping, keeps_server=True) as b:
            hears = await leave(b)
            assert await b.server.receive(len(hears)) == hears
            await b.client.say_no_more()
            await asyncio.sleep(0)
            keeping.halt(TOKEN)
            assert keeping.take_server(TOKEN) is None
            keeping.drop(TOKEN)
            assert await b.server.receive_all() == b""


async def test_a_server_that_was_not_to_be_kept_is_not_given_back(keeping: KeepingEngine) -> None:
    async with bench(keeping) as b:
        await b.client.say_no_more()
        await b.wait_for(Happening.CLIENT_ENDED)
        keeping.halt(TOKEN)
        assert keeping.take_server(TOKEN) is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.skipif(why_not_native() is not None, reason="the native engine was not built")
async def test_the_native_engine_goes_on_with_any_version_of_tls(version: ssl.TLSVersion) -> None:
    (client_link, client), (server_link, server) = (
        await encrypted(version=version),
        await encrypted(is_client=True, version=version),
    )
    engine = make_engine("native")
    engine.add(TOKEN, client_link, server_link, lambda _happening: None)
    assert engine.facts(TOKEN).engine == "native"
    for asked, answered in ((query("a"), ROW), (query("x" * 100_000), ROW * 10_000)):
        await client.send(asked)
        assert await server.receive(len(asked)) == asked
        await server.send(answered)
        assert await client.receive(len(answered)) == answered
    engine.drop(TOKEN, BYE)
    assert await client.receive_all() == BYE
    client.close()
    server.close()
