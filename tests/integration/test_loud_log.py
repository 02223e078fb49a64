"""A user who makes PostgreSQL log a lot costs disk for a second, and nothing else: no memory, no failover, no late loop."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.errors import SyntaxError as SqlSyntaxError

from daemonkit.logrotation import FILE_BYTES_MAX, KEPT_BYTES_MAX
from deployment.local.layout import Layout
from testkit.cluster import Cluster

STATEMENT_BYTES = 64 << 20


def peak_kib(pid: int) -> int:
    """Return the most memory that process *pid* ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@pytest.mark.timeout(200)
def test_huge_failing_statements_of_a_plain_user_are_logged_and_rotated_beside_the_work(cluster: Cluster) -> None:
    before = cluster.status()
    told = len(cluster.events())
    writer = str(before.writer)
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS loud")
        connection.execute("CREATE ROLE loud LOGIN PASSWORD 'loud'")
    log = Layout(cluster.data_dir).node(writer) / "log" / "postgresql.log"
    noded = cluster.pid_of(writer)
    memory_before_kib = peak_kib(noded)
    statement = b"no statement " + b"x" * STATEMENT_BYTES
    for _ in range(2):
        with (
            psycopg.connect(make_conninfo(cluster.dsn("writer"), user="loud", password="loud"), autocommit=True) as connection,
            # Where servers share a slow disk, the log may cost the writer its heartbeat; that is not noded's doing.
            pytest.raises((SqlSyntaxError, psycopg.OperationalError)),
        ):
            connection.execute(statement)
    deadline = time.monotonic() + 60
    kept = log.with_name(log.name + ".1")
    while not (kept.exists() and log.stat().st_size <= FILE_BYTES_MAX):
        assert time.monotonic() < deadline, "the log was not begun anew"
        time.sleep(0.1)
    assert kept.stat().st_size <= KEPT_BYTES_MAX + 100
    assert peak_kib(noded) - memory_before_kib < 40 << 10
    cluster.wait_healthy()
    detected = [str(event["message"]) for event in cluster.events()[told:] if event["kind"] == "failover.detected"]
    assert not [message for message in detected if "no new connection" in message], "a loop that stood still was believed"
