"""What becomes of a base copy that somebody starts: a server of its own, and never one whose word counts for a commit."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from noded.postgres.binaries import find_binaries
from pgtopology.status import NodeStatus
from testkit.cluster import Cluster
from testkit.ports import free_port
from tests.integration.test_replication_clients import run, until

pytestmark = pytest.mark.timeout(300)


def standby_of(cluster: Cluster) -> NodeStatus:
    return next(node for node in cluster.status().nodes if node.role == "standby")


@pytest.fixture
def copy(cluster: Cluster, tmp_path: Path) -> Path:
    """A copy of a standby, taken as the documents say."""
    target = tmp_path / "copy"
    done = run(cluster, "pg_basebackup", "--pgdata", str(target), "--checkpoint=fast", door=standby_of(cluster).name)
    assert done.returncode == 0, done.stderr
    return target


@contextlib.contextmanager
def started(cluster: Cluster, data: Path, *options: str) -> Iterator[str]:
    """Run PostgreSQL on *data* and yield how it is reached, by the cluster's superuser."""
    port = free_port()
    words = ("-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", *options)
    log = data.with_name("copy.log")
    with log.open("wb") as output:
        command = find_binaries(Path(cluster.pg("postgres")).parent).command("postgres", *words)
        server = subprocess.Popen(command, stdout=output, stderr=output)
    password = conninfo_to_dict(cluster.dsn("writer"))["password"]
    dsn = make_conninfo(host="127.0.0.1", port=port, user="postgres", dbname="postgres", password=password)

    def answers() -> bool:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(dsn).close()
            return True
        return False

    try:
        until(answers, f"started: {log.read_text()}")
        yield dsn
    finally:
        server.terminate()
        server.wait(60)


def senders(cluster: Cluster) -> dict[str, list[int]]:
    """Return the sync_priority of each WAL sender of the writer, by application_name."""
    found: dict[str, list[int]] = {}
    with psycopg.connect(cluster.dsn("writer")) as connection:
        for name, priority in connection.execute("SELECT application_name, sync_priority FROM pg_stat_replication"):
            found.setdefault(name, []).append(priority)
    return found


@pytest.fixture
def members(cluster: Cluster) -> set[str]:
    """The names of those who count for a commit."""
    names = {name for name, priorities in senders(cluster).items() if any(priorities)}
    assert len(names) == 2
    return names


@pytest.mark.versions
def test_a_copy_that_goes_on_as_a_standby_counts_for_no_commit(cluster: Cluster, members: set[str], copy: Path) -> None:
    """It has all that the data directory of a member has, and its word would release commits that no member has."""
    with started(cluster, copy, "-c", "max_wal_senders=20"):
        until(lambda: "walreceiver" in senders(cluster), "streaming")
        now = senders(cluster)
    assert now["walreceiver"] == [0]
    assert {name: len(now[name]) for name in members} == dict.fromkeys(members, 1)
    cluster.wait_healthy()


def test_a_copy_that_gives_itself_a_members_name_is_ended(cluster: Cluster, members: set[str], copy: Path) -> None:
    """As copies do that were taken from an earlier version, whose primary_conninfo had the name in it."""
    automatic = copy / "postgresql.auto.conf"
    name = min(members)
    text = automatic.read_text()
    assert "application_name" not in text
    automatic.write_text(text.replace("primary_conninfo = '", f"primary_conninfo = 'application_name={name} "))
    log = copy.with_name("copy.log")
    with started(cluster, copy, "-c", "max_wal_senders=20"):
        until(lambda: log.read_text().count("terminating connection due to administrator command") >= 2, "ended")
    cluster.wait_healthy()
    assert senders(cluster)[name] == [1]


def test_a_copy_can_be_used_as_a_server_of_its_own(cluster: Cluster, copy: Path) -> None:
    """By the steps of docs/operations/backups.md."""
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        before = connection.execute("SELECT count(*) FROM pg_database").fetchone()
    (copy / "standby.signal").unlink()
    (copy / "postgresql.auto.conf").unlink()
    main = copy / "postgresql.conf"
    main.write_text("".join(line for line in main.read_text().splitlines(True) if not line.startswith("include_if_exists")))
    with started(cluster, copy) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM pg_database").fetchone() == before
        connection.execute("CREATE TABLE of_its_own AS SELECT 1 AS i")
        assert connection.execute("SHOW synchronous_standby_names").fetchone() == ("",)
    cluster.wait_healthy()
