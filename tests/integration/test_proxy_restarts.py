"""The proxy is restarted while a cluster serves: no transaction fails, nobody is refused, no session is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from pgtopology.status import ProxyStatus
from pgtopology.supervision import ProgramReport
from testkit.cluster import Cluster

RESTARTS = 5
KNOCKS_PER_S = 200
KNOCKS_AT_ONCE = 100
"""Fewer than half of `strangers_max`, from where on the proxy hurries strangers."""
LOGINS_PER_S = 8
"""Each is a SCRAM exchange and a process of PostgreSQL; the machine has two cores, and others use them."""
SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)


class Visitors:
    """Clients that come all the time: knocks that want one answer of the proxy, and whole sessions of one statement."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        at = urlsplit(dsn)
        assert at.hostname is not None
        assert at.port is not None
        self._place = (at.hostname, at.port)
        self._over = threading.Event()
        self.knocks = 0
        self.logins = 0
        self.failures: list[str] = []

    async def _knock(self) -> None:
        try:
            async with asyncio.timeout(20):
                reader, writer = await asyncio.open_connection(*self._place)
                writer.write(SSL_REQUEST)
                if await reader.readexactly(1) not in (b"S", b"N"):
                    raise OSError("a strange answer")
                writer.close()
        except (OSError, asyncio.IncompleteReadError) as error:
            self.failures.append(f"knock: {error!r}")
        self.knocks += 1

    async def _knock_all_the_time(self) -> None:
        """Knock so often, or less where the machine is too slow: what was missed is not made up for in a crowd."""
        under_way: set[asyncio.Task[None]] = set()
        while not self._over.is_set():
            if len(under_way) < KNOCKS_AT_ONCE:
                knock = asyncio.create_task(self._knock())
                under_way.add(knock)
                knock.add_done_callback(under_way.discard)
            await asyncio.sleep(1 / KNOCKS_PER_S)
        await asyncio.gather(*under_way)

    def _log_in_all_the_time(self) -> None:
        while not self._over.wait(1 / LOGINS_PER_S):
            try:
                with psycopg.connect(self._dsn, connect_timeout=20) as session:
                    session.execute("SELECT 1")
                self.logins += 1
            except psycopg.Error as error:
                self.failures.append(f"login: {error!r}")

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        with ThreadPoolExecutor() as pool:
            work = (pool.submit(asyncio.run, self._knock_all_the_time()), pool.submit(self._log_in_all_the_time))
            try:
                yield
            finally:
                self._over.set()
                for one in work:
                    one.result()


@pytest.fixture
def begin_pgbench(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts pgbench for so many seconds; its tables are there."""
    at = urlsplit(cluster.dsn("writer"))
    environment = cluster.environment() | {
        "PGPASSWORD": unquote(at.password or ""), "PGHOST": str(at.hostname), "PGPORT": str(at.port),
        "PGUSER": str(at.username), "PGDATABASE": at.path.removeprefix("/"),
    }  # fmt: skip
    tables = [cluster.pg("pgbench"), "-i", "-q", "-s", "2"]
    subprocess.run(tables, env=environment, check=True, capture_output=True, timeout=120)
    started: list[subprocess.Popen[str]] = []

    def begin(duration_s: int) -> subprocess.Popen[str]:
        bench = subprocess.Popen(
            [cluster.pg("pgbench"), "-n", "-c", "6", "-j", "2", "-T", str(duration_s)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(bench)
        return bench

    yield begin
    for bench in started:
        if bench.poll() is None:
            bench.kill()
        bench.wait()


def proxies(cluster: Cluster) -> dict[bool, list[ProxyStatus]]:
    """Return those that serve and those that drain."""
    told = cluster.status().proxies
    return {draining: [one for one in told if one.draining is draining] for draining in (False, True)}


def supervised(cluster: Cluster) -> ProgramReport:
    """Return what the supervisor tells of the proxy."""
    return next(report for report in cluster.program("list") if report.name == "endpointd")


def restart(cluster: Cluster) -> int:
    """Restart the proxy, and return the pid of the process that serves from now on."""
    pid = json.loads(cluster.ctl("restart", "proxy", "--json").stdout)["pid"]
    assert cluster.pid_of("endpointd") == pid
    return int(pid)


def sql(session: psycopg.Connection[tuple[object, ...]], statement: str = "SELECT pg_backend_pid()") -> object:
    row = session.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def test_nothing_fails_nobody_is_refused_and_no_session_is_lost_over_five_restarts(
    cluster: Cluster, begin_pgbench: Callable[[int], subprocess.Popen[str]], tell: Callable[[str], None]
) -> None:
    dsn = cluster.dsn("writer")
    visitors = Visitors(dsn)
    seen, restarts = {cluster.pid_of("endpointd")}, supervised(cluster).restarts
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(psycopg.connect(dsn, autocommit=True)) for _ in range(4)]
        backends = [sql(session) for session in sessions]
        bench = begin_pgbench(30)
        with visitors.coming():
            for _ in range(RESTARTS):
                seen.add(restart(cluster))
                # Each of the clients that stay has come by one of them.
                sessions.append(stack.enter_context(psycopg.connect(dsn, autocommit=True)))
                backends.append(sql(sessions[-1]))
            said, _ = bench.communicate(timeout=120)
        assert [sql(session) for session in sessions] == backends
        assert len(seen) == RESTARTS + 1
        cluster.until(
            lambda: sum(one.sessions for one in proxies(cluster)[True]) == len(sessions) - 1, "only they are left to drain"
        )
    assert visitors.failures == []
    assert bench.returncode == 0, said
    assert "number of failed transactions: 0 (0.000%)" in said
    done = re.search(r"number of transactions actually processed: (\d+)", said)
    assert done is not None
    cluster.until(lambda: supervised(cluster).draining == (), "the end of those that have drained")
    assert supervised(cluster).restarts == restarts
    tell(f"{RESTARTS} restarts: {done[1]} transactions, {visitors.knocks} knocks and {visitors.logins} logins, none failed")


def test_a_failover_ends_the_sessions_of_a_process_that_drains_and_waits_for_them(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    dsn = cluster.dsn("writer")
    target = next(node.name for node in before.nodes if node.name != before.writer)
    with psycopg.connect(dsn, autocommit=True) as session:
        sql(session)
        restart(cluster)
        cluster.until(lambda: [one.sessions for one in proxies(cluster)[True]] == [1], "one drains, with one session")
        cluster.ctl("failover", "--to", target)
        after = cluster.wait_for_epoch_after(before.epoch)
        assert after.writer == target
        with pytest.raises(psycopg.OperationalError) as caught:
            session.execute("CREATE TABLE survivors (n int)")
        assert caught.value.sqlstate == "57P01"
    cluster.until(lambda: not proxies(cluster)[True], "all drained")
    cluster.wait_healthy()


def test_a_process_that_drains_and_stands_still_keeps_no_writer_from_being_followed_by_another(cluster: Cluster) -> None:
    before = cluster.status()
    assert before.writer is not None
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as session:
        sql(session)
        first = cluster.pid_of("endpointd")
        restart(cluster)
        cluster.until(lambda: [one.sessions for one in proxies(cluster)[True]] == [1], "draining")
        os.kill(first, signal.SIGSTOP)
        cluster.kill_postgres(before.writer)
        cluster.wait_for_epoch_after(before.epoch)
        # The supervisor finds out that its loop stands still, as it does of one that serves.
        cluster.wait_gone(first)
        with pytest.raises(psycopg.OperationalError):
            session.execute("CREATE TABLE survivors (n int)")
    cluster.wait_healthy()


def test_a_new_process_that_is_killed_in_the_middle_leaves_the_old_one_serving(cluster: Cluster) -> None:
    dsn = cluster.dsn("writer")
    former = cluster.pid_of("endpointd")
    log = cluster.data_dir / "logs" / "endpointd.log"
    begun = log.read_text().count("starts to take over")
    with psycopg.connect(dsn, autocommit=True) as session, ThreadPoolExecutor() as pool:
        backend = sql(session)
        restarting = pool.submit(cluster.ctl, "restart", "proxy", check=False)
        cluster.until(lambda: log.read_text().count("starts to take over") > begun, "a takeover")
        newcomer = int(re.findall(r"starts to take over.*?successor\W+(\d+)", log.read_text())[-1])
        cluster.kill_pid(newcomer)
        done = restarting.result()
        assert done.returncode == 1
        assert f"endpointd {former} serves on" in done.stderr
        assert sql(session) == backend
        with psycopg.connect(dsn) as fresh:
            sql(fresh)
    assert cluster.pid_of("endpointd") == former
    assert proxies(cluster)[True] == []


def test_a_restart_says_which_setting_the_new_process_refuses(cluster: Cluster) -> None:
    settings = cluster.data_dir / "settings" / "endpointd.toml"
    text, former = settings.read_text(), cluster.pid_of("endpointd")
    settings.write_text(text.replace("[limits]", "[limits]\nodd = 1"))
    try:
        done = cluster.ctl("restart", "proxy", check=False)
    finally:
        settings.write_text(text)
    assert done.returncode == 1
    assert f"endpointd {former} serves on" in done.stderr
    assert "[limits].odd: unknown key" in done.stderr
    assert cluster.pid_of("endpointd") == former


def test_the_supervisor_and_down_know_processes_that_drain(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(nodes=1)
    cluster.up()
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as session:
        sql(session)
        first = cluster.pid_of("endpointd")
        second = restart(cluster)
        cluster.wait_gone(cluster.kill("supervisor"))
        cluster.up()
        assert cluster.pid_of("endpointd") == second
        report = supervised(cluster)
        assert (report.adopted, report.draining) == (True, (first,))
        cluster.kill_pid(second)
        cluster.wait_gone(second)
        cluster.wait_healthy()
        assert cluster.pid_of("endpointd") not in (first, second)
        cluster.down()
        assert not cluster.owns(first)
        with pytest.raises(psycopg.OperationalError) as caught:
            session.execute("SELECT 1")
        assert caught.value.sqlstate == "57P01"
