"""How old what replicas show is: measured, shown, and a limit for the reader endpoint."""

from __future__ import annotations

import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import psycopg

from pgtopology.status import Status
from testkit.cluster import Cluster


def until(is_met: Callable[[], bool], wanted: str, *, timeout_s: float = 30.0) -> None:
    """Wait until *is_met*."""
    deadline = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {wanted}"
        time.sleep(0.02)


def ask(dsn: str, sql: str) -> object:
    """Return the one value that *sql* gives."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


def answer(url: str) -> int:
    """Return the status of the answer to GET *url*."""
    try:
        with urllib.request.urlopen(url, timeout=5.0) as response:  # noqa: S310 - our own server
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_lag_at_rest_is_what_postgresql_measures_and_not_the_time_between_two_observations(cluster: Cluster) -> None:
    measured: list[float] = []
    shown: list[int] = []
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:

        def sample() -> bool:
            rows = connection.execute("SELECT extract(epoch FROM flush_lag)::float8 * 1000 FROM pg_stat_replication").fetchall()
            measured.extend(row[0] for row in rows if row[0] is not None)
            lags = [node.lag_ms for node in cluster.status().nodes if node.role == "standby"]
            shown.extend(lag for lag in lags if lag is not None)
            return len(shown) >= 40 and len(measured) >= 40

        until(sample, "40 lags told by both", timeout_s=60.0)
    assert statistics.median(shown) <= 2 * statistics.quantiles(measured, n=10)[-1] + 1, f"shown {shown}, measured {measured}"


def test_a_replica_that_shows_what_is_old_gets_no_new_session_and_comes_back_by_itself(cluster: Cluster) -> None:
    before = cluster.status()
    late, other = [node.name for node in before.nodes if node.name != before.writer]
    port, noded = cluster.node(late).port, cluster.port(60 + int(late.removeprefix("n")) - 1)
    replica = f"http://127.0.0.1:{noded}/replica"
    reader, direct = cluster.dsn("reader"), cluster.dsn(late)

    def is_out(status: Status) -> bool:
        return not cluster.node(late, status).reader_eligible

    ask(direct, "SELECT pg_wal_replay_pause()")
    try:
        status = cluster.wait(is_out, "the paused replica is out of the reader endpoint")
        told = cluster.node(late, status)
        assert told.reader_obstacle is not None
        assert "max_lag_ms" in told.reader_obstacle
        assert told.lag_ms is not None
        assert told.lag_ms > 1000
        assert told.state == "streaming", "it votes as before"
        assert cluster.node(other, status).reader_eligible
        until(lambda: {ask(reader, "SHOW port") for _ in range(20)} == {str(cluster.node(other).port)}, "none goes there")
        assert (answer(replica), answer(f"{replica}?lag=1s"), answer(f"{replica}?lag=1h")) == (200, 503, 400)
        assert answer(f"{replica}?lag=60min") == 200
        ask(cluster.dsn("writer"), "SELECT pg_switch_wal()")
        assert answer(f"{replica}?lag=1TB") == 200
        until(lambda: answer(f"{replica}?lag=1kB") == 503, "it is further behind than 1 kB")
        assert answer(f"{replica}?lag={'9' * 5000}") == 400
    finally:
        ask(direct, "SELECT pg_wal_replay_resume()")
    cluster.wait(lambda status: not is_out(status), "it is back")
    until(lambda: str(port) in {ask(reader, "SHOW port") for _ in range(20)}, "sessions go there again")
    assert answer(f"{replica}?lag=1s") == 200


def test_with_every_replica_too_old_readers_go_to_the_writer(cluster: Cluster) -> None:
    before = cluster.status()
    late = [node.name for node in before.nodes if node.name != before.writer]
    for name in late:
        ask(cluster.dsn(name), "SELECT pg_wal_replay_pause()")
    try:
        cluster.wait(lambda status: not any(node.reader_eligible for node in status.nodes), "both are out")
        assert cluster.status().state == "degraded"
        said = cluster.ctl("status").stdout
        assert "no replica may take new readers" in said
        assert all(f"{name}: what it shows is" in said for name in late)
        assert before.writer is not None
        writer = str(cluster.node(before.writer).port)
        until(lambda: {ask(cluster.dsn("reader"), "SHOW port") for _ in range(10)} == {writer}, "the writer takes them")
    finally:
        for name in late:
            ask(cluster.dsn(name), "SELECT pg_wal_replay_resume()")
    cluster.wait(lambda status: sum(node.reader_eligible for node in status.nodes) == 2, "both are back")
    cluster.wait_healthy()
