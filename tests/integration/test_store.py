"""The manager's store restored from an old copy, or lost: the cluster goes on from what nodes have seen, and loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deployment.local.layout import Layout
from testkit.cluster import Cluster
from testkit.ledger import Recorder

MakeCluster = Callable[..., Cluster]

MANAGER = "cluster_manager"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_store_restored_from_an_old_copy_heals_by_itself_and_so_does_an_empty_one(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    """The copy is older than a failover and a new voter."""
    cluster = make_cluster(nodes=3)
    cluster.up()
    before = cluster.wait_healthy()
    with manager_stopped(cluster):
        copy_store(store_of(cluster), tmp_path)
    cluster.wait_healthy()
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        assert before.writer is not None
        cluster.kill_postgres(before.writer)
        moved = cluster.wait_for_epoch_after(before.epoch)
        cluster.ctl("node", "add", "n4", "--wait")
        cluster.wait(lambda status: status.voters.w == 3, "three copies of every commit")
        grown = cluster.wait_healthy()
        assert len(grown.voters.names) == 4
        recorder.wait_for_more(50, timeout_s=30.0)

        with manager_stopped(cluster):
            remove_store(cluster)
            copy_store(tmp_path, store_of(cluster).parent)
        restored = cluster.wait_for_epoch_after(moved.epoch)
        healed = cluster.wait_healthy()
        recorder.wait_for_more(50, timeout_s=30.0)
        assert healed.revision > grown.revision
        assert (healed.voters.names, healed.voters.w) == (grown.voters.names, grown.voters.w)
        told = [event for event in cluster.events() if event["kind"] == "store.adopted"]
        assert len(told) == 1
        assert "has seen epoch" in str(told[0]["message"])
        assert "store.adopted" in cluster.ctl("events").stdout
        assert "the store was behind" in cluster.ctl("explain").stdout or "store.adopted" in cluster.ctl("explain").stdout

        with manager_stopped(cluster):
            remove_store(cluster)
        emptied = cluster.wait_for_epoch_after(restored.epoch)
        healed = cluster.wait_healthy()
        recorder.wait_for_more(50, timeout_s=30.0)
        assert (healed.voters.names, healed.voters.w, healed.durability) == (grown.voters.names, grown.voters.w, "quorum")
        assert emptied.epoch > restored.epoch
        assert any("the store is empty" in str(event["message"]) for event in cluster.events())

        with manager_stopped(cluster):
            remove_store(cluster)
            store_of(cluster).write_bytes(b"garbage" * 1000)
        cluster.wait_for_epoch_after(emptied.epoch)
        healed = cluster.wait_healthy()
        recorder.wait_for_more(50, timeout_s=30.0)
        assert (healed.voters.names, healed.voters.w, healed.durability) == (grown.voters.names, grown.voters.w, "quorum")
        assert store_of(cluster).with_name("store.sqlite.unreadable").read_bytes() == b"garbage" * 1000
    verdict = recorder.check(dsn)
    assert verdict.is_clean, f"{verdict}; lost {verdict.lost[:10]}"


class manager_stopped:  # noqa: N801 - reads as what it is
    """The manager is away inside the block."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __enter__(self) -> None:
        pid = self._cluster.pid_of(MANAGER)
        self._cluster.program("stop", MANAGER)
        self._cluster.wait_gone(pid)

    def __exit__(self, *_error: object) -> None:
        self._cluster.program("start", MANAGER)


def store_of(cluster: Cluster) -> Path:
    """Return the path of the manager's store."""
    return Layout(cluster.data_dir).store


def copy_store(source: Path, target: Path) -> None:
    """Copy the store and SQLite's files beside it."""
    for file in source.parent.glob("store.sqlite*") if source.is_file() else source.glob("store.sqlite*"):
        if file.suffix != ".lock":
            shutil.copy(file, target)


def remove_store(cluster: Cluster) -> None:
    """Remove the store and SQLite's files beside it."""
    for file in store_of(cluster).parent.glob("store.sqlite*"):
        file.unlink()
