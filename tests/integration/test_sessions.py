"""What a client's own session lives through: held at the door, ended with an SQLSTATE, never told a lie about a commit."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from bench.cluster import Cluster


def test_a_new_writer_is_held_until_there_is_one(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    dsn = cluster.dsn("writer")
    cluster.kill_postgres(before.writer)
    cluster.wait(lambda status: status.writer is None or status.epoch > before.epoch, "given up", timeout_s=10.0)
    with psycopg.connect(dsn, connect_timeout=20) as connection:
        connection.execute("CREATE TEMP TABLE works (n int)")
        read_only = connection.execute("SHOW transaction_read_only").fetchone()
    assert read_only == ("off",)
    cluster.wait_healthy()


def test_sessions_on_the_lost_server_end_with_an_sqlstate(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    with psycopg.connect(cluster.dsn("writer")) as idle, psycopg.connect(cluster.dsn("writer")) as busy:
        busy.execute("SELECT 1")
        with ThreadPoolExecutor() as pool:
            sleeping = pool.submit(busy.execute, "SELECT pg_sleep(60)")
            cluster.kill_postgres(before.writer)
            with pytest.raises(psycopg.OperationalError) as of_busy:
                sleeping.result(timeout=30.0)
        cluster.wait_for_epoch_after(before.epoch)
        with pytest.raises(psycopg.OperationalError) as of_idle:
            idle.execute("SELECT 1")
    for caught in (of_busy, of_idle):
        assert caught.value.sqlstate in ("57P01", "57P02", "08006", "08007"), repr(caught.value)
    cluster.wait_healthy()


def test_a_session_that_was_moved_away_from_is_told_that_the_primary_has_changed(cluster: Cluster) -> None:
    before = cluster.status()
    target = next(node.name for node in before.nodes if node.name != before.writer)
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as session:
        session.execute("SELECT 1")
        cluster.ctl("failover", "--to", target)
        with pytest.raises(psycopg.OperationalError) as caught:
            session.execute("SELECT 1")
    assert caught.value.sqlstate == "57P01"
    cluster.wait_healthy()


def test_readers_elsewhere_do_not_notice_a_failover(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    replicas = {node.port: node.name for node in before.nodes if node.name != before.writer}
    with psycopg.connect(cluster.dsn("reader"), autocommit=True) as reader:
        row = reader.execute("SELECT current_setting('port')::int").fetchone()
        assert row is not None
        mine = replicas[row[0]]
        target = next(name for name in replicas.values() if name != mine)
        cluster.ctl("failover", "--to", target)
        assert reader.execute("SELECT 1").fetchone() == (1,)
    cluster.wait_healthy()


def test_the_old_writer_takes_readers_again(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    old_port = cluster.node(before.writer, before).port
    cluster.ctl("failover")
    cluster.wait_healthy()
    deadline = time.monotonic() + 20.0
    while True:
        with psycopg.connect(cluster.dsn("reader")) as reader:
            if reader.execute("SELECT current_setting('port')::int").fetchone() == (old_port,):
                return
        assert time.monotonic() < deadline, "the old writer gets no readers"


@pytest.mark.timeout(240)
def test_a_commit_whose_wait_was_cancelled_is_not_reported_as_done(cluster: Cluster) -> None:
    before = cluster.status()
    replicas = [node.name for node in before.nodes if node.name != before.writer]
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as setting_up:
        setting_up.execute("CREATE TABLE IF NOT EXISTS doubtful (n int)")
    try:
        for name in replicas:
            cluster.stop_node(name)
        with psycopg.connect(cluster.dsn("writer"), autocommit=True, connect_timeout=20) as waiting:
            threading.Timer(1.0, waiting.cancel_safe).start()
            with pytest.raises(psycopg.OperationalError) as caught:
                waiting.execute("INSERT INTO doubtful VALUES (1)")
            assert caught.value.sqlstate == "08007", repr(caught.value)
            assert waiting.closed
    finally:
        for name in replicas:
            cluster.start_node(name)
    cluster.wait_healthy()


def test_the_proxy_drains_and_says_so(cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as session:
        session.execute("SELECT 1")
        old = cluster.pid_of("endpointd")
        cluster.program("stop", "endpointd")
        cluster.wait_gone(old)
        with pytest.raises(psycopg.OperationalError) as caught:
            session.execute("SELECT 1")
        assert caught.value.sqlstate == "57P01"
    cluster.program("start", "endpointd")
    cluster.wait_healthy()
