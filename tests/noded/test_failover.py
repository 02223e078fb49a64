"""The life of a cluster as its nodeds see it, on real PostgreSQL: founded, grown, killed, promoted, rewound."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import asyncpg
import pytest

from daemonkit import proctable
from pgtopology.node import Role
from pgtopology.observation import PostmasterState
from pgtopology.orders import Acknowledged, RewindOrder
from tests.noded.members import Cluster, Member, running_members, slot_of
from tests.noded.test_faults import pair

pytestmark = pytest.mark.integration


async def grow(cluster: Cluster) -> None:
    """Make three voters of three nodeds without data, w = 2, as the manager would."""
    first, second, third = cluster.members
    await cluster.found()
    await cluster.clone(second, first)
    await cluster.clone(third, first)
    two = await cluster.voters_of([first, second], 2)
    await cluster.settings(first, two)
    cluster.voters = await cluster.voters_of([first, second, third], 2)
    await cluster.settings(first, cluster.voters)


async def kill_postmaster(member: Member) -> int:
    """Kill the postmaster of *member*, and return how many milliseconds later an observation told it."""
    pid = (await member.observe()).postmaster.pid
    assert pid is not None
    loop = asyncio.get_running_loop()
    told = asyncio.create_task(member.until(lambda o: o.postmaster.unexpected_exit))
    await member.until(lambda o: o.postmaster.pid == pid)
    begun = loop.time()
    os.kill(pid, signal.SIGKILL)
    await told
    return int((loop.time() - begun) * 1000)


@pytest.mark.versions
async def test_a_killed_primary_is_replaced_and_comes_back_by_a_rewind() -> None:
    async with running_members(3) as cluster:
        await grow(cluster)
        first, second, third = cluster.members
        await cluster.sql(first, "CREATE TABLE t (i int)")
        await cluster.sql(first, "INSERT INTO t VALUES (1)")

        assert await kill_postmaster(first) < 1000
        gone = await first.until(lambda o: o.postmaster.state == PostmasterState.STOPPED)
        assert gone.postmaster.exit_status == -signal.SIGKILL
        assert gone.role is Role.NONE

        cluster.epoch = 2
        answers = await asyncio.gather(cluster.promise(second), cluster.promise(third))
        positions = [answer.position for answer in answers]
        assert all(position is not None and position.timeline == 2 for position in positions), answers
        assert all(answer.whole and answer.promised == 2 and not answer.was_primary for answer in answers)
        best, other = second, third
        if positions[0] is not None and positions[1] is not None and positions[1].lsn > positions[0].lsn:
            best, other = third, second
        await cluster.follow(other, best)
        # Timelines 3 and 4 were claimed by attempts that came to nothing.
        promoted = await cluster.promote(best, 5)
        assert promoted.timeline == 5
        assert promoted.promoted_epoch == 2
        await cluster.streaming(other)
        assert [row["i"] for row in await cluster.sql(best, "SELECT i FROM t")] == [1]
        await cluster.sql(best, "INSERT INTO t VALUES (2)")

        answer = await cluster.promise(first)
        assert answer.position is not None
        assert answer.position.timeline == 2
        before = await first.observe()
        order = cluster.make(RewindOrder, first, source=best.upstream, destroys=before.incarnation)
        await cluster.send(order, first, Acknowledged)
        back = await first.until(lambda o: o.whole and o.receiver and o.receiver.streaming)
        # The same order comes once more, late: what is whole stays so.
        await cluster.send(order, first, Acknowledged)
        assert (await first.observe()).whole
        assert back.incarnation == before.incarnation
        assert back.timeline == 5
        assert back.promoted_epoch is None
        assert list((first.directory / "kept").iterdir())
        await cluster.sql(best, "INSERT INTO t VALUES (3)")
        end = await cluster.wal_end(best)
        await first.until(lambda o: (o.replayed_lsn or 0) >= end)
        assert len(await cluster.sql(first, "SELECT i FROM t")) == 3


async def test_a_promise_stops_a_primary_and_its_data_goes_on_under_the_next_epoch() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        await cluster.sql(only, "CREATE TABLE t AS SELECT 1 AS i")
        writer = await only.observe()
        cluster.epoch = 2
        answer = await cluster.promise(only)
        assert answer.was_primary
        assert answer.position is not None
        assert writer.wal_end is not None
        assert answer.position.lsn >= writer.wal_end
        assert answer.position.timeline == 2
        assert not (await only.until(lambda o: o.role is Role.STANDBY)).foreign
        await cluster.promote(only, 3)
        assert [row["i"] for row in await cluster.sql(only, "SELECT i FROM t")] == [1]


async def test_a_noded_that_was_killed_adopts_the_running_writer() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        pid = (await only.observe()).postmaster.pid
        await only.stop(signal.SIGKILL)
        assert pid is not None
        assert proctable.is_alive(pid)
        await only.start()
        adopted = await only.until(lambda o: o.heartbeat and o.heartbeat.acknowledged_age_ms is not None)
        assert adopted.postmaster.pid == pid
        assert adopted.role is Role.PRIMARY
        os.kill(pid, signal.SIGKILL)
        await only.until(lambda o: o.postmaster.unexpected_exit and o.postmaster.state == PostmasterState.STOPPED)


async def test_more_copies_are_proven_by_walsenders_that_began_anew() -> None:
    async with running_members(3) as cluster:
        await grow(cluster)
        first = cluster.members[0]

        async def walsenders() -> set[int]:
            rows = await cluster.sql(first, "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'")
            return {row["pid"] for row in rows}

        assert cluster.voters is not None
        before = await walsenders()
        await cluster.settings(first, cluster.voters)
        assert await walsenders() == before
        answer = await cluster.settings(first, await cluster.voters_of(cluster.members, 3))
        assert answer.in_force.w == 3
        assert not before & await walsenders()
        shown = await cluster.sql(first, "SELECT current_setting('synchronous_standby_names') AS names")
        assert shown[0]["names"].startswith("ANY 2 (")
        await cluster.settings(first, cluster.voters)


async def test_slots_for_all_members_exist_on_writer_and_standby() -> None:
    async with running_members(2) as cluster:
        first, second = cluster.members
        await cluster.found()
        copied = await cluster.clone(second, first)
        cluster.voters = await cluster.voters_of([first, second], 2)
        await cluster.settings(first, cluster.voters)
        await cluster.follow(second, first)
        names = await cluster.sql(first, "SELECT slot_name::text AS name FROM pg_replication_slots")
        assert [row["name"] for row in names] == [slot_of(copied)]
        expected = slot_of(await first.observe())

        found: list[str] = []
        try:
            async with asyncio.timeout(60):
                while found != [expected]:
                    await asyncio.sleep(0.05)
                    names = await cluster.sql(second, "SELECT slot_name::text AS name FROM pg_replication_slots")
                    found = [row["name"] for row in names]
        except TimeoutError:
            raise AssertionError(f"{found} is not {[expected]}: {await second.observe()}") from None


async def test_clients_get_in_at_a_new_writer_that_a_pool_had_filled_while_it_was_a_replica() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await cluster.sql(first, "CREATE ROLE app LOGIN PASSWORD 'app'")
        end = await cluster.wal_end(first)
        await second.until(lambda o: o.replayed_lsn is not None and o.replayed_lsn >= end)

        async def login() -> asyncpg.Connection:
            return await asyncpg.connect(
                host="127.0.0.1", port=second.pg_port, user="app", password="app", database="postgres", ssl=False
            )

        held: list[asyncpg.Connection] = []
        try:
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                while True:
                    held.append(await login())
            cluster.epoch = 2
            for member in (first, second):
                await cluster.promise(member)
            await cluster.follow(first, second)
            await cluster.promote(second, 3)
            async with asyncio.timeout(60):
                while True:
                    try:
                        held.append(await login())
                        break
                    except (asyncpg.TooManyConnectionsError, asyncpg.ConnectionDoesNotExistError):
                        # Whoever is put out before its startup packet was read is not told why, by PostgreSQL itself.
                        await asyncio.sleep(0.2)
            async with asyncio.timeout(60):
                while sum(not connection.is_closed() for connection in held) > 1:
                    await asyncio.sleep(0.1)
            assert not held[-1].is_closed()
        finally:
            for connection in held:
                connection.terminate()
