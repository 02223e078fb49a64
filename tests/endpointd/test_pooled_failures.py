"""Pooled endpoints when servers come and go, under TLS, and with a thousand clients."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from pgtopology.document import TransitionKind
from tests.certificates import NAME
from tests.endpointd.pooledscene import Scene, scene
from tests.endpointd.proxies import successor
from tests.endpointd.shop import PASSWORD, PID, places, until
from tests.endpointd.test_failover import sqlstate_of, value
from tests.endpointd.test_tls_clients import files, tables

pytestmark = [pytest.mark.integration]

SLEEPS = "select count(*) from pg_stat_activity where query like 'select pg_sleep%'"


async def states(one: Scene) -> list[str]:
    return sorted(state for state, _ in await one.sessions())


async def test_a_lost_server_ends_those_who_had_it_and_nobody_else(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        idle, in_transaction, busy, pinned = [await one.come() for _ in range(4)]
        await value(idle, "select 1")
        await pinned.execute("set timezone = 'Asia/Tokyo'")
        await in_transaction.execute("begin")
        running = asyncio.create_task(sqlstate_of(busy, "select pg_sleep(30)"))
        await until(lambda: one.sql(SLEEPS), "1")
        await one.sql("select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = 'shop'")
        assert await running == "57P01"
        assert await sqlstate_of(in_transaction) == "57P01"
        assert await sqlstate_of(pinned) == "57P01"
        assert await value(idle, "select 1") == "1"
        await idle.close()


async def test_a_failover_is_told_to_those_who_have_a_server(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        idle, in_transaction, busy, pinned = [await one.come() for _ in range(4)]
        await value(idle, "select 1")
        await pinned.execute("set timezone = 'Asia/Tokyo'")
        await in_transaction.execute("begin")
        running = asyncio.create_task(sqlstate_of(busy, "select pg_sleep(30)"))
        await until(lambda: one.sql(SLEEPS), "1")
        one.feed.publish(places(one.cluster, epoch=2, revision=2, writer=None))
        await one.feed.wait_for_report(epoch=2)
        assert await running == "08007"
        assert await sqlstate_of(in_transaction) == "57P01"
        assert await sqlstate_of(pinned) == "57P01"
        waits = asyncio.create_task(value(idle, "select 1"))
        await until(lambda: states(one), ["waiting"])
        one.feed.publish(places(one.cluster, epoch=3, revision=3))
        assert await waits == "1"
        await idle.close()


async def test_a_switchover_lets_transactions_finish_and_then_moves_their_clients(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        idle, in_transaction, pinned = [await one.come() for _ in range(3)]
        await value(idle, "select 1")
        await pinned.execute("set timezone = 'Asia/Tokyo'")
        await in_transaction.execute("begin")
        pid = await value(in_transaction, PID)
        one.feed.publish(places(one.cluster, epoch=2, revision=2, writer=None, kind=TransitionKind.SWITCHOVER))
        await one.feed.wait_for_report(revision=2)
        assert await value(in_transaction, PID) == pid
        assert await sqlstate_of(pinned) == "57P01"
        await in_transaction.execute("commit")
        await one.feed.wait_for_report(epoch=2)
        waits = [asyncio.create_task(value(each, PID)) for each in (idle, in_transaction)]
        await until(lambda: states(one), ["waiting", "waiting"])
        one.feed.publish(places(one.cluster, epoch=3, revision=3))
        for each in waits:
            assert await each != pid
        for each in (idle, in_transaction):
            await each.close()


async def test_who_waits_can_be_cancelled_and_goes_on(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 1") as one:
        first, second, third = await one.come(), await one.come(), await one.come(prepare_threshold=0)
        await value(third, "select 2")
        await first.execute("begin")
        for each, parameters in ((second, None), (third, (1,))):
            statement = "select 3" if parameters is None else "select 3 + %s"
            waits = asyncio.create_task(each.execute(statement, parameters))
            await until(lambda: states(one), ["pooled", "relaying", "waiting"])
            await each.cancel_safe(timeout=20)
            with pytest.raises(Exception, match="canceling statement due to user request"):
                await waits
            assert each.info.transaction_status == 0
        await first.execute("commit")
        assert await value(second, "select 4") == "4"
        row = await (await third.execute("select 3 + %s", (1,))).fetchone()
        assert row == (4,)
        for each in (first, second, third):
            await each.close()


async def test_a_role_with_a_new_password_needs_it_for_new_servers(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        connection = await one.come()
        await value(connection, "select 1")
        await one.sql("alter role ann password 'another'")
        await until(lambda: states(one), [])
        again = await one.come(password="another")
        assert await value(again, "select 1") == "1"
        await again.close()


async def test_clients_that_speak_tls(tmp_path: Path) -> None:
    directory = files(tmp_path / "tls")
    async with scene(tmp_path, more=tables(directory)) as one:
        options = {"sslmode": "verify-full", "sslrootcert": str(directory / "ca.crt"), "host": NAME, "hostaddr": "127.0.0.1"}
        clients = [await one.come(**options) for _ in range(3)]
        for each in clients:
            assert await value(each, "select 1") == "1"
            assert await value(each, "select length(repeat('x', 3000000))") == "3000000"
            assert await value(each, "select repeat('x', 3000000)") == "x" * 3_000_000
        assert await one.servers() == 1
        for each in clients:
            await each.close()


async def test_asyncpg_prepares_copies_and_resets(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 3") as one:
        pool = await asyncpg.create_pool(
            host="127.0.0.1", port=one.writer_port, user="ann", password=PASSWORD, database="shop", min_size=8, max_size=8
        )
        await pool.execute("create table things (i int, t text)")
        pids: Counter[int] = Counter()

        async def work(number: int) -> None:
            for turn in range(20):
                async with pool.acquire() as connection:
                    pids[await connection.fetchval("select pg_backend_pid()")] += 1
                    await connection.copy_records_to_table("things", records=[(number, str(turn))] * 10)
                    async with connection.transaction():
                        async for row in connection.cursor(
                            "select i, t from things where i = $1 and t = $2", number, str(turn)
                        ):
                            assert (row["i"], row["t"]) == (number, str(turn))

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(work(number))
        assert await pool.fetchval("select count(*) from things") == 8 * 20 * 10
        assert set(await states(one)) == {"pooled"}
        assert len(pids) <= 3
        await pool.close()


async def test_a_successor_takes_over_and_sessions_go_on(tmp_path: Path) -> None:
    takeover = tmp_path / "run"
    takeover.mkdir(mode=0o700)
    async with scene(tmp_path, in_proxy=f'takeover = "{takeover / "s"}"') as one:
        old = await one.come()
        await value(old, "select 1")
        async with successor(one.proxy):
            assert await value(old, "select 2") == "2"
            new = await one.come()
            assert await value(new, "select 3") == "3"
            await new.close()
            await old.close()


async def test_a_thousand_clients(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 5", limits="sessions_max = 2000") as one:
        clients = [await one.come() for _ in range(50)]

        async def crowd(number: int) -> None:
            for _ in range(19):
                connection = await one.come()
                clients.append(connection)
                assert await value(connection, f"select {number}") == str(number)

        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(crowd(number))
        assert len(clients) == 1000

        async def ask(number: int) -> None:
            for _ in range(3):
                assert await value(clients[number], f"select {number}") == str(number)

        async with asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(ask(number))
        assert await one.servers() <= 5
        assert Counter(await states(one))["pooled"] == 1000
        async with asyncio.TaskGroup() as group:
            for each in clients:
                group.create_task(each.close())
        await until(lambda: states(one), [])
