"""One cluster with two proxies: each serves by itself, and they are one to operators, failovers and cancel requests."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg
import pytest

from endpointd.session.longkeys import KEY_BYTES
from pgtopology.status import Status
from testkit.balancer import balancer
from testkit.cluster import Cluster

NAMES = ("proxy-1", "proxy-2")
CANCEL_HEAD_BYTES = 12


@pytest.fixture(scope="module")
def duo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two proxies, for the tests of this file."""
    made = Cluster(tmp_path_factory.mktemp("d") / "c", options=("--proxies", "2"))
    try:
        made.up()
        yield made
    finally:
        made.remove()


def dsn(cluster: Cluster, proxy: str, door: str = "writer") -> str:
    return cluster.ctl("dsn", door, "--proxy", proxy, "--with-password").stdout.strip()


def all_route(status: Status) -> bool:
    routing = {one.name for one in status.proxies if one.epoch == status.epoch and not one.draining}
    return status.writer is not None and routing == set(NAMES)


def value(session: psycopg.Connection[tuple[object, ...]], statement: str = "SELECT pg_backend_pid()") -> object:
    row = session.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def test_each_has_ports_of_its_own_which_up_status_and_dsn_tell(duo: Cluster) -> None:
    status = duo.wait(all_route, "both proxies route")
    told = {one.name: {each.name: each.port for each in one.endpoints} for one in status.proxies}
    assert told == {
        "proxy-1": {"writer": duo.port(32), "reader": duo.port(33)},
        "proxy-2": {"writer": duo.port(36), "reader": duo.port(37)},
    }
    assert f"writer 127.0.0.1:{duo.port(36)}" in duo.ctl("status").stdout
    for name in NAMES:
        for door in ("writer", "reader"):
            uri = dsn(duo, name, door)
            assert urlsplit(uri).port == told[name][door]
            with psycopg.connect(uri) as session:
                assert value(session, "SELECT pg_is_in_recovery()") is (door == "reader")
    refused = duo.ctl("dsn", "writer", "--proxy", "proxy-3", check=False)
    assert (refused.returncode, "there are proxy-1, proxy-2" in refused.stderr) == (2, True)
    assert "proxy-2" in duo.ctl("up", "--detach", "--wait").stdout
    refused = duo.ctl("up", "--detach", "--proxies", "3", check=False)
    assert (refused.returncode, "runs with 2 proxies, not 3" in refused.stderr) == (1, True)


def test_operators_see_and_end_the_sessions_of_both_and_doctor_finds_nothing(duo: Cluster) -> None:
    duo.wait(all_route, "both proxies route")
    with psycopg.connect(dsn(duo, "proxy-1")) as one, psycopg.connect(dsn(duo, "proxy-2")) as two:
        pids = {value(one): "proxy-1", value(two): "proxy-2"}
        told = json.loads(duo.ctl("sessions", "--json").stdout)
        assert told["proxies"] == list(NAMES)
        ids = {pids[row["backend_pid"]]: row["id"] for row in told["sessions"] if row["backend_pid"] in pids}
        assert {name: one.rpartition(":")[0] for name, one in ids.items()} == {name: name for name in NAMES}
        duo.ctl("sessions", "--kill", ids["proxy-2"])
        with pytest.raises(psycopg.errors.AdminShutdown):
            value(two)
        assert value(one) is not None
    findings = json.loads(duo.ctl("doctor", "--json").stdout)
    assert [finding for finding in findings if finding["grade"] == "bad"] == []
    assert "endpointd-2" in next(finding["text"] for finding in findings if finding["subject"] == "processes")


def test_a_failover_ends_the_sessions_of_both_and_both_lead_to_the_new_writer(duo: Cluster) -> None:
    before = duo.wait_healthy()
    assert before.writer is not None
    with (
        psycopg.connect(dsn(duo, "proxy-1"), autocommit=True) as one,
        psycopg.connect(dsn(duo, "proxy-2"), autocommit=True) as two,
    ):
        assert value(one) != value(two)
        duo.kill_postgres(before.writer)
        after = duo.wait_for_epoch_after(before.epoch)
        for session in (one, two):
            with pytest.raises(psycopg.OperationalError):
                value(session)
    duo.wait(all_route, "both proxies route")
    for name in NAMES:
        with psycopg.connect(dsn(duo, name), autocommit=True) as session:
            assert value(session, "SELECT pg_is_in_recovery()") is False
    assert after.writer != before.writer
    duo.wait_healthy()


def test_restart_takes_each_in_turn_or_the_one_that_is_named(duo: Cluster) -> None:
    duo.wait(all_route, "both proxies route")
    first, second = duo.pid_of("endpointd"), duo.pid_of("endpointd-2")
    with psycopg.connect(dsn(duo, "proxy-1")) as one, psycopg.connect(dsn(duo, "proxy-2")) as two:
        backends = value(one), value(two)
        told = json.loads(duo.ctl("restart", "proxy", "proxy-2", "--json").stdout)
        assert [row["name"] for row in told["proxies"]] == ["proxy-2"]
        assert duo.pid_of("endpointd") == first
        assert duo.pid_of("endpointd-2") == told["pid"] != second
        told = json.loads(duo.ctl("restart", "proxy", "--json").stdout)
        assert [row["name"] for row in told["proxies"]] == list(NAMES)
        assert [row["pid"] for row in told["proxies"]] == [duo.pid_of("endpointd"), duo.pid_of("endpointd-2")]
        assert (value(one), value(two)) == backends
        sessions = json.loads(duo.ctl("sessions", "--json").stdout)
        assert sessions["silent"] == []
        assert {row["backend_pid"] for row in sessions["sessions"]} >= set(backends)
    duo.wait(lambda status: not any(one.draining for one in status.proxies), "all have drained")
    refused = duo.ctl("restart", "proxy", "proxy-7", check=False)
    assert (refused.returncode, 'no proxy "proxy-7"' in refused.stderr) == (2, True)


def test_one_that_is_killed_is_started_again_and_the_others_sessions_do_not_notice(duo: Cluster) -> None:
    duo.wait(all_route, "both proxies route")
    with psycopg.connect(dsn(duo, "proxy-1")) as one:
        backend = value(one)
        killed = duo.kill("endpointd-2", signal.SIGKILL)
        duo.wait_gone(killed)
        assert value(one) == backend
        duo.wait(all_route, "both proxies route")
        assert value(one) == backend


@pytest.mark.parametrize("restarting", ["", "proxy-1", "proxy-2"])
@pytest.mark.parametrize("protocol", ["3.0", "3.2"])
def test_a_cancel_request_that_comes_to_the_other_proxy_reaches_its_session(
    duo: Cluster, protocol: str, restarting: str
) -> None:
    duo.wait(all_route, "both proxies route")
    ports = [urlsplit(dsn(duo, name)).port or 0 for name in NAMES]
    with (
        balancer(ports) as between,
        ThreadPoolExecutor() as pool,
        psycopg.connect(duo.dsn("writer"), autocommit=True) as watcher,
    ):
        uri = dsn(duo, "proxy-1").replace(f":{ports[0]}/", f":{between.port}/")
        session = psycopg.connect(f"{uri}?sslmode=disable&gssencmode=disable&max_protocol_version={protocol}", autocommit=True)
        with session:
            asleep = pool.submit(session.execute, "SELECT pg_sleep(60)")
            query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            duo.until(lambda: watcher.execute(query, (session.info.backend_pid,)).fetchone() is not None, "asleep")
            # One that drains has the session, or asks for the client; or one takes over at this moment.
            restart = pool.submit(duo.ctl, "restart", "proxy", restarting) if restarting else None
            if restarting == "proxy-1" and restart is not None:
                restart.result()
            session.cancel_safe(timeout=20)
            with pytest.raises(psycopg.errors.QueryCanceled):
                asleep.result(timeout=20)
            if restart is not None:
                restart.result()
        cancel = between.first_packets[1]
    assert len(cancel) == CANCEL_HEAD_BYTES + (4 if protocol == "3.0" else KEY_BYTES)


def test_a_stopped_cluster_comes_back_with_as_many_as_it_is_told(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(nodes=1)
    cluster.up()
    cluster.down()
    cluster.ctl("up", "--detach", "--wait", "--proxies", "2")
    with psycopg.connect(dsn(cluster, "proxy-2")) as session:
        value(session)
    assert {one.name for one in cluster.status().proxies} == set(NAMES)
    assert [report.name for report in cluster.program("list") if report.name.startswith("endpointd")] == [
        "endpointd",
        "endpointd-2",
    ]
    down = cluster.ctl("down").stdout
    assert "proxies drained" in down
    cluster.ctl("up", "--detach", "--wait", "--proxies", "1")
    assert {one.name for one in cluster.status().proxies} == {"proxy-1"}
