"""Tablespaces: inside the data directory they go wherever the data goes; elsewhere they are refused beforehand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from deployment.local.layout import Layout
from testkit.cluster import Cluster
from testkit.injuries import INJURIES, inflict

pytestmark = pytest.mark.timeout(300)

ROWS = 20_000


@contextmanager
def connected(cluster: Cluster, door: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(cluster.dsn(door), autocommit=True, connect_timeout=20) as connection:
        yield connection


def ask(cluster: Cluster, door: str, question: str) -> Any:
    with connected(cluster, door) as connection:
        return connection.execute(question.encode()).fetchone()


def test_a_tablespace_outside_is_refused_before_anything_is_written(cluster: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    with connected(cluster, "writer") as writer:
        for location in (place, tmp_path / "missing"):
            with pytest.raises(InsufficientPrivilege, match="could not set permissions on directory"):
                writer.execute(f"CREATE TABLESPACE foreign_one LOCATION '{location}'".encode())
        writer.execute("CREATE TABLE after_refusal (i int)")
        writer.execute("DROP TABLE after_refusal")
        assert writer.execute("SELECT count(*) FROM pg_tablespace").fetchone() == (2,)
    assert not list(place.iterdir())
    assert place.stat().st_mode & 0o7777 == 0o777
    assert all(node.state in ("running", "streaming") for node in cluster.status().nodes)


def test_a_tablespace_inside_outlives_kills_handovers_and_copies(cluster: Cluster) -> None:
    with connected(cluster, "writer") as writer:
        writer.execute("CREATE TABLESPACE inside LOCATION ''")
        writer.execute("CREATE TABLE spaced (id int PRIMARY KEY USING INDEX TABLESPACE inside, n int) TABLESPACE inside")
        writer.execute("INSERT INTO spaced SELECT i, 0 FROM generate_series(1, %s) AS i", (ROWS,))
        writer.execute("CREATE INDEX ON spaced (n) TABLESPACE inside")
    first = str(cluster.status().writer)
    epoch = cluster.status().epoch
    try:
        update(cluster)
        crash_with_wal_of_its_own(cluster, first)
        cluster.wait_for_epoch_after(epoch)
        update(cluster)
        cluster.wait_healthy(timeout_s=90)
        cluster.ctl("switchover")
        update(cluster)
        cluster.wait_healthy(timeout_s=90)
        standby = next(node.name for node in cluster.status().nodes if node.role == "standby")
        pgdata = Layout(cluster.data_dir).pgdata(standby)
        former = pgdata.stat().st_ino
        cluster.ctl("node", "reinit", standby, "--yes")
        cluster.wait(lambda _status: pgdata.exists() and pgdata.stat().st_ino != former, "copied anew", timeout_s=90)
        cluster.wait_healthy(timeout_s=90)
        update(cluster)
        with connected(cluster, "writer") as writer:
            writer.execute("VACUUM (FREEZE) spaced")
        for node in cluster.status().nodes:
            rows_are_exact(cluster, node.name, updates=4)
            assert not [
                path for path in (Layout(cluster.data_dir).pgdata(node.name) / "pg_tblspc").iterdir() if path.is_symlink()
            ]
    finally:
        with connected(cluster, "writer") as writer:
            writer.execute("DROP TABLE spaced")
            writer.execute("DROP TABLESPACE inside")


def crash_with_wal_of_its_own(cluster: Cluster, writer: str) -> None:
    """The writer dies with changes in the tablespace that nobody else has: it comes back by a rewind."""
    with connected(cluster, writer) as connection:
        connection.execute("SET synchronous_commit = local")
        inflict(INJURIES["freeze-walsenders"], cluster, cluster.node(writer))
        # A few rows: a manager that sees commits stuck for a second ends this writer itself.
        connection.execute("UPDATE spaced SET n = -1 WHERE id <= 500")
    cluster.kill_postgres(writer)


def update(cluster: Cluster) -> None:
    with connected(cluster, "writer") as writer:
        writer.execute("UPDATE spaced SET n = n + 1")


def rows_are_exact(cluster: Cluster, node: str, *, updates: int) -> None:
    """Wait until *node* has replayed all, then look through the table and through its index."""
    (end,) = ask(cluster, "writer", "SELECT pg_current_wal_lsn()::text")
    deadline = time.monotonic() + 30
    behind = f"SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() < '{end}'::pg_lsn ELSE false END"
    while ask(cluster, node, behind) == (True,):
        assert time.monotonic() < deadline, f"{node} does not replay {end}"
        time.sleep(0.05)
    wanted = (ROWS, ROWS, updates, updates)
    for way in ("enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off", "enable_seqscan = off"):
        with connected(cluster, node) as connection:
            for setting in way.split("; SET "):
                connection.execute(f"SET {setting}".encode())
            row = connection.execute("SELECT count(*), count(DISTINCT id), min(n), max(n) FROM spaced WHERE n >= 0 AND id > 0")
            assert row.fetchone() == wanted, (node, way)
