"""How many come in, what a full server says, reloading the limits, and storms of cancel requests; on real servers."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import psycopg
import pytest

from pgwire import startup
from pgwire.messages import BackendKey
from testkit.feedserver import feed_server
from tests.endpointd.conftest import Duo, Servers, Stage
from tests.endpointd.proxies import proxy
from tests.endpointd.servers import PASSWORD
from tests.endpointd.test_doors import raw
from tests.endpointd.test_failover import Connection, connect, doing, port_of, sqlstate_of, standing


async def test_users_and_databases_have_limits_of_their_own(servers: Servers, tmp_path: Path) -> None:
    limits = "per_user_max = 2\nper_database_max = 3"
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], limits=limits) as running:
        await running.wait_for_health(status="serving")
        here = [await connect(running.writer_port), await connect(running.reader_port)]
        with pytest.raises(psycopg.OperationalError, match='FATAL:  too many connections for role "postgres"'):
            await connect(running.writer_port)
        here.append(await connect(running.reader_port, user="scram", password=PASSWORD))
        with pytest.raises(psycopg.OperationalError, match='FATAL:  too many connections for database "postgres"'):
            await connect(running.reader_port, user="scram", password=PASSWORD)
        await here.pop(0).close()
        async with asyncio.timeout(10):
            while (await running.health()).sessions > 2:
                await asyncio.sleep(0.01)
        here.append(await connect(running.writer_port))
        for session in here:
            await session.close()
        assert await running.metric("endpointd_refusals_total", endpoint="writer", sqlstate="53300") == 1


async def test_strangers_take_no_place_of_the_user_they_name(servers: Servers, tmp_path: Path) -> None:
    async with (
        feed_server(servers.document()) as feed,
        proxy(tmp_path / "proxy", [feed.port], limits="per_user_max = 1") as running,
        raw(running.writer_port) as (reader, writer),
    ):
        await running.wait_for_health(status="serving")
        writer.write(startup.encode_startup(startup.make_startup("scram", "postgres")))
        async with asyncio.timeout(10):
            assert await reader.readexactly(1) == b"R"
        session = await connect(running.writer_port, user="scram", password=PASSWORD)
        with pytest.raises(psycopg.OperationalError, match='FATAL:  too many connections for role "scram"'):
            await connect(running.writer_port, user="scram", password=PASSWORD)
        assert (await running.health()).sessions == 2
        await session.close()


async def test_a_full_server_speaks_for_itself_and_is_not_taken_for_dead(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        inside: list[Connection] = []
        own_words = ""
        while not own_words:
            try:
                inside.append(await connect(duo.n1.port, user="scram", password=PASSWORD))
            except psycopg.OperationalError as error:
                own_words = str(error).split("FATAL:")[-1].strip()
        assert "remaining connection slots" in own_words or "too many clients" in own_words
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError) as caught:
                await connect(running.writer_port, user="scram", password=PASSWORD)
            assert str(caught.value).split("FATAL:")[-1].strip() == own_words
        report = await feed.wait_for_report(revision=1)
        assert {health.node: health.answers for health in report.backends} == {"n1": True}
        assert await running.metric("endpointd_startup_failures_total", endpoint="writer", reason="server_refused") == 3
        assert await running.metric("endpointd_refusals_total", endpoint="writer", sqlstate="53300") == 0
        for session in inside:
            await session.close()
        assert await port_of(await connect(running.writer_port, user="scram", password=PASSWORD)) == duo.n1.port


async def test_limits_fallback_and_level_change_on_sighup_and_nobody_is_thrown_out(servers: Servers, tmp_path: Path) -> None:
    topology = servers.document()
    async with (
        feed_server(topology) as feed,
        proxy(tmp_path / "proxy", [feed.port], limits="sessions_max = 3\nhold_s = 0.5", level="info") as running,
    ):
        await running.wait_for_health(status="serving")
        session = await connect(running.writer_port)
        await session.execute("create temp table kept as select 1 as i")
        running.reload(("sessions_max = 3", "sessions_max = 1"), ('level = "info"', 'level = "debug"'))
        await running.wait_for_log("settings read anew")
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            await connect(running.writer_port)
        running.reload(
            ("sessions_max = 1", "sessions_max = 5"), ("fallback_to_writer = true", "fallback_to_writer = false"),
            ('name = "proxy-1"', 'name = "proxy-2"'),
        )  # fmt: skip
        await running.wait_for_log("settings read anew", times=2)
        await running.wait_for_log("needs_restart=[proxy]")
        assert (await running.health()).name == "proxy-1"
        other = await connect(running.writer_port)
        await other.close()
        await running.wait_for_log("session ended")  # at level debug
        running.reload(("sessions_max = 5", "sessions_max = 0"))
        await running.wait_for_log("reload failed, the former settings stay")
        text = running.log.read_text()
        assert "[limits].sessions_max: expected an integer from 1 to 1000000, got 0" in text
        assert "Traceback" not in text
        assert await running.metric("endpointd_reloads_total", outcome="done") == 2
        assert await running.metric("endpointd_reloads_total", outcome="failed") == 1
        await (await connect(running.writer_port)).close()
        row = await (await session.execute("select i from kept")).fetchone()
        assert row == (1,)
        await session.close()


async def test_a_storm_of_cancel_requests_is_survived_and_stops_what_it_means(stage: Stage) -> None:
    session = await connect(stage.proxy.writer_port)
    sleeping = asyncio.create_task(sqlstate_of(session, "select pg_sleep(60)"))
    await doing(stage.proxy, "busy")
    bystander = await connect(stage.proxy.reader_port)

    async def cancel(packet: bytes) -> None:
        async with raw(stage.proxy.writer_port) as (reader, writer):
            writer.write(packet)
            async with asyncio.timeout(30):
                assert await reader.read(-1) == b""

    stranger = startup.encode_cancel(BackendKey(session.info.backend_pid, b"none"))
    await asyncio.gather(*(cancel(stranger) for _ in range(200)))
    assert not sleeping.done()
    await session.cancel_safe()
    assert await sleeping == "57014"
    # Its own key, over and over, while it is idle.
    with contextlib.suppress(psycopg.OperationalError):
        await asyncio.gather(*(session.cancel_safe(timeout=30) for _ in range(100)))
    await (await session.execute("select 1")).fetchone()
    assert await (await bystander.execute("select 1")).fetchone() == (1,)
    assert await stage.proxy.metric("endpointd_cancels_total", known="no") == 200
    assert await stage.proxy.metric("endpointd_bugs_total") == 0
    await session.close()
    await bystander.close()


async def test_the_key_of_a_session_that_a_failover_ended_leads_nowhere(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        session = await connect(running.writer_port)
        feed.publish(duo.document(epoch=2, revision=2))
        await feed.wait_for_report(epoch=2, sessions=0)
        await asyncio.to_thread(duo.n2.promote)
        feed.publish(duo.document(epoch=2, revision=3, writer="n2"))
        fresh = await connect(running.writer_port)
        sleeping = asyncio.create_task(fresh.execute("select pg_sleep(2)"))
        await doing(running, "busy")
        await session.cancel_safe()
        assert await running.metric("endpointd_cancels_total", known="no") == 1
        await sleeping
        await fresh.close()
