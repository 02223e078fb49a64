"""Commits that would not be covered by the promise: refused where they can be, reported where they cannot, on real servers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import psycopg
import pytest

from pgtopology.desired import DesiredSettings
from pgtopology.document import Durability
from testkit.feedserver import feed_server
from tests.endpointd.conftest import Duo, Servers, Stage
from tests.endpointd.proxies import proxy
from tests.endpointd.test_failover import connect, standing
from tests.endpointd.test_workers import until_asleep


@pytest.mark.parametrize(
    "words",
    [
        {"options": "-c synchronous_commit=off"},
        {"options": "--synchronous-commit=local"},
        {"options": "-E -csynchronous_commit=remote_write"},
        {"options": "-c synchronous_commit=remote_apply"},
        {"options": "-c client_min_messages=error"},
    ],
)
async def test_relaxed_commits_are_refused_at_the_writers_door_before_a_server_is_dialled(stage: Stage, words: Any) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"cannot be set to .* at the writer of this cluster") as caught:
        await connect(stage.proxy.writer_port, **words)
    assert "HINT" in str(caught.value)
    assert await stage.proxy.metric("endpointd_refusals_total", endpoint="writer", sqlstate="22023") == 1
    assert await stage.proxy.metric("endpointd_dial_seconds_count", node="n1") == 0
    # On a replica nothing is committed.
    await (await connect(stage.proxy.reader_port, **words)).close()


async def test_relaxed_commits_by_startup_parameter(stage: Stage) -> None:
    where = {"host": "127.0.0.1", "port": stage.proxy.writer_port, "user": "postgres", "database": "postgres"}
    for value in ("off", "remote_apply"):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="cannot be set"):
            await asyncpg.connect(**where, server_settings={"synchronous_commit": value})
    connection = await asyncpg.connect(**where, server_settings={"synchronous_commit": "on"})
    assert await connection.fetchval("show synchronous_commit") == "on"
    await connection.close()


async def test_a_reader_that_falls_back_to_the_writer_may_not_relax_commits_either(servers: Servers, tmp_path: Path) -> None:
    topology = servers.document()
    alone = msgspec.structs.replace(topology, members=topology.members[:1])
    async with feed_server(alone) as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        await running.wait_for_health(status="serving")
        with pytest.raises(psycopg.OperationalError, match="cannot be set"):
            await connect(running.reader_port, options="-c synchronous_commit=off")
        await (await connect(running.reader_port)).close()


async def test_what_an_operator_allows_is_counted_and_reported(servers: Servers, tmp_path: Path) -> None:
    topology = msgspec.structs.replace(servers.document(), desired=DesiredSettings(relaxed_commits=True))
    async with feed_server(topology) as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        await running.wait_for_health(status="serving")
        session = await connect(running.writer_port, options="-c synchronous_commit=off")
        await feed.wait_for_report(sessions=1, relaxed_sessions=1)
        await session.close()
        await feed.wait_for_report(sessions=0, relaxed_sessions=0)


async def test_without_a_quorum_nothing_is_promised(servers: Servers, tmp_path: Path) -> None:
    topology = msgspec.structs.replace(servers.document(), durability=Durability.ASYNC)
    async with feed_server(topology) as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        await running.wait_for_health(status="serving")
        session = await connect(running.writer_port, options="-c synchronous_commit=off")
        assert (await feed.wait_for_report(sessions=1)).relaxed_sessions == 0
        await session.close()


async def test_a_session_that_changes_it_later_is_reported_and_logged_once(stage: Stage) -> None:
    innocent = await connect(stage.proxy.writer_port)
    await innocent.execute("show synchronous_commit")
    await innocent.execute("set synchronous_commit = on")
    simple = await connect(stage.proxy.writer_port, application_name="batch", dbname="postgres")
    await simple.execute("SET SESSION Synchronous_Commit TO OFF")
    await simple.execute("set synchronous_commit = local")
    assert (await stage.feed.wait_for_report(sessions=2)).relaxed_sessions == 1
    extended = await connect(stage.proxy.writer_port)
    # Longer than what the proxy reads at once; the word stands near the beginning of the message.
    padding = "x" * 200_000
    await extended.execute("select set_config('synchronous_commit', %s, false), length(%s)", ("off", padding))
    assert (await stage.feed.wait_for_report(sessions=3)).relaxed_sessions == 2
    assert await stage.proxy.metric("endpointd_relaxed_statements_total", setting="synchronous_commit") == 2
    assert await stage.proxy.metric("endpointd_relaxed_sessions") == 2
    text = stage.proxy.log.read_text()
    assert text.count("may weaken what its commits promise") == 2
    assert "application_name=batch" in text
    assert text.count("user=postgres") >= 2
    for session in (innocent, simple, extended):
        await session.close()


async def test_a_word_cut_by_chunks_is_found_and_the_one_in_copied_rows_is_not(stage: Stage) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.proxy.writer_port)
    packet = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
    writer.write((len(packet) + 4).to_bytes(4, "big") + packet)
    await reader.readuntil(b"Z\0\0\0\5I")

    async def say(kind: bytes, payload: bytes, *, cut: bool = False) -> None:
        data = kind + (len(payload) + 4).to_bytes(4, "big") + payload
        for chunk in [data[i : i + 1] for i in range(len(data))] if cut else [data]:
            writer.write(chunk)
            await asyncio.sleep(0)

    await say(b"Q", b"create temp table c (t text); copy c from stdin\0")
    await reader.readuntil(b"G")
    await say(b"d", b"set synchronous_commit = off\n")
    await say(b"c", b"")
    await reader.readuntil(b"Z\0\0\0\5I")
    assert (await stage.feed.wait_for_report(sessions=1)).relaxed_sessions == 0
    await say(b"Q", b"set synchronous_commit = off\0", cut=True)
    await reader.readuntil(b"Z\0\0\0\5I")
    await stage.feed.wait_for_report(sessions=1, relaxed_sessions=1)
    writer.close()


async def hung(duo: Duo, pid: int) -> None:
    """Wait until the commit of the server process *pid* waits for a copy that nobody makes."""
    async with asyncio.timeout(10):
        while duo.n1.sql(f"select wait_event from pg_stat_activity where pid = {pid}") != "SyncRep":
            await asyncio.sleep(0.02)


def hang_commits(duo: Duo) -> None:
    duo.n1.sql("create table s15 (i int)")
    duo.n1.sql("alter system set synchronous_standby_names = 'nobody'")
    duo.n1.sql("select pg_reload_conf()")


@pytest.mark.parametrize("how", ["insert", "commit", "pipeline"])
async def test_a_cancelled_commit_is_not_acknowledged_to_a_client_that_hides_warnings(
    duo: Duo, tmp_path: Path, how: str
) -> None:
    """S15 with client_min_messages = error: the server says nothing but success, and the proxy does not believe it."""
    hang_commits(duo)
    async with standing(duo, tmp_path) as (_, running):
        session = await connect(running.writer_port)
        await session.execute("set client_min_messages = error")
        if how == "commit":
            await session.execute("begin; insert into s15 values (1)")
            committing = asyncio.create_task(session.execute("commit"))
        elif how == "insert":
            committing = asyncio.create_task(session.execute("insert into s15 values (1)"))
        else:
            # By the extended protocol, where the success of the statement is told before it is committed.
            committing = asyncio.create_task(session.execute("insert into s15 values (%s)", (1,)))
        await hung(duo, session.info.backend_pid)
        await session.cancel_safe()
        with pytest.raises(psycopg.errors.TransactionResolutionUnknown, match="may not have been confirmed by the quorum"):
            await committing
        assert duo.n1.sql("select count(*) from s15") == "1"


async def test_a_client_that_hides_warnings_can_still_cancel_what_is_no_commit(stage: Stage) -> None:
    session, watcher = await connect(stage.proxy.writer_port), await connect(stage.proxy.writer_port)
    await session.execute("set client_min_messages = error")
    for _ in range(3):
        sleeping = asyncio.create_task(session.execute("select pg_sleep(30)"))
        await until_asleep(session, watcher)  # a server that has not begun yet takes no notice
        await session.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await sleeping
    await session.cancel_safe()  # while idle
    await session.execute("select 1")
    await session.close()
    await watcher.close()
