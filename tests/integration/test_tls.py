"""TLS as an operator of a local cluster has it: nothing to set up, certificates that are renewed under living sessions."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psycopg
import pytest

from testkit.cluster import Cluster


def verified(cluster: Cluster, door: str) -> str:
    """Return what `dsn --tls` prints."""
    return cluster.ctl("dsn", door, "--tls").stdout.strip()


def test_clients_verify_the_endpoints_and_live_through_a_renewal_and_a_failover(cluster: Cluster) -> None:
    for door in ("writer", "reader"):
        assert "sslmode=verify-full" in verified(cluster, door)
        with psycopg.connect(verified(cluster, door)) as connection:
            assert connection.pgconn.ssl_in_use
            assert connection.execute("select 42").fetchone() == (42,)
    with pytest.raises(psycopg.OperationalError, match="does not match"):
        psycopg.connect(verified(cluster, "writer").replace("writer.local.", "elsewhere.local."))
    kept = psycopg.connect(verified(cluster, "writer"), autocommit=True)
    shown = _shown(cluster)
    assert list(shown)[:2] == ["authority", "endpoints"]
    cluster.ctl("certs", "renew", "--ca")
    renewed = _shown(cluster)
    assert list(renewed)[:3] == ["authority", "former authority", "endpoints"]
    assert renewed["endpoints"] != shown["endpoints"]
    _until_log(cluster, renewed["endpoints"])
    assert kept.execute("select 42").fetchone() == (42,)
    with psycopg.connect(verified(cluster, "writer")) as connection:
        assert connection.execute("select 42").fetchone() == (42,)
    cluster.ctl("certs", "renew", "--ca")
    cluster.kill_postgres(cluster.writer().name)
    assert _ended_by(kept) in ("57P01", "08006", "08007"), "told inside TLS, not cut off"
    with psycopg.connect(verified(cluster, "writer")) as connection:
        assert connection.execute("select 42").fetchone() == (42,)


def _shown(cluster: Cluster) -> dict[str, str]:
    """Return the SHA-256 of each certificate by its name."""
    told = json.loads(cluster.ctl("certs", "show", "--json").stdout)["certificates"]
    return {each["name"]: each["sha256"] for each in told}


def _ended_by(connection: psycopg.Connection) -> str | None:
    """Return the SQLSTATE that *connection* ends with.

    What libpq reads together with the end of the answer before is a notice to it, and the error then says nothing more.
    """
    noticed: list[str | None] = []
    connection.add_notice_handler(lambda notice: noticed.append(notice.sqlstate))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            connection.execute("select 42")
        except psycopg.OperationalError as error:
            return error.sqlstate or next(iter(noticed), None)
        time.sleep(0.01)
    raise AssertionError("it goes on")


def _until_log(cluster: Cluster, words: str) -> None:
    """Wait until the proxy's log says *words*."""
    log = Path(cluster.data_dir) / "logs" / "endpointd.log"
    deadline = time.monotonic() + 30
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.05)
