"""A client that says no more and goes on listening: it gets through the proxy what PostgreSQL itself would tell it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pgwire.messages import (
    Authentication,
    AuthenticationKind,
    Backend,
    Frontend,
    decode_authentication,
    message,
    query,
    sasl_initial_response,
    sasl_response,
)
from pgwire.scram import MECHANISM, ScramClient, keys_of_password
from pgwire.startup import encode_startup, make_startup
from tests.endpointd.conftest import Duo
from tests.endpointd.proxies import Proxy
from tests.endpointd.servers import PASSWORD
from tests.endpointd.test_block import SYNC, bind, execute, parse
from tests.endpointd.test_failover import standing

STARTUP = encode_startup(make_startup("postgres", "postgres"))
SELECT = query("select 42, clock_timestamp() is not null")
PLAYS = {
    "a query": query("select 42"),
    "several queries": query("select 1") + query("select 2") + query("select 3"),
    "a slow query": query("select 42, pg_sleep(0.5)"),
    "a large result": query("select i, repeat('x', 1000) from generate_series(1, 50000) i"),
    "one long row": query("select repeat('y', 20000000)"),
    "copy out": query("copy (select i, repeat('z', 100) from generate_series(1, 100000) i) to stdout"),
    "copy in": query("begin; create temp table t (i int); copy t from stdin")
    + message(Frontend.COPY_DATA, b"1\n2\n")
    + message(Frontend.COPY_DONE)
    + query("select count(*) from t"),
    "copy in that is cut off": query("begin; create temp table t (i int); copy t from stdin")
    + message(Frontend.COPY_DATA, b"1\n2\n"),
    "an error": query("select 1/0"),
    "an open transaction": query("begin") + query("select 42"),
    "the extended protocol": parse("select 42") + bind() + execute() + SYNC,
    "a query and a goodbye": query("select 42") + message(Frontend.TERMINATE),
    "nothing at all": b"",
}


async def told(port: int, said: bytes, *, at_once: bool) -> bytes:
    """Return what a client hears that says *said* and then no more; *at_once*: in one go with its login."""
    heard = b"C57P03\0"
    while at_once and b"C57P03\0" in heard:  # nobody vouched for the writer for a moment: such a client is not kept waiting
        heard = await _told(port, said, at_once=True)
    if not at_once:
        return await _told(port, said, at_once=False)
    assert b"Z\0\0\0\5I" in heard, heard[:1000]
    return heard[heard.index(b"Z\0\0\0\5I") :]


async def _told(port: int, said: bytes, *, at_once: bool) -> bytes:
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
        writer.write(STARTUP)
        if not at_once:
            await reader.readuntil(b"Z\0\0\0\5I")
        writer.write(said)
        writer.write_eof()
        heard = bytearray()
        while part := await reader.read(1 << 16):
            heard += part
        writer.close()
    return bytes(heard)


@pytest.mark.parametrize("at_once", [False, True], ids=["after the login", "with the login"])
@pytest.mark.parametrize("door", ["writer", "reader"])
async def test_the_answer_is_postgresqls_own(duo: Duo, tmp_path: Path, door: str, at_once: bool) -> None:
    async with standing(duo, tmp_path) as (_, running):
        own, through = (duo.n1.port, running.writer_port) if door == "writer" else (duo.n2.port, running.reader_port)
        for name, said in PLAYS.items():
            expected = await told(own, said, at_once=at_once)
            assert await told(through, said, at_once=at_once) == expected, name
        await running.wait_for_health(sessions=0)


async def test_the_last_word_of_a_login_may_be_the_clients_last_and_bring_a_query(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (_, running), asyncio.timeout(30):
        for port in (duo.n1.port, running.writer_port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            scram = ScramClient(keys_of_password(PASSWORD), "a-client-s-own-nonce")
            writer.write(encode_startup(make_startup("scram", "postgres")))
            assert (await _authentication(reader)).kind == AuthenticationKind.SASL
            writer.write(sasl_initial_response(MECHANISM, scram.first))
            challenge = await _authentication(reader)
            writer.write(sasl_response(scram.respond(challenge.data)) + query("select 42") + message(Frontend.TERMINATE))
            writer.write_eof()
            assert b"\0\0\0\x0242" in await reader.read(-1), port
            writer.close()
        await running.wait_for_health(sessions=0)


async def _authentication(reader: asyncio.StreamReader) -> Authentication:
    kind, size = (await reader.readexactly(1))[0], int.from_bytes(await reader.readexactly(4), "big")
    assert kind == Backend.AUTHENTICATION
    return decode_authentication(await reader.readexactly(size - 4))


async def test_a_client_that_never_reads_what_it_asked_for_is_not_kept_when_it_goes(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (_, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.writer_port)
        writer.write(STARTUP)
        await reader.readuntil(b"Z\0\0\0\5I")
        writer.write(query("select repeat('x', 1000) from generate_series(1, 5000000)"))
        writer.write_eof()
        await _held(running)
        writer.transport.abort()
        await running.wait_for_health(sessions=0)


async def test_nobody_is_kept_waiting_for_a_client_that_says_no_more(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        feed.publish(duo.document(epoch=2, revision=2))
        await feed.wait_for_report(epoch=2)
        assert (await running.health()).writer is None
        async with asyncio.timeout(8):  # clients are held for 10 s
            reader, writer = await asyncio.open_connection("127.0.0.1", running.writer_port)
            writer.write(STARTUP)
            await asyncio.sleep(0)
            writer.write_eof()
            await reader.read()
            writer.close()
        await running.wait_for_health(sessions=0)


async def _held(running: Proxy) -> None:
    async with asyncio.timeout(20):
        while not any(view.held_bytes for view in (await running.sessions()).sessions):
            await asyncio.sleep(0.01)
