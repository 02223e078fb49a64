"""Pooled endpoints with real nodeds and PostgreSQL: many clients, few servers, and nobody notices."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from tests.endpointd.pooledscene import Scene, scene
from tests.endpointd.servers import bin_dir
from tests.endpointd.shop import PASSWORD, PID, until
from tests.endpointd.test_failover import sqlstate_of, value

pytestmark = pytest.mark.integration


@pytest_asyncio.fixture
async def one(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as made:
        yield made


async def pgbench(one: Scene, *arguments: str) -> str:
    """Return what pgbench says; it must succeed, and no transaction of it may fail."""
    process = await asyncio.create_subprocess_exec(
        bin_dir() / "pgbench", "-h", "127.0.0.1", "-p", str(one.writer_port), "-U", "ann", *arguments, "shop",
        env={"PGPASSWORD": PASSWORD}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(120):
        said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said + one.proxy.log.read_text()[-5000:]
    assert "number of failed transactions: 0 " in said or "-i" in arguments, said
    return said


@pytest.mark.versions
async def test_a_session_has_a_server_for_a_transaction(one: Scene) -> None:
    first, second = await one.come(), await one.come()
    pid = await value(first, PID)
    assert await value(second, PID) == pid
    assert await one.sessions() == [("pooled", None), ("pooled", None)]
    await first.execute("begin")
    assert await value(first, PID) == pid
    assert await value(second, PID) != pid
    assert await value(first, PID) == pid
    await first.execute("rollback")
    await until(one.servers, 2)
    for each in (first, second):
        await each.close()


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
async def test_more_clients_than_servers(one: Scene, protocol: str) -> None:
    await pgbench(one, "-i", "-s", "2", "-q")
    # A thread each: pgbench prepares while its thread waits, and clients of the same thread may have all servers.
    await pgbench(one, "-M", protocol, "-c", "30", "-j", "30", "-t", "30")
    await pgbench(one, "-M", protocol, "-S", "-c", "100", "-j", "2", "-t", "50")
    assert await one.servers() <= 5


PINS = [
    ("set timezone = 'Asia/Tokyo'", "setting"),
    ("select set_config('timezone', 'Asia/Tokyo', false)", "set_config"),
    ("create temp table t (i int)", "temporary_object"),
    ("select 1 as i into temp t", "temporary_object"),
    ("listen news", "listen"),
    ("select pg_advisory_lock(1)", "advisory_lock"),
    ("declare c cursor with hold for select 1", "held_cursor"),
    ("prepare p as select 1", "sql_prepare"),
    ("select setseed(0.5)", "random_seed"),
    ("do $$ begin perform 1; end $$", "do_block"),
]


@pytest.mark.parametrize(("statement", "reason"), PINS, ids=[reason for _, reason in PINS])
async def test_what_a_session_keeps_keeps_its_server(one: Scene, statement: str, reason: str) -> None:
    first, second = await one.come(), await one.come()
    await first.execute(statement.encode())
    assert ("relaying", f"it keeps its server: {reason}") in await one.sessions()
    assert await pinned(one) == 1
    pid = await value(first, PID)
    assert await value(second, PID) != pid
    assert await value(first, PID) == pid
    assert await one.proxy.metric("endpointd_pool_pins_total", endpoint="pooled-writer", reason=reason) == 1
    await first.close()
    await until(lambda: pinned(one), 0)
    # Nobody is given what it has left behind.
    await until(lambda: one.sql(f"select count(*) from pg_stat_activity where pid = {pid}"), "0")
    await second.close()


async def pinned(one: Scene) -> float:
    return await one.proxy.metric("endpointd_pool_clients", endpoint="pooled-writer", state="pinned")


HARMLESS = [
    "set local timezone = 'Asia/Tokyo'",
    "set transaction isolation level serializable",
    "select set_config('timezone', 'Asia/Tokyo', true)",
    "create temp table t (i int) on commit drop",
    "select pg_advisory_xact_lock(1)",
    "notify news",
    "select pg_advisory_unlock_all(); close all; unlisten *; reset all",
    "discard all",
    "deallocate all",
    "reset all",
]


@pytest.mark.parametrize("statement", HARMLESS)
async def test_what_a_transaction_keeps_does_not(one: Scene, statement: str) -> None:
    first = await one.come()
    await first.execute(statement.encode())
    await until(one.sessions, [("pooled", None)])
    assert await value(first, "select 1") == "1"
    await first.close()


async def test_a_session_with_a_setting_has_it_in_every_statement(one: Scene) -> None:
    async with asyncio.TaskGroup() as group:
        for zone in ("Asia/Tokyo", "Europe/Berlin", "America/Lima"):
            group.create_task(keeps_its_zone(one, zone))
        for _ in range(20):
            group.create_task(keeps_its_zone(one, None))


async def keeps_its_zone(one: Scene, zone: str | None) -> None:
    connection = await one.come()
    before = await value(connection, "show timezone")
    if zone is not None:
        await connection.execute(f"set timezone = '{zone}'".encode())
    for _ in range(20):
        assert await value(connection, "show timezone") == (zone or before)
    await connection.close()


@pytest.mark.versions
async def test_prepared_statements_go_with_their_client(one: Scene) -> None:
    clients = [await one.come(prepare_threshold=0) for _ in range(8)]
    pids: set[str] = set()

    async def work(number: int) -> None:
        connection = clients[number]
        for turn in range(40):
            row = await (
                await connection.execute("select pg_backend_pid(), %s::int + %s::int, pg_sleep(0.001)", (number, turn))
            ).fetchone()
            assert row is not None
            assert row[1] == number + turn
            pids.add(str(row[0]))
            text = await (await connection.execute("select 'of ' || %s::text", (str(number),))).fetchone()
            assert text == (f"of {number}",)

    async with asyncio.TaskGroup() as group:
        for number in range(len(clients)):
            group.create_task(work(number))
    assert len(pids) > 1
    assert len(pids) <= 5
    for each in clients:
        await each.close()


async def asks(one: Scene, statement: str) -> list[tuple[object, ...]]:
    """Return the rows that a client which has just come, and prepares its statement, is given."""
    client = await asyncpg.connect(host="127.0.0.1", port=one.writer_port, user="ann", password=PASSWORD, database="shop")
    try:
        return [tuple(row.values()) for row in await client.fetch(statement)]
    finally:
        await client.close()


TAKES_A_COLUMN = [
    ("table", "alter table plans add b int default 2"),
    ("table", "begin; drop table plans; create table plans as select 1 as a, 2 as b; commit"),
    ("view", "drop view plans; create view plans as select 1 as a, 2 as b"),
]


@pytest.mark.parametrize(("kind", "change"), TAKES_A_COLUMN, ids=["alter", "again", "view"])
async def test_who_prepares_after_ddl_is_not_given_what_another_had_before(tmp_path: Path, kind: str, change: str) -> None:
    async with scene(tmp_path, pool="pool_size = 1") as one:
        client = await one.come()
        await client.execute(f"create {kind} plans as select 1 as a".encode())
        assert await asks(one, "select * from plans") == [(1,)]
        await client.execute(change.encode())
        assert await asks(one, "select * from plans") == [(1, 2)]
        await client.close()


async def test_nor_who_prepares_after_its_commit(tmp_path: Path) -> None:
    """A function can be called while it is being replaced: the old one may be prepared after the change was made."""
    async with scene(tmp_path, pool="pool_size = 2") as one:
        changing = await one.come()
        await changing.execute("create function plans() returns table (a int) language sql as 'select 1'")
        await changing.execute("begin; drop function plans()")
        await changing.execute("create function plans() returns table (a int, b int) language sql as 'select 1, 2'")
        statement = "select pg_backend_pid(), p.* from plans() as p"
        ((server, a),) = await asks(one, statement)
        await changing.execute("commit; begin")
        assert await asks(one, statement) == [(server, a, 2)]
        await changing.close()


@pytest.mark.versions
async def test_a_cancel_request_hits_its_own_client_alone(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 3") as one:
        clients = [await one.come() for _ in range(8)]
        cancelled, wrong = [0], [0]
        over = asyncio.Event()

        async def innocent(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
            while not over.is_set():
                try:
                    await connection.execute("select pg_sleep(0.002)")
                except psycopg.errors.QueryCanceled:
                    wrong[0] += 1

        async def guilty(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
            for turn in range(40):
                request = asyncio.create_task(cancel_soon(connection, 0.004 * (turn % 12)))
                try:
                    await connection.execute("select pg_sleep(0.03)")
                except psycopg.errors.QueryCanceled:
                    cancelled[0] += 1
                await request

        async with asyncio.TaskGroup() as group:
            for each in clients[2:]:
                group.create_task(innocent(each))
            async with asyncio.TaskGroup() as both:
                for each in clients[:2]:
                    both.create_task(guilty(each))
            over.set()
        assert wrong == [0]
        assert cancelled[0] > 0
        for each in clients:
            await each.close()


async def cancel_soon(connection: psycopg.AsyncConnection[tuple[object, ...]], after_s: float) -> None:
    await asyncio.sleep(after_s)
    await connection.cancel_safe(timeout=20)


async def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 1\nquery_wait_timeout_s = 1") as one:
        first, second, third = [await one.come() for _ in range(3)]
        await first.execute("begin; select 1")
        waiting = asyncio.create_task(sqlstate_of(second))
        await until(lambda: states(one), ["pooled", "relaying", "waiting"])
        assert await waiting == "53300"
        await first.execute("commit")
        assert await value(third, "select 1") == "1"
        await first.close()
        await third.close()


async def states(one: Scene) -> list[str]:
    return sorted(state for state, _ in await one.sessions())


async def test_who_waits_is_served_in_turn(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 1") as one:
        first, *others = [await one.come() for _ in range(6)]
        await first.execute("begin")
        served: list[int] = []

        async def ask(number: int) -> None:
            await others[number].execute("select 1")
            served.append(number)

        tasks: list[asyncio.Task[None]] = []
        for number in range(len(others)):
            tasks.append(asyncio.create_task(ask(number)))
            await until(lambda wanted=number + 1: waiting(one), number + 1)
        await until(lambda: somebody_waits(one), wanted=True)
        await first.execute("commit")
        await asyncio.gather(*tasks)
        await until(lambda: somebody_waits(one), wanted=False)
        assert served == list(range(len(others)))
        for each in (first, *others):
            await each.close()


async def somebody_waits(one: Scene) -> bool:
    return await one.proxy.metric("endpointd_pool_longest_wait_seconds", endpoint="pooled-writer") > 0


async def waiting(one: Scene) -> int:
    return (await states(one)).count("waiting")


async def test_replication_is_refused_with_a_hint(one: Scene) -> None:
    with pytest.raises(psycopg.OperationalError, match="replication is not supported at endpoint") as caught:
        await one.come(replication="database")
    assert 'Use the endpoint "writer"' in str(caught.value)


async def test_a_wrong_password_is_a_wrong_password(one: Scene) -> None:
    await (await one.come()).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await one.come(password="wrong")
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        await one.come(dbname="nowhere")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"database": "nowhere"}, asyncpg.InvalidCatalogNameError),
        ({"server_settings": {"no_such_setting": "1"}}, asyncpg.UndefinedObjectError),
    ],
)
async def test_whom_a_server_refuses_is_told_by_its_code(one: Scene, options: dict[str, Any], error: type[Exception]) -> None:
    login = {"user": "ann", "password": PASSWORD, "database": "shop", **options}
    with pytest.raises(error):
        await asyncpg.connect(host="127.0.0.1", port=one.writer_port, **login)
