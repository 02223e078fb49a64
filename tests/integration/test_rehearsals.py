"""What operators see and rehearse: drills, the record of a real failover, the product's own verification, and the gauges."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request

import psycopg
import pytest

from endpointctl.verifying.shadow import SCHEMA
from pgtopology.codec import decode
from pgtopology.drill import Drill
from pgtopology.flight import Flight
from pgtopology.lsn import parse_lsn
from testkit.cluster import ROOT, Cluster
from tests.terminal import INTERRUPTIBLE


def metrics(cluster: Cluster) -> dict[str, float]:
    """Return what the manager tells Prometheus, by name and labels."""
    request = urllib.request.Request(f"{cluster.api}/metrics", headers={"Authorization": f"Bearer {cluster.token}"})  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http to 127.0.0.1
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line and not line.startswith("#")}


def wait_ready(cluster: Cluster) -> Drill:
    """Return the first drill in which every candidate is ready: slots on standbys take a moment after a cluster is made."""
    deadline = time.monotonic() + 60.0
    while True:
        told = decode(cluster.ctl("drill", "--json").stdout, Drill)
        if all(node.ready for node in told.nodes):
            return told
        assert time.monotonic() < deadline, told.nodes
        time.sleep(0.2)


def has_schema(cluster: Cluster) -> bool:
    with psycopg.connect(cluster.dsn("writer")) as connection:
        return connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (SCHEMA,)).fetchone() is not None


def test_a_drill_names_the_heir_and_changes_nothing(cluster: Cluster) -> None:
    before = cluster.status()
    told = wait_ready(cluster)
    assert (told.lose, told.is_writer, told.possible) == (before.writer, True, True)
    assert told.winner in {node.name for node in before.nodes if node.name != before.writer}
    assert (told.n, told.w, told.needed, told.promisable) == (3, 2, 2, 2)
    after = cluster.status()
    assert (after.epoch, after.writer) == (before.epoch, before.writer)
    said = cluster.ctl("drill").stdout
    assert "would become the writer" in said


def test_a_drill_sees_who_holds_a_snapshot_on_a_candidate(cluster: Cluster) -> None:
    standby = next(node.name for node in cluster.status().nodes if node.state == "streaming")
    with psycopg.connect(cluster.dsn(standby), application_name="report") as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT pg_sleep(6)")
        told = decode(cluster.ctl("drill", "--json").stdout, Drill)
    node = next(node for node in told.nodes if node.node == standby)
    assert any("report" in note and "snapshot" in note for note in node.notes), node


def test_a_drill_says_when_a_failover_would_be_impossible(cluster: Cluster) -> None:
    standby = next(node.name for node in cluster.status().nodes if node.state == "streaming")
    cluster.stop_node(standby)
    try:
        seen = cluster.wait(lambda status: status.at_risk is not None and status.voters.promisable == 2, "seen without it")
        assert (seen.state, seen.survives.server_crash, seen.voters.promisable_without_writer) == ("at_risk", False, 1)
        done = cluster.ctl("drill", check=False)
        assert done.returncode == 1
        assert "no failover would be possible" in done.stdout
        assert standby in done.stdout
        gauges = metrics(cluster)
        assert (gauges["endpointd_voters_promisable"], gauges["endpointd_failover_possible"]) == (2.0, 0.0)
    finally:
        cluster.start_node(standby)
    assert cluster.ctl("drill", "--lose", "n9", check=False).returncode == 2
    cluster.wait_healthy()


def test_the_record_of_a_killed_writer_accounts_for_every_millisecond(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    cluster.kill_postgres(before.writer)
    after = cluster.wait_for_epoch_after(before.epoch)
    assert after.writer is not None
    cluster.wait_healthy()
    flight = decode(cluster.ctl("explain", "--failover", str(after.epoch), "--json").stdout, Flight)
    assert (flight.kind, flight.from_node, flight.writer) == ("failover", before.writer, after.writer)
    assert flight.ended
    assert flight.outage_ms is not None
    assert sum(phase.ms for phase in flight.phases) == pytest.approx(flight.outage_ms, abs=5)
    opened = flight.marks["opened"]
    assert opened - flight.marks["good"] == pytest.approx(flight.outage_ms, abs=5)
    assert after.last_failover is not None
    assert after.last_failover.outage_ms == pytest.approx(flight.outage_ms, abs=5), "one meaning everywhere"
    assert after.last_failover.since_detection_ms == pytest.approx(opened, abs=5)
    assert (after.last_failover.kind, flight.outage_kind) == ("failover", "failover")
    assert flight.rejoined_ms is not None

    election = flight.elections[-1]
    assert election.elected == after.writer
    assert (election.n, election.w, election.needed) == (3, 2, 2)
    assert election.counted >= 2
    newest = {promise.node: promise for promise in flight.promises if promise.promised == election.epoch and promise.lsn}
    reach = {name: parse_lsn(promise.lsn or "") for name, promise in newest.items()}
    counted = {vote.node for vote in election.votes if vote.counts}
    assert all(reach[after.writer] >= reach[name] for name in counted), reach
    assert set(election.passed_over) == {"n1", "n2", "n3"} - {after.writer}

    assert any(order.order == "promote" and order.node == after.writer and order.outcome == "done" for order in flight.orders)
    assert all(order.answered_ms is None or order.answered_ms >= order.at_ms for order in flight.orders)
    written = [write for write in flight.writes if write.outcome == "written"]
    assert [write.revision for write in written] == sorted({write.revision for write in written})
    assert {"detected", "published", "elected", "opened", "rejoined"} <= {snapshot.step for snapshot in flight.snapshots}

    said = cluster.ctl("explain", "--failover").stdout
    assert "first quorum commit" in said
    assert f'"{after.writer}" was elected' in said
    listed = json.loads(cluster.get("/v1/failovers"))["failovers"]
    assert listed[0]["last_epoch"] == after.epoch
    told = metrics(cluster)
    assert told["endpointd_failover_possible"] == 1.0
    assert told["endpointd_cluster_epoch"] == after.epoch
    assert after.last_failover.outage_ms is not None
    assert told["endpointd_last_failover_outage_seconds"] == after.last_failover.outage_ms / 1000
    assert any(name.startswith("endpointd_failover_phase_seconds_count") and value >= 1 for name, value in told.items())
    drill = decode(cluster.ctl("drill", "--json").stdout, Drill)
    assert drill.expected is not None
    assert drill.expected.worst_ms >= drill.expected.p50_ms > 0


def test_the_story_of_a_failover_is_short(cluster: Cluster) -> None:
    log = cluster.data_dir / "logs" / "cluster_manager.log"
    before = cluster.status()
    assert before.writer is not None
    size = log.stat().st_size
    cluster.kill_postgres(before.writer)
    cluster.wait_for_epoch_after(before.epoch)
    cluster.wait_healthy()
    lines = log.read_bytes()[size:].decode().splitlines()
    story = [line for line in lines if "failover " in line]
    steps = ["detected", "published", "recruited", "elected", "promoted", "opened", "rejoined"]
    assert [step for step in steps if any(f"failover {step}" in line for line in story)] == steps, "\n".join(lines)
    assert len(story) <= 12, "\n".join(story)


def test_verify_with_a_switchover_finds_the_word_kept_and_leaves_no_trace(cluster: Cluster) -> None:
    before = cluster.status()
    done = cluster.ctl("verify", "--seconds", "6", "--switchover", "--json")
    report = json.loads(done.stdout)
    assert report["ok"], report
    assert report["lost"] == 0
    assert report["acknowledged"] > 50
    assert report["reads_through_reader"] > 0
    assert report["rto_ms"] > 0
    assert cluster.status().epoch > before.epoch
    assert not has_schema(cluster)


def test_verify_with_a_killed_writer_finds_the_word_kept(cluster: Cluster) -> None:
    before = cluster.status()
    said = cluster.ctl("verify", "--seconds", "6", "--failover", "--yes").stdout
    assert said.startswith("kept its word"), said
    assert "RPO  0 acknowledged" in said
    assert cluster.status().epoch > before.epoch
    assert not has_schema(cluster)


def test_verify_leaves_a_schema_alone_that_is_not_its_own(cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        connection.execute(f"CREATE TABLE {SCHEMA}.precious ()")
        try:
            done = cluster.ctl("verify", "--seconds", "1", check=False)
            assert done.returncode == 1
            assert "did not make" in done.stderr
            assert connection.execute(f"SELECT count(*) FROM {SCHEMA}.precious").fetchone() == (0,)
        finally:
            connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def test_verify_that_is_interrupted_leaves_no_trace(cluster: Cluster) -> None:
    verifying = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "verify", "--seconds", "100"],
        cwd=ROOT,
        env=cluster.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60.0
        while not has_schema(cluster):
            assert verifying.poll() is None, verifying.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        verifying.send_signal(signal.SIGINT)
        _, said = verifying.communicate(timeout=60)
    finally:
        verifying.kill()
    assert (verifying.returncode, said) == (1, "endpointctl: interrupted\n")
    assert not has_schema(cluster)


def test_history_shows_the_writers_with_where_they_began(cluster: Cluster) -> None:
    told = json.loads(cluster.ctl("history", "--json").stdout)
    status = cluster.status()
    newest = told["writers"][-1]
    assert (newest["node"], newest["epoch"], newest["timeline"]) == (status.writer, status.epoch, status.timeline)
    assert newest["opened"]
    parse_lsn(newest["fork_lsn"])
    assert newest["fork_lsn"] in cluster.ctl("history").stdout
