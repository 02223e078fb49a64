"""Faults beyond a clean kill: frozen processes, a killed backend, noded and PostgreSQL at once; no acknowledged row is lost."""

from __future__ import annotations

import pytest

from testkit.cluster import Cluster
from testkit.injuries import INJURIES, Part, frozen, inflict
from testkit.ledger import Recorder

OUTAGE_MAX_S = 15.0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("injury", ["kill-node", "kill-session", "freeze-node", "freeze-postmaster", "freeze-walsenders"])
def test_the_writer_moves_and_nothing_is_lost(cluster: Cluster, injury: str) -> None:
    before = cluster.status()
    assert before.writer is not None
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        struck = inflict(INJURIES[injury], cluster, cluster.writer())
        try:
            cluster.wait_for_epoch_after(before.epoch)
            recorder.wait_for_more(50, timeout_s=30.0)
        finally:
            struck.undo()
        assert recorder.outage_s(struck.at) < OUTAGE_MAX_S
        cluster.wait_healthy()
        recorder.wait_for_more(50, timeout_s=30.0)
    verdict = recorder.check(dsn)
    assert verdict.is_clean, f"{verdict}; lost {verdict.lost[:10]}, fabricated {verdict.fabricated[:10]}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("part", [Part.NODED, Part.MANAGER])
def test_what_is_not_postgresql_may_freeze_without_a_failover(cluster: Cluster, part: Part) -> None:
    before = cluster.status()
    assert before.writer is not None
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        with frozen(cluster, part, cluster.writer()):
            # At four clients and some milliseconds a row this is several times the silence that would be a failure.
            recorder.wait_for_more(1500, timeout_s=60.0)
        after = cluster.wait_healthy()
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    assert recorder.errors == []
    assert recorder.check(dsn).is_clean


@pytest.mark.timeout(240)
def test_a_frozen_replica_does_not_stop_writes(cluster: Cluster) -> None:
    before = cluster.status()
    replica = next(node.name for node in before.nodes if node.name != before.writer)
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        with frozen(cluster, Part.NODE, cluster.node(replica)):
            cluster.wait(lambda status: cluster.node(replica, status).state == "unreachable", f"without {replica}")
            recorder.wait_for_more(500, timeout_s=60.0)
        after = cluster.wait_healthy()
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    assert recorder.check(dsn).is_clean
