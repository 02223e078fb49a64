"""Proxies know the cluster's roles, also while no manager lives, and nothing of them is written anywhere."""

from __future__ import annotations

import urllib.request

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from testkit.cluster import Cluster


def metric(cluster: Cluster, name: str) -> float:
    """Return a sample of the proxy's."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{cluster.port(90)}/metrics", headers={"Authorization": f"Bearer {cluster.token}"}
    )
    with urllib.request.urlopen(request, timeout=5.0) as answer:  # noqa: S310 - http
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next(sample.value for sample in samples if sample.name == name)


def execute(cluster: Cluster, sql: str) -> None:
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        connection.execute(sql.encode())


def test_roles_reach_the_proxy_without_a_manager_and_are_written_nowhere(cluster: Cluster) -> None:
    cluster.until(lambda: metric(cluster, "endpointd_roles") > 0, "roles are known")
    assert metric(cluster, "endpointd_roles_age_seconds") < 10
    cluster.program("stop", "cluster_manager")
    try:
        execute(cluster, "CREATE ROLE told LOGIN PASSWORD 'x'")
        psycopg.connect(cluster.dsn("writer"), user="told", password="x", connect_timeout=20).close()
        with psycopg.connect(cluster.dsn("writer")) as connection:
            row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'told'").fetchone()
        assert row is not None
        keys = row[0].partition("$")[2].partition("$")[2].split(":")
    finally:
        cluster.program("start", "cluster_manager")
        execute(cluster, "DROP ROLE IF EXISTS told")
    cluster.wait_healthy()
    searched = 0
    for folder in ("logs", "settings", "manager", "run"):
        for path in (cluster.data_dir / folder).rglob("*"):
            if path.is_file():
                searched += 1
                text = path.read_bytes().decode(errors="replace")
                assert not any(key in text for key in keys), f"a verifier stands in {path}"
    assert searched > 10
    for name in ("endpointd", "cluster_manager"):
        for path in (cluster.data_dir / name).rglob("*"):
            assert not path.is_file() or not any(key.encode() in path.read_bytes() for key in keys), path


def test_roles_with_md5_passwords_are_named(cluster: Cluster) -> None:
    execute(cluster, "SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'x'")
    try:
        cluster.wait(lambda status: any('role "old"' in note for note in status.role_notes), "the role is named")
        assert 'nobody can log in as role "old"' in cluster.ctl("doctor", check=False).stdout
        assert 'nobody can log in as role "old"' in cluster.ctl("status").stdout
    finally:
        execute(cluster, "DROP ROLE old")
    cluster.wait(lambda status: not status.role_notes, "nothing is said any more")
