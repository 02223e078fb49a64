"""What operators and their tools do over replication connections: base copies, archives, change streams, through every door."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from testkit.cluster import Cluster

pytestmark = pytest.mark.timeout(300)

ROLE, PASSWORD = "archiver", "of the archiver"


@pytest.fixture
def archiver(cluster: Cluster) -> str:
    """The name of a role that may replicate and is no superuser."""
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
    return ROLE


def run(
    cluster: Cluster, program: str, *arguments: str, door: str = "writer", **words: str
) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs against a door of *cluster*."""
    dsn = make_conninfo(cluster.dsn(door), **words)
    command = [cluster.pg(program), "--dbname", dsn, "--no-password", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120.0, check=False, env=_environment())


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def until(is_met: Callable[[], object], wanted: str, timeout_s: float = 30.0) -> None:
    """Wait until *is_met*. Raises AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < deadline, f"not {wanted} within {timeout_s:g} s"
        time.sleep(0.05)


@pytest.mark.versions
@pytest.mark.parametrize("door", ["writer", "reader", "node"])
def test_a_base_copy_can_be_taken_through_every_door(cluster: Cluster, archiver: str, door: str, tmp_path: Path) -> None:
    standby = next(node.name for node in cluster.status().nodes if node.role == "standby")
    door = standby if door == "node" else door
    # A standby has the role when it has replayed so far.
    until(lambda: _can_login(cluster, door), f"{ROLE} known at {door}")
    target = tmp_path / "copy"
    copied = run(
        cluster, "pg_basebackup", "--pgdata", str(target), "--checkpoint=fast", door=door, user=archiver, password=PASSWORD
    )
    assert copied.returncode == 0, copied.stderr
    checked = subprocess.run(
        [cluster.pg("pg_verifybackup"), str(target)], capture_output=True, text=True, timeout=120.0, check=False
    )
    assert checked.returncode == 0, checked.stderr


def _can_login(cluster: Cluster, door: str) -> bool:
    try:
        psycopg.connect(cluster.dsn(door), user=ROLE, password=PASSWORD).close()
    except psycopg.OperationalError:
        return False
    return True


def test_nobody_replicates_without_the_right_and_no_role_of_ours_does(cluster: Cluster, tmp_path: Path) -> None:
    target = str(tmp_path / "copy")
    for user in ("endpointd", "endpointd_probe"):
        refused = run(cluster, "pg_basebackup", "--pgdata", target, user=user, password="whatever")
        assert refused.returncode != 0
        assert "password authentication failed" in refused.stderr, refused.stderr  # the endpoint knows no such role
    wrong = run(cluster, "pg_basebackup", "--pgdata", target, user="postgres", password="wrong", passfile="/nowhere")
    assert wrong.returncode != 0
    assert "password authentication failed" in wrong.stderr


def test_a_dump_through_the_reader_outlives_a_change_of_a_table(cluster: Cluster) -> None:
    """A dump holds a lock on each table, and the replay of any ALTER TABLE waits for it."""
    standby = next(node.name for node in cluster.status().nodes if node.role == "standby")
    with (
        psycopg.connect(cluster.dsn("writer"), autocommit=True) as writer,
        psycopg.connect(cluster.dsn(standby)) as reader,
        psycopg.connect(cluster.dsn(standby), autocommit=True) as watcher,
    ):
        writer.execute("DROP TABLE IF EXISTS dumped")
        writer.execute("CREATE TABLE dumped AS SELECT 1 AS i")
        lsn = writer.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
        until(lambda: _has_replayed(reader, lsn), "replayed")
        reader.execute("LOCK TABLE dumped IN ACCESS SHARE MODE")
        writer.execute("ALTER TABLE dumped ADD COLUMN j int")
        # It has waited for longer than it once did, and waits on.
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND clock_timestamp() - waitstart > interval '1 second'"
        until(lambda: watcher.execute(waiting).fetchone() == (1,), "replay that waits for a second")
        assert reader.execute("SELECT i FROM dumped").fetchone() == (1,)
        reader.rollback()
        until(lambda: _columns(watcher) == 2, "replay that goes on")
    cluster.wait_healthy()


def _columns(session: psycopg.Connection[tuple[object, ...]]) -> object:
    found = session.execute("SELECT relnatts FROM pg_class WHERE relname = 'dumped'").fetchone()
    return found[0] if found is not None else None


def _has_replayed(reader: psycopg.Connection[tuple[object, ...]], lsn: object) -> bool:
    assert isinstance(lsn, tuple)
    found = reader.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", lsn).fetchone()
    reader.rollback()
    return found == (True,)


@pytest.mark.versions
@pytest.mark.parametrize("untracked", [False, True], ids=["tracked", "untracked"])
@pytest.mark.parametrize("replication", ["false", "database"])
def test_how_long_replay_waits_for_a_reader_is_the_operators_and_a_failover_does_not_wait(
    cluster: Cluster, archiver: str, replication: str, *, untracked: bool
) -> None:
    """Whoever asks for a walsender can run SQL in it, and be in the way of replay like anybody else."""
    cluster.ctl("config", "set", "--wait", "max_standby_streaming_delay=-1", "max_standby_archive_delay=-1")
    try:
        with psycopg.connect(cluster.dsn("writer"), autocommit=True) as writer:
            writer.execute("DROP TABLE IF EXISTS held")
            writer.execute("CREATE TABLE held AS SELECT 1 AS i")
            writer.execute(f"GRANT SELECT ON held TO {ROLE}")
            writer.execute(f"GRANT SET ON PARAMETER track_activities TO {ROLE}")
            lsn = writer.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
            status = cluster.status()
            standbys = [node.name for node in status.nodes if node.role == "standby"]
            for name in standbys:
                with psycopg.connect(cluster.dsn(name)) as watcher:
                    until(lambda watcher=watcher: _has_replayed(watcher, lsn), "replayed")
            words = {"user": ROLE, "password": PASSWORD, "replication": replication}
            readers = [psycopg.connect(make_conninfo(cluster.dsn(name), **words)) for name in standbys]
            for reader in readers:
                assert reader.execute("SHOW max_standby_streaming_delay").fetchone() == ("-1",)
                reader.rollback()
                if untracked:
                    reader.execute("SET track_activities = off")
                    reader.commit()
                reader.execute("LOCK TABLE held IN ACCESS SHARE MODE")
            writer.execute("ALTER TABLE held ADD COLUMN j int")
            assert status.writer is not None
            cluster.kill_postgres(status.writer)
        # Both candidates stand still for readers that never go by themselves.
        cluster.wait_for_epoch_after(status.epoch, timeout_s=20.0)
        with psycopg.connect(cluster.dsn("writer")) as again:
            assert again.execute("SELECT i, j FROM held").fetchone() == (1, None)
        for reader in readers:
            reader.close()
    finally:
        cluster.wait_healthy()
        cluster.ctl("config", "set", "--reset", "max_standby_streaming_delay", "--reset", "max_standby_archive_delay")
        cluster.wait_healthy()
