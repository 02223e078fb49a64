"""Nothing that a role change leaves behind keeps VACUUM from removing dead rows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import psycopg
import pytest

from testkit.cluster import Cluster

pytestmark = pytest.mark.timeout(300)

ROWS = 1000
DEADLINE_S = 40.0


def switched_over(cluster: Cluster) -> None:
    cluster.ctl("switchover")


def switched_there_and_back(cluster: Cluster) -> None:
    """Then two nodes hold slots of each other's from the time when they were the writer."""
    first = str(cluster.status().writer)
    cluster.ctl("switchover")
    cluster.wait_healthy()
    cluster.ctl("switchover", "--to", first)


def restarted_one_after_another(cluster: Cluster) -> None:
    cluster.ctl("restart")


def killed_after_a_checkpoint(cluster: Cluster) -> None:
    """The slots of the former writer were on disk, with what they held."""
    before = cluster.status()
    assert before.writer is not None
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as writer:
        writer.execute("CHECKPOINT")
    cluster.kill_postgres(before.writer)
    cluster.wait_for_epoch_after(before.epoch)


def left_by_a_standby(cluster: Cluster) -> None:
    """A standby that is down keeps its slot on the writer, with what its queries needed at the end."""
    name = next(node.name for node in cluster.status().nodes if node.role == "standby")
    cluster.ctl("node", "stop", name)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(switched_over, marks=pytest.mark.versions),
        switched_there_and_back,
        pytest.param(restarted_one_after_another, marks=pytest.mark.versions),
        pytest.param(killed_after_a_checkpoint, marks=pytest.mark.versions),
        left_by_a_standby,
    ],
    ids=lambda change: change.__name__,
)
def test_vacuum_removes_what_is_dead_after_a_role_change(cluster: Cluster, change: Callable[[Cluster], None]) -> None:
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as writer:
        writer.execute("DROP TABLE IF EXISTS counted")
        writer.execute(
            "CREATE TABLE counted WITH (autovacuum_enabled = off) AS SELECT 0 AS i FROM generate_series(1, %s)", (ROWS,)
        )
        until(lambda: held_slots(writer) >= 2, "feedback of both standbys in their slots")
    change(cluster)
    if change is not left_by_a_standby:
        cluster.wait_healthy()
    try:
        with psycopg.connect(cluster.dsn("writer"), autocommit=True) as writer:
            for _ in range(5):
                writer.execute("UPDATE counted SET i = i + 1")
            until(lambda: kept_dead(writer) == 0, "a VACUUM that keeps no dead row")
    finally:
        for node in cluster.status().nodes:
            if node.state == "stopped":
                cluster.ctl("node", "start", node.name)
        cluster.wait_healthy()


def held_slots(writer: psycopg.Connection[tuple[object, ...]]) -> int:
    found = writer.execute("SELECT count(*) FROM pg_replication_slots WHERE xmin IS NOT NULL").fetchone()
    assert found is not None
    return int(str(found[0]))


def kept_dead(writer: psycopg.Connection[tuple[object, ...]]) -> int:
    """Return how many dead rows a VACUUM of the table could not remove."""
    said: list[str] = []
    writer.add_notice_handler(hear := lambda notice: said.append(notice.message_primary or ""))
    try:
        writer.execute("VACUUM (VERBOSE) counted")
    finally:
        writer.remove_notice_handler(hear)
    found = re.search(r"(\d+) are dead but not yet removable", "\n".join(said))
    assert found is not None, said
    return int(found[1])


def until(is_met: Callable[[], object], wanted: str, timeout_s: float = DEADLINE_S) -> None:
    """Wait until *is_met*. Raises AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < deadline, f"not {wanted} within {timeout_s:g} s"
        time.sleep(0.2)
