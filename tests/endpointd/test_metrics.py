"""What GET /metrics says, read by the parser that a monitoring system would use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.endpointd.conftest import Duo, Stage
from tests.endpointd.proxies import Proxy
from tests.endpointd.test_failover import connect, held, sqlstate_of, standing

WORDS = {
    "kind",
    "listener",
    "endpoint",
    "node",
    "reason",
    "sqlstate",
    "direction",
    "origin",
    "known",
    "manager",
    "setting",
    "outcome",
    "le",
}


async def test_every_family_is_named_and_explained_as_it_is_custom(stage: Stage) -> None:
    await (await connect(stage.proxy.writer_port)).close()
    text = (await stage.proxy.get("/metrics")).decode()
    ours = [family for family in text_string_to_metric_families(text) if family.name.startswith("endpointd_")]
    assert len(ours) > 20
    for family in ours:
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_kb")), family.name
        for sample in family.samples:
            assert set(sample.labels) <= WORDS, sample
            if family.type == "counter":
                assert sample.name.endswith(("_total", "_created")), sample
    assert len({family.name for family in ours}) == len(ours)


async def test_sessions_bytes_dials_and_logins_are_counted_while_they_live(stage: Stage) -> None:
    running = stage.proxy
    writing = await connect(running.writer_port)
    reading = [await connect(running.reader_port) for _ in range(4)]
    await reading[0].execute("select repeat('x', 1000000)")
    assert await running.metric("endpointd_sessions", endpoint="writer", node="n1") == 1
    assert [await running.metric("endpointd_sessions", endpoint="reader", node=node) for node in ("n2", "n3")] == [2, 2]
    assert await running.metric("endpointd_bytes_total", endpoint="reader", direction="to_client") > 1_000_000
    before = await running.metric("endpointd_bytes_total", endpoint="reader", direction="to_server")
    assert before > 0
    for session in (writing, *reading):
        await session.close()
    await running.wait_for_health(sessions=0)
    assert await running.metric("endpointd_sessions", endpoint="writer", node="n1") == 0
    assert await running.metric("endpointd_bytes_total", endpoint="reader", direction="to_server") > before
    assert await running.metric("endpointd_connections_total", endpoint="reader") == 4
    assert await running.metric("endpointd_login_seconds_count", endpoint="reader") == 4
    assert await running.metric("endpointd_dial_seconds_count", node="n1") == 1
    assert await running.metric("endpointd_epoch") == 1
    assert await running.metric("endpointd_writer_vouched") == 1
    assert 0 < await running.metric("endpointd_writer_vouched_seconds") <= 0.6
    assert await running.metric("endpointd_feed_age_seconds", manager=f"http://127.0.0.1:{stage.feed.port}") < 5


async def test_waiting_refusals_and_evictions_are_counted(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path, limits="hold_s = 0.5") as (feed, running):
        session = await connect(running.writer_port)
        feed.publish(duo.document(epoch=2, revision=2))
        await feed.wait_for_report(epoch=2, sessions=0)
        assert await sqlstate_of(session) == "57P01"
        waiting = asyncio.create_task(connect(running.writer_port))
        await held(running, 1)
        assert await running.metric("endpointd_held", endpoint="writer") == 1
        with pytest.raises(psycopg.OperationalError, match="no primary is available"):
            await waiting
        await running.wait_for_health(sessions=0)
        assert await running.metric("endpointd_held", endpoint="writer") == 0
        assert await count(running, "endpointd_hold_seconds_count") == 1
        assert await count(running, "endpointd_hold_seconds_bucket", le="0.25") == 0
        assert await count(running, "endpointd_startup_failures_total", reason="no_primary") == 1
        assert await count(running, "endpointd_evictions_total", reason="primary_changed") == 1
        assert await count(running, "endpointd_refusals_total", sqlstate="57P01") == 1
        assert await count(running, "endpointd_refusals_total", sqlstate="57P03") == 1
        assert "kind=no_primary" in running.log.read_text()
        assert "kind=primary_changed" in running.log.read_text()


async def count(running: Proxy, name: str, **labels: str) -> float:
    return await running.metric(name, endpoint="writer", **labels)
