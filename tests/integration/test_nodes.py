"""Nodes that come, go, stop, start and change places, while clients write and after somebody was killed in the middle."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable

import pytest

from deployment.local.layout import Layout
from deployment.local.postmaster import postmaster_of
from testkit.cluster import Cluster
from testkit.ledger import Recorder

MakeCluster = Callable[..., Cluster]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_cluster_grows_from_one_node_to_five_and_shrinks_to_three_under_load(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(nodes=1)
    cluster.up()
    assert cluster.status().durability == "async"
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        cluster.ctl("node", "add")
        told = json.loads(cluster.ctl("node", "add", "n3", "--zone", "cellar", "--wait", "--json").stdout)
        assert (told["node"], told["zone"], told["finished"]) == ("n3", "cellar", True)
        three = cluster.wait_healthy()
        assert (three.durability, three.voters.names, three.voters.w) == ("quorum", ("n1", "n2", "n3"), 2)
        recorder.wait_for_more(50, timeout_s=30.0)

        cluster.ctl("node", "add")
        cluster.ctl("node", "add", "--wait")
        five = cluster.wait(lambda status: status.voters.w == 3, "three copies of every commit")
        five = cluster.wait_healthy()
        assert (five.voters.names, five.voters.needed) == (("n1", "n2", "n3", "n4", "n5"), 3)
        recorder.wait_for_more(50, timeout_s=30.0)

        assert five.writer is not None
        cluster.kill_postgres(five.writer)
        after = cluster.wait_for_epoch_after(five.epoch)
        recorder.wait_for_more(50, timeout_s=30.0)
        cluster.wait_healthy()

        going = [node.name for node in after.nodes if node.name != after.writer][-2:]
        cluster.ctl("node", "remove", going[0])
        kept = json.loads(cluster.ctl("node", "remove", going[1], "--wait", "--json").stdout)["data_dir"]
        cluster.wait(lambda status: len(status.nodes) == 3, "three nodes")
        shrunk = cluster.wait_healthy()
        assert (shrunk.durability, len(shrunk.voters.names), shrunk.voters.w) == ("quorum", 3, 2)
        assert not set(going) & set(shrunk.voters.names)
        recorder.wait_for_more(50, timeout_s=30.0)
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)
    assert kept.startswith(str(Layout(cluster.data_dir).node(going[1])))
    _wait_until_gone(cluster, *going)

    cluster.down()
    cluster.up()
    again = cluster.wait_healthy()
    assert [node.name for node in again.nodes] == [node.name for node in shrunk.nodes]
    assert recorder.check(dsn).is_clean


@pytest.mark.versions
@pytest.mark.timeout(240)
def test_a_switchover_loses_nothing_and_the_old_primary_needs_no_rewind(cluster: Cluster) -> None:
    before = cluster.wait_healthy()
    assert before.writer is not None
    target = next(node.name for node in before.nodes if node.name != before.writer)
    dsn = cluster.dsn("writer")
    mended = _mended(cluster)
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        rehearsal = json.loads(cluster.ctl("switchover", "--to", target, "--dry-run", "--json").stdout)
        assert (rehearsal["possible"], rehearsal["from_node"], rehearsal["to"]) == (True, before.writer, target)
        assert cluster.status().epoch == before.epoch
        said = cluster.ctl("switchover", "--to", target).stdout
        recorder.wait_for_more(50, timeout_s=30.0)
        after = cluster.wait_healthy()
    assert f"{before.writer} -> {target}" in said
    assert after.writer == target
    assert cluster.node(before.writer, after).state == "streaming"
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)
    assert _mended(cluster) == mended, "a node was rewound or made anew"


@pytest.mark.versions
@pytest.mark.timeout(240)
def test_a_standby_is_stopped_started_restarted_and_made_anew_by_order(cluster: Cluster) -> None:
    before = cluster.wait_healthy()
    standby, other = (node.name for node in before.nodes if node.name != before.writer)
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        cluster.ctl("node", "stop", standby)
        down = cluster.wait(lambda status: cluster.node(standby, status).state == "stopped", f"{standby} stopped")
        assert (down.state, down.survives.server_crash) == ("at_risk", False), "nobody would acknowledge what the other writes"
        assert f'"{standby}" is kept down by an operator' in str(down.at_risk)
        drill = cluster.ctl("drill", check=False)
        assert drill.returncode == 1
        assert "kept down by an operator" in " ".join(drill.stdout.split())
        refused = cluster.ctl("node", "stop", other, check=False)
        assert refused.returncode == 1
        assert "commits would wait" in refused.stderr
        recorder.wait_for_more(25, timeout_s=30.0)
        cluster.ctl("node", "start", standby)
        old = cluster.node(standby, cluster.wait_healthy()).pid

        cluster.ctl("node", "restart", standby)
        cluster.wait(lambda status: cluster.node(standby, status).pid not in (None, old), f"{standby} restarted")
        cluster.wait_healthy()

        made = _mended(cluster)
        told = json.loads(cluster.ctl("node", "reinit", standby, "--yes", "--json").stdout)
        assert standby in told["detail"]
        cluster.wait(lambda _: _mended(cluster) > made, f"{standby} made anew")
        cluster.wait_healthy()
        recorder.wait_for_more(25, timeout_s=30.0)
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)


@pytest.mark.timeout(240)
def test_a_change_whose_supervisor_is_killed_is_carried_on_by_the_next_one(cluster: Cluster) -> None:
    before = cluster.wait_healthy()
    cluster.ctl("node", "add", "n4")
    cluster.wait_gone(cluster.kill("supervisor", signal.SIGKILL))
    refused = cluster.ctl("node", "add", "n5", check=False)
    assert (refused.returncode, "no supervisor" in refused.stderr) == (1, True)
    cluster.up()
    assert "n4" in cluster.wait_healthy().voters.names
    # The order that was interrupted may be given again.
    assert '"n4" is in the cluster' in cluster.ctl("node", "add", "n4", "--wait").stdout

    cluster.ctl("node", "remove", "n4", "--purge", "--yes")
    cluster.wait_gone(cluster.kill("supervisor", signal.SIGKILL))
    cluster.up()
    _wait_until_gone(cluster, "n4")
    after = cluster.wait_healthy()
    assert after.voters.names == before.voters.names
    assert not list(Layout(cluster.data_dir).nodes.glob("n4*"))


def test_what_may_not_be_done_about_nodes_is_refused_with_the_reason(cluster: Cluster) -> None:
    status = cluster.wait_healthy()
    writer = str(status.writer)
    standby = next(node.name for node in status.nodes if node.name != writer)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier n4 may linger
        holder.bind(("127.0.0.1", cluster.port(13)))
        holder.listen()
        refusals = {
            ("remove", writer): (1, "hand over first"),
            ("stop", writer): (1, "hand over first"),
            ("reinit", writer): (1, "hand over first"),
            ("remove", standby): (1, "fewer than 3 voters"),
            ("remove", "n9"): (2, "the nodes are n1, n2, n3"),
            ("restart", "n9"): (2, 'no node "n9"'),
            ("add", "n4"): (1, f"port {cluster.port(13)} for PostgreSQL of n4 is held by process"),
            ("add", "n17"): (2, "n1 to n16"),
            ("add", standby, "--zone", "elsewhere", "--wait"): (1, "in the cluster already, in zone"),
            ("add", standby): (2, "in the cluster already"),
            ("add", "--zone", "A B"): (2, "a-z, 0-9"),
        }
        for order, (code, reason) in refusals.items():
            done = cluster.ctl("node", *order, check=False)
            while "is being taken out" in done.stderr:  # an earlier n4
                time.sleep(0.2)
                done = cluster.ctl("node", *order, check=False)
            assert (done.returncode, done.stderr.count("\n")) == (code, 1), f"{order}: {done.stderr}"
            assert reason in done.stderr, f"{order}: {done.stderr}"
    now = cluster.wait_healthy()
    # Not the revision: on a busy machine a replica may have been too old for readers for a moment, which is written down.
    assert (now.epoch, now.writer, now.voters.names) == (status.epoch, status.writer, status.voters.names)
    assert {node.name: node.zone for node in now.nodes} == {node.name: node.zone for node in status.nodes}


def _mended(cluster: Cluster) -> int:
    """Return how often a node was rewound or made anew so far."""
    log = Layout(cluster.data_dir).log("cluster_manager").read_text()
    return log.count("node is rewound") + log.count("node is made anew")


def _wait_until_gone(cluster: Cluster, *names: str) -> None:
    """Wait until nothing of the nodes runs, and the plan is done with them."""
    layout = Layout(cluster.data_dir)

    def is_gone(name: str) -> bool:
        text = layout.plan.read_text()
        return f'"{name}"' not in text and not layout.record(name).exists() and postmaster_of(layout.pgdata(name)) is None

    cluster.wait(lambda _: all(is_gone(name) for name in names), f"rid of {', '.join(names)}")
