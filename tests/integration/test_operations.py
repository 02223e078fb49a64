"""What operators do and what goes wrong around them: ordered failovers, lost nodes, a lost manager, a restart of the whole."""

from __future__ import annotations

import json
import os
import pwd
import socket
import time
from collections.abc import Callable

import psycopg
import pytest

from pgtopology.codec import decode
from pgtopology.status import Status
from testkit.cluster import Cluster
from testkit.injuries import Part, frozen
from testkit.ledger import Recorder

STEPS = ["detected", "published", "recruited", "elected", "promoted", "opened"]


def test_status_as_json_has_the_documented_fields(cluster: Cluster) -> None:
    text = cluster.ctl("status", "--json").stdout
    status = decode(text, Status)
    assert (status.cluster, status.state, status.durability) == ("local", "healthy", "quorum")
    assert (status.voters.names, status.voters.w, status.voters.needed) == (("n1", "n2", "n3"), 2, 2)
    assert sorted(node.zone for node in status.nodes) == ["az1", "az2", "az3"]
    assert sorted(node.state for node in status.nodes) == ["running", "streaming", "streaming"]
    assert all(node.pid for node in status.nodes)
    assert not any(node.pending_restart for node in status.nodes)
    assert [proxy.name for proxy in status.proxies] == ["proxy-1"]
    fields = set(json.loads(text))
    assert fields >= {"format_version", "revision", "epoch", "timeline", "writer", "diagnosis", "reason", "paused", "at_risk"}
    assert fields >= {"transition", "manager", "last_failover", "endpoints", "versions"}


def test_an_ordered_failover_goes_where_it_was_told(cluster: Cluster) -> None:
    before = cluster.status()
    target = next(node.name for node in before.nodes if node.name != before.writer)
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        said = cluster.ctl("failover", "--to", target).stdout
        recorder.wait_for_more(50, timeout_s=30.0)
    assert f"-> {target}" in said
    assert cluster.status().writer == target
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SHOW port").fetchone()
    assert row == (str(cluster.node(target).port),)
    cluster.wait_healthy()


def test_the_steps_of_a_failover_are_told_with_their_times(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    last = max((int(str(event["sequence"])) for event in cluster.events()), default=0)
    cluster.kill_postgres(before.writer)
    after = cluster.wait_for_epoch_after(before.epoch)
    cluster.wait_healthy()
    lines = cluster.ctl("events", "--json", "--after", str(last)).stdout.splitlines()
    events = [json.loads(line) for line in lines]
    steps = {
        event["kind"].removeprefix("failover."): event["elapsed_ms"]
        for event in events
        if event["kind"].startswith("failover.") and event["epoch"] == after.epoch
    }
    assert set(STEPS) <= set(steps), f"steps: {steps}"
    times = [steps[name] for name in STEPS]
    assert times == sorted(times)
    assert times[0] == 0
    assert "rejoined" in steps
    assert cluster.status().last_failover is not None


def test_an_impossible_failover_is_refused_with_a_reason(cluster: Cluster) -> None:
    done = cluster.ctl("failover", "--to", "n9", check=False)
    assert done.returncode == 2
    assert "n9" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_pause_holds_failovers_back_until_it_ends(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    cluster.ctl("pause")
    try:
        cluster.wait(lambda status: status.paused, "paused")
        cluster.kill_postgres(before.writer)
        cluster.wait(lambda status: cluster.node(str(before.writer), status).state == "stopped", "seen stopped")
        assert cluster.status().epoch == before.epoch
    finally:
        cluster.ctl("resume")
    cluster.wait_for_epoch_after(before.epoch)
    cluster.wait_healthy()


def test_what_operators_order_is_told_with_who_and_how(cluster: Cluster) -> None:
    last = max((int(str(event["sequence"])) for event in cluster.events()), default=0)
    writer = str(cluster.status().writer)
    standby = next(node.name for node in cluster.status().nodes if node.name != writer)
    cluster.ctl("pause")
    cluster.ctl("resume")
    cluster.ctl("config", "set", "work_mem=6MB", "--wait")
    cluster.ctl("config", "check", "work_mem=7MB")
    cluster.ctl("switchover", "--dry-run")
    cluster.ctl("node", "restart", standby)
    assert cluster.ctl("node", "stop", writer, check=False).returncode == 1
    assert cluster.ctl("node", "remove", standby, check=False).returncode == 1
    cluster.ctl("config", "set", "--reset", "work_mem", "--wait")
    lines = cluster.ctl("events", "--json", "--after", str(last), "--kind", "operator").stdout.splitlines()
    told = [json.loads(line) for line in lines]
    who = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"
    assert {event["fields"]["operator"].split(" (sudo")[0] for event in told} == {who}
    ordered = [
        (event["kind"], event["fields"]["command"].split("endpointctl ")[1], event["fields"]["accepted"]) for event in told
    ]
    assert ordered == [
        ("operator.pause", "pause", True),
        ("operator.resume", "resume", True),
        ("operator.config", "config set work_mem=6MB --wait", True),
        ("operator.node", f"node restart {standby}", True),
        ("operator.node", f"node stop {writer}", False),
        ("operator.node", f"node remove {standby}", False),
        ("operator.config", "config set --reset work_mem --wait", True),
    ]
    story = cluster.ctl("events", "--after", str(last)).stdout
    assert f"{who}: endpointctl pause" in story or f"{who} (sudo" in story
    assert "plan" not in {line.split()[4] for line in story.splitlines()}
    assert " plan " in cluster.ctl("events", "--all", "--after", str(last)).stdout
    cluster.wait_healthy()


@pytest.mark.timeout(240)
def test_a_manager_killed_in_the_middle_of_a_failover_is_followed_by_one_that_completes_it(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        cluster.kill_postgres(before.writer)
        cluster.wait(lambda status: status.epoch > before.epoch, "in transition", timeout_s=10.0)
        cluster.kill("cluster_manager")
        cluster.wait_for_epoch_after(before.epoch)
        recorder.wait_for_more(50, timeout_s=30.0)
    assert recorder.check(dsn).is_clean
    cluster.wait_healthy()


@pytest.mark.timeout(240)
def test_supervisor_and_manager_killed_in_the_middle_of_a_failover_and_up_again_completes_it(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        cluster.kill("supervisor")
        cluster.kill_postgres(before.writer)
        cluster.wait(lambda status: status.epoch > before.epoch, "in transition", timeout_s=10.0)
        cluster.kill("cluster_manager")
        cluster.up()
        after = cluster.wait_for_epoch_after(before.epoch)
        recorder.wait_for_more(50, timeout_s=30.0)
    assert recorder.check(dsn).is_clean
    assert after.epoch > before.epoch
    cluster.wait_healthy()


@pytest.mark.timeout(240)
def test_writes_go_on_while_the_manager_is_away(cluster: Cluster) -> None:
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        # The supervisor too: it would end a manager that stands still.
        with frozen(cluster, Part.SUPERVISOR), frozen(cluster, Part.MANAGER):
            recorder.wait_for_more(1000, timeout_s=60.0)
    assert recorder.check(dsn).is_clean
    cluster.wait_healthy()


@pytest.mark.timeout(240)
def test_without_writer_and_one_replica_nothing_is_promoted_and_it_heals(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    first, second = (node.name for node in before.nodes if node.name != before.writer)
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        cluster.stop_node(second)
        cluster.stop_node(before.writer)
        stuck = cluster.wait(lambda status: status.diagnosis == "NO_SAFE_SET", "without a safe set")
        said = f"{stuck.reason} {stuck.at_risk}"
        assert second in said, said
        assert before.writer in said, said
        assert cluster.node(first, stuck).role == "standby"
        acknowledged = recorder.acknowledgements
        cluster.start_node(second)
        after = cluster.wait_for_epoch_after(before.epoch)
        assert after.writer in (first, second)
        recorder.wait_for_more(50, timeout_s=60.0)
        assert recorder.acknowledgements >= acknowledged + 50
        cluster.start_node(before.writer)
        cluster.wait_healthy()
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)


@pytest.mark.versions
@pytest.mark.timeout(240)
def test_without_both_replicas_commits_wait_and_nothing_moves(cluster: Cluster) -> None:
    before = cluster.status()
    replicas = [node.name for node in before.nodes if node.name != before.writer]
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        for name in replicas:
            cluster.stop_node(name)
        missing = cluster.wait(
            lambda status: (
                all(cluster.node(name, status).state in ("stopped", "unreachable") for name in replicas)
                and status.voters.promisable < status.voters.needed
            ),
            "seen without replicas",
        )
        assert missing.state != "healthy"
        said = f"{missing.reason} {missing.at_risk}"
        assert all(name in said for name in replicas), said
        with psycopg.connect(cluster.dsn(str(before.writer)), autocommit=True) as connection:
            connection.execute("SET synchronous_commit = local")
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            row = connection.execute(waiting).fetchone()
        assert row is not None
        assert int(row[0]) > 0, "no commit waits for the quorum"
        for name in replicas:
            cluster.start_node(name)
        cluster.wait_healthy()
        recorder.wait_for_more(50, timeout_s=60.0)
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)


@pytest.mark.timeout(240)
def test_a_killed_noded_and_a_killed_proxy_come_back(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        for program in (before.writer, "endpointd", "cluster_manager"):
            recorder.wait_for_more(25, timeout_s=30.0)
            old = cluster.kill(program)
            cluster.wait(lambda _, name=program, pid=old: _has_another_pid(cluster, name, pid), f"{program} restarted")
            recorder.wait_for_more(25, timeout_s=60.0)
            cluster.wait_healthy()
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)


@pytest.mark.timeout(240)
def test_a_stopped_cluster_comes_back_with_its_data(cluster: Cluster) -> None:
    before = cluster.status()
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(100, timeout_s=30.0)
    cluster.down()
    assert cluster.ctl("status", check=False).returncode == 1
    cluster.up()
    after = cluster.wait_healthy()
    assert after.epoch >= before.epoch
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)
    assert verdict.in_doubt == 0
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(25, timeout_s=30.0)


@pytest.mark.versions
@pytest.mark.timeout(240)
def test_everything_killed_at_once_comes_back_with_its_data(cluster: Cluster) -> None:
    dsn = cluster.dsn("writer")
    recorder = Recorder(dsn)
    with recorder:
        recorder.wait_for_more(100, timeout_s=30.0)
        nodes = cluster.status().nodes
        for program in ("supervisor", "cluster_manager", "endpointd", *(node.name for node in nodes)):
            cluster.kill(program)
        for node in nodes:
            assert node.pid is not None
            cluster.kill_pid(node.pid)
        cluster.up()
        recorder.wait_for_more(50, timeout_s=60.0)
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)


def _has_another_pid(cluster: Cluster, program: str, old: int) -> bool:
    try:
        return cluster.pid_of(program) != old
    except (OSError, ValueError):
        return False


def test_a_cluster_that_was_stopped_and_started_is_no_failover_and_its_outage_is_all_of_it(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    cluster.up()
    before = cluster.wait_healthy()
    cluster.down()
    stopped_at = time.monotonic()
    cluster.up()
    least_ms = (time.monotonic() - stopped_at) * 1000
    after = cluster.wait_healthy()
    assert after.epoch > before.epoch
    last = after.last_failover
    assert last is not None
    assert last.kind == "planned_stop"
    assert last.outage_ms is not None
    assert last.since_detection_ms is not None
    # `up` returns soon after the writer is open; the outage began before `down` did, and the detection is only its end.
    assert last.outage_ms > least_ms / 2
    assert last.since_detection_ms < last.outage_ms
    assert b'kind="failover"' not in cluster.get("/metrics")
    assert json.loads(cluster.ctl("history", "--json").stdout)["writers"][-1]["outage_ms"] == last.outage_ms


def test_an_old_writer_whose_noded_is_heard_late_had_been_stopped_all_the_same(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    cluster.program("stop", "cluster_manager")
    cluster.stop_node(before.writer)
    cluster.program("start", "cluster_manager")
    try:
        after = cluster.wait_for_epoch_after(before.epoch)
        assert after.last_failover is not None
        assert (after.last_failover.kind, after.last_failover.outage_ms) == ("failover", None), "nobody has said more"
    finally:
        cluster.start_node(before.writer)

    def last(status: Status) -> tuple[str, int | None]:
        assert status.last_failover is not None
        return status.last_failover.kind, status.last_failover.outage_ms

    told = cluster.wait(lambda status: last(status)[0] == "planned_stop", "the old writer's noded heard")
    assert last(told)[1] is not None
    line = json.loads(cluster.ctl("history", "--json").stdout)["writers"][-1]
    assert (line["outage_kind"], line["outage_ms"]) == last(told)
    assert "planned stop" in cluster.ctl("history").stdout
    cluster.until(lambda: b'kind="planned_stop"' in cluster.get("/metrics"), "it is counted")
    # The counters are those of this manager's life, which began with the planned stop.
    assert b'endpointd_failovers_total{cause="PRIMARY_FAILED",kind="failover"}' not in cluster.get("/metrics")
    cluster.wait_healthy()


def test_a_crash_under_a_pause_is_told_as_the_operators(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    cluster.ctl("pause")
    try:
        cluster.wait(lambda status: status.paused, "paused")
        cluster.kill_postgres(before.writer)
        cluster.wait(lambda status: status.diagnosis == "PAUSED", "the failure is found and nothing is done")
    finally:
        cluster.ctl("resume")
    after = cluster.wait_for_epoch_after(before.epoch)
    cluster.wait_healthy()
    assert after.last_failover is not None
    assert after.last_failover.kind == "paused"
    assert after.last_failover.outage_ms is not None
    assert after.last_failover.since_detection_ms is not None
    assert after.last_failover.outage_ms > after.last_failover.since_detection_ms
