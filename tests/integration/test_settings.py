"""PostgreSQL's settings: set once, they are in force on every node, and stay so when nodes come and the writer goes."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from noded.postgres.huge_pages import read_pool
from testkit.cluster import Cluster
from testkit.ledger import Recorder

MakeCluster = Callable[..., Cluster]


def shown(cluster: Cluster, node: str, name: str) -> str:
    """Return what a new session on *node* has for the parameter *name*."""
    with psycopg.connect(cluster.dsn(node), autocommit=True) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return row[0]


def everywhere(cluster: Cluster, name: str) -> set[str]:
    """Return what the nodes have for the parameter *name*."""
    return {shown(cluster, node.name, name) for node in cluster.status().nodes}


def pids(cluster: Cluster) -> dict[str, int | None]:
    """Return the nodes' postmasters."""
    return {node.name: node.pid for node in cluster.status().nodes}


@pytest.mark.timeout(300)
def test_settings_are_the_same_everywhere_and_outlive_restarts_failovers_and_new_nodes(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.up()
    cluster.wait_healthy()
    before = pids(cluster)

    cluster.ctl("config", "set", "work_mem=7MB", "--wait")
    assert everywhere(cluster, "work_mem") == {"7MB"}
    assert pids(cluster) == before

    version = json.loads(cluster.ctl("config", "show", "--json").stdout)["version"]
    for refused, reason in (
        ("fsync=off", "acknowledged that can be lost"),
        ("work_mem=banana", '"work_mem"'),
        ("no_such_parameter=1", '"no_such_parameter"'),
        ("random_page_cost=-1", "0 to "),
        ("max_connections=50", "cannot be lowered"),
    ):
        done = cluster.ctl("config", "set", refused, check=False)
        assert done.returncode == 1, refused
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert json.loads(cluster.ctl("config", "show", "--json").stdout)["version"] == version

    said = cluster.ctl("config", "set", "max_connections=200").stdout
    assert "endpointctl restart" in said
    cluster.wait(lambda status: all(node.pending_restart for node in status.nodes), "every node waits for a restart")
    assert everywhere(cluster, "max_connections") == {"100"}
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        interrupted = cluster.ctl("restart", "--only-pending", "--timeout", "0.2", check=False)
        assert interrupted.returncode == 3, interrupted.stderr
        # A node in the middle of its restart says nothing of it.
        rest = [node.name for node in cluster.wait_healthy().nodes if node.pending_restart]
        assert rest, "nothing was left to interrupt"
        done = cluster.ctl("restart", "--rolling", "--only-pending", "--json", timeout_s=200.0)
        assert sorted(json.loads(done.stdout)["restarted"]) == rest, "the rest, and nothing twice"
        recorder.wait_for_more(50, timeout_s=30.0)
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)
    restarted = cluster.wait_healthy()
    assert not any(node.pending_restart for node in restarted.nodes)
    assert everywhere(cluster, "max_connections") == {"200"}
    assert all(pid != before[name] for name, pid in pids(cluster).items())
    assert "nothing" in cluster.ctl("restart", "--only-pending").stdout

    hba = cluster.data_dir / "more.toml"
    hba.write_text(
        '[postgres]\nsettings = { max_connections = "200", work_mem = "7MB" }\nhba = ["host all keep_out all reject"]\n'
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE keep_out LOGIN PASSWORD 'secret'")
    cluster.ctl("config", "set", "--file", str(hba), "--wait")
    place = urlsplit(dsn)
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(
            host=place.hostname, port=place.port, user="keep_out", password="secret", dbname="postgres", sslmode="disable"
        )

    cluster.ctl("node", "add", "--wait", timeout_s=200.0)
    old = cluster.wait_healthy()
    assert old.writer is not None
    cluster.kill_postgres(old.writer)
    cluster.wait_for_epoch_after(old.epoch)
    after = cluster.wait_healthy()
    assert (after.writer, len(after.nodes)) != (old.writer, 3)
    assert everywhere(cluster, "work_mem") == {"7MB"}
    assert everywhere(cluster, "max_connections") == {"200"}
    view = json.loads(cluster.ctl("config", "show", "--json").stdout)
    assert view["parameters"] == {"max_connections": "200", "work_mem": "7MB"}
    assert all(node["in_force"] for node in view["nodes"])


@pytest.mark.timeout(200)
def test_a_cluster_keeps_the_settings_it_was_made_with_until_others_are_set(make_cluster: MakeCluster, tmp_path: Path) -> None:
    made_with = tmp_path / "made.toml"
    made_with.write_text('[postgres]\nsettings = { work_mem = "9MB", jit = "off" }\n')
    cluster = make_cluster(nodes=1, options=("--config", str(made_with)))
    cluster.up()
    first = json.loads(cluster.ctl("config", "show", "--json").stdout)
    assert (first["version"], first["parameters"]) == (0, {"jit": "off", "work_mem": "9MB"})
    assert cluster.ctl("config", "check", str(made_with)).stdout == "accepted; nothing would change\n"

    for names in (("nosuch",), ("jit", "nosuch")):
        slip = cluster.ctl("config", "set", *(word for name in names for word in ("--reset", name)), check=False)
        assert slip.returncode == 1
        assert 'there is no parameter "nosuch"' in slip.stderr
    assert json.loads(cluster.ctl("config", "show", "--json").stdout) == first
    assert cluster.ctl("config", "set", "--reset", "work_mem_of.mine", "--reset", "jit", "--wait").returncode == 0
    assert "nothing changes" in cluster.ctl("config", "set", "--reset", "jit").stdout
    view = json.loads(cluster.ctl("config", "show", "--json").stdout)
    assert (view["version"], view["parameters"]) == (1, {"work_mem": "9MB"})
    assert everywhere(cluster, "jit") == {shown_default(cluster, "jit")}

    waiting = cluster.ctl("config", "set", "max_connections=120", "--wait", check=False)
    assert waiting.returncode == 3
    assert "endpointctl restart" in waiting.stderr
    alone = cluster.ctl("restart", check=False)
    assert alone.returncode == 1
    assert "nobody to hand over to" in alone.stderr

    other = tmp_path / "other.toml"
    other.write_text('[postgres]\nsettings = { work_mem = "10MB" }\n')
    cluster.down()
    refused = cluster.ctl("up", "--detach", "--config", str(other), check=False)
    assert refused.returncode == 1
    assert "endpointctl config set" in refused.stderr
    cluster.ctl("up", "--detach", "--wait")
    assert everywhere(cluster, "work_mem") == {"9MB"}
    assert everywhere(cluster, "max_connections") == {"120"}


def shown_default(cluster: Cluster, name: str) -> str:
    """Return PostgreSQL's own default of the parameter *name*."""
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        row = connection.execute("SELECT boot_val FROM pg_settings WHERE name = %s", (name,)).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.timeout(300)
def test_what_was_set_can_be_taken_back_while_the_cluster_is_stuck(cluster: Cluster) -> None:
    """It may be what keeps the next writer from coming to be."""
    cluster.ctl("config", "set", "work_mem=9MB", "maintenance_work_mem=70MB", "--wait")
    before = cluster.status()
    writer = str(before.writer)
    others = [node.name for node in before.nodes if node.name != writer]
    try:
        for name in others:
            cluster.stop_node(name)
        cluster.kill_postgres(writer)
        cluster.wait(lambda status: status.state == "stuck", "stuck")
        done = cluster.ctl("config", "set", "work_mem=10MB", check=False)
        assert done.returncode == 1
        cluster.ctl("config", "set", "--reset", "work_mem")
        # The node that is there goes by it before there is a writer.
        cluster.wait(lambda status: _version_of(cluster, writer) == _version(cluster) and status.state == "stuck", "told")
    finally:
        for name in others:
            cluster.start_node(name)
    cluster.wait_healthy()
    assert everywhere(cluster, "work_mem") == {"4MB"}
    assert everywhere(cluster, "maintenance_work_mem") == {"70MB"}
    cluster.ctl("config", "set", "--reset", "maintenance_work_mem", "--wait")


def _version(cluster: Cluster) -> int:
    return json.loads(cluster.ctl("config", "show", "--json").stdout)["version"]


def _version_of(cluster: Cluster, name: str) -> int | None:
    nodes = json.loads(cluster.ctl("config", "show", "--json").stdout)["nodes"]
    return next(node["version"] for node in nodes if node["name"] == name)


@pytest.mark.timeout(300)
def test_a_replica_can_be_made_anew_whatever_ends_other_senders_of_wal(cluster: Cluster) -> None:
    """A timeout of a millisecond ends whoever receives WAL at its own pace; our own copies give theirs."""
    standby = next(node.name for node in cluster.status().nodes if node.role == "standby")
    cluster.ctl("config", "set", "wal_sender_timeout=1ms", "--wait")
    try:
        incarnation = _copied_at(cluster, standby)
        cluster.ctl("node", "reinit", standby, "--yes")
        cluster.wait(lambda _: _copied_at(cluster, standby) != incarnation, "made anew", timeout_s=60.0)
        cluster.wait_healthy()
    finally:
        cluster.ctl("config", "set", "--reset", "wal_sender_timeout", "--wait")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_replica_that_cannot_start_with_its_settings_says_why_keeps_its_data_and_heals_by_a_reset(cluster: Cluster) -> None:
    """What the check sees is refused; here the machine has less afterwards than it had then."""
    pool = read_pool(0)
    if pool is None or pool.available == 0:
        refused = cluster.ctl("config", "set", "huge_pages=on", check=False)
        assert refused.returncode == 1
        assert '"huge_pages" cannot be "on"' in refused.stderr

    standby = next(node.name for node in cluster.status().nodes if node.role == "standby")
    cluster.ctl("config", "set", "shared_buffers=3GB")
    cluster.wait(lambda status: all(node.pending_restart for node in status.nodes), "every node waits for a restart")
    before, copied_at, noded = pids(cluster), _copied_at(cluster, standby), cluster.pid_of(standby)
    limit = resource.prlimit(noded, resource.RLIMIT_AS)
    resource.prlimit(noded, resource.RLIMIT_AS, (_virtual_bytes(noded) + (1 << 30), limit[1]))
    try:
        failed = cluster.ctl("restart", "--only-pending", check=False)
        assert failed.returncode == 1, failed.stderr
        assert f'"{standby}" does not come up' in failed.stderr
        assert "could not map anonymous shared memory" in failed.stderr
        assert "config set --reset" in failed.stderr
        told = cluster.node(standby)
        assert "could not map anonymous shared memory" in str(told.problem)
        assert _copied_at(cluster, standby) == copied_at
        assert {name for name, pid in pids(cluster).items() if pid == before[name]} == before.keys() - {standby}
        cluster.ctl("config", "set", "--reset", "shared_buffers")
        cluster.wait_healthy()
    finally:
        resource.prlimit(noded, resource.RLIMIT_AS, limit)
        cluster.ctl("config", "set", "--reset", "shared_buffers")
    cluster.wait_healthy()
    assert _copied_at(cluster, standby) == copied_at
    assert everywhere(cluster, "shared_buffers") == {"32MB"}
    cluster.wait(lambda status: not any(node.pending_restart for node in status.nodes), "nothing waits for a restart")


def _virtual_bytes(pid: int) -> int:
    """Return how much address space a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def _copied_at(cluster: Cluster, name: str) -> int:
    """Return what tells one data directory of a node from the next."""
    pgdata = cluster.data_dir / "nodes" / name / "pgdata"
    return pgdata.stat().st_ino if pgdata.exists() else 0
