"""TLS between proxy and nodes without anybody's doing: certificates of the nodes, renewed while everything runs."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deployment.local.preferences import Preferences
from endpointd.settings import ServersSettings
from pgwire.startup import SSL_REQUEST
from testkit.cluster import Cluster
from tests.endpointd.test_tls_servers import with_tls

VERIFIED = Preferences(servers=ServersSettings(tls="verify"))
ENCRYPTED = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"


def shown(cluster: Cluster) -> dict[str, str]:
    """Return the SHA-256 of each certificate by its name."""
    told = json.loads(cluster.ctl("certs", "show", "--json").stdout)["certificates"]
    return {each["name"]: each["sha256"].replace(":", "").lower() for each in told}


def served(port: int) -> str:
    """Return the SHA-256 of the certificate that a node shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as encrypted:
            certificate = encrypted.getpeercert(binary_form=True)
            assert certificate is not None
            return hashlib.sha256(certificate).hexdigest()


def until_said(log: Path, words: str) -> None:
    """Wait until *log* says *words*."""
    deadline = time.monotonic() + 60
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)


def until_served(cluster: Cluster, names: tuple[str, ...]) -> None:
    """Wait until each node shows the certificate of its file."""
    deadline = time.monotonic() + 60
    while not all(served(cluster.node(name).port) == shown(cluster)[f"node {name}"] for name in names):
        assert time.monotonic() < deadline, shown(cluster)
        time.sleep(0.2)


@contextmanager
def connecting(cluster: Cluster) -> Iterator[None]:
    """Have somebody log in through the endpoint again and again, and fail if it ever cannot."""
    over, failures, count = threading.Event(), [], [0]
    dsn = cluster.dsn("writer")

    def log_in() -> None:
        while not over.is_set():
            try:
                with psycopg.connect(dsn) as connection:
                    assert connection.execute(ENCRYPTED).fetchone() == (True,)
                count[0] += 1
            except (psycopg.Error, AssertionError) as error:
                failures.append(repr(error))
                return

    thread = threading.Thread(target=log_in)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
    assert not failures
    assert count[0] > 10


def test_nodes_are_certified_and_stay_so_while_everything_runs(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(pg_bin=with_tls(), preferences=VERIFIED)
    cluster.up()
    cluster.wait_healthy()
    before = shown(cluster)
    assert list(before) == ["authority", "endpoints", "node n1", "node n2", "node n3", "proxy"]
    until_served(cluster, ("n1", "n2", "n3"))
    assert "certificate of the node n2" in cluster.ctl("doctor", check=False).stdout
    # A client verifies a node as it verifies the endpoints.
    verified: dict[str, Any] = {
        "sslmode": "verify-full",
        "sslrootcert": f"{cluster.data_dir}/tls/ca.crt",
        "hostaddr": "127.0.0.1",
    }
    node = re.sub("@127.0.0.1", "@n2.local.endpointd.internal", cluster.dsn("n2"))
    with psycopg.connect(node, **verified) as connection:
        assert connection.execute("select pg_is_in_recovery()").fetchone() == (True,)
    kept = psycopg.connect(cluster.dsn("writer"), autocommit=True)
    assert kept.execute(ENCRYPTED).fetchone() == (True,)
    # Within the machine WAL goes in plaintext.
    walsenders = "select bool_or(ssl) from pg_stat_ssl join pg_stat_replication using (pid)"
    assert kept.execute(walsenders).fetchone() == (False,)
    started = kept.execute("select pg_postmaster_start_time()").fetchone()
    for more in ((), ("--ca",)):
        with connecting(cluster):
            cluster.ctl("certs", "renew", *more)
            until_served(cluster, ("n1", "n2", "n3"))
    after = shown(cluster)
    assert not set(before.values()) & {sha for name, sha in after.items() if name != "former authority"}
    assert kept.execute("select pg_postmaster_start_time()").fetchone() == started
    writer = cluster.writer().name
    cluster.kill_postgres(writer)
    cluster.wait_healthy()
    with psycopg.connect(cluster.dsn("writer")) as connection:
        assert connection.execute(ENCRYPTED).fetchone() == (True,)


@pytest.mark.versions
def test_a_damaged_certificate_keeps_no_server_down_and_is_made_good(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(pg_bin=with_tls())
    cluster.up()
    cluster.wait_healthy()
    (name,) = [node.name for node in cluster.status().nodes if node.name != cluster.writer().name][:1]
    pair, log = Path(cluster.data_dir) / "tls" / f"{name}.pem", Path(cluster.data_dir) / "logs" / f"{name}.log"
    good = shown(cluster)[f"node {name}"]
    port = cluster.node(name).port
    pair.write_text("damaged")
    until_said(log, "changed certificates cannot be used")
    assert served(port) == good, "the former one stays"
    cluster.kill_postgres(name)
    until_said(log, "postgresql speaks no TLS")
    cluster.wait_healthy()
    cluster.ctl("certs", "renew")
    deadline = time.monotonic() + 60
    while True:
        try:
            until_served(cluster, (name,))
            break
        except AssertionError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
