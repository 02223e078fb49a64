"""kill -9 of everything, at any moment: what is left goes on, and what comes back takes up where it was, by itself."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from deployment.local.layout import Layout
from testkit.cluster import ROOT, Cluster
from testkit.ledger import Recorder
from testkit.processes import send_all

MakeCluster = Callable[..., Cluster]

INTERRUPTIONS = 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_up_that_is_killed_again_and_again_can_be_run_again(make_cluster: MakeCluster, seed: int) -> None:
    """Half of the times the supervisor it has started is killed with it."""
    cluster = make_cluster()
    moments = random.Random(seed)
    for _ in range(INTERRUPTIONS // 2):
        up = subprocess.Popen(
            [sys.executable, "-m", "endpointctl", "up", "--detach", "--wait", "--base-port", "auto", *cluster.options],
            cwd=ROOT,
            env=cluster.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            up.wait(moments.uniform(0.3, 6.0))
        up.kill()
        up.wait()
        if moments.random() < 0.5:
            with contextlib.suppress(OSError, ValueError):
                cluster.kill("supervisor")
    cluster.up()
    cluster.wait_healthy()
    with Recorder(cluster.dsn("writer")) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
    assert recorder.check(cluster.dsn("writer")).is_clean


@pytest.mark.timeout(300)
def test_each_noded_is_killed_and_the_next_one_adopts_its_postgresql(cluster: Cluster) -> None:
    before = cluster.status()
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        for node in before.nodes:
            old = cluster.kill(node.name)
            cluster.wait(lambda _, name=node.name, old=old: _another(cluster, name, old), f"another noded of {node.name}")
            log = Layout(cluster.data_dir).log(node.name)
            cluster.wait(lambda _, log=log: "postgresql adopted" in log.read_text(), f"adopted on {node.name}")
            recorder.wait_for_more(50, timeout_s=30.0)
        after = cluster.wait_healthy()
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    assert [node.pid for node in after.nodes] == [node.pid for node in before.nodes]
    assert recorder.errors == []
    assert recorder.check(dsn).is_clean


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_all_programs_killed_in_any_order_while_clients_write_come_back_with_up(cluster: Cluster, seed: int) -> None:
    """The programs only: the servers live on as orphans, and are adopted."""
    order = random.Random(seed)
    dsn = cluster.dsn("writer")
    names = ["supervisor", "cluster_manager", "endpointd", *(node.name for node in cluster.status().nodes)]
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        order.shuffle(names)
        pids = [cluster.pid_of(name) for name in names]
        send_all(pids, signal.SIGKILL)
        cluster.up()
        recorder.wait_for_more(50, timeout_s=60.0)
        cluster.wait_healthy()
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)


def _another(cluster: Cluster, program: str, old: int) -> bool:
    try:
        return cluster.pid_of(program) != old
    except (OSError, ValueError):
        return False
