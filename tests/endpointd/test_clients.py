"""What clients see through both doors, with the clients people use, on real servers."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import asyncpg
import psycopg
import psycopg2
import pytest

from tests.endpointd.conftest import Stage
from tests.endpointd.servers import PASSWORD, bin_dir, psql

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Run a blocking client while the feed goes on."""
    return await asyncio.to_thread(call, *arguments, **options)


def connect(port: int, **options: Any) -> psycopg.Connection[Any]:
    """Return a psycopg connection through a door."""
    return psycopg.connect(
        **{"host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "postgres", "autocommit": True, **options}
    )


async def test_psql_writes_through_the_writer_and_reads_from_replicas(stage: Stage) -> None:
    made = await in_thread(
        psql, "127.0.0.1", stage.proxy.writer_port, "create table if not exists t (i int); insert into t values (1); show port"
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.split()[-1] == str(stage.servers.n1.port)
    ports: Counter[int] = Counter()
    for _ in range(6):
        read = await in_thread(
            psql,
            "127.0.0.1",
            stage.proxy.reader_port,
            "select current_setting('port'), current_setting('transaction_read_only')",
        )
        port, read_only = read.stdout.strip().split("|")
        assert read_only == "on"
        ports[int(port)] += 1
    assert set(ports) <= {stage.servers.n2.port, stage.servers.n3.port}


async def test_asyncpg_spreads_over_the_replicas(stage: Stage) -> None:
    connections = [
        await asyncpg.connect(host="127.0.0.1", port=stage.proxy.reader_port, user="postgres", database="postgres")
        for _ in range(8)
    ]
    ports = Counter([await connection.fetchval("show port") for connection in connections])
    assert ports == {str(stage.servers.n2.port): 4, str(stage.servers.n3.port): 4}
    listed = (await stage.proxy.sessions()).sessions
    assert Counter(view.node for view in listed) == {"n2": 4, "n3": 4}
    assert {(view.endpoint, view.state, view.doing, view.user, view.database) for view in listed} == {
        ("reader", "relaying", "idle", "postgres", "postgres")
    }
    for connection in connections:
        await connection.close()
    await stage.proxy.wait_for_health(sessions=0)


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
async def test_scram_is_relayed(stage: Stage, password: str) -> None:
    outcome = await in_thread(
        psql, "127.0.0.1", stage.proxy.writer_port, "select current_user", user="scram", password=password
    )
    if password == PASSWORD:
        assert outcome.stdout.strip() == "scram", outcome.stderr
    else:
        assert 'FATAL:  password authentication failed for user "scram"' in outcome.stderr
    options = {"host": "127.0.0.1", "port": stage.proxy.reader_port, "user": "scram", "database": "postgres"}
    if password == PASSWORD:
        connection = await asyncpg.connect(**options, password=password)
        assert await connection.fetchval("select current_user") == "scram"
        await connection.close()
    else:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(**options, password=password)


async def test_errors_of_the_login_reach_the_client_unchanged(stage: Stage) -> None:
    missing = await in_thread(psql, "127.0.0.1", stage.proxy.writer_port, "select 1", database="nowhere")
    assert 'FATAL:  database "nowhere" does not exist' in missing.stderr
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(host="127.0.0.1", port=stage.proxy.reader_port, user="postgres", database="nowhere")


async def test_psycopg2_and_startup_parameters(stage: Stage) -> None:
    def talk() -> tuple[str, ...]:
        connection = psycopg2.connect(
            host="127.0.0.1", port=stage.proxy.writer_port, user="postgres", dbname="postgres", application_name="näme",
            options="-c work_mem=77kB -c search_path=a,b",
        )  # fmt: skip
        try:
            with connection.cursor() as cursor:
                cursor.execute("select current_setting('work_mem'), current_setting('search_path'), pg_backend_pid()::text")
                row = cursor.fetchone()
                assert row is not None
                return (*row[:2], str(row[2] == str(connection.get_backend_pid())))
        finally:
            connection.close()

    assert await in_thread(talk) == ("77kB", "a,b", "True")


async def test_protocol_3_2_with_long_keys(stage: Stage) -> None:
    def talk() -> int:
        with connect(stage.proxy.writer_port, max_protocol_version="3.2", min_protocol_version="3.2") as connection:
            threading.Timer(0.2, connection.cancel_safe).start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("select pg_sleep(20)")
            return connection.info.server_version

    assert await in_thread(talk) >= 180000


async def test_a_key_interrupt_cancels_psql(stage: Stage) -> None:
    process = await asyncio.create_subprocess_exec(
        bin_dir() / "psql", "-X", "-h", "127.0.0.1", "-p", str(stage.proxy.reader_port), "-U", "postgres",
        "-c", "select 'to be cancelled', pg_sleep(30)", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(10):
            while not any(view.doing == "busy" for view in (await stage.proxy.sessions()).sessions):
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert b"canceling statement due to user request" in stderr


async def test_asyncpg_cancels_by_timeout_and_goes_on(stage: Stage) -> None:
    connection = await asyncpg.connect(host="127.0.0.1", port=stage.proxy.writer_port, user="postgres", database="postgres")
    with pytest.raises(TimeoutError):
        await connection.fetchval("select pg_sleep(20)", timeout=0.2)
    assert await connection.fetchval("select 1") == 1
    await connection.close()


async def test_copy_both_ways(stage: Stage) -> None:
    def talk() -> tuple[int, int, str, str]:
        with connect(stage.proxy.writer_port) as connection:
            connection.execute("create temp table c (i int, t text)")
            with connection.cursor() as cursor:
                with cursor.copy("copy c from stdin") as copy:
                    for i in range(20000):
                        copy.write_row((i, "x" * 50))
                idle_after_copy = wait_for_doing(connection)
                with pytest.raises(psycopg.errors.InvalidTextRepresentation), cursor.copy("copy c from stdin") as copy:
                    copy.write(b"not a number\ttext\n" * 1000)
                idle_after_failure = wait_for_doing(connection)
                received = 0
                with cursor.copy("copy c to stdout") as copy:
                    for row in copy.rows():
                        received += bool(row)
                count = cursor.execute("select count(*) from c").fetchone()
                assert count is not None
                return count[0], received, idle_after_copy, idle_after_failure

    loop = asyncio.get_running_loop()

    def wait_for_doing(connection: psycopg.Connection[Any]) -> str:
        """Return what the proxy takes the session to be doing while it is idle."""
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        listed = asyncio.run_coroutine_threadsafe(stage.proxy.sessions(), loop).result(5)
        return str(listed.sessions[0].doing)

    assert await in_thread(talk) == (20000, 20000, "idle", "idle")


async def test_pipelines(stage: Stage) -> None:
    def talk() -> list[int]:
        with connect(stage.proxy.writer_port) as connection, connection.pipeline():
            cursors = [connection.execute("select %s::int + pg_backend_pid() * 0", (i,)) for i in range(500)]
            return [row[0] for cursor in cursors if (row := cursor.fetchone()) is not None]

    assert await in_thread(talk) == list(range(500))


async def test_listen_and_notify(stage: Stage) -> None:
    options = {"host": "127.0.0.1", "port": stage.proxy.writer_port, "user": "postgres", "database": "postgres"}
    listener = await asyncpg.connect(**options)
    speaker = await asyncpg.connect(**options)
    heard: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
    await listener.add_listener("news", lambda _connection, pid, _channel, payload: heard.put_nowait((pid, payload)))
    await speaker.execute("select pg_notify('news', 'hello')")
    async with asyncio.timeout(5):
        assert await heard.get() == (speaker.get_server_pid(), "hello")
    assert {view.doing for view in (await stage.proxy.sessions()).sessions} == {"idle"}
    await listener.close()
    await speaker.close()


async def test_replication_connections_pass_through(stage: Stage) -> None:
    outcome = await in_thread(
        psql, "127.0.0.1", stage.proxy.writer_port, "IDENTIFY_SYSTEM", replication="true", database="postgres"
    )
    assert outcome.returncode == 0, outcome.stderr
    assert len(outcome.stdout.split("|")) == 4


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
async def test_pgbench(stage: Stage, mode: str) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        common = ["-h", "127.0.0.1", "-p", str(stage.proxy.writer_port), "-U", "postgres"]
        subprocess.run([bin_dir() / "pgbench", *common, "-i", "-q", "-s", "1", "postgres"], check=True, capture_output=True)
        return subprocess.run(
            [bin_dir() / "pgbench", *common, "-M", mode, "-c", "4", "-t", "50", "-C" if mode == "simple" else "-n", "postgres"],
            capture_output=True,
            text=True,
        )

    outcome = await in_thread(run)
    assert outcome.returncode == 0, outcome.stderr
    assert "number of transactions actually processed: 200/200" in outcome.stdout


async def test_a_large_result_passes_with_bounded_memory(stage: Stage) -> None:
    """About 300 MB of rows, then one row of 100 MB, which is longer than anything that is held back."""
    connection = await asyncpg.connect(host="127.0.0.1", port=stage.proxy.reader_port, user="postgres", database="postgres")
    before = stage.proxy.rss_bytes
    total = 0

    async def count(chunk: bytes) -> None:
        nonlocal total
        total += len(chunk)

    await connection.copy_from_query("select repeat('x', 999) from generate_series(1, 300000)", output=count)
    assert total == 300_000_000
    assert len(await connection.fetchval("select repeat('y', 100000000)")) == 100_000_000
    assert await connection.fetchval("select 1") == 1
    assert stage.proxy.rss_peak_bytes - before < 8_000_000
    await connection.close()


async def test_an_unread_result_stays_in_the_kernel(stage: Stage) -> None:
    """A client that asks for a gigabyte and does not read it holds less than 2 MB of ours, and can go on when it likes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.proxy.reader_port, limit=2**16)
    packet = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
    writer.write((len(packet) + 4).to_bytes(4, "big") + packet)
    await reader.readuntil(b"Z\0\0\0\5I")
    before = stage.proxy.rss_bytes
    query = b"select repeat('x', 9999) from generate_series(1, 100000)\0"
    writer.write(b"Q" + (len(query) + 4).to_bytes(4, "big") + query)
    sent = -1
    async with asyncio.timeout(20):
        while sent != (sent := (await stage.proxy.sessions()).sessions[0].to_client_bytes):
            await asyncio.sleep(0.3)
    assert 0 < sent < 100_000_000
    view = (await stage.proxy.sessions()).sessions[0]
    assert view.held_bytes < 500_000
    assert stage.proxy.rss_bytes - before < 2_000_000
    began = time.monotonic()
    received = 0
    while received < 1_000_000_000:
        received += len(await reader.read(2**20))
    assert time.monotonic() - began < 60
    writer.close()
