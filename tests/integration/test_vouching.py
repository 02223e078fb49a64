"""Clients without a password at a whole cluster: rules of the endpoints in one file, and the nodes follow their roles."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from daemonkit.toml import to_toml
from deployment.local.preferences import Preferences, ReaderPreferences, TlsPreferences, WriterPreferences
from noded.postgres.binaries import bundled_directory
from testkit.cluster import Cluster
from tests.endpointd.test_tls_servers import with_tls

pytestmark = pytest.mark.versions

CHOSEN = Preferences(
    writer=WriterPreferences(
        rules=(
            "hostssl shop ann,postgres all cert map=people",
            "host    all  all           all scram-sha-256",
        ),
        client_address="application_name",
    ),
    reader=ReaderPreferences(rules=("host shop /^svc_ 127.0.0.1/32 trust", "host all all all scram-sha-256")),
    tls=TlsPreferences(user_maps=(r"people /^(.*)@example$ \1", "people boss postgres")),
)


def insists(port: int, **options: Any) -> psycopg.Connection:
    """Return a connection as soon as there is one: what was made a moment ago the nodes know within a second or two."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return psycopg.connect(host="127.0.0.1", port=port, autocommit=True, **options)
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def until_refused(port: int, words: str, **options: Any) -> None:
    deadline, told = time.monotonic() + 60, ""
    while not told:
        assert time.monotonic() < deadline
        try:
            psycopg.connect(host="127.0.0.1", port=port, **options).close()
            time.sleep(0.2)
        except psycopg.OperationalError as error:
            told = str(error)
    assert words in told


def ports(cluster: Cluster) -> tuple[int, int]:
    writer, reader = (urlsplit(cluster.dsn(door)).port for door in ("writer", "reader"))
    assert writer is not None
    assert reader is not None
    return writer, reader


def test_who_needs_no_password_comes_in_and_nobody_mightier_does(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(pg_bin=with_tls(), preferences=CHOSEN)
    cluster.up()
    cluster.wait_healthy()
    writer, reader = ports(cluster)
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        for statement in ("create database shop", "create role ann login", "create role svc_a login"):
            connection.execute(statement)  # pyright: ignore[reportArgumentType]
        pairs = {name: tmp_path / f"{name}.pem" for name in ("ann@example", "boss")}
        for name, pair in pairs.items():
            cluster.ctl("certs", "client", name, "--file", str(pair))
            assert pair.stat().st_mode & 0o777 == 0o600
        by: dict[str, dict[str, Any]] = {
            name: {"dbname": "shop", "sslmode": "require", "sslcert": str(pair), "sslkey": str(pair)}
            for name, pair in pairs.items()
        }
        insists(reader, user="svc_a", dbname="shop").close()
        with insists(writer, user="ann", application_name="till", **by["ann@example"]) as ann:
            assert ann.execute("select session_user::text, pg_is_in_recovery()").fetchone() == ("ann", False)
            assert ann.execute("show application_name").fetchone() == ("till [127.0.0.1]",)
        until_refused(writer, 'certificate authentication failed for user "postgres"', user="postgres", **by["boss"])
        until_refused(writer, "certificate authentication failed", user="postgres", **by["ann@example"])
        connection.execute("alter role svc_a superuser")
        until_refused(reader, '"trust" authentication failed for user "svc_a"', user="svc_a", dbname="shop")
        connection.execute("alter role svc_a nosuperuser")
        insists(reader, user="svc_a", dbname="shop").close()
    # Every node knows them, so a failover changes nothing.
    epoch = cluster.status().epoch
    cluster.kill_postgres(cluster.writer().name)
    cluster.wait_for_epoch_after(epoch)
    with insists(writer, user="ann", **by["ann@example"]) as ann:
        assert ann.execute("select session_user::text, pg_is_in_recovery()").fetchone() == ("ann", False)
    cluster.wait_healthy()
    # What stands in the proxy's settings goes with a node that is added.
    cluster.ctl("node", "add", "--wait", timeout_s=180)
    assert "cert map=endpointd_proxy" in (cluster.data_dir / "nodes" / "n4" / "conf" / "pg_hba.conf").read_text()


def test_the_cluster_is_refused_where_postgresql_has_no_tls(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(pg_bin=bundled_directory())
    file = tmp_path / "chosen.toml"
    file.write_text(to_toml(CHOSEN))
    told = cluster.ctl("up", "--detach", "--config", str(file), *cluster.options, check=False)
    assert told.returncode != 0
    assert "PostgreSQL must have been built with TLS" in told.stderr
    assert not (cluster.data_dir / "cluster.json").exists()
