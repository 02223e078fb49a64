"""The disk of one program is full: it says so, loses nothing acknowledged, does not spin, and goes on when there is room.

Nobody does anything by hand but make room.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from deployment.local.layout import Layout
from pgtopology.codec import decode
from pgtopology.document import Topology
from pgtopology.status import Status
from testkit.cluster import Cluster
from testkit.ledger import Recorder
from testkit.smalldisk import SmallDisk, private_mounts

MakeCluster = Callable[..., Cluster]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def mounts() -> Iterator[None]:
    with private_mounts():
        yield


@contextlib.contextmanager
def on_a_small_disk(cluster: Cluster, place: Callable[[Layout], Path], size_mb: int) -> Iterator[SmallDisk]:
    """Make *cluster* and bring it up again with one of its directories on a small file system."""
    cluster.up()
    cluster.wait_healthy()
    cluster.down()
    with SmallDisk(place(Layout(cluster.data_dir)), size_mb) as disk:
        cluster.up()
        cluster.wait_healthy()
        try:
            yield disk
        finally:
            disk.free()
            cluster.ctl("down", check=False)


@pytest.mark.slow
def test_a_manager_that_cannot_write_says_so_and_fails_over_when_there_is_room(mounts: None, make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with on_a_small_disk(cluster, lambda layout: layout.manager, 8) as disk:
        before = cluster.status()
        dsn = cluster.dsn("writer")
        with Recorder(dsn) as recorder:
            recorder.wait_for_more(50, timeout_s=30.0)
            disk.fill()
            recorder.wait_for_more(50, timeout_s=30.0)
            assert cluster.status().epoch == before.epoch
            # A manager that is started on a full disk serves as well.
            cluster.wait_gone(cluster.kill("cluster_manager"))
            seen = cluster.wait(lambda status: cluster.node(str(before.writer), status).pid is not None, "seen anew")
            assert seen.writer == before.writer
            disk.fill()
            cluster.kill_postgres(str(before.writer))
            stuck = cluster.wait(lambda status: status.manager.store_problem is not None, "told of the full store")
            assert "full" in str(stuck.manager.store_problem)
            assert "cannot write the cluster's document" in cluster.ctl("status").stdout
            disk.free()
            cluster.wait_for_epoch_after(before.epoch)
            recorder.wait_for_more(50, timeout_s=30.0)
            after = cluster.wait_healthy()
        assert after.manager.store_problem is None
        verdict = recorder.check(dsn)
        assert verdict.is_clean, str(verdict)
        log = Layout(cluster.data_dir).log("cluster_manager").read_text()
        assert log.count("the store did not do what was asked") <= 5, "the same trouble is told again and again"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["logs", "run"])
def test_programs_live_die_and_come_back_without_room_for_logs_and_records(
    mounts: None, make_cluster: MakeCluster, place: str
) -> None:
    cluster = make_cluster()
    with on_a_small_disk(cluster, lambda layout: getattr(layout, place), 8) as disk:
        before = cluster.status()
        standby = next(node.name for node in before.nodes if node.name != before.writer)
        dsn = cluster.dsn("writer")
        pids = {name: cluster.pid_of(name) for name in ("cluster_manager", "endpointd", standby)}
        with Recorder(dsn) as recorder:
            recorder.wait_for_more(50, timeout_s=30.0)
            _use_up_last_pages(disk.path)
            disk.fill()
            for name, pid in pids.items():
                cluster.kill_pid(pid)
                cluster.wait_gone(pid)
                disk.fill()
                cluster.wait(lambda _, name=name, pid=pid: _runs_anew(cluster, name, pid), f"{name} restarted")
                recorder.wait_for_more(25, timeout_s=30.0)
            after = cluster.wait_healthy()
            # All of it goes on without room, a failover too.
            cluster.kill_postgres(str(after.writer))
            cluster.wait_for_epoch_after(after.epoch)
            recorder.wait_for_more(25, timeout_s=30.0)
            if place == "logs":
                cluster.wait_healthy()
            # A server needs room for the lock of its socket: the old writer waits for it.
            disk.free()
            cluster.wait_healthy(timeout_s=120.0)
            recorder.wait_for_more(25, timeout_s=30.0)
        verdict = recorder.check(dsn)
        assert verdict.is_clean, str(verdict)
        if place == "logs":
            cluster.kill_postgres(standby)
            log = Layout(cluster.data_dir).log(standby)
            cluster.wait(lambda _: "lines could not be written here and are lost" in log.read_text(), "told of lost lines")
        cluster.wait_healthy()


def test_a_promise_that_cannot_be_made_durable_is_not_given(mounts: None, make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with on_a_small_disk(cluster, lambda layout: layout.node("n2") / "state", 1) as disk:
        before = cluster.status()
        if before.writer == "n2":
            cluster.ctl("switchover", "--to", "n1")
            before = cluster.wait_healthy()
        dsn = cluster.dsn("writer")
        promised = (Layout(cluster.data_dir).node("n2") / "state" / "state.json").read_text()
        with Recorder(dsn) as recorder:
            recorder.wait_for_more(50, timeout_s=30.0)
            disk.fill()
            cluster.kill_postgres(str(before.writer))
            after = cluster.wait_for_epoch_after(before.epoch)
            assert after.writer != "n2"
            recorder.wait_for_more(50, timeout_s=30.0)
            told = cluster.wait(lambda status: _problem(status, "n2") is not None, "told of n2's trouble")
            assert "No space left" in str(_problem(told, "n2"))
            assert (Layout(cluster.data_dir).node("n2") / "state" / "state.json").read_text() == promised
            disk.free()
            cluster.wait_healthy()
            recorder.wait_for_more(25, timeout_s=30.0)
        verdict = recorder.check(dsn)
        assert verdict.is_clean, str(verdict)


@pytest.mark.slow
def test_the_proxy_keeps_the_document_as_soon_as_there_is_room(mounts: None, make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with on_a_small_disk(cluster, lambda layout: layout.proxy, 1) as disk:
        before = cluster.status()
        cache = Layout(cluster.data_dir).proxy / "topology.json"
        dsn = cluster.dsn("writer")
        with Recorder(dsn) as recorder:
            recorder.wait_for_more(50, timeout_s=30.0)
            disk.fill()
            cluster.kill_postgres(str(before.writer))
            cluster.wait_for_epoch_after(before.epoch)
            recorder.wait_for_more(50, timeout_s=30.0)
            after = cluster.wait_healthy()
            assert decode(cache.read_bytes(), Topology).epoch == before.epoch, (
                "an old document that is whole is better than none"
            )
            disk.free()
            cluster.wait(lambda _: decode(cache.read_bytes(), Topology).epoch >= after.epoch, "kept by the proxy")
        verdict = recorder.check(dsn)
        assert verdict.is_clean, str(verdict)


@pytest.mark.parametrize("of_writer", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["writer", "standby"])
def test_postgresql_whose_disk_is_full_gives_way_and_comes_back(
    mounts: None, make_cluster: MakeCluster, of_writer: bool
) -> None:
    cluster = make_cluster()
    with on_a_small_disk(cluster, lambda layout: layout.node("n1"), 400) as disk:
        before = cluster.status()
        if (before.writer == "n1") != of_writer:
            cluster.ctl("switchover", "--to", "n1" if of_writer else "n2")
            before = cluster.wait_healthy()
        dsn = cluster.dsn("writer")
        log = Layout(cluster.data_dir).log("n1")
        with Recorder(dsn) as recorder:
            recorder.wait_for_more(50, timeout_s=30.0)
            starts = _starts(log)
            began = time.monotonic()
            _fill_until(cluster, disk, lambda status: cluster.node("n1", status).state not in ("running", "streaming"))
            if of_writer:
                cluster.wait_for_epoch_after(before.epoch)
            recorder.wait_for_more(100, timeout_s=60.0)
            _fill_until(cluster, disk, lambda status: "No space left" in str(_problem(status, "n1")))
            recorder.wait_for_more(500, timeout_s=60.0)
            # The first restart is at once, then 0.5 s, 1 s, 2 s …
            elapsed_s = time.monotonic() - began
            assert _starts(log) - starts <= 6 + elapsed_s / 2, "PostgreSQL is started again and again"
            disk.free()
            cluster.wait_healthy(timeout_s=120.0)
            recorder.wait_for_more(25, timeout_s=30.0)
        if not of_writer:
            assert cluster.status().writer != "n1"
        verdict = recorder.check(dsn)
        assert verdict.is_clean, str(verdict)


def _fill_until(cluster: Cluster, disk: SmallDisk, is_met: Callable[[Status], bool]) -> None:
    """Take all room, also what is given back meanwhile, and have WAL written, until the status is as wanted."""

    def is_met_now(status: Status) -> bool:
        disk.fill()
        if is_met(status):
            return True
        _switch_wal(cluster, status)
        return False

    cluster.wait(is_met_now, "in want of room", timeout_s=90.0)


def _switch_wal(cluster: Cluster, status: Status) -> None:
    """Have the writer begin another WAL segment, if there is one that answers: those it has in store run out."""
    if status.writer is not None:
        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(cluster.dsn(status.writer), autocommit=True, connect_timeout=2) as connection,
        ):
            connection.execute("SELECT pg_switch_wal()")


def _use_up_last_pages(directory: Path) -> None:
    """Leave no room in files either: one that does not end with a page can take some lines more."""
    for path in directory.glob("*.log"):
        with path.open("ab") as file:
            file.write(b" " * (-path.stat().st_size % 4096))


def _starts(log: Path) -> int:
    return log.read_text().count("postgresql started")


def _problem(status: Status, name: str) -> str | None:
    return next(node.problem for node in status.nodes if node.name == name)


def _runs_anew(cluster: Cluster, name: str, old: int) -> bool:
    return any(program.name == name and program.pid not in (None, old) for program in cluster.program("list"))
