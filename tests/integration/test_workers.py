"""A cluster whose proxy is two processes: failovers, restarts and the death of one of them, under clients that keep count."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from deployment.local.preferences import Preferences, ProxyPreferences
from pgtopology.status import Status
from testkit.cluster import Cluster
from tests.integration.test_proxy_restarts import Visitors

RESTARTS = 3
WRITERS = 8


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for the tests of this file."""
    made = Cluster(tmp_path_factory.mktemp("w") / "c", preferences=Preferences(proxy=ProxyPreferences(workers=2)))
    try:
        made.up()
        yield made
    finally:
        made.remove()


def has_both(status: Status) -> bool:
    """Return whether the proxy's two processes route by the present document, and nobody drains."""
    return [(len(one.pids), one.epoch, one.draining) for one in status.proxies] == [(2, status.epoch, False)]


def whole(cluster: Cluster) -> Status:
    cluster.wait_healthy()
    return cluster.wait(has_both, "both processes serve")


def worker_of(cluster: Cluster) -> int:
    (worker,) = set(whole(cluster).proxies[0].pids) - {cluster.pid_of("endpointd")}
    return worker


def value(session: psycopg.Connection[tuple[object, ...]], statement: str = "SELECT pg_backend_pid()") -> object:
    row = session.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def sessions_at_both(cluster: Cluster, stack: contextlib.ExitStack) -> tuple[list[psycopg.Connection[tuple[object, ...]]], ...]:
    """Return some sessions of the main process, and some of the worker: as many as it takes until both have two."""
    dsn = cluster.dsn("writer")
    opened: dict[object, psycopg.Connection[tuple[object, ...]]] = {}
    for _ in range(20):
        for _ in range(4):
            session = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            opened[value(session)] = session
        rows = json.loads(cluster.ctl("sessions", "--json").stdout)["sessions"]
        numbers = {row["backend_pid"]: row["session"] for row in rows}
        found = tuple([opened[pid] for pid in opened if numbers[pid] % 2 == odd] for odd in (1, 0))
        if all(len(some) >= 2 for some in found):
            return found
    raise AssertionError("one process accepts everything")


class Writers:
    """Clients that insert one row after the other, each on connections of its own, and remember which were acknowledged."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._over = threading.Event()
        self.acknowledged: list[tuple[int, int]] = []

    def _insert(self, writer: int) -> None:
        number = 0
        while not self._over.is_set():
            with contextlib.suppress(psycopg.Error), psycopg.connect(self._dsn, autocommit=True, connect_timeout=20) as session:
                while not self._over.is_set():
                    number += 1
                    session.execute("INSERT INTO kept VALUES (%s, %s)", (writer, number))
                    self.acknowledged.append((writer, number))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        with psycopg.connect(self._dsn, autocommit=True) as session:
            session.execute("DROP TABLE IF EXISTS kept")
            session.execute("CREATE TABLE kept (writer int, number int)")
        with ThreadPoolExecutor(WRITERS) as pool:
            work = [pool.submit(self._insert, writer) for writer in range(WRITERS)]
            try:
                yield
            finally:
                self._over.set()
                for one in work:
                    one.result()

    def lost(self) -> set[tuple[int, int]]:
        with psycopg.connect(self._dsn, autocommit=True) as session:
            there = set(session.execute("SELECT writer, number FROM kept").fetchall())
            return {row for row in self.acknowledged if row not in there}


def test_status_sessions_and_metrics_are_of_both(pair: Cluster) -> None:
    status = whole(pair)
    with contextlib.ExitStack() as stack:
        at_main, at_worker = sessions_at_both(pair, stack)
        total = len(json.loads(pair.ctl("sessions", "--json").stdout)["sessions"])
        pair.wait(lambda now: [one.sessions for one in now.proxies] == [total], "all sessions are counted")
        assert set(status.proxies[0].pids) == {pair.pid_of("endpointd"), worker_of(pair)}
        backend = value(at_worker[0])
        rows = json.loads(pair.ctl("sessions", "--json").stdout)["sessions"]
        (ours,) = [row["id"] for row in rows if row["backend_pid"] == backend]
        assert pair.ctl("sessions", "--kill", ours).stdout == f"ended 1 session: {ours}\n"
        with pytest.raises(psycopg.errors.AdminShutdown):
            value(at_worker[0])
        assert value(at_worker[1]) is not None
        assert value(at_main[0]) is not None
    findings = json.loads(pair.ctl("doctor", "--json").stdout)
    assert [finding for finding in findings if finding["grade"] == "bad"] == []


def test_a_worker_that_is_killed_takes_its_own_sessions_with_it_and_is_started_again(pair: Cluster) -> None:
    worker, main = worker_of(pair), pair.pid_of("endpointd")
    with contextlib.ExitStack() as stack:
        at_main, at_worker = sessions_at_both(pair, stack)
        backends = [value(one) for one in at_main]
        visitors = Visitors(pair.dsn("writer"))
        os.kill(worker, signal.SIGKILL)
        for one in at_worker:
            with pytest.raises(psycopg.OperationalError):
                value(one)
        with visitors.coming():
            pair.wait(lambda status: has_both(status) and worker not in status.proxies[0].pids, "another worker serves")
        assert visitors.failures == []
        assert [value(one) for one in at_main] == backends
    assert pair.pid_of("endpointd") == main


def test_a_failover_ends_the_sessions_of_both_and_loses_no_acknowledged_commit(pair: Cluster) -> None:
    before = whole(pair)
    assert before.writer is not None
    writers = Writers(pair.dsn("writer"))
    with contextlib.ExitStack() as stack:
        at_main, at_worker = sessions_at_both(pair, stack)
        with writers.writing():
            pair.until(lambda: len(writers.acknowledged) > 100, "writing")
            pair.kill_postgres(before.writer)
            after = pair.wait_for_epoch_after(before.epoch)
            written = len(writers.acknowledged)
            pair.until(lambda: len(writers.acknowledged) > written + 100, "writing on")
        for one in (*at_main, *at_worker):
            with pytest.raises(psycopg.OperationalError):
                value(one)
    assert after.writer != before.writer
    assert writers.lost() == set()
    whole(pair)


def test_nothing_fails_and_nobody_is_refused_over_restarts(pair: Cluster) -> None:
    whole(pair)
    at = urlsplit(pair.dsn("writer"))
    environment = pair.environment() | {
        "PGPASSWORD": unquote(at.password or ""), "PGHOST": str(at.hostname), "PGPORT": str(at.port),
        "PGUSER": str(at.username), "PGDATABASE": at.path.removeprefix("/"),
    }  # fmt: skip
    subprocess.run([pair.pg("pgbench"), "-i", "-q", "-s", "2"], env=environment, check=True, capture_output=True, timeout=120)
    visitors = Visitors(pair.dsn("writer"))
    with contextlib.ExitStack() as stack:
        at_main, at_worker = sessions_at_both(pair, stack)
        kept = [*at_main, *at_worker]
        backends = [value(one) for one in kept]
        bench = subprocess.Popen(
            [pair.pg("pgbench"), "-n", "-c", "6", "-j", "2", "-T", "20"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            with visitors.coming():
                for _ in range(RESTARTS):
                    former = worker_of_any(pair)
                    pair.ctl("restart", "proxy")
                    kept.append(stack.enter_context(psycopg.connect(pair.dsn("writer"), autocommit=True)))
                    backends.append(value(kept[-1]))
                    assert worker_of_any(pair) != former
                said, _ = bench.communicate(timeout=120)
        finally:
            bench.kill()
            bench.wait()
        assert [value(one) for one in kept] == backends
    assert visitors.failures == []
    assert bench.returncode == 0, said
    assert "number of failed transactions: 0 (0.000%)" in said
    assert re.search(r"number of transactions actually processed: [1-9]", said) is not None
    pair.wait(has_both, "those that drained have ended")


def worker_of_any(cluster: Cluster) -> int:
    """Return the worker of the process that serves, whoever drains."""
    main = cluster.pid_of("endpointd")
    found: list[int] = []

    def look() -> bool:
        found[:] = [int(word) for word in Path(f"/proc/{main}/task/{main}/children").read_text().split()]
        return len(found) == 1

    cluster.until(look, "a worker")
    return found[0]


def test_down_ends_both_and_up_adopts_both(pair: Cluster) -> None:
    worker, main = worker_of(pair), pair.pid_of("endpointd")
    pair.wait_gone(pair.kill("supervisor"))
    pair.up()
    assert (worker_of(pair), pair.pid_of("endpointd")) == (worker, main)
    # A main process that is killed takes the worker with it, and both come back.
    os.kill(main, signal.SIGKILL)
    pair.wait_gone(worker)
    assert worker_of(pair) != worker
    assert pair.pid_of("endpointd") != main
    worker = worker_of(pair)
    pair.down()
    assert not Path(f"/proc/{worker}").exists()
    pair.up()
    whole(pair)
