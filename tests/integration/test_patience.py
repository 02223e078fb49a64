"""A handover that gives sessions time: it waits for a quiet moment, or lets what is open finish, or says whom it would end."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from deployment.cluster import PostgresSettings
from testkit.cluster import ROOT, Cluster
from tests.integration.conftest import pg_options


@pytest.fixture
def open_transaction(cluster: Cluster) -> psycopg.Connection[tuple[object, ...]]:
    """A session through the writer endpoint that has inserted a row and has not committed it."""
    connection = psycopg.connect(cluster.dsn("writer"), application_name="slow client")
    connection.execute("CREATE TABLE IF NOT EXISTS patience (id bigserial)")
    connection.commit()
    connection.execute("INSERT INTO patience DEFAULT VALUES")
    return connection


def rows(cluster: Cluster) -> int:
    with psycopg.connect(cluster.dsn("writer")) as connection:
        row = connection.execute("SELECT count(*) FROM patience").fetchone()
    assert row is not None
    return int(row[0])


def test_no_quiet_moment_means_no_switchover(
    cluster: Cluster, open_transaction: psycopg.Connection[tuple[object, ...]]
) -> None:
    before = cluster.status()
    with open_transaction as connection:
        done = cluster.ctl("switchover", "--wait-idle", "2", check=False)
        assert done.returncode == 1, done.stdout
        assert "nothing was done" in done.stderr
        assert "slow client" in done.stderr
        assert (cluster.status().writer, cluster.status().epoch) == (before.writer, before.epoch)
        connection.commit()


def test_a_switchover_waits_for_a_quiet_moment(
    cluster: Cluster, open_transaction: psycopg.Connection[tuple[object, ...]]
) -> None:
    before = cluster.status()
    count = rows(cluster)
    with open_transaction as connection:
        waiting = subprocess.Popen(
            [sys.executable, "-m", "endpointctl", "switchover", "--wait-idle", "60"],
            cwd=ROOT, env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert "waiting for a moment" in said
        assert "slow client" in said
        assert cluster.status().epoch == before.epoch
        connection.commit()
        _, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, errors
    assert cluster.status().epoch > before.epoch
    assert rows(cluster) == count + 1


def test_what_is_open_may_finish_while_the_writer_drains(
    cluster: Cluster, open_transaction: psycopg.Connection[tuple[object, ...]]
) -> None:
    before = cluster.status()
    count = rows(cluster)
    with ThreadPoolExecutor() as pool, open_transaction as connection:
        switching = pool.submit(cluster.ctl, "switchover", "--drain-timeout", "60", check=False)
        cluster.wait(lambda status: status.transition is not None or status.epoch > before.epoch, "a handover that has begun")
        connection.execute("INSERT INTO patience DEFAULT VALUES")
        connection.commit()
        done = switching.result(timeout=120)
    assert done.returncode == 0, done.stderr
    assert cluster.status().epoch > before.epoch
    assert rows(cluster) == count + 2


def test_what_is_open_ends_with_an_sqlstate_when_nobody_waits_for_it(
    cluster: Cluster, open_transaction: psycopg.Connection[tuple[object, ...]]
) -> None:
    count = rows(cluster)
    told = json.loads(cluster.ctl("switchover", "--dry-run", "--json").stdout)
    assert "slow client" in [session["application"] for session in told["open_sessions"]]
    cluster.ctl("switchover", "--drain-timeout", "0")
    with open_transaction as connection, pytest.raises(psycopg.OperationalError) as caught:
        connection.commit()
    assert caught.value.sqlstate == "57P01", repr(caught.value)
    assert rows(cluster) == count


@pytest.mark.parametrize(
    ("application", "replication"),
    [("endpointd witness", "false"), ("SQL beside streams", "database")],
    ids=["name", "walsender"],
)
def test_a_transaction_is_seen_whatever_its_session_calls_itself_or_asks_for(
    cluster: Cluster, application: str, replication: str
) -> None:
    before = cluster.status()
    with psycopg.connect(cluster.dsn("writer"), application_name=application, replication=replication) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS patience (id bigserial)")
        connection.commit()
        quiet = json.loads(cluster.ctl("switchover", "--dry-run", "--json").stdout)
        assert application not in [session["application"] for session in quiet["open_sessions"]], "it is idle"
        count = rows(cluster)
        connection.execute("INSERT INTO patience DEFAULT VALUES")
        told = json.loads(cluster.ctl("switchover", "--dry-run", "--json").stdout)
        assert application in [session["application"] for session in told["open_sessions"]]
        done = cluster.ctl("switchover", "--wait-idle", "1", check=False)
        assert done.returncode == 1, done.stdout
        assert application in done.stderr
        assert (cluster.status().writer, cluster.status().epoch) == (before.writer, before.epoch)
        connection.commit()
    assert rows(cluster) == count + 1


@pytest.mark.parametrize("statement", ["SELECT 1", "INSERT INTO patience DEFAULT VALUES"], ids=["reads", "writes"])
def test_a_session_whose_activity_is_not_tracked_is_waited_for_too(cluster: Cluster, statement: str) -> None:
    before = cluster.status()
    with psycopg.connect(cluster.dsn("writer"), application_name="untracked client", autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS patience (id bigserial)")
        connection.execute("SET track_activities = off")
        quiet = json.loads(cluster.ctl("switchover", "--dry-run", "--json").stdout)
        assert "untracked client" not in [session["application"] for session in quiet["open_sessions"]]
        connection.execute("BEGIN")
        connection.execute(statement.encode())
        told = json.loads(cluster.ctl("switchover", "--dry-run", "--json").stdout)
        [ours] = [session for session in told["open_sessions"] if session["application"] == "untracked client"]
        assert not ours["tracked"]
        assert told["open_count"] == len(told["open_sessions"]), "it is counted, as whoever else has one at that moment"
        done = cluster.ctl("switchover", "--wait-idle", "1", check=False)
        assert done.returncode == 1, done.stdout
        assert "untracked client, state not known" in done.stderr
        assert (cluster.status().writer, cluster.status().epoch) == (before.writer, before.epoch)
        connection.execute("COMMIT")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dry_run_names_an_archiver_that_the_stop_would_wait_for(tmp_path: Path) -> None:
    settings = {"archive_mode": "on", "archive_command": "sleep 600"}
    cluster = Cluster(tmp_path / "c", options=pg_options(), postgres=PostgresSettings(settings=settings))
    try:
        cluster.up()
        cluster.wait_healthy()
        with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
            connection.execute("CREATE TABLE archived ()")
            connection.execute("SELECT pg_switch_wal()")
        cluster.until(lambda: "the archiver of" in cluster.ctl("switchover", "--dry-run").stdout, "named")
        old = cluster.status().writer
        cluster.ctl("switchover")
        assert cluster.wait_healthy().writer != old, "it is cut short, and somebody else is the writer"
    finally:
        cluster.remove()
