"""Both endpoints with the tools and drivers people use: who answers, what may be done there, and what passes unharmed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psycopg
import psycopg2
import psycopg2.errors
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from testkit.cluster import Cluster

WRITER_PORT_QUERY = "SELECT current_setting('port')::int"
BIG_ROW = 1 << 20
BIG_ROWS = 192
PROXY_GROWTH_MAX = 48 << 20
"""What the proxy may grow by while a result several times as large passes: buffers, not the result."""


@pytest.fixture
def writer(cluster: Cluster) -> str:
    return cluster.dsn("writer")


@pytest.fixture
def reader(cluster: Cluster) -> str:
    return cluster.dsn("reader")


def test_psql_through_the_command_line(cluster: Cluster) -> None:
    status = cluster.status()
    assert status.writer is not None
    writer = cluster.ctl("psql", "writer", "--", "-Atc", "show port; show transaction_read_only").stdout.split()
    assert writer == [str(cluster.node(status.writer).port), "off"]
    reader = cluster.ctl("psql", "reader", "--", "-Atc", "show port; show transaction_read_only").stdout.split()
    assert reader[0] in {str(node.port) for node in status.nodes if node.name != status.writer}
    assert reader[1] == "on"
    node = cluster.ctl("psql", "n2", "--", "-Atc", "show port").stdout.split()
    assert node == [str(cluster.node("n2").port)]


def test_readers_are_spread_over_all_replicas(cluster: Cluster, reader: str) -> None:
    replicas = {node.port for node in cluster.status().nodes if node.role == "standby"}
    assert len(replicas) == 2
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(psycopg.connect(reader)) for _ in range(12)]
        ports = [_one(connection, WRITER_PORT_QUERY) for connection in open_ones]
    assert set(ports) == replicas
    assert min(ports.count(port) for port in replicas) >= 4, f"uneven: {ports}"


def test_what_is_written_is_read_on_the_replicas(writer: str, reader: str) -> None:
    with psycopg.connect(writer, autocommit=True) as there:
        there.execute("DROP TABLE IF EXISTS seen")
        there.execute("CREATE TABLE seen (n int)")
        there.execute("INSERT INTO seen SELECT generate_series(1, 1000)")
        position = _one(there, "SELECT pg_current_wal_lsn()::text")
    with psycopg.connect(reader, autocommit=True) as here:
        _until(lambda: bool(_one(here, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position)), "the write is replayed")
        assert _one(here, "SELECT sum(n) FROM seen") == 500500
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            here.execute("INSERT INTO seen VALUES (1)")


async def test_asyncpg(writer: str, reader: str) -> None:
    for dsn, read_only in ((writer, "off"), (reader, "on")):
        connection = await asyncpg.connect(dsn)
        try:
            assert await connection.fetchval("SHOW transaction_read_only") == read_only
            assert await connection.fetchval("SELECT $1::int + 1", 41) == 42
        finally:
            await connection.close()


def test_psycopg2(writer: str, reader: str) -> None:
    for dsn, read_only in ((writer, "off"), (reader, "on")):
        connection = psycopg2.connect(dsn)
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SHOW transaction_read_only")
            assert cursor.fetchone() == (read_only,)


def test_the_uris_that_are_printed_carry_no_password_and_work(cluster: Cluster) -> None:
    for door in ("writer", "reader"):
        uri = cluster.ctl("dsn", door).stdout.strip()
        assert conninfo_to_dict(uri).get("password") is None
        with psycopg.connect(uri) as connection:
            assert _one(connection, "SELECT current_user") == "postgres"


def test_pgbench(cluster: Cluster) -> None:
    uri = cluster.ctl("dsn", "writer").stdout.strip()
    subprocess.run([cluster.pg("pgbench"), "-i", "-q", "-s", "1", uri], check=True, capture_output=True, timeout=60)
    for options in (["-S", "-M", "simple"], ["-M", "extended"], ["-M", "prepared"]):
        command = [cluster.pg("pgbench"), *options, "-n", "-c", "4", "-t", "25", uri]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert "number of failed transactions: 0" in done.stdout
        assert "100/100" in done.stdout


@pytest.mark.parametrize("door", ["writer", "reader"])
def test_a_wrong_password_is_refused_by_the_server_itself(cluster: Cluster, door: str) -> None:
    dsn = make_conninfo(cluster.dsn(door), password="wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(dsn)


@pytest.mark.parametrize("door", ["writer", "reader"])
def test_a_query_is_cancelled(cluster: Cluster, door: str) -> None:
    with psycopg.connect(cluster.dsn(door), autocommit=True) as connection:
        threading.Timer(0.3, connection.cancel_safe).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")
        assert _one(connection, "SELECT 1") == 1


def test_copy_both_ways(writer: str) -> None:
    with psycopg.connect(writer, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE copied (n int, text text)")
        with cursor.copy("COPY copied FROM STDIN") as copy:
            for number in range(50_000):
                copy.write_row((number, f"row {number}"))
        with cursor.copy("COPY (SELECT text FROM copied ORDER BY n) TO STDOUT") as copy:
            rows = [row[0] for row in copy.rows()]
    assert len(rows) == 50_000
    assert rows[-1] == "row 49999"


def test_a_failed_copy_leaves_the_session_usable(writer: str) -> None:
    with psycopg.connect(writer, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE copied (n int)")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            _copy_in(cursor, "not a number\n" * 1000)
        assert _one(connection, "SELECT 1") == 1


def test_pipelines(writer: str) -> None:
    with psycopg.connect(writer, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE piped (n int PRIMARY KEY)")
        with connection.pipeline():
            cursors = [connection.execute("INSERT INTO piped VALUES (%s) RETURNING n", (n,)) for n in range(500)]
        assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(500)]
        with pytest.raises(psycopg.errors.UniqueViolation):
            _insert_piped(connection, 1, 1000)
        assert _one(connection, "SELECT count(*) FROM piped") == 500


def test_notifications(writer: str) -> None:
    with psycopg.connect(writer, autocommit=True) as listening, psycopg.connect(writer, autocommit=True) as speaking:
        listening.execute("LISTEN news")
        speaking.execute("NOTIFY news, 'hello'")
        [notice] = list(listening.notifies(timeout=10.0, stop_after=1))
        assert (notice.channel, notice.payload) == ("news", "hello")


def test_prepared_statements_and_large_values_come_back_unchanged(writer: str) -> None:
    value = os.urandom(3 << 20)
    with psycopg.connect(writer, autocommit=True) as connection:
        for _ in range(3):
            assert _one(connection, "SELECT %b::bytea", value) == value


def test_a_large_result_passes_with_bounded_memory(cluster: Cluster, reader: str) -> None:
    with _memory_of(cluster.pid_of("endpointd")) as growth, psycopg.connect(reader) as connection:
        received = 0
        query = f"COPY (SELECT repeat('x', {BIG_ROW}) FROM generate_series(1, {BIG_ROWS})) TO STDOUT"
        with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
            for block in copy:
                received += len(block)
    assert received == BIG_ROWS * (BIG_ROW + 1)
    assert growth[0] < PROXY_GROWTH_MAX, f"the proxy grew by {growth[0] >> 20} MB"


def test_a_client_that_does_not_read_costs_no_memory(cluster: Cluster, writer: str) -> None:
    with (
        _memory_of(cluster.pid_of("endpointd")) as growth,
        contextlib.closing(psycopg.connect(writer, autocommit=True)) as stalled,
        psycopg.connect(writer, autocommit=True) as watcher,
    ):
        pid = stalled.info.backend_pid
        query = f"COPY (SELECT repeat('x', {BIG_ROW}) FROM generate_series(1, 4096)) TO STDOUT"
        stalled.pgconn.send_query(query.encode())
        stalled.pgconn.flush()
        # The server itself is stopped by the full connection: what is under way stays in the kernel's buffers.
        waiting = "SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = %s"
        _until(lambda: _one(watcher, waiting, pid) is True, "the server waits for the client")
        watcher.execute("SELECT pg_terminate_backend(%s)", (pid,))
    assert growth[0] < PROXY_GROWTH_MAX, f"the proxy grew by {growth[0] >> 20} MB"


def test_a_scanner_that_says_nothing_sensible_does_no_harm(cluster: Cluster, writer: str) -> None:
    for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00\x00\x00\x04", b"\xff" * 64, b""):
        with socket.create_connection(("127.0.0.1", cluster.port(32)), timeout=10.0) as scanner:
            scanner.sendall(garbage)
            scanner.shutdown(socket.SHUT_WR)
            while scanner.recv(4096):
                pass
    with psycopg.connect(writer) as connection:
        assert _one(connection, "SELECT 1") == 1


def test_many_connections_at_once(reader: str) -> None:
    async def use(number: int) -> int:
        connection = await asyncpg.connect(reader)
        try:
            return await connection.fetchval("SELECT $1::int", number)
        finally:
            await connection.close()

    async def use_all() -> list[int]:
        return await asyncio.gather(*(use(number) for number in range(60)))

    assert asyncio.run(use_all()) == list(range(60))


def _copy_in(cursor: psycopg.Cursor[tuple[object, ...]], lines: str) -> None:
    with cursor.copy("COPY copied FROM STDIN") as copy:
        copy.write(lines)


def _insert_piped(connection: psycopg.Connection[tuple[object, ...]], *numbers: int) -> None:
    with connection.pipeline():
        for number in numbers:
            connection.execute("INSERT INTO piped VALUES (%s)", (number,))


@contextlib.contextmanager
def _memory_of(pid: int) -> Iterator[list[int]]:
    """Give a list whose one number is, after the block, how much the peak of *pid*'s resident memory has grown in it."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = _resident_peak(pid)
    growth: list[int] = []
    yield growth
    growth.append(_resident_peak(pid) - before)


def _resident_peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def _one(connection: psycopg.Connection[tuple[object, ...]], query: str, *arguments: object) -> object:
    row = connection.execute(query.encode(), arguments or None).fetchone()
    assert row is not None
    return row[0]


def _until(is_met: Callable[[], bool], wanted: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < deadline, f"not in time: {wanted}"
        time.sleep(0.02)
