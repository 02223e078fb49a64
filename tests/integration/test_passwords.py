"""psql, dsn and verify as a DBA uses them: other roles and databases, a hostile environment, a changed password, a new one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from testkit.cluster import ROOT, Cluster

HOSTILE = {
    "PGHOST": "elsewhere.invalid",
    "PGPORT": "1",
    "PGUSER": "nobody",
    "PGDATABASE": "nowhere",
    "PGSERVICE": "none",
    "PGOPTIONS": "-c client_min_messages=error",
    "PGSSLMODE": "require",
    "PGTARGETSESSIONATTRS": "read-only",
    "PGREQUIREAUTH": "gss",
    "PGPASSWORD": "of another server",
    "PGPASSFILE": "/nonexistent",
    "PGCONNECT_TIMEOUT": "nonsense",
}
WHO = "select current_user || ' ' || current_database()"


def run(cluster: Cluster, *words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run endpointctl without any terminal."""
    return subprocess.run(
        [sys.executable, "-m", "endpointctl", *words],
        cwd=ROOT,
        env=cluster.environment() | variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )


@pytest.fixture
def psql_cluster(cluster: Cluster) -> Cluster:
    if not Path(cluster.pg("psql")).exists() and not any(
        (Path(place) / "psql").exists() for place in os.environ["PATH"].split(":")
    ):
        pytest.skip("there is no psql")
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop")
        connection.execute("DROP ROLE IF EXISTS app")
        connection.execute("CREATE ROLE app LOGIN PASSWORD 'app''s'")
        connection.execute("CREATE DATABASE shop OWNER app")
    return cluster


def test_psql_is_who_and_where_it_was_told(psql_cluster: Cluster) -> None:
    assert run(psql_cluster, "psql", "writer", "-Atc", WHO).stdout == "postgres postgres\n"
    assert run(psql_cluster, "psql", "writer", "-d", "shop", "-Atc", WHO).stdout == "postgres shop\n"
    done = run(psql_cluster, "psql", "-Atc", WHO, "writer", "-U", "app", "shop", PGPASSWORD="app's")
    assert done.stdout == "app shop\n", done.stderr
    missing = run(psql_cluster, "psql", "writer", "-U", "nosuchuser", "-Atc", WHO)
    assert missing.returncode == 2
    assert missing.stdout == ""
    assert "no password supplied" in missing.stderr, "without a terminal psql does not ask"
    assert 'no password of "nosuchuser" is known here; PGPASSWORD' in missing.stderr
    assert "is known here" not in run(psql_cluster, "psql", "writer", "-U", "app", "-c", "select 1", PGPASSWORD="x").stderr
    where = ("--data-dir", str(psql_cluster.data_dir))
    others = {"ENDPOINTD_DATA_DIR": "/nonexistent"}
    for words in (("psql", *where, "reader", "-Atc", WHO), ("psql", "reader", "-Atc", WHO, *where)):
        assert run(psql_cluster, *words, **others).stdout == "postgres postgres\n"
    assert run(psql_cluster, "psql", "writer", "-h", "127.0.0.1").returncode == 2


def test_no_variable_of_libpq_leads_psql_or_verify_elsewhere(psql_cluster: Cluster) -> None:
    done = run(psql_cluster, "psql", "writer", "-Atc", WHO, **HOSTILE)
    assert done.stdout == "postgres postgres\n", done.stderr
    done = run(psql_cluster, "verify", "--seconds", "1", **HOSTILE)
    assert "kept its word" in done.stdout, done.stderr


def test_a_script_on_standard_input_is_not_taken_for_a_password(psql_cluster: Cluster) -> None:
    done = run(psql_cluster, "psql", "writer", "-At", stdin=f"{WHO};\n")
    assert done.stdout == "postgres postgres\n"
    done = run(psql_cluster, "psql", "writer", "-U", "app", "-At", stdin="app's\nselect 1;\n")
    assert done.stdout == ""
    assert "no password supplied" in done.stderr


def test_a_changed_password_is_noticed_told_and_taken(cluster: Cluster) -> None:
    changed = r"N3w/p@ss:w%rd \x"
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        connection.execute("ALTER ROLE postgres PASSWORD 'N3w/p@ss:w%rd \\x'")
    for words in (("psql", "writer", "-c", "select 1"), ("dsn", "writer", "--with-password"), ("verify", "--seconds", "1")):
        done = run(cluster, *words)
        assert done.returncode == 1, done.stdout
        assert 'the password of "postgres" was changed' in done.stderr
        assert "endpointctl secrets set" in done.stderr
    wrong = run(cluster, "secrets", "set", "--password-file", "-", stdin="wrong\n")
    assert wrong.returncode == 1
    assert "nothing was changed" in wrong.stderr
    assert run(cluster, "secrets", "set", "--password-file", "-", stdin=f"{changed}\n").returncode == 0
    assert_everything_works(cluster)


def test_a_new_password_is_made_whether_the_former_one_is_known_or_not(cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as standing:
        former = (cluster.data_dir / "secrets" / "superuser").read_text()
        cluster.ctl("secrets", "rotate")
        assert (cluster.data_dir / "secrets" / "superuser").read_text() != former
        assert_everything_works(cluster)
        standing.execute("ALTER ROLE postgres PASSWORD 'nobody kept it'")
        assert run(cluster, "dsn", "writer", "--with-password").returncode == 1
        cluster.ctl("secrets", "rotate")
        assert_everything_works(cluster)
    for path in [*cluster.data_dir.glob("nodes/*/log/*"), *cluster.data_dir.glob("logs/*")]:
        assert (cluster.data_dir / "secrets" / "superuser").read_text().strip() not in path.read_text(errors="replace")


def test_an_interrupted_change_is_finished_by_the_same_command(cluster: Cluster) -> None:
    noted = cluster.data_dir / "run" / "superuser.next"
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        # As if it had been killed after the server took the new one, and before that was written down.
        noted.touch(mode=0o600)
        noted.write_text("the next one\n")
        connection.execute("ALTER ROLE postgres PASSWORD 'the next one'")
    done = run(cluster, "psql", "writer", "-c", "select 1")
    assert done.returncode == 1
    assert "was interrupted" in done.stderr
    cluster.ctl("secrets", "rotate")
    assert not noted.exists()
    assert (cluster.data_dir / "secrets" / "superuser").read_text() == "the next one\n"
    # As if it had been killed before the server heard of it: what is kept is still true.
    noted.touch(mode=0o600)
    noted.write_text("one more\n")
    assert run(cluster, "dsn", "writer", "--with-password").returncode == 0
    cluster.ctl("secrets", "rotate")
    assert not noted.exists()
    assert_everything_works(cluster)


def test_other_tokens_are_known_at_once_and_the_former_ones_are_nobodys(cluster: Cluster) -> None:
    former = {path: path.read_text() for path in (cluster.data_dir / "run").glob("token*")}
    pids = {name: cluster.pid_of(name) for name in ("cluster_manager", "endpointd", "n1", "n2", "n3")}
    cluster.ctl("secrets", "rotate", "--tokens")
    changed = {path.name for path, text in former.items() if path.read_text() != text}
    assert changed == {"token", "token-operate", "token-read", "token-scrape"}
    old = cluster.data_dir / "old"
    old.touch(mode=0o600)
    old.write_text(former[cluster.data_dir / "run" / "token"])
    deadline = time.monotonic() + 20.0
    while run(cluster, "status").returncode != 0 or run(cluster, "status", ENDPOINTD_TOKEN_FILE=str(old)).returncode == 0:
        assert time.monotonic() < deadline
    old.unlink()
    cluster.wait_healthy()
    assert pids == {name: cluster.pid_of(name) for name in pids}, "nothing was restarted for it"


def assert_everything_works(cluster: Cluster) -> None:
    passfile = cluster.data_dir / "secrets" / "pgpass"
    for door in ("writer", "reader", "n1", "n2", "n3"):
        for uri in (cluster.ctl("dsn", door).stdout.strip(), cluster.ctl("dsn", door, "--with-password").stdout.strip()):
            with psycopg.connect(uri) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        assert f"passfile={passfile}" in cluster.ctl("dsn", door).stdout
    assert "kept its word" in cluster.ctl("verify", "--seconds", "1").stdout
