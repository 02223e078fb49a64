"""What a local cluster mends by itself: programs that stand still, and files and sockets that somebody removed."""

from __future__ import annotations

import os
import shutil
import signal
import stat

import pytest

from bench.cluster import Cluster
from bench.ledger import Recorder
from endpointctl.local.layout import Layout

pytestmark = pytest.mark.timeout(200)


def postmasters(cluster: Cluster) -> dict[str, int | None]:
    return {node.name: node.pid for node in cluster.status().nodes}


def test_a_frozen_manager_does_not_keep_a_failover_waiting(cluster: Cluster) -> None:
    before = cluster.status()
    servers = postmasters(cluster)
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        manager = cluster.kill("cluster_manager", signal.SIGSTOP)
        assert before.writer is not None
        pid = servers[before.writer]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        cluster.wait_gone(manager, timeout_s=30.0)
        after = cluster.wait_for_epoch_after(before.epoch)
        recorder.wait_for_more(50, timeout_s=30.0)
    assert recorder.check(dsn).is_clean
    others = {name: pid for name, pid in servers.items() if name != before.writer}
    assert others.items() <= postmasters(cluster).items(), "no other PostgreSQL was touched"
    assert after.writer in others
    assert "its loop stands still" in Layout(cluster.data_dir).log("supervisor").read_text()


@pytest.mark.parametrize("program", ["endpointd", "the writer's noded"])
def test_a_frozen_program_is_ended_and_no_postgresql_with_it(cluster: Cluster, program: str) -> None:
    before = cluster.status()
    assert before.writer is not None
    servers = postmasters(cluster)
    frozen = cluster.kill("endpointd" if program == "endpointd" else before.writer, signal.SIGSTOP)
    cluster.wait_gone(frozen, timeout_s=60.0)
    after = cluster.wait_healthy()
    assert postmasters(cluster) == servers
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
    assert recorder.check(dsn).is_clean


def test_a_noded_that_stood_still_for_a_moment_says_so(cluster: Cluster) -> None:
    before = cluster.status()
    name = next(node.name for node in before.nodes if node.name != before.writer)
    noded = cluster.kill(name, signal.SIGSTOP)
    try:
        cluster.wait(lambda status: cluster.node(name, status).state == "unreachable", f"{name} is silent")
    finally:
        os.kill(noded, signal.SIGCONT)
    cluster.wait(lambda status: cluster.node(name, status).late_ms > 0, f"{name} tells how late it was")
    assert cluster.pid_of(name) == noded
    after = cluster.wait_healthy()
    assert (after.writer, after.epoch) == (before.writer, before.epoch)


def test_a_token_that_was_removed_is_there_again_and_so_is_the_proxy(cluster: Cluster) -> None:
    layout = Layout(cluster.data_dir)
    token = layout.token.read_bytes()
    former = cluster.pid_of("endpointd")
    layout.token.unlink()
    cluster.kill("endpointd")
    cluster.until(lambda: layout.token.exists(), "the token")
    assert layout.token.read_bytes() == token
    cluster.wait_gone(former)
    cluster.wait_healthy()


def test_sockets_that_were_removed_are_found_again_and_nothing_fails_over(cluster: Cluster) -> None:
    before = cluster.status()
    servers = postmasters(cluster)
    sockets = Layout(cluster.data_dir).sockets
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        shutil.rmtree(sockets)
        paths = [sockets / node.name / f".s.PGSQL.{node.port}" for node in before.nodes]

        def are_back() -> bool:
            return all(path.exists() and stat.S_ISSOCK(path.stat().st_mode) for path in (*paths, sockets / "supervisor"))

        cluster.wait(lambda _: are_back(), "every socket is back")
        recorder.wait_for_more(500, timeout_s=60.0)
        assert cluster.program("list"), "the supervisor takes orders"
        after = cluster.wait_healthy()
    assert recorder.check(dsn).is_clean
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    assert postmasters(cluster) == servers
    cluster.ctl("switchover")
    cluster.wait_healthy()
