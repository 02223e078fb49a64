"""Nobody's commits return before the quorum has them: what would let them is undone on the writer, and told of."""

from __future__ import annotations

import contextlib

import asyncpg
import pytest

from noded.relaxations import Relaxation
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
