"""`endpointctl sessions` on a whole cluster: who is connected, and ending some of them."""

from __future__ import annotations

import json

import psycopg
import pytest

from testkit.cluster import Cluster


def test_operators_see_who_is_connected_and_end_sessions(cluster: Cluster) -> None:
    dsn = cluster.dsn("writer")
    with (
        psycopg.connect(dsn, autocommit=True, application_name="till") as till,
        psycopg.connect(dsn, autocommit=True, application_name="report") as report,
    ):
        pid = till.execute("SELECT pg_backend_pid()").fetchone()
        told = json.loads(cluster.ctl("sessions", "--json", "--endpoint", "writer").stdout)
        assert told["silent"] == []
        (row,) = [row for row in told["sessions"] if row["application_name"] == "till"]
        assert pid == (row["backend_pid"],)
        assert (row["activity"], row["node"], row["is_writer"]) == ("idle", cluster.status().writer, True)

        table = cluster.ctl("sessions", "--sort", "user").stdout
        assert row["id"] in table
        assert "till" in table
        assert row["client"] in table

        assert cluster.ctl("sessions", "--kill", row["id"]).stdout == f"ended 1 session: {row['id']}\n"
        with pytest.raises(psycopg.errors.AdminShutdown, match="terminating connection due to administrator command"):
            till.execute("SELECT 1")
        gone = cluster.ctl("sessions", "--kill", row["id"], check=False)
        assert gone.returncode == 1
        assert f"{row['id']} is no session (any more)" in gone.stderr

        unasked = cluster.ctl("sessions", "--kill", "all", "--endpoint", "writer", check=False)
        assert unasked.returncode == 1
        assert "--yes answers beforehand" in unasked.stderr
        assert report.execute("SELECT 1").fetchone() == (1,)
        ended = cluster.ctl("sessions", "--kill", "all", "--endpoint", "writer", "--yes", "--json").stdout
        assert len(json.loads(ended)["ended"]) >= 1
        with pytest.raises(psycopg.errors.AdminShutdown):
            report.execute("SELECT 1")
    events = cluster.ctl("events", "--kind", "sessions,operator.sessions").stdout
    assert f"endpointctl sessions --kill {row['id']}" in events
    assert f"an operator ended 1 session: {row['id']}" in events


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kill", "42"), "expected is a proxy and a number, such as proxy-1:42"),
        (("--kill", "proxy-1:1", "--user", "alice"), "filters mean nothing beside it"),
        (("--sort", "colour"), "is nothing to sort by"),
        (("--watch", "--json"), "--watch is for people and --json for programs"),
    ],
)
def test_what_means_nothing_is_refused(cluster: Cluster, arguments: tuple[str, ...], said: str) -> None:
    refused = cluster.ctl("sessions", *arguments, check=False)
    assert refused.returncode == 2
    assert said in refused.stderr
