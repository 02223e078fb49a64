"""What a client's own session lives through: held at the door, ended with an SQLSTATE, never told a lie about a commit."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import asyncpg
import psycopg
import pytest

from testkit.cluster import Cluster


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
    dsn = cluster.dsn("writer")
    with closing(psycopg.connect(dsn, autocommit=True)) as idle, closing(psycopg.connect(dsn, autocommit=True)) as busy:
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


def cancel_request(waiting: psycopg.Connection[tuple[object, ...]], _writer: str, _stop: Callable[[], None]) -> None:
    waiting.cancel_safe()


def pg_cancel_backend(waiting: psycopg.Connection[tuple[object, ...]], writer: str, _stop: Callable[[], None]) -> None:
    _signal(writer, "pg_cancel_backend", waiting.info.backend_pid)


def pg_terminate_backend(waiting: psycopg.Connection[tuple[object, ...]], writer: str, _stop: Callable[[], None]) -> None:
    _signal(writer, "pg_terminate_backend", waiting.info.backend_pid)


def fast_shutdown(_waiting: psycopg.Connection[tuple[object, ...]], _writer: str, stop: Callable[[], None]) -> None:
    stop()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "disturb", [cancel_request, pg_cancel_backend, pg_terminate_backend, fast_shutdown], ids=lambda disturb: disturb.__name__
)
def test_a_commit_whose_wait_is_disturbed_is_never_reported_as_done(
    cluster: Cluster, disturb: Callable[[psycopg.Connection[tuple[object, ...]], str, Callable[[], None]], None]
) -> None:
    before = cluster.status()
    replicas = [node.name for node in before.nodes if node.name != before.writer]
    writer = cluster.dsn(str(before.writer))
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as setting_up:
        setting_up.execute("CREATE TABLE IF NOT EXISTS doubtful (how text)")

    def stop_fast() -> None:
        cluster.kill_postgres(str(before.writer), signal.SIGINT)

    try:
        for name in replicas:
            cluster.stop_node(name)
        with psycopg.connect(cluster.dsn("writer"), autocommit=True, connect_timeout=20) as waiting:
            with ThreadPoolExecutor() as pool:
                commit = pool.submit(waiting.execute, "INSERT INTO doubtful VALUES (%s)", (disturb.__name__,))
                _until_it_waits(writer, waiting.info.backend_pid)
                disturb(waiting, writer, stop_fast)
                with pytest.raises(psycopg.OperationalError) as caught:
                    commit.result(timeout=60.0)
            assert caught.value.sqlstate in ("08007", "08006", "57P01", "57P02"), repr(caught.value)
            # The end came as the answer to the statement; that nothing follows shows at the next.
            with pytest.raises(psycopg.OperationalError):
                waiting.execute("SELECT 1")
            assert waiting.closed
    finally:
        for name in replicas:
            cluster.start_node(name)
    cluster.wait_healthy()


@pytest.mark.timeout(240)
def test_a_drivers_own_timeout_is_no_success_either(cluster: Cluster) -> None:
    """A command timeout of asyncpg sends a cancel request: the row may be there later, but nobody is told that it is."""
    before = cluster.status()
    replicas = [node.name for node in before.nodes if node.name != before.writer]
    dsn = cluster.dsn("writer")
    with psycopg.connect(dsn, autocommit=True) as setting_up:
        setting_up.execute("CREATE TABLE IF NOT EXISTS doubtful (how text)")

    async def insert() -> None:
        connection = await asyncpg.connect(dsn, timeout=20)
        try:
            await connection.execute("INSERT INTO doubtful VALUES ('asyncpg')", timeout=2.0)
        finally:
            connection.terminate()

    try:
        for name in replicas:
            cluster.stop_node(name)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, OSError)):
            asyncio.run(insert())
    finally:
        for name in replicas:
            cluster.start_node(name)
    cluster.wait_healthy()


@pytest.mark.timeout(240)
def test_a_row_whose_wait_was_cancelled_is_seen_on_the_writer_and_was_promised_to_nobody(cluster: Cluster) -> None:
    """What PostgreSQL does and we cannot change: it shows the row at once. Whoever reads it there reads what may still be lost.

    Nobody was told that it is committed, and it is on every node once the quorum is back; only the death of the writer before
    that loses it.
    """
    before = cluster.status()
    replicas = [node.name for node in before.nodes if node.name != before.writer]
    writer = cluster.dsn(str(before.writer))
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as setting_up:
        setting_up.execute("DROP TABLE IF EXISTS seen_early")
        setting_up.execute("CREATE TABLE seen_early (n int)")
    try:
        for name in replicas:
            cluster.stop_node(name)
        # Closed, not left by `with`: that would commit, on a connection that is over.
        with (
            contextlib.closing(psycopg.connect(cluster.dsn("writer"), autocommit=True, connect_timeout=20)) as waiting,
            ThreadPoolExecutor() as pool,
        ):
            commit = pool.submit(waiting.execute, "INSERT INTO seen_early VALUES (1)")
            _until_it_waits(writer, waiting.info.backend_pid)
            with psycopg.connect(writer, autocommit=True) as reading:
                assert reading.execute("SELECT count(*) FROM seen_early").fetchone() == (0,), "seen before the quorum has it"
                waiting.cancel_safe()
                with pytest.raises(psycopg.OperationalError):
                    commit.result(timeout=60.0)
                assert reading.execute("SELECT count(*) FROM seen_early").fetchone() == (1,)
    finally:
        for name in replicas:
            cluster.start_node(name)
    cluster.wait_healthy()
    for name in replicas:
        with psycopg.connect(cluster.dsn(name)) as replica:
            deadline = time.monotonic() + 20.0
            while replica.execute("SELECT count(*) FROM seen_early").fetchone() != (1,):
                replica.rollback()
                assert time.monotonic() < deadline, f"the row is not on {name}"


def _until_it_waits(writer: str, pid: int) -> None:
    """Wait until the backend *pid* waits for the quorum."""
    with psycopg.connect(writer, autocommit=True) as watcher:
        deadline = time.monotonic() + 20.0
        query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        while watcher.execute(query, (pid,)).fetchone() != ("SyncRep",):
            assert time.monotonic() < deadline, "no commit waits"


def _signal(writer: str, function: str, pid: int) -> None:
    with psycopg.connect(writer, autocommit=True) as operator:
        operator.execute(f"SELECT {function}(%s)".encode(), (pid,))


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
