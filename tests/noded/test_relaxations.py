"""Nobody's commits return before the quorum has them: what would let them is undone on the writer, and told of."""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
import pytest

from noded.housekeeping.relaxations import Relaxation
from tests.noded.members import Cluster, Member, running_members

ODD = "o\"dd ro'le"


@pytest.mark.parametrize(
    ("relaxation", "text", "statement"),
    [
        (Relaxation(b"app", None, "off", 7), 'role "app": synchronous_commit=off', "ALTER ROLE %I RESET"),
        (
            Relaxation(b'a"b', b"d b", "local", 7, 8),
            'role "a"b" in database "d b": synchronous_commit=local',
            "ALTER ROLE %I IN DATABASE %I RESET",
        ),
        (Relaxation(None, b"x", "off", 0, 8), 'database "x": synchronous_commit=off', "ALTER DATABASE %I RESET"),
        (Relaxation(None, None, "off"), "all roles: synchronous_commit=off", "ALTER ROLE ALL RESET"),
        (Relaxation(b"m\xfcller", None, "off", 7), 'role "m\\xfcller": synchronous_commit=off', "ALTER ROLE %I RESET"),
    ],
)
def test_each_kind_has_its_words_and_its_remedy(relaxation: Relaxation, text: str, statement: str) -> None:
    assert relaxation.text == text
    assert f"format('{statement} synchronous_commit'" in relaxation.remedy


async def settings(cluster: Cluster, member: Member) -> int:
    """Return how many roles and databases carry a synchronous_commit of their own."""
    query = "SELECT count(*) AS n FROM pg_db_role_setting, unnest(setconfig) AS one WHERE one ILIKE 'synchronous_commit=%'"
    return (await cluster.sql(member, query))[0]["n"]


@pytest.mark.integration
async def test_roles_and_databases_are_held_to_the_promise_and_functions_are_told_of() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        quoted = ODD.replace('"', '""')
        await cluster.sql(only, 'CREATE DATABASE "odd db"')
        await cluster.sql(only, f'CREATE ROLE "{quoted}" LOGIN')
        await cluster.sql(only, "CREATE ROLE fine LOGIN")
        await cluster.sql(only, "ALTER ROLE fine SET synchronous_commit = on")
        await cluster.sql(
            only,
            "CREATE FUNCTION lax() RETURNS void LANGUAGE sql SET synchronous_commit = off AS $$ SELECT $$",
        )
        await cluster.sql(only, f'ALTER ROLE "{quoted}" SET synchronous_commit = off')
        await cluster.sql(only, f'ALTER ROLE "{quoted}" IN DATABASE "odd db" SET synchronous_commit = local')
        await cluster.sql(only, 'ALTER DATABASE "odd db" SET synchronous_commit = remote_write')
        await cluster.sql(only, "ALTER ROLE ALL SET synchronous_commit = remote_apply")
        wanted = {
            f'role "{ODD}": synchronous_commit=off (undone)',
            f'role "{ODD}" in database "odd db": synchronous_commit=local (undone)',
            'database "odd db": synchronous_commit=remote_write (undone)',
            "all roles: synchronous_commit=remote_apply (undone)",
        }
        seen = await only.until(lambda o: wanted <= set(o.relaxations))
        assert all("undone" in text or "lax()" in text for text in seen.relaxations)
        assert await settings(cluster, only) == 1, "one that is on is nobody's business"
        await only.until(lambda o: any("function public.lax()" in text for text in o.relaxations), timeout_s=60)


@pytest.mark.integration
async def test_settings_too_large_to_be_read_hide_nothing_and_slow_down_no_login_for_long() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        await cluster.sql(only, "CREATE ROLE app LOGIN")
        await cluster.sql(only, "CREATE ROLE fine LOGIN")
        await cluster.sql(only, "ALTER ROLE fine SET application_name = 'fine'")
        for whose, told in (
            ("app", 'role "app"'),
            ("ALL", "all roles"),
            ("app IN DATABASE postgres", '"app" in database "postgres"'),
        ):
            junk = f"DO $$ BEGIN EXECUTE format('ALTER ROLE {whose} SET app.junk = %L', repeat('x', 30000000)); END $$"
            before = await only.observe()
            await cluster.sql(only, junk, timeout_s=20)
            with contextlib.suppress(asyncpg.PostgresError):
                await cluster.sql(only, f"ALTER ROLE {whose} SET synchronous_commit = off", timeout_s=20)
            text = f"{told}: settings of "
            after = await only.until(lambda o, text=text: any(text in one and "(undone)" in one for one in o.relaxations))
            assert after.heartbeat is not None
            assert after.noded_pid == before.noded_pid
            lsn = after.heartbeat.lsn or 0
            await only.until(lambda o, lsn=lsn: o.heartbeat and o.heartbeat.lsn and o.heartbeat.lsn > lsn)
            await only.until(lambda o: o.login_problem is None)
            left = "SELECT count(*) AS n FROM pg_db_role_setting WHERE pg_column_size(setconfig) > 1000"
            assert (await cluster.sql(only, left))[0]["n"] == 0
            async with asyncio.timeout(20):
                while await settings(cluster, only):
                    await asyncio.sleep(0.05)
        rows = await cluster.sql(only, "SELECT count(*) AS n FROM pg_db_role_setting")
        assert rows[0]["n"] == 1, "what can be read is left alone"


@pytest.mark.integration
async def test_that_nobody_can_look_is_told_until_somebody_can() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=only.pg_port,
            user="postgres",
            password=cluster.passwords["superuser"],
            database="postgres",
            ssl=False,
        )
        try:
            await connection.execute("BEGIN; LOCK pg_db_role_setting")
            await only.until(lambda o: any("unknown, because noded cannot look: 55P03" in text for text in o.relaxations))
            await connection.execute("COMMIT")
            await only.until(lambda o: not o.relaxations)
        finally:
            connection.terminate()


@pytest.mark.integration
async def test_what_durability_rests_on_cannot_be_changed_by_alter_system() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        path = only.directory / "pgdata" / "postgresql.auto.conf"
        before = path.read_bytes()
        for name in ("synchronous_commit", "fsync", "full_page_writes", "wal_log_hints", "hot_standby_feedback"):
            # From 17 on it is refused; before, the file is restored, and the command line wins all along.
            with contextlib.suppress(asyncpg.PostgresError):
                await cluster.sql(only, f"ALTER SYSTEM SET {name} = off")
            await cluster.sql(only, "SELECT pg_reload_conf()")
            await only.until(lambda _: path.read_bytes() == before)
            assert (await cluster.sql(only, f"SELECT current_setting('{name}') AS value"))[0]["value"] == "on"
