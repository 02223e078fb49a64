"""Pooled endpoints at their limits: those of a pool, of a role, and what becomes of a pool that may have no servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from tests.endpointd.pooledscene import Scene, scene
from tests.endpointd.shop import PASSWORD, PID, until
from tests.endpointd.test_failover import connect, ended_by, sqlstate_of, value

pytestmark = [pytest.mark.integration]


async def test_logins_with_other_startup_parameters_share_the_size_of_a_pool(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 3") as one:
        counts: list[int] = []
        over = asyncio.Event()

        async def watch() -> None:
            while not over.is_set():
                counts.append(await one.servers())

        watching = asyncio.create_task(watch())
        clients = await asyncio.gather(*(one.come(application_name=f"a{number}") for number in range(20)))
        for number, each in enumerate(clients):
            assert await value(each, "show application_name") == f"a{number}"
        over.set()
        await watching
        # PostgreSQL shows a process for a moment longer than its connection lasts.
        assert max(counts) <= 3 + 2, counts
        await until(lambda: at_most(one, 3), True)
        for each in clients:
            await each.close()


async def at_most(one: Scene, most: int) -> bool:
    return await one.servers() <= most


async def test_a_login_waits_for_the_server_that_another_pool_of_its_role_is_busy_with(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 1") as one:
        first = await one.come(application_name="first")
        await first.execute("begin")
        pid = await value(first, PID)
        coming = asyncio.create_task(one.come(application_name="second"))
        await until(lambda: count_sessions(one), 2)
        assert await one.servers() == 1
        assert not coming.done()
        assert await value(first, PID) == pid
        await first.execute("commit")
        async with asyncio.timeout(8):
            second = await coming
            assert await value(second, PID) != pid
            assert await value(first, "select 1") == "1"
        for each in (first, second):
            await each.close()


async def count_sessions(one: Scene) -> int:
    return len(await one.sessions())


async def test_a_login_is_not_starved_by_a_pool_that_is_always_busy(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 1") as one:
        crowd = [await one.come(application_name="crowd") for _ in range(3)]
        over = asyncio.Event()

        async def work(number: int) -> None:
            while not over.is_set():
                await crowd[number].execute("select pg_sleep(0.01)")

        working = [asyncio.create_task(work(number)) for number in range(len(crowd))]
        async with asyncio.timeout(8):
            other = await one.come(application_name="other")
            assert await value(other, "select 1") == "1"
        over.set()
        await asyncio.gather(*working)
        for each in (*crowd, other):
            await each.close()


async def test_pools_without_a_server_in_reach_hold_up_no_others(tmp_path: Path) -> None:
    async with scene(tmp_path, limits="hold_s = 4") as one:
        one.proxy.reload(("fallback_to_writer = true", "fallback_to_writer = false"))
        await one.proxy.wait_for_log("settings")
        come = [
            asyncio.create_task(
                connect(one.reader_port, user="ann", password=PASSWORD, dbname="shop", application_name=f"a{number}")
            )
            for number in range(20)
        ]
        await until(lambda: count_sessions(one), len(come))
        assert not any(each.done() for each in come)
        try:
            async with asyncio.timeout(1.5):
                healthy = await one.come()
                assert await value(healthy, "select 1") == "1"
            await healthy.close()
        finally:
            told = await asyncio.gather(*come, return_exceptions=True)
        assert all(isinstance(each, psycopg.Error) for each in told)


async def test_a_role_at_its_own_limit_is_tried_less_and_less_and_costs_others_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        holder, waits = await one.come(), await one.come()
        await holder.execute("begin")
        await one.sql("alter role ann connection limit 1")
        asking = asyncio.create_task(value(waits, "select 1"))
        await one.proxy.wait_for_log("a server refused a pool", 2)
        before = one.proxy.log.read_text().count("a server refused a pool")
        await asyncio.sleep(3)  # what is counted is a rate
        assert one.proxy.log.read_text().count("a server refused a pool") - before <= 5
        await holder.execute("commit")
        assert await asking == "1"
        for each in (holder, waits):
            await each.close()


async def test_who_is_idle_in_a_pool_that_servers_refuse_is_told_so(tmp_path: Path) -> None:
    async with scene(tmp_path, pool="pool_size = 2\nserver_idle_timeout_s = 0.3") as one:
        first, second = await one.come(), await one.come()
        await until(one.servers, 0)
        await one.sql("revoke connect on database shop from public, ann")
        assert await sqlstate_of(first) == "42501"
        assert await ended_by(second) == "42501"
        await until(one.sessions, [])


async def test_a_limit_of_a_role_closes_nobody_elses_kept_connections(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        writer, ann = one.proxy.writer_port, {"user": "ann", "password": PASSWORD, "dbname": "shop"}
        await one.sql(f"create role bob login password '{PASSWORD}'")
        bob = await connect(writer, **{**ann, "user": "bob"})
        await bob.close()
        await until(lambda: one.sql("select count(*) from pg_stat_activity where usename = 'bob'"), "1")
        await one.sql("alter role ann connection limit 1")
        holder = await connect(writer, **ann)
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            await connect(writer, **ann)
        assert await one.proxy.metric("endpointd_warm_discarded_total", reason="server_full") == 0
        await holder.close()
