"""The promise of the whole product, kept by the pooled endpoints of a whole cluster too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployment.cluster import PooledDoor
from deployment.local.preferences import Preferences
from testkit.cluster import Cluster
from testkit.ledger import Recorder

pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture
def pooled(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of three nodes with pooled endpoints."""
    door = PooledDoor(pool_size=5)
    made = Cluster(tmp_path / "c", nodes=3, preferences=Preferences(pooled_writer=door, pooled_reader=door))
    try:
        made.up()
        yield made
    finally:
        made.remove()


def test_writes_survive_kills_and_a_switchover(pooled: Cluster) -> None:
    dsn = pooled.dsn("pooled-writer")
    assert f":{int(str(pooled.plan()['base_port'])) + 34}/" in dsn
    with Recorder(dsn) as recorder:
        for _ in range(2):
            status = pooled.wait_healthy()
            assert status.writer is not None
            recorder.wait_for_more(25, timeout_s=30.0)
            pooled.kill_postgres(status.writer)
            pooled.wait_for_epoch_after(status.epoch)
            recorder.wait_for_more(25, timeout_s=30.0)
        pooled.wait_healthy()
        pooled.ctl("switchover")
        recorder.wait_for_more(25, timeout_s=30.0)
    verdict = recorder.check(dsn)
    assert verdict.is_clean, f"{verdict}; lost {verdict.lost[:10]}, fabricated {verdict.fabricated[:10]}"
    assert verdict.acknowledged >= 125
