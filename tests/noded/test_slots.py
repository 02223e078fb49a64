"""Members' slots on a real standby, where nobody uses them yet and whoever has REPLICATION may take them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable

import asyncpg
import psycopg
import pytest

from noded.postgres.conf import REPLICATION_ROLE
from noded.postgres.sessions import Sessions
from noded.postgres.slots import ensure_slots
from tests.noded.members import Cluster, Member, running_members, slot_of

pytestmark = pytest.mark.integration

STRANGER = "stranger"
TAKEN = "SELECT pg_drop_replication_slot('{name}'), pg_create_physical_replication_slot('{name}', true, true)"
"""The slot is of the session from now on."""


@contextlib.asynccontextmanager
async def a_standby() -> AsyncGenerator[tuple[Cluster, Member, str]]:
    """Give a cluster of two, its standby, and the name of the slot that it keeps for the writer."""
    async with running_members(2) as cluster:
        first, second = cluster.members
        await cluster.found()
        await cluster.clone(second, first)
        cluster.voters = await cluster.voters_of([first, second], 2)
        await cluster.settings(first, cluster.voters)
        await cluster.follow(second, first)
        await cluster.sql(first, f"CREATE ROLE {STRANGER} LOGIN REPLICATION PASSWORD '{STRANGER}'")
        name = slot_of(await first.observe())
        await until(lambda: is_members(cluster, second, name))
        yield cluster, second, name


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.05)


async def is_members(cluster: Cluster, at: Member, name: str) -> bool:
    """Whether a member could stream from the slot now."""
    rows = await cluster.sql(at, "SELECT slot_name::text AS name, slot_type, temporary, active FROM pg_replication_slots")
    return (name, "physical", False, False) in [tuple(row.values()) for row in rows]


async def is_held(cluster: Cluster, at: Member, name: str) -> bool:
    rows = await cluster.sql(at, f"SELECT active FROM pg_replication_slots WHERE slot_name = '{name}'")
    return [row["active"] for row in rows] == [True]


@contextlib.asynccontextmanager
async def streaming(cluster: Cluster, at: Member, name: str, role: str, password: str) -> AsyncGenerator[None]:
    """Stream from the slot *name* as *role*."""
    (end,) = await cluster.sql(at, "SELECT pg_last_wal_replay_lsn()::text AS lsn")
    dsn = f"host=127.0.0.1 port={at.pg_port} user={role} password={password} dbname=postgres replication=true"
    with contextlib.closing(psycopg.connect(dsn, autocommit=True)) as connection:
        connection.pgconn.send_query(f'START_REPLICATION SLOT "{name}" PHYSICAL {end["lsn"]}'.encode())
        connection.pgconn.flush()
        await until(lambda: is_held(cluster, at, name))
        yield


async def as_stranger(at: Member) -> asyncpg.Connection:
    return await asyncpg.connect(
        host="127.0.0.1", port=at.pg_port, user=STRANGER, password=STRANGER, database="postgres", ssl=False, timeout=5
    )


async def test_who_takes_a_members_slot_on_a_standby_is_ended_and_the_slot_is_the_members_again() -> None:
    async with a_standby() as (cluster, standby, name):
        stranger = await as_stranger(standby)
        await stranger.execute(TAKEN.format(name=name))
        await until(lambda: is_members(cluster, standby, name))
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await stranger.execute("SELECT 1")

        # Another one streams from it, as nobody but a member may.
        async with streaming(cluster, standby, name, STRANGER, STRANGER):
            await until(lambda: is_members(cluster, standby, name))
        await standby.until(lambda o: o.slots_lacking == ())


async def test_a_member_that_streams_from_a_standby_is_left_alone() -> None:
    """The others follow a candidate before it is promoted."""
    async with a_standby() as (cluster, standby, name):
        async with streaming(cluster, standby, name, REPLICATION_ROLE, cluster.passwords["replication"]):
            await asyncio.sleep(3.0)  # some rounds
            assert await is_held(cluster, standby, name)
        await standby.until(lambda o: o.slots_lacking == ())


async def test_whoever_is_promoted_takes_members_slots_back_first() -> None:
    async with a_standby() as (cluster, standby, name):
        assert standby.process is not None
        major = int(str((await standby.observe()).server_version).partition(".")[0])
        sessions = Sessions(
            socket_dir=standby.sockets, port=standby.pg_port, password=cluster.passwords["control"], major=major
        )
        stranger = await as_stranger(standby)
        # Its noded's rounds are not what mends it here.
        standby.process.send_signal(signal.SIGSTOP)
        try:
            await stranger.execute(TAKEN.format(name=name))
            assert not await is_members(cluster, standby, name)
            session = sessions.fresh("endpointd test")
            await ensure_slots(session, [name])
            session.drop()
            assert await is_members(cluster, standby, name)
        finally:
            standby.process.send_signal(signal.SIGCONT)
            stranger.terminate()


async def test_a_slot_that_cannot_be_made_is_told() -> None:
    async with a_standby() as (cluster, standby, name):
        fill = (
            f"DO $$ BEGIN PERFORM pg_drop_replication_slot('{name}'); FOR n IN 1..1000 LOOP "
            "PERFORM pg_create_physical_replication_slot('mine' || n); END LOOP; "
            "EXCEPTION WHEN configuration_limit_exceeded THEN NULL; END $$"
        )
        await cluster.sql(standby, fill)
        await standby.until(lambda seen: seen.slots_lacking == (name,))
        await cluster.sql(standby, "SELECT pg_drop_replication_slot('mine1')")
        await standby.until(lambda seen: seen.slots_lacking == ())
        assert await is_members(cluster, standby, name)
