"""Faults beyond a clean kill: frozen processes, a killed backend, noded and PostgreSQL at once; no acknowledged row is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from testkit.cluster import Cluster
from testkit.ledger import Recorder
from testkit.processes import command, descendants

OUTAGE_MAX_S = 15.0

Hurt = Callable[[Cluster, str], list[int]]
"""Does harm to the writer, and returns the frozen processes, which are let go at the end."""


def kill_noded_and_postgres(cluster: Cluster, writer: str) -> list[int]:
    postmaster = cluster.node(writer).pid
    assert postmaster is not None
    cluster.kill(writer)
    cluster.kill_pid(postmaster)
    return []


def kill_a_backend(cluster: Cluster, writer: str) -> list[int]:
    backend = next(pid for pid in children(cluster, writer) if "postgres postgres 127.0.0.1" in command(pid))
    os.kill(backend, signal.SIGKILL)
    return []


def freeze_the_whole_node(cluster: Cluster, writer: str) -> list[int]:
    return freeze([cluster.pid_of(writer), *descendants(cluster.pid_of(writer))])


def freeze_the_postmaster(cluster: Cluster, writer: str) -> list[int]:
    postmaster = cluster.node(writer).pid
    assert postmaster is not None
    return freeze([postmaster])


def freeze_the_walsenders(cluster: Cluster, writer: str) -> list[int]:
    return freeze([pid for pid in children(cluster, writer) if "walsender endpointd_replication" in command(pid)])


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "hurt",
    [kill_noded_and_postgres, kill_a_backend, freeze_the_whole_node, freeze_the_postmaster, freeze_the_walsenders],
    ids=lambda hurt: hurt.__name__,
)
def test_the_writer_moves_and_nothing_is_lost(cluster: Cluster, hurt: Hurt) -> None:
    before = cluster.status()
    assert before.writer is not None
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        hurt_at = time.monotonic()
        with thawing(hurt(cluster, before.writer)):
            cluster.wait_for_epoch_after(before.epoch)
            recorder.wait_for_more(50, timeout_s=30.0)
        assert recorder.outage_s(hurt_at) < OUTAGE_MAX_S
        cluster.wait_healthy()
        recorder.wait_for_more(50, timeout_s=30.0)
    verdict = recorder.check(dsn)
    assert verdict.is_clean, f"{verdict}; lost {verdict.lost[:10]}, fabricated {verdict.fabricated[:10]}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("program", ["noded of the writer", "cluster_manager"])
def test_what_is_not_postgresql_may_freeze_without_a_failover(cluster: Cluster, program: str) -> None:
    before = cluster.status()
    assert before.writer is not None
    name = before.writer if program == "noded of the writer" else program
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        with thawing(freeze([cluster.pid_of(name)])):
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
        with thawing(freeze([cluster.pid_of(replica), *descendants(cluster.pid_of(replica))])):
            cluster.wait(lambda status: cluster.node(replica, status).state == "unreachable", f"without {replica}")
            recorder.wait_for_more(500, timeout_s=60.0)
        after = cluster.wait_healthy()
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    assert recorder.check(dsn).is_clean


@contextlib.contextmanager
def thawing(frozen: list[int]) -> Iterator[None]:
    try:
        yield
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def freeze(pids: list[int]) -> list[int]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    return pids


def children(cluster: Cluster, node: str) -> list[int]:
    """Return the processes of a node's PostgreSQL below its postmaster."""
    postmaster = cluster.node(node).pid
    assert postmaster is not None
    return descendants(postmaster)
