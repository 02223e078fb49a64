"""Nothing that SQL does to roles, databases, settings or catalogs keeps a failover or a switchover from ending with a writer.

Each trouble is made on a healthy writer, and at once the writer is killed or handed over.  The acknowledged rows are there
afterwards.  What it costs is told, and bounded generously only because a test must hold on a busy machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest

from testkit.cluster import Cluster

AGAIN_MAX_S = 20.0
"""Generous; the goal is 5 s, told at the end of the run."""

OPTIONS = "-c role=none -c session_preload_libraries= -c statement_timeout=0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What SQL does, and how it is undone."""

    name: str
    do: tuple[str, ...] = ()
    database: str = "postgres"
    """Where."""
    held: tuple[str, ...] = ()
    """In a transaction that stays open."""
    undo: tuple[str, ...] = ()
    since: int = 15
    """The major version that has it."""


TRIGGER = (
    "CREATE OR REPLACE FUNCTION pg_temp_no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'nobody'; END $$",
    "CREATE EVENT TRIGGER no ON login EXECUTE FUNCTION pg_temp_no()",
)

RENAME = "DO $$ BEGIN EXECUTE format('ALTER ROLE endpointd RENAME TO %I', 'was_' || pg_current_xact_id()); END $$"
LOCK_RENAMED = """DO $$ DECLARE found name; BEGIN
FOR found IN SELECT rolname FROM pg_roles WHERE rolname ~ '^was_\\d+$' LOOP
EXECUTE format('ALTER ROLE %I NOLOGIN', found); END LOOP; END $$"""
"""It owns what is ours, so it stays. Another test on the same cluster may rename its successor too."""

TROUBLES = (
    Trouble(name="lock on pg_authid", held=("LOCK pg_authid",)),
    Trouble(name="lock on pg_database", held=("LOCK pg_database",)),
    Trouble(name="lock on pg_db_role_setting and pg_auth_members", held=("LOCK pg_db_role_setting, pg_auth_members",)),
    Trouble(name="password of the control role", do=("ALTER ROLE endpointd PASSWORD 'x'",)),
    Trouble(name="password of the replication role", do=("ALTER ROLE endpointd_replication PASSWORD 'x'",)),
    Trouble(
        name="roles of another cluster",
        do=tuple(
            f"ALTER ROLE {role} PASSWORD 'another' VALID UNTIL '2001-01-01' CONNECTION LIMIT 0"
            for role in ("endpointd", "endpointd_replication", "endpointd_probe")
        ),
    ),
    Trouble(
        name="a database that sets a role",
        do=("CREATE ROLE app", "ALTER DATABASE postgres SET role TO app", "ALTER DATABASE endpointd SET role TO app"),
        undo=("ALTER DATABASE postgres RESET role", "DROP ROLE app"),
    ),
    Trouble(
        name="a role for everybody",
        do=("CREATE ROLE app", "ALTER ROLE ALL SET role TO app"),
        undo=("ALTER ROLE ALL RESET role", "DROP ROLE app"),
    ),
    Trouble(
        name="a library that is not there, for everybody",
        do=("ALTER ROLE ALL SET session_preload_libraries TO 'nosuch'",),
        undo=("ALTER ROLE ALL RESET session_preload_libraries",),
    ),
    Trouble(
        name="timeouts of a millisecond for everybody",
        do=("ALTER ROLE ALL SET statement_timeout TO 1", "ALTER ROLE ALL SET transaction_timeout TO 1"),
        undo=("ALTER ROLE ALL RESET statement_timeout", "ALTER ROLE ALL RESET transaction_timeout"),
        since=17,
    ),
    Trouble(
        name="the replication role dropped",
        do=("DROP OWNED BY endpointd_replication", "DROP ROLE endpointd_replication"),
    ),
    Trouble(
        name="the replication role dropped with its grants everywhere",
        do=(
            "REVOKE ALL ON DATABASE endpointd FROM endpointd_replication, endpointd_probe",
            "REVOKE pg_checkpoint FROM endpointd_replication",
            "ALTER ROLE endpointd_replication NOREPLICATION NOLOGIN",
        ),
    ),
    Trouble(name="the control role renamed", do=(RENAME,), undo=(LOCK_RENAMED,)),
    Trouble(name="the control role may not log in", do=("ALTER ROLE endpointd NOLOGIN",)),
    Trouble(name="the control role is no superuser", do=("ALTER ROLE endpointd NOSUPERUSER",)),
    Trouble(name="a trigger on logins to our database", do=TRIGGER, database="endpointd", since=17),
    Trouble(
        name="nobody may connect to postgres",
        do=("REVOKE ALL ON DATABASE postgres FROM PUBLIC",),
        undo=("GRANT CONNECT, TEMPORARY ON DATABASE postgres TO PUBLIC",),
    ),
    Trouble(name="our database dropped", do=("DROP DATABASE endpointd WITH (FORCE)",)),
    Trouble(
        name="our database closed",
        do=("ALTER DATABASE endpointd ALLOW_CONNECTIONS false", "ALTER DATABASE endpointd CONNECTION LIMIT 0"),
    ),
)


def connect(dsn: str, **options: object) -> psycopg.Connection[tuple[object, ...]]:
    """Return a session of the users' superuser that what others are set to does not concern."""
    return psycopg.connect(dsn, autocommit=True, options=OPTIONS, connect_timeout=5, **options)  # pyright: ignore[reportArgumentType]


@contextlib.contextmanager
def trouble_made(cluster: Cluster, trouble: Trouble) -> Iterator[None]:
    """Make *trouble* on the writer, and undo it at the end."""
    with connect(cluster.dsn(cluster.writer().name), dbname=trouble.database) as session:
        if session.info.server_version // 10000 < trouble.since:
            pytest.skip(f"PostgreSQL has it since {trouble.since}")
        for statement in trouble.do:
            # Some of it PostgreSQL itself refuses, which is as good.
            with contextlib.suppress(psycopg.errors.FeatureNotSupported, psycopg.errors.DependentObjectsStillExist):
                session.execute(statement.encode())
        holder = connect(cluster.dsn(cluster.writer().name))
        if trouble.held:
            holder.execute("BEGIN")
        for statement in trouble.held:
            holder.execute(statement.encode())
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.Error):
            holder.close()
        until(lambda: undo(cluster, trouble), "undone", timeout_s=60.0)


def undo(cluster: Cluster, trouble: Trouble) -> bool:
    """Return whether *trouble* could be undone on the writer."""
    try:
        with connect(cluster.dsn("writer")) as session:
            for statement in trouble.undo:
                session.execute(statement.encode())
    except psycopg.Error:
        return False
    return True


def until(is_met: Callable[[], bool], wanted: str, *, timeout_s: float) -> float:
    """Return after how many seconds *is_met* was."""
    begun = time.monotonic()
    while not is_met():
        if time.monotonic() - begun > timeout_s:
            raise AssertionError(f"not {wanted} within {timeout_s} s")
        time.sleep(0.02)
    return time.monotonic() - begun


def rows(cluster: Cluster) -> set[int] | None:
    """Add a row through the writer endpoint and return all that are there; None while nobody takes it."""
    try:
        with connect(cluster.dsn("writer")) as session:
            session.execute("INSERT INTO hostile VALUES (0)")
            return {int(str(row[0])) for row in session.execute("SELECT n FROM hostile").fetchall()}
    except psycopg.Error:
        return None


@pytest.fixture
def acknowledged(cluster: Cluster) -> Iterator[set[int]]:
    """Rows that were acknowledged before the trouble."""
    numbers = set(range(1, 51))
    with connect(cluster.dsn("writer")) as session:
        session.execute("DROP TABLE IF EXISTS hostile")
        session.execute("CREATE TABLE hostile (n int)")
        for number in numbers:
            session.execute("INSERT INTO hostile VALUES (%s)", [number])
    yield numbers
    with connect(cluster.dsn("writer")) as session:
        session.execute("DROP TABLE hostile")


QUICK = ("lock on pg_authid", "our database dropped")
"""Played with every change; the suite of tenants plays some of the others (test_hostile.py)."""
CASES = [
    pytest.param(trouble, id=trouble.name, marks=() if trouble.name in QUICK else pytest.mark.slow) for trouble in TROUBLES
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("trouble", CASES)
def test_a_killed_writer_is_replaced_whatever_sql_did(
    cluster: Cluster, acknowledged: set[int], trouble: Trouble, tell: Callable[[str], None]
) -> None:
    before = cluster.status()
    assert before.writer is not None
    with trouble_made(cluster, trouble):
        cluster.kill_postgres(before.writer)
        took_s = until(lambda: (rows(cluster) or set()) >= acknowledged, "served again", timeout_s=AGAIN_MAX_S)
        tell(f"kill -9, {trouble.name}: a writer again after {took_s:.2f} s")
        assert cluster.status().epoch > before.epoch
    cluster.wait_healthy()
    assert (rows(cluster) or set()) >= acknowledged


@pytest.mark.timeout(240)
@pytest.mark.parametrize("trouble", CASES)
def test_a_switchover_ends_or_is_refused_whatever_sql_did(
    cluster: Cluster, acknowledged: set[int], trouble: Trouble, tell: Callable[[str], None]
) -> None:
    before = cluster.status()
    with trouble_made(cluster, trouble):
        done = cluster.ctl("switchover", "--timeout", "30", check=False)
        assert done.returncode in (0, 1, 3), done.stderr
        if done.returncode == 0:
            took_s = until(lambda: (rows(cluster) or set()) >= acknowledged, "served again", timeout_s=AGAIN_MAX_S)
            tell(f"switchover, {trouble.name}: done, a writer after {took_s:.2f} s more")
        else:
            # Refused, or given up for want of a checkpoint: whoever is connected goes on.
            assert cluster.status().writer == before.writer
            tell(f"switchover, {trouble.name}: refused, {(done.stderr.strip().splitlines() or [''])[-1]}")
    cluster.wait_healthy()
    assert (rows(cluster) or set()) >= acknowledged
