"""The door: a client proves who it is to the endpoint, and cannot tell it from the server by what it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from testkit.cluster import Cluster

pytestmark = pytest.mark.integration

PASSWORD = "right"

TEAR_DOWN = (
    "DROP DATABASE IF EXISTS door_shut",
    "DROP DATABASE IF EXISTS door_limited",
    *(
        f"DROP ROLE IF EXISTS {role}"
        for role in ("ann", "expired", "no_login", "no_password", "limited", "old_hash", "renamed", "quick")
    ),
)

SET_UP = (
    *TEAR_DOWN,
    "SET password_encryption = 'scram-sha-256'",
    f"CREATE ROLE ann LOGIN PASSWORD '{PASSWORD}'",
    f"CREATE ROLE expired LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2001-01-01'",
    f"CREATE ROLE no_login PASSWORD '{PASSWORD}'",
    "CREATE ROLE no_password LOGIN",
    f"CREATE ROLE limited LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 0",
    "CREATE ROLE old_hash LOGIN PASSWORD 'md5" + "0" * 32 + "'",
    f"CREATE ROLE quick LOGIN PASSWORD '{PASSWORD}'",
    "ALTER ROLE ann SET application_name = 'set by the role'",
    "CREATE DATABASE door_shut",
    "REVOKE CONNECT ON DATABASE door_shut FROM PUBLIC",
    "CREATE DATABASE door_limited CONNECTION LIMIT 0",
)


@dataclass(frozen=True)
class Door:
    """The ways to the writer's server."""

    cluster: Cluster
    direct: str
    endpoint: str

    def told(self, dsn: str, **words: str) -> dict[str, str | None]:
        """Return the fields of the error that a login is refused with."""
        place = urlsplit(dsn)
        login = {"user": place.username, "password": place.password, "database": place.path[1:]} | words
        settings = {name: login.pop(name) or "" for name in ("options", "replication") if name in login}

        async def connect() -> dict[str, str | None]:
            with pytest.raises(asyncpg.PostgresError) as caught:
                await asyncpg.connect(
                    host=place.hostname,
                    port=place.port,
                    user=login["user"],
                    password=login["password"],
                    database=login["database"],
                    server_settings=settings,
                    timeout=30,
                )
            return {name: getattr(caught.value, name, None) for name in FIELDS}

        return asyncio.run(connect())


FIELDS = ("severity", "sqlstate", "message", "detail", "hint", "schema_name", "server_source_function")


@pytest.fixture
def door(cluster: Cluster) -> Iterator[Door]:
    found = Door(cluster, cluster.dsn(cluster.writer().name), cluster.dsn("writer"))
    with psycopg.connect(found.direct, autocommit=True) as connection:
        for statement in SET_UP:
            connection.execute(statement.encode())
    wait_until_known(found, "ann", PASSWORD)
    yield found
    # Other tests of this cluster ask who cannot log in.
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        for statement in TEAR_DOWN:
            connection.execute(statement.encode())


def wait_until_known(door: Door, user: str, password: str) -> float:
    """Return after how many seconds *user* can log in at the endpoint."""
    since = time.monotonic()

    def can() -> bool:
        try:
            psycopg.connect(make_conninfo(door.endpoint, user=user, password=password), connect_timeout=20).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise
            return False
        return True

    door.cluster.until(can, f"{user} can log in")
    return time.monotonic() - since


REFUSED = {
    "a wrong password": {"user": "ann", "password": "wrong"},
    "an empty database name's default": {"user": "ann", "password": PASSWORD, "database": "nowhere"},
    "no such role": {"user": "nobody_at_all", "password": PASSWORD},
    "an expired password": {"user": "expired", "password": PASSWORD},
    "a role that may not log in": {"user": "no_login", "password": PASSWORD},
    "a role that may not log in, wrong password": {"user": "no_login", "password": "wrong"},
    "a role without a password": {"user": "no_password", "password": PASSWORD},
    "a role with an md5 hash": {"user": "old_hash", "password": PASSWORD},
    "a role's connection limit": {"user": "limited", "password": PASSWORD},
    "a database's connection limit": {"user": "ann", "password": PASSWORD, "database": "door_limited"},
    "no CONNECT privilege": {"user": "ann", "password": PASSWORD, "database": "door_shut"},
    "a template": {"user": "ann", "password": PASSWORD, "database": "template0"},
    "a parameter that does not exist": {"user": "ann", "password": PASSWORD, "options": "-c nonsense.x.y.z=1 -c work_mem=x"},
    "replication without the right": {"user": "ann", "password": PASSWORD, "replication": "database"},
}


@pytest.mark.versions
def test_who_is_refused_is_told_what_the_server_tells(door: Door) -> None:
    differences = {
        name: (direct, through)
        for name, words in REFUSED.items()
        if (direct := door.told(door.direct, **words)) != (through := door.told(door.endpoint, **words))
    }
    assert differences == {}


@pytest.mark.versions
def test_a_client_gets_the_session_that_the_role_would_get_at_the_server(door: Door) -> None:
    words = {"user": "ann", "password": PASSWORD}
    ask = "SELECT current_user, session_user, current_setting('application_name'), current_setting('is_superuser')"
    with (
        psycopg.connect(make_conninfo(door.direct, **words)) as one,
        psycopg.connect(make_conninfo(door.endpoint, **words)) as two,
    ):
        assert one.execute(ask).fetchone() == two.execute(ask).fetchone()
        assert one.info.pipeline_status == two.info.pipeline_status
        names = ("server_version", "client_encoding", "in_hot_standby", "session_authorization", "TimeZone", "is_superuser")
        assert [one.info.parameter_status(name) for name in names] == [two.info.parameter_status(name) for name in names]
        assert two.execute("SELECT pg_backend_pid()").fetchone() == (two.info.backend_pid,)


def test_a_changed_password_holds_within_a_second_and_the_old_one_not_at_all(door: Door) -> None:
    with psycopg.connect(door.direct, autocommit=True) as connection:
        for number in range(3):
            connection.execute(f"ALTER ROLE quick PASSWORD 'new {number}'".encode())
            assert door.told(door.endpoint, user="quick", password=PASSWORD)["sqlstate"] == "28P01"
            assert wait_until_known(door, "quick", f"new {number}") < 10
            assert door.told(door.endpoint, user="quick", password=PASSWORD)["sqlstate"] == "28P01"
        connection.execute("ALTER ROLE quick RENAME TO renamed")
        assert wait_until_known(door, "renamed", "new 2") < 10
        connection.execute("DROP ROLE renamed")
        door.cluster.until(
            lambda: door.told(door.endpoint, user="renamed", password="new 2")["sqlstate"] == "28P01",
            "a dropped role is refused",
        )


def test_a_role_that_was_made_a_moment_ago_logs_in_at_once(door: Door) -> None:
    with psycopg.connect(door.direct, autocommit=True) as connection:
        for number in range(20):
            connection.execute(f"DROP ROLE IF EXISTS fresh_{number}".encode())
            connection.execute(f"CREATE ROLE fresh_{number} LOGIN PASSWORD '{PASSWORD}'".encode())
            login = make_conninfo(door.endpoint, user=f"fresh_{number}", password=PASSWORD, sslmode="disable")
            psycopg.connect(login, connect_timeout=20).close()
            connection.execute(f"DROP ROLE fresh_{number}".encode())


def test_a_replica_that_has_not_heard_of_a_new_password_is_waited_for(door: Door) -> None:
    """Until it is too old for the reader's door, which leads to the writer then."""
    reader = door.cluster.dsn("reader")
    replicas = [node.name for node in door.cluster.status().nodes if node.name != door.cluster.writer().name]
    sessions = [psycopg.connect(door.cluster.dsn(name), autocommit=True) for name in replicas]
    with psycopg.connect(door.direct, autocommit=True) as connection:
        for session in sessions:
            session.execute("SELECT pg_wal_replay_pause()")
        try:
            connection.execute("ALTER ROLE ann PASSWORD 'newest'")
            wait_until_known(door, "ann", "newest")
            with psycopg.connect(make_conninfo(reader, user="ann", password="newest"), connect_timeout=20) as found:
                assert found.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
            assert door.told(reader, user="ann", password=PASSWORD)["sqlstate"] == "28P01"
        finally:
            for session in sessions:
                session.execute("SELECT pg_wal_replay_resume()")
                session.close()
    with psycopg.connect(make_conninfo(reader, user="ann", password="newest"), connect_timeout=20):
        pass


@pytest.mark.versions
@pytest.mark.parametrize(
    "words", [{"channel_binding": "require"}, {"channel_binding": "disable"}, {"sslnegotiation": "direct"}]
)
def test_a_proof_over_tls_is_bound_to_the_certificate(door: Door, words: dict[str, str]) -> None:
    tls = {"sslmode": "verify-full", "sslrootcert": str(door.cluster.data_dir / "tls" / "ca.crt"), "host": "localhost"}
    login = {"user": "ann", "password": PASSWORD, "require_auth": "scram-sha-256"}
    with psycopg.connect(make_conninfo(door.endpoint, **login, **tls, **words), connect_timeout=20) as connection:
        assert connection.execute("SELECT current_user::text").fetchone() == ("ann",)
        assert connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_conninfo(door.endpoint, **login | {"password": "wrong"}, **tls, **words), connect_timeout=20)


def test_other_drivers_come_in(door: Door) -> None:
    async def by_asyncpg() -> object:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=door.cluster.port(32),
            user="ann",
            password=PASSWORD,
            database="postgres",
        )
        try:
            return await connection.fetchval("SELECT current_user::text")
        finally:
            await connection.close()

    assert asyncio.run(by_asyncpg()) == "ann"


@pytest.mark.versions
def test_nothing_by_which_one_could_log_in_is_on_a_disk_or_in_a_log(door: Door) -> None:
    with psycopg.connect(door.direct) as connection:
        row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'ann'").fetchone()
    assert row is not None
    stored, _, server_key = str(row[0]).rpartition("$")[2].partition(":")
    for path in door.cluster.data_dir.rglob("*"):
        if path.is_file() and "pgdata" not in path.parts:
            data = path.read_bytes()
            assert stored.encode() not in data, path
            assert server_key.encode() not in data, path
