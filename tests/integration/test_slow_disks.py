"""Disks that are slow to sync: another writer is chosen only where its commits would not wait for the same disks.

Each sync below a node's directory is made to take longer by a preloaded library, which a C compiler makes here.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.cluster import Cluster
from testkit.ledger import Recorder

SYNC_MS = 900
"""Longer than the 600 ms after which a heartbeat counts as stuck."""
HUNG_MS = 20_000
"""Longer than a heartbeat that waits for a busy disk is believed to."""
COMMITS = 24
"""Of four clients: several syncs one after another."""


class Disks:
    """How slow each node's disk is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def slow(self, *names: str, for_ms: int = SYNC_MS) -> Iterator[None]:
        """Let syncs of the nodes called *names* take *for_ms* milliseconds longer for a `with` block."""
        files = [self._folder / name for name in names]
        for file in files:
            file.write_text(str(for_ms))
        try:
            yield
        finally:
            for file in files:
                file.unlink()


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disks:
    """Make a cluster's disks obey; set up before the cluster."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler makes the library that slows syncs down")
    library = tmp_path / "slowfsync.so"
    source = Path(__file__).with_name("slowfsync.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    folder = tmp_path / "disks"
    folder.mkdir()
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("SLOWFSYNC", str(folder))
    return Disks(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_slow_disks_move_the_writer_only_where_that_helps(disks: Disks, make_cluster: Callable[[], Cluster]) -> None:
    cluster = make_cluster()
    cluster.up()
    before = cluster.wait_healthy()
    assert before.writer is not None
    standbys = [node.name for node in before.nodes if node.name != before.writer]
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        with disks.slow(*standbys):
            cluster.wait(lambda status: status.diagnosis == "COMMIT_STUCK", "waiting for slow standbys")
            recorder.wait_for_more(COMMITS, timeout_s=60.0)
        recorder.wait_for_more(50, timeout_s=30.0)
        with disks.slow(*standbys):
            with disks.slow(before.writer):
                cluster.wait(lambda status: status.diagnosis == "COMMIT_STUCK", "waiting for slow disks everywhere")
                recorder.wait_for_more(COMMITS, timeout_s=60.0)
            # The writer's last slow sync ends before the others' disks are quick again: else its disk is the only slow one.
            recorder.wait_for_more(COMMITS, timeout_s=60.0)
        recorder.wait_for_more(50, timeout_s=30.0)
        # All share one disk here: the writer's slow sync is everybody's, however quick a trial of the others was.
        with disks.slow(before.writer):
            cluster.wait(lambda status: "share it" in status.reason, "waiting for a disk that all share")
            recorder.wait_for_more(COMMITS, timeout_s=60.0)
        recorder.wait_for_more(50, timeout_s=30.0)
        still = cluster.wait_healthy()
        assert (still.epoch, still.writer) == (before.epoch, before.writer), "a failover that could mend nothing"
        with disks.slow(before.writer, for_ms=HUNG_MS):
            moved = cluster.wait_for_epoch_after(before.epoch, timeout_s=60.0)
            assert moved.writer != before.writer
        recorder.wait_for_more(50, timeout_s=60.0)
    assert recorder.check(dsn).is_clean
