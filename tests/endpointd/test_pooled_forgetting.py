"""DEALLOCATE and DISCARD ALL at pooled endpoints: what a client is told and has left is what a server of its own would do."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from pgwire.messages import decode_report
from tests.endpointd.pooledscene import Scene, scene
from tests.endpointd.shop import PASSWORD, PID, until
from tests.endpointd.test_failover import Connection, value

pytestmark = [pytest.mark.integration, pytest.mark.versions]


@pytest_asyncio.fixture
async def one(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as made:
        yield made


def message(kind: str, payload: bytes = b"") -> bytes:
    return kind.encode() + (len(payload) + 4).to_bytes(4, "big") + payload


def q(text: str) -> bytes:
    return message("Q", text.encode() + b"\0")


def p(name: str, text: str) -> bytes:
    return message("P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def b(name: str, portal: str = "") -> bytes:
    return message("B", portal.encode() + b"\0" + name.encode() + b"\0" + bytes(6))


def d(name: str) -> bytes:
    return message("D", b"S" + name.encode() + b"\0")


def c(name: str) -> bytes:
    return message("C", b"S" + name.encode() + b"\0")


def e(portal: str = "") -> bytes:
    return message("E", portal.encode() + b"\0" + bytes(4))


def run(text: str) -> bytes:
    """As drivers do without a name."""
    return p("", text) + b("") + message("D", b"P\0") + e()


S = message("S")


async def exchanged(options: dict[str, object], batches: Sequence[bytes], *, at_once: bool) -> list[str]:
    """Return the answers to *batches* of messages, said *at_once* or each after the answers to the one before."""
    connection = await psycopg.AsyncConnection.connect(**options, autocommit=True)  # type: ignore[arg-type]
    reader, writer = await asyncio.open_connection(sock=_socket_of(connection))
    said: list[str] = []
    try:
        ready = 0
        for batch in [b"".join(batches)] if at_once else batches:
            writer.write(batch)
            ready += _answers(batch)
            while sum(each.startswith("Z") for each in said) < ready:
                async with asyncio.timeout(20):
                    head = await reader.readexactly(5)
                    payload = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                said.append(_told(chr(head[0]), payload))
    finally:
        writer.close()
        await connection.close()
    return said


def _socket_of(connection: Connection) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))


def _answers(batch: bytes) -> int:
    """Return how many ReadyForQuery answer *batch*."""
    count = pos = 0
    while pos < len(batch):
        count += batch[pos : pos + 1] in (b"Q", b"S")
        pos += 1 + int.from_bytes(batch[pos + 1 : pos + 5], "big")
    return count


def _told(kind: str, payload: bytes) -> str:
    if kind != "E":
        return f"{kind} {payload!r}"
    report = decode_report(payload)
    return f"E {report.sqlstate} {report.message}"


# What is said, turn by turn.
TALKS: dict[str, list[bytes]] = {
    "simple": [p("a", "select 1") + S, q("deallocate a"), b("a") + e() + S, p("a", "select 2") + b("a") + e() + S],
    "twice": [p("a", "select 1") + S, q("deallocate a"), q("deallocate a"), q("DEALLOCATE PREPARE nobody")],
    "words": [
        p("a b", "select 1") + p("x", "select 1") + p("prepare", "select 1") + p('q"', "select 1") + p("all", "select 5") + S,
        q('deallocate  "a b" ; ;'),
        q("/* one /* two */ */ DEALLOCATE -- the rest\nPrepare X"),
        q("deallocate prepare"),
        q('deallocate prepare "q"""'),
        q('deallocate "all"'),
        *(b(name) + e() + S for name in ("a b", "x", "prepare", 'q"', "all")),
    ],
    "all": [
        p("a", "select 1") + p("b", "select 2") + S,
        q("deallocate all"),
        b("a") + e() + S,
        b("b") + e() + S,
        p("a", "select 3") + b("a") + e() + S,
        q("deallocate prepare all"),
    ],
    "in a transaction": [
        q("begin"),
        p("a", "select 1") + S,
        q("deallocate a"),
        q("rollback"),
        b("a") + e() + S,
        q("begin"),
        p("a", "select 1") + S,
        q("deallocate all"),
        q("commit"),
        b("a") + e() + S,
    ],
    "in a failed transaction": [
        p("a", "select 1") + p("b", "select 2") + S,
        q("begin"),
        q("select 1/0"),
        q("deallocate a"),
        q("deallocate all"),
        run("deallocate a") + S,
        run("deallocate all") + S,
        q("rollback"),
        b("a") + e() + b("b") + e() + S,
    ],
    "in a read-only transaction": [p("a", "select 1") + S, q("begin read only"), q("deallocate a"), q("commit")],
    "extended": [
        p("a", "select 1") + S,
        run("deallocate a") + S,
        b("a") + e() + S,
        p("a", "select 1") + S,
        p("d", "DEALLOCATE a") + S,
        d("d") + b("d", "portal") + S,
        b("d", "portal") + e("portal") + S,
        b("d") + e() + S,
        p("a", "select 2") + b("a") + e() + b("d") + e() + S,
        b("a") + e() + S,
    ],
    "extended all": [
        p("a", "select 1") + p("b", "select 2") + S,
        run("deallocate all") + S,
        b("a") + e() + S,
        p("a", "select 1") + p("d", "deallocate all") + S,
        b("d") + e() + S,
        b("a") + e() + S,
        b("d") + e() + S,
    ],
    "in a pipeline": [
        p("a", "select 1") + b("a") + e() + run("deallocate a") + run("select 2") + run("deallocate a") + run("select 3") + S,
        p("a", "select 1") + b("a") + e() + S,
        run("select 4") + run("deallocate a") + p("a", "select 5") + b("a") + e() + S,
        run("deallocate all") + run("select 1/0") + S,
        b("a") + e() + S,
        run("select 1/0") + run("deallocate a") + S,
        p("a", "select 6") + b("a") + e() + S,
    ],
    "discard all": [
        p("a", "select 1") + p("b", "select 2") + S,
        q("discard all"),
        b("a") + e() + S,
        p("a", "select 3") + b("a") + e() + S,
        q("begin"),
        q("discard all"),
        q("rollback"),
        b("a") + e() + S,
        run("discard all") + S,
        b("a") + e() + S,
    ],
    "discard all by name": [
        p("a", "select 1") + p("d", "discard all") + S,
        b("d") + e() + S,
        b("d") + e() + S,
        b("a") + e() + S,
        p("a", "select 1") + b("a") + e() + S,
    ],
    "prepared by sql": [
        q("prepare s as select 7"),
        p("a", "select 1") + S,
        q("deallocate a"),
        q("execute s"),
        run("deallocate s") + S,
        q("prepare s as select 8"),
        p("a", "select 1") + S,
        run("deallocate all") + S,
        b("a") + e() + S,
        q("execute s"),
    ],
}


@pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
async def test_a_client_is_told_what_a_server_of_its_own_would_tell(one: Scene, *, at_once: bool) -> None:
    shop = {"user": "ann", "password": PASSWORD, "dbname": "shop", "host": "127.0.0.1"}
    others = [await one.come(prepare_threshold=0) for _ in range(2)]
    for name, talk in TALKS.items():
        direct = await exchanged({**shop, "port": one.writer.pg_port}, talk, at_once=at_once)
        pooled = await exchanged({**shop, "port": one.writer_port}, talk, at_once=at_once)
        assert pooled == direct, name
        for other in others:  # who has taken turns at the same servers has lost nothing
            assert await (await other.execute("select %s::int", (1,))).fetchone() == (1,)
    for other in others:
        await other.close()


async def test_a_client_that_only_deallocates_keeps_no_server(one: Scene) -> None:
    first, second = await one.come(prepare_threshold=0), await one.come(prepare_threshold=None)
    pid = await value(first, PID)
    for statement, sqlstate in (
        (b"deallocate all", None),
        (b"discard all", None),
        (b"deallocate _pg3_0", None),
        (b"deallocate nobody", "26000"),
    ):
        await first.execute("select %s::int", (1,))
        told = first.pgconn.exec_(statement)
        assert told.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == (sqlstate.encode() if sqlstate else None)
        assert await one.sessions() == [("pooled", None)] * 2
        assert await value(second, PID) == pid
        await first.close()
        first = await one.come(prepare_threshold=0)
    await first.close()
    await second.close()


DISCARDED = [
    "set timezone = 'Asia/Tokyo'",
    "select set_config('timezone', 'Asia/Tokyo', false)",
    "create temp table t (i int)",
    "listen news",
    "select pg_advisory_lock(1)",
    "prepare p as select 1",
    "create temp sequence s; select nextval('s'), lastval()",
]


@pytest.mark.parametrize("statement", DISCARDED)
async def test_discard_all_gives_the_server_back(one: Scene, statement: str) -> None:
    first = await one.come()
    before = await value(first, "show timezone")
    await first.execute(statement.encode())
    pid = await value(first, PID)
    assert [state for state, _ in await one.sessions()] == ["relaying"]
    await first.execute("discard all")
    await until(one.sessions, [("pooled", None)])
    await until(lambda: one.sql(f"select count(*) from pg_stat_activity where pid = {pid}"), "0")
    assert await value(first, "show timezone") == before
    await first.close()


@pytest.mark.parametrize("statement", ["select setseed(0.5)", "do $$ begin perform 1; end $$"])
async def test_what_discard_all_does_not_undo_keeps_its_server(one: Scene, statement: str) -> None:
    first = await one.come()
    await first.execute("set timezone = 'Asia/Tokyo'")
    await first.execute(statement.encode())
    pid = await value(first, PID)
    await first.execute("discard all")
    assert await value(first, PID) == pid
    assert await one.sessions() == [("relaying", "it keeps its server: setting")]
    await first.close()


PROGRAM = """
import asyncio, sys
import psycopg

async def work(dsn, number):
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=1)
    connection.prepared_max = 3
    for turn in range(60):
        row = await (await connection.execute(f"select {turn % 7} + %s::int", (number,))).fetchone()
        assert row == (turn % 7 + number,), row
        if turn % 20 == 10:
            try:
                async with connection.transaction():
                    await connection.execute("select %s::int", (number,))
                    await connection.execute("select 1 / %s::int", (0,))
            except psycopg.errors.DivisionByZero:
                pass
        if turn % 20 == 15:
            async with connection.pipeline():
                cursors = [await connection.execute(f"select {each} * %s::int", (number,)) for each in range(8)]
                for each, cursor in enumerate(cursors):
                    assert await cursor.fetchone() == (each * number,)
    await connection.close()

async def main(dsn):
    await asyncio.gather(*(work(dsn, number) for number in range(6)))
    print(psycopg.pq.version(), psycopg.capabilities.has_send_close_prepared())

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("implementation", ["python", "binary"], ids=["the system's libpq", "libpq of psycopg-binary"])
async def test_psycopg_deallocates_what_it_has_prepared(one: Scene, implementation: str) -> None:
    dsn = f"host=127.0.0.1 port={one.writer_port} user=ann password='{PASSWORD}' dbname=shop"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, dsn, env={**os.environ, "PSYCOPG_IMPL": implementation},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        said = (await process.communicate())[0].decode()
    if process.returncode and "no pq wrapper available" in said:
        pytest.skip("there is no such libpq")
    assert process.returncode == 0, said
    assert re.fullmatch(r"\d+ (True|False)\n", said)
    assert b"endpointd_pool_pins_total{" not in await one.proxy.get("/metrics")  # nobody kept a server


async def test_asyncpg_with_its_cache_and_its_pool(one: Scene) -> None:
    async with asyncpg.create_pool(
        host="127.0.0.1", port=one.writer_port, user="ann", password=PASSWORD, database="shop",
        min_size=4, max_size=4, statement_cache_size=3,
    ) as pool:  # fmt: skip

        async def work(number: int) -> None:
            for turn in range(40):
                async with pool.acquire() as connection:
                    assert await connection.fetchval(f"select {turn % 7} + $1::int", number) == turn % 7 + number
                    if turn % 10 == 9:
                        await connection.execute("discard all")
                        await connection.reload_schema_state()

        await asyncio.gather(*(work(number) for number in range(8)))
    assert await one.servers() <= 5
