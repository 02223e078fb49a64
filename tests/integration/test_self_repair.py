"""What a local cluster mends by itself: programs that stand still, and files and sockets that somebody removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from daemonkit.principals import Scope
from deployment.local.directory import read_plan
from deployment.local.layout import Layout
from endpointctl.local.watching import RESTARTS_MAX
from supervisor.keepsakes import cluster_keepsakes
from testkit.cluster import Cluster
from testkit.injuries import Part, frozen
from testkit.ledger import Recorder

pytestmark = pytest.mark.timeout(200)


def postmasters(cluster: Cluster) -> dict[str, int | None]:
    return {node.name: node.pid for node in cluster.status().nodes}


def test_a_frozen_manager_does_not_keep_a_failover_waiting(cluster: Cluster) -> None:
    before = cluster.status()
    servers = postmasters(cluster)
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        manager = cluster.kill("cluster_manager", signal.SIGSTOP)
        assert before.writer is not None
        pid = servers[before.writer]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        cluster.wait_gone(manager, timeout_s=30.0)
        after = cluster.wait_for_epoch_after(before.epoch)
        recorder.wait_for_more(50, timeout_s=30.0)
    assert recorder.check(dsn).is_clean
    others = {name: pid for name, pid in servers.items() if name != before.writer}
    assert others.items() <= postmasters(cluster).items(), "no other PostgreSQL was touched"
    assert after.writer in others
    assert "its loop stands still" in Layout(cluster.data_dir).log("supervisor").read_text()


@pytest.mark.parametrize("program", ["endpointd", "the writer's noded"])
def test_a_frozen_program_is_ended_and_no_postgresql_with_it(cluster: Cluster, program: str) -> None:
    before = cluster.status()
    assert before.writer is not None
    servers = postmasters(cluster)
    stuck = cluster.kill("endpointd" if program == "endpointd" else before.writer, signal.SIGSTOP)
    cluster.wait_gone(stuck, timeout_s=60.0)
    after = cluster.wait_healthy()
    assert postmasters(cluster) == servers
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
    assert recorder.check(dsn).is_clean


@pytest.mark.slow
def test_a_program_that_is_frozen_before_its_first_word_is_ended_too(cluster: Cluster) -> None:
    before = cluster.status()
    name = next(node.name for node in before.nodes if node.name != before.writer)
    servers = postmasters(cluster)
    cluster.wait_gone(cluster.kill(name))

    def its_new_pid() -> int | None:
        return next((program.pid for program in cluster.program("list") if program.name == name), None)

    cluster.until(lambda: its_new_pid() is not None, f"{name} is started again")
    stuck = its_new_pid()
    assert stuck is not None
    # Still among its imports, unless this machine is fast: then it has spoken, and is ended as any other.
    os.kill(stuck, signal.SIGSTOP)
    cluster.wait_gone(stuck, timeout_s=60.0)
    said = Layout(cluster.data_dir).log("supervisor").read_text()
    assert "it has not said a word since its start" in said or "its loop stands still" in said
    after = cluster.wait_healthy()
    assert postmasters(cluster) == servers
    assert (after.writer, after.epoch) == (before.writer, before.epoch)


def test_a_noded_that_stood_still_for_a_moment_says_so(cluster: Cluster) -> None:
    before = cluster.status()
    name = next(node.name for node in before.nodes if node.name != before.writer)
    noded = cluster.pid_of(name)
    with frozen(cluster, Part.NODED, cluster.node(name, before)):
        cluster.wait(lambda status: cluster.node(name, status).state == "unreachable", f"{name} is silent")
    cluster.wait(lambda status: cluster.node(name, status).late_ms > 0, f"{name} tells how late it was")
    assert cluster.pid_of(name) == noded
    after = cluster.wait_healthy()
    assert (after.writer, after.epoch) == (before.writer, before.epoch)


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 2)


def are_as(files: dict[Path, bytes]) -> bool:
    return all(path.exists() and path.read_bytes() == content for path, content in files.items())


def kill_all(cluster: Cluster) -> None:
    """Kill every program at once, and wait until it is gone; each PostgreSQL lives on."""
    for pid in [cluster.kill(program.name) for program in cluster.program("list")]:
        cluster.wait_gone(pid)


@pytest.mark.parametrize("damage", [gone, empty, garbage])
def test_every_file_that_programs_need_comes_back_and_so_do_the_programs(
    cluster: Cluster, damage: Callable[[Path], None]
) -> None:
    before = cluster.status()
    servers = postmasters(cluster)
    layout = Layout(cluster.data_dir)
    plan = read_plan(layout)
    assert plan is not None
    files = {path: path.read_bytes() for one in cluster_keepsakes(layout, plan) for path in one.checks}
    files[layout.plan] = layout.plan.read_bytes()
    for path in files:
        damage(path)
    kill_all(cluster)
    cluster.until(lambda: are_as(files), "every file as it was")
    after = cluster.wait_healthy()
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    assert postmasters(cluster) == servers
    cluster.until(lambda: all(one.state == "running" for one in cluster.program("list")), "every program at work")
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
    assert recorder.check(dsn).is_clean


@pytest.mark.parametrize("damage", [empty, garbage])
def test_copies_and_journals_that_are_damaged_stop_no_program(cluster: Cluster, damage: Callable[[Path], None]) -> None:
    before = cluster.status()
    servers = postmasters(cluster)
    layout = Layout(cluster.data_dir)
    files = [*layout.proxy.rglob("*"), *layout.manager.rglob("*"), *(layout.record(name) for name in ("n1", "endpointd"))]
    kept = [path for path in files if path.is_file() and "store.sqlite" not in path.name]
    assert {"topology.json", "journal.jsonl", "n1.pid"} <= {path.name for path in kept}
    pids = [cluster.pid_of(program.name) for program in cluster.program("list")]
    for path in kept:
        damage(path)
    for pid in pids:
        cluster.kill_pid(pid)
    for pid in pids:
        cluster.wait_gone(pid)
    after = cluster.wait_healthy()
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    assert postmasters(cluster) == servers


def test_what_was_damaged_while_there_was_no_supervisor_is_made_anew_by_up_or_named(cluster: Cluster) -> None:
    before = cluster.status()
    layout = Layout(cluster.data_dir)
    cluster.wait_gone(cluster.kill("supervisor"))
    assert "there is no supervisor" in " ".join(cluster.ctl("status").stdout.split())
    control = layout.secret("control")
    good = control.read_bytes()
    garbage(control)
    refused = cluster.ctl("up", "--detach", check=False)
    assert refused.returncode == 1
    assert "secrets/control" in refused.stderr
    control.write_bytes(good)
    gone(layout.token)
    for path in (*layout.settings.iterdir(), *(layout.token_of(scope) for scope in Scope if scope is not Scope.ADMIN)):
        garbage(path)
    empty(layout.verifiers)
    empty(layout.passfile)
    cluster.up()
    after = cluster.wait_healthy()
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    cluster.ctl("psql", "writer", "-c", "select 1")


@pytest.mark.slow
def test_a_wrong_token_is_undone_and_rotated_ones_stay(cluster: Cluster) -> None:
    layout = Layout(cluster.data_dir)
    before = layout.token.read_bytes()
    layout.token.write_text("another-word")
    cluster.until(lambda: layout.token.read_bytes() == before, "the token as it was")
    cluster.ctl("status")
    cluster.ctl("secrets", "rotate", "--tokens")
    cluster.ctl("secrets", "rotate")
    rotated = {
        path: path.read_bytes() for path in (layout.token, layout.verifiers, layout.secret("superuser"), layout.passfile)
    }
    assert rotated[layout.token] != before
    proxy = cluster.kill("endpointd")
    for path in rotated:
        garbage(path)
    cluster.until(lambda: are_as(rotated), "what was rotated is what comes back")
    cluster.wait_gone(proxy)
    cluster.wait_healthy()
    cluster.ctl("psql", "writer", "-c", "select 1")


def test_a_proxy_that_was_given_a_wrong_token_serves_by_the_right_one(cluster: Cluster) -> None:
    path = Layout(cluster.data_dir).token_of(Scope.FEED)
    before = path.read_bytes()
    # Well-formed: for a moment it may be somebody's wish, and the proxy starts with it.
    path.write_text("another-word")
    former = cluster.kill("endpointd")
    cluster.wait_gone(former)
    cluster.until(lambda: path.read_bytes() == before, "the token as it was")
    cluster.wait_healthy()


def test_a_program_that_refuses_its_settings_is_named_and_back_when_they_are_mended(cluster: Cluster) -> None:
    layout = Layout(cluster.data_dir)
    settings = layout.settings_file("endpointd")
    before = settings.read_text()
    settings.write_text(before.replace("hold_max = 1000", "hold_max = true"))
    former = cluster.kill("endpointd")
    cluster.wait_gone(former)

    def told() -> bool:
        text = cluster.ctl("status").stdout
        return "endpointd is down" in text and "[limits].hold_max: expected an integer" in " ".join(text.split())

    cluster.until(told, "status names the program and the reason")
    status = cluster.wait(lambda seen: not seen.proxies, "no proxy")
    assert status.state == "degraded"
    programs = {one["name"]: one for one in json.loads(cluster.ctl("status", "--json").stdout)["programs"]}
    assert programs["endpointd"]["state"] == "failed"
    assert "[limits].hold_max" in programs["endpointd"]["reason"]
    assert programs["n1"]["state"] == "running"
    refused = cluster.ctl("up", "--detach", "--wait", check=False)
    assert refused.returncode == 1
    assert "endpointd refuses to start" in refused.stderr
    assert "[limits].hold_max" in refused.stderr
    settings.write_text(before)
    cluster.wait_healthy()
    # However often it has ended meanwhile: what counts is how it is now.
    assert next(one.restarts for one in cluster.program("list") if one.name == "endpointd") >= 2
    cluster.ctl("up", "--detach", "--wait")
    # That it has accepted its settings is heard with its next sign of life, which a busy machine delays.
    cluster.until(lambda: "is down" not in cluster.ctl("status").stdout, "status says that it is back")


def test_a_manager_that_refuses_its_settings_is_named(cluster: Cluster) -> None:
    settings = Layout(cluster.data_dir).settings_file("cluster_manager")
    before = settings.read_text()
    settings.write_text(before.replace("ttl_s = 1", 'ttl_s = "long"'))
    former = cluster.kill("cluster_manager")
    cluster.wait_gone(former)
    cluster.until(lambda: "[dns].ttl_s" in cluster.ctl("status", check=False).stderr, "status says why no manager answers")
    assert "cluster_manager is down" in cluster.ctl("status", check=False).stderr
    settings.write_text(before)
    cluster.wait_healthy()


@pytest.mark.slow
def test_programs_that_ended_often_are_not_held_against_a_healthy_cluster(cluster: Cluster) -> None:
    for _ in range(RESTARTS_MAX + 1):
        former = cluster.kill("n2")
        cluster.until(lambda former=former: cluster_pid(cluster, "n2") not in (None, former), "n2 is started again")
    cluster.wait_healthy()
    cluster.ctl("up", "--detach", "--wait")


def cluster_pid(cluster: Cluster, name: str) -> int | None:
    return next(one.pid for one in cluster.program("list") if one.name == name)


def test_sockets_that_were_removed_are_found_again_and_nothing_fails_over(cluster: Cluster) -> None:
    before = cluster.status()
    servers = postmasters(cluster)
    sockets = Layout(cluster.data_dir).sockets
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        shutil.rmtree(sockets)
        paths = [sockets / node.name / f".s.PGSQL.{node.port}" for node in before.nodes]

        def are_back() -> bool:
            return all(path.exists() and stat.S_ISSOCK(path.stat().st_mode) for path in (*paths, sockets / "supervisor"))

        cluster.wait(lambda _: are_back(), "every socket is back")
        recorder.wait_for_more(500, timeout_s=60.0)
        assert cluster.program("list"), "the supervisor takes orders"
        after = cluster.wait_healthy()
    assert recorder.check(dsn).is_clean
    assert (after.writer, after.epoch) == (before.writer, before.epoch)
    assert postmasters(cluster) == servers
    cluster.ctl("switchover")
    cluster.wait_healthy()
