"""Nobody stands in for a member for long: not by its name, not by its slot, not by the password of the nodeds."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from noded.postgres.binaries import find_binaries
from pgtopology.orders import Acknowledged, StopOrder
from tests.noded.members import Cluster, Member, running_members, slot_of
from tests.noded.test_faults import pair
from tests.noded.test_logins import session

pytestmark = pytest.mark.integration

DEADLINE_S = 60


@contextlib.asynccontextmanager
async def receiving(
    folder: Path, writer: Member, *, user: str, password: str, slot: str, name: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Have a client receive WAL from *writer* by *slot*, that calls itself *name* and acknowledges at once."""
    named = os.environ.get("ENDPOINTD_TEST_PG_BIN")
    dsn = f"host=127.0.0.1 port={writer.pg_port} user={user} dbname=replication application_name={name}"
    command = find_binaries(Path(named) if named else None, prefer_bundled=True).command(
        "pg_receivewal", "--no-loop", "--synchronous", "--slot", slot, "--directory", str(folder), "--dbname", dsn
    )
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    client = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, "PGPASSWORD": password}, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield client
    finally:
        with contextlib.suppress(ProcessLookupError):
            client.kill()
        await client.wait()


async def ended(client: asyncio.subprocess.Process) -> str:
    """Wait until the server has ended *client*; return what it said."""
    assert client.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        said = (await client.stderr.read()).decode()
        await client.wait()
    return said


async def replicator(cluster: Cluster, writer: Member) -> None:
    await cluster.sql(writer, "CREATE ROLE repl LOGIN REPLICATION PASSWORD 'repl'")


async def test_who_takes_a_members_name_again_and_again_loses_the_right_to_replicate(tmp_path: Path) -> None:
    """Each time it counts until it is seen: in a loop it would count nearly always."""
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await replicator(cluster, first)
        name = slot_of(await second.observe())
        await cluster.order(StopOrder, second, Acknowledged)
        said = ""
        async with asyncio.timeout(DEADLINE_S):
            while "permission denied" not in said:
                who = {"user": "repl", "password": "repl", "slot": name, "name": name}
                async with receiving(tmp_path / "wal", first, **who) as client:
                    said = await ended(client)
        await first.until(lambda o: any('role "repl"' in text and "REPLICATION" in text for text in o.repairs))


async def test_who_holds_a_members_slot_under_another_name_is_ended(tmp_path: Path) -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await replicator(cluster, first)
        slot = slot_of(await second.observe())
        await cluster.order(StopOrder, second, Acknowledged)
        async with receiving(tmp_path / "wal", first, user="repl", password="repl", slot=slot, name="mine") as client:
            assert "terminating connection" in await ended(client)


async def test_who_came_in_by_a_password_that_was_put_right_does_not_stay(tmp_path: Path) -> None:
    """Name, slot and role are a member's; its acknowledgements released commits that no member had."""
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        slot = slot_of(await second.observe())
        await cluster.order(StopOrder, second, Acknowledged)
        async with session(cluster, first, synchronous_commit="local") as connection:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    await connection.execute("ALTER ROLE endpointd_replication PASSWORD 'x'")
                    who = {"user": "endpointd_replication", "password": "x", "slot": slot, "name": slot}
                    async with receiving(tmp_path / "wal", first, **who) as client:
                        said = await ended(client)
                    if "terminating connection" in said:
                        break
                    assert "authentication failed" in said, said  # it was put right before anybody came in
        await first.until(lambda o: any("another password" in text for text in o.repairs))
