"""Pooled endpoints in several processes, with servers that are old, idle or lost, and with many statements."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from tests.endpointd.pooledscene import Scene, scene
from tests.endpointd.shop import PASSWORD, PID, until
from tests.endpointd.test_failover import Connection, connect, value

pytestmark = [pytest.mark.integration]


@pytest_asyncio.fixture
async def one_server(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path, pool="pool_size = 1\nquery_wait_timeout_s = 10") as made:
        yield made


@asynccontextmanager
async def in_two_processes(tmp_path: Path, pool: str) -> AsyncIterator[Scene]:
    takeover = tmp_path / "run"
    takeover.mkdir(mode=0o700)
    async with scene(tmp_path, pool=pool, in_proxy=f'takeover = "{takeover / "s"}"\nworkers = 2') as one:
        await one.proxy.wait_for_log("endpoint open", 8)
        yield one


async def test_two_processes_share_a_pools_servers_and_cancel_for_each_other(tmp_path: Path) -> None:
    async with in_two_processes(tmp_path, "pool_size = 6") as one:
        clients = [await one.come() for _ in range(16)]
        assert [state for state, _ in await one.sessions()] == ["pooled"] * 16
        wrong: list[int] = []
        over = asyncio.Event()

        async def innocent(connection: Connection) -> None:
            while not over.is_set():
                try:
                    await connection.execute("select pg_sleep(0.002)")
                except psycopg.errors.QueryCanceled:
                    wrong.append(1)

        async def guilty(connection: Connection) -> None:
            for _ in range(12):  # each request comes to either process
                running = asyncio.create_task(connection.execute("select pg_sleep(60), 'guilty'"))
                pid = connection.info.backend_pid
                await until(lambda: one.sql(SLEEPERS), "1")
                await connection.cancel_safe(timeout=20)
                with pytest.raises(psycopg.errors.QueryCanceled):
                    async with asyncio.timeout(20):
                        await running
                assert connection.info.backend_pid == pid

        async with asyncio.TaskGroup() as group:
            for each in clients[1:]:
                group.create_task(innocent(each))
            await guilty(clients[0])
            over.set()
        assert wrong == []
        assert await one.servers() <= 6
        for each in clients:
            await each.close()


SLEEPERS = "select count(*) from pg_stat_activity where query like '%guilty%' and state = 'active' and pid <> pg_backend_pid()"


async def test_servers_that_have_been_idle_or_alive_for_long_are_closed(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 4\npool_min = 1\nserver_idle_timeout_s = 0.5") as one:
        clients = [await one.come() for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            for each in clients:
                group.create_task(each.execute("select pg_sleep(0.5)"))
        await until(one.servers, 1)
        pid = await value(clients[0], PID)
        assert await value(clients[3], PID) == pid
        for each in clients:
            await each.close()


async def test_a_server_is_replaced_when_it_has_lived_its_time_and_nobody_notices(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 1\nserver_lifetime_s = 0.5") as one:
        clients = [await one.come(prepare_threshold=0) for _ in range(3)]
        pids: set[str] = set()

        async def work(connection: Connection) -> None:
            while len(pids) < 4:
                row = await (await connection.execute("select pg_backend_pid(), %s::int", (7,))).fetchone()
                assert row is not None
                assert row[1] == 7
                pids.add(str(row[0]))

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for each in clients:
                group.create_task(work(each))
        # A transaction is not cut short.
        await clients[0].execute("begin")
        pid = await value(clients[0], PID)
        await clients[0].execute("select pg_sleep(1)")
        assert await value(clients[0], PID) == pid
        await clients[0].execute("commit")
        for each in clients:
            await each.close()


async def test_more_statements_than_a_server_may_keep(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 2\nprepared_statements_max = 5") as one:
        clients = [await one.come(prepare_threshold=0) for _ in range(4)]

        async def work(connection: Connection, number: int) -> None:
            for turn in range(100):
                which = (turn * 7 + number) % 23
                async with connection.pipeline():
                    cursors = [
                        await connection.execute(f"select {which + each} + %s::int".encode(), (turn,)) for each in range(3)
                    ]
                    for each, cursor in enumerate(cursors):
                        assert await cursor.fetchone() == (which + each + turn,)

        async with asyncio.TaskGroup() as group:
            for number, each in enumerate(clients):
                group.create_task(work(each, number))
        kept = await value(clients[0], "select count(*) from pg_prepared_statements where name like 'pooled%'")
        assert int(kept) <= 5
        assert await one.proxy.metric("endpointd_pool_statements_evicted_total", endpoint="pooled-writer") > 100
        for each in clients:
            await each.close()


async def test_a_flush_of_nothing_keeps_no_server(one_server: Scene) -> None:
    first, second = [await one_server.come(prepare_threshold=0) for _ in range(2)]
    async with first.pipeline() as pipeline:
        await first.execute("select 1 + %s::int", (1,))
        await pipeline.sync()
        first.pgconn.send_flush_request()
        first.pgconn.flush()
    assert await value(second, "select 2") == "2"
    first.pgconn.enter_pipeline_mode()
    first.pgconn.send_flush_request()
    first.pgconn.flush()
    assert await value(second, "select 3") == "3"
    assert await one_server.sessions() == [("pooled", None)] * 2
    await first.close()
    await second.close()


async def test_the_pooled_reader_goes_on_when_one_of_two_replicas_dies(tmp_path: Path) -> None:
    async with scene(tmp_path, nodes=3, pool="pool_size = 4") as one:
        replicas = [str(each.pg_port) for each in one.cluster.members[1:]]
        seen: Counter[str] = Counter()
        lost: list[str | None] = []
        over = asyncio.Event()

        async def come() -> Connection:
            return await connect(one.reader_port, user="ann", password=PASSWORD, dbname="shop")

        async def ask() -> None:
            connection = await come()
            while not over.is_set():
                try:
                    seen[await value(connection, "select current_setting('port') || pg_sleep(0.005)::text")] += 1
                except psycopg.Error as error:  # it was under way at the replica that died
                    lost.append(error.sqlstate)
                    connection = await come()
            await connection.close()

        async def has_answered(port: str) -> bool:
            return seen[port] > 20

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(ask())
            for port in replicas:
                await until(lambda port=port: has_answered(port), wanted=True)
            rows = await one.cluster.sql(one.cluster.members[1], "select pg_read_file('postmaster.pid')")
            os.kill(int(str(rows[0][0]).split()[0]), signal.SIGKILL)
            await until(lambda: is_gone(one), wanted=True)
            seen.clear()
            await until(lambda: has_answered(replicas[1]), wanted=True)
            over.set()
        assert len(lost) <= 4
        assert set(lost) <= {"57P01", "08006"}  # nothing of a replica is ever in doubt


async def is_gone(one: Scene) -> bool:
    """Return whether the first replica has no sessions any more."""
    port = one.cluster.members[1].pg_port
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False
