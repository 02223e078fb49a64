"""The one who can always get in: a superuser of its own in a database of its own, with every setting given at login.

What a tenant gives to everybody (ALTER ROLE ALL SET) does not reach it.  It records acknowledgements, undoes what was done, and
looks whether dead rows can be removed.  The tenant is told nothing of it, and no thing is aimed at it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from testkit.cluster import Cluster
from tests.hostile.thing import Statement

NAME = "keeper"
PASSWORD = "keeper-of-the-house"
STATEMENT_S = 10
CONNECT_S = 3
VACUUM_S = 15.0
LITTER = 500

_PINNED = {
    "role": "none",
    "statement_timeout": f"{STATEMENT_S}s",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read\\ committed",
    "search_path": "public",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "client_encoding": "UTF8",
    "session_replication_role": "origin",
    "row_security": "on",
}
_PINNED_SINCE_17 = {"transaction_timeout": "0", "event_triggers": "off"}

_PREPARE = (
    "DROP TABLE IF EXISTS litter",
    "CREATE TABLE litter (n int) WITH (autovacuum_enabled = off)",
    "CREATE TABLE roles_before AS SELECT * FROM pg_authid WHERE rolname = 'postgres' OR rolname LIKE 'endpointd%'",
)

ROLES_BACK = r"""
DO $$
DECLARE r record; now_called name;
BEGIN
  SET LOCAL password_encryption = 'scram-sha-256';
  FOR r IN SELECT * FROM roles_before LOOP
    SELECT rolname INTO now_called FROM pg_authid WHERE oid = r.oid;
    IF FOUND AND now_called <> r.rolname AND NOT EXISTS (SELECT FROM pg_authid WHERE rolname = r.rolname) THEN
      EXECUTE format('ALTER ROLE %I RENAME TO %I', now_called, r.rolname);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_authid WHERE rolname = r.rolname) THEN
      EXECUTE format('CREATE ROLE %I', r.rolname);
    END IF;
    EXECUTE format('ALTER ROLE %I %s %s %s %s CONNECTION LIMIT -1 VALID UNTIL ''infinity'' PASSWORD %L', r.rolname,
                   CASE WHEN r.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
                   CASE WHEN r.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
                   CASE WHEN r.rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
                   CASE WHEN r.rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END, r.rolpassword);
    EXECUTE format('ALTER ROLE %I RESET ALL', r.rolname);
  END LOOP;
  GRANT pg_monitor TO endpointd_probe;
  GRANT pg_checkpoint TO endpointd_replication;
END $$
"""
"""Gives our roles back what they had: what an operator would do who has kept a dump of the roles. pg_rewind's rights to
functions on 15 to 18 are granted by noded, and it is noded that must find them missing."""


class Standing:
    """Sessions of the keeper's that were opened before."""

    def __init__(self, connections: Mapping[str, psycopg.Connection]) -> None:
        self._connections = connections

    def run(self, node: str, statements: Sequence[Statement]) -> None:
        """Run *statements* on *node*. Raises psycopg.Error."""
        _run(self._connections[node], statements)


def _run(connection: psycopg.Connection, statements: Sequence[Statement]) -> None:
    for statement in statements:
        connection.execute(statement if isinstance(statement, bytes) else statement.encode())


_REMOVABLE = re.compile(r"(\d+) are dead but not yet removable")


class Keeper:
    """The keeper of one cluster."""

    def __init__(self, cluster: Cluster, admin: str, major: int) -> None:
        """*admin* is the URI of the writer endpoint as postgres."""
        pinned = _PINNED | (_PINNED_SINCE_17 if major >= 17 else {})
        self.dsn = make_conninfo(
            admin,
            user=NAME,
            password=PASSWORD,
            dbname=NAME,
            application_name=NAME,
            connect_timeout=str(CONNECT_S),
            options=" ".join(f"-c {name}={value}" for name, value in pinned.items()),
        )
        self._cluster = cluster
        self._admin = admin

    def move_in(self) -> None:
        """Make the keeper's role and database, and note what our roles are."""
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {NAME} SUPERUSER LOGIN PASSWORD '{PASSWORD}'".encode())
            connection.execute(f"CREATE DATABASE {NAME} OWNER {NAME}".encode())
        self.run(_PREPARE)

    def run(self, statements: Sequence[Statement], *, database: str = NAME, door: str | None = None) -> None:
        """Run *statements*, each by itself, through the writer endpoint or *door*, a node's URI. Raises psycopg.Error."""
        with psycopg.connect(self._through(door, database), autocommit=True) as connection:
            _run(connection, statements)

    @contextlib.contextmanager
    def standing(self, nodes: Mapping[str, str], database: str = "postgres") -> Iterator[Standing]:
        """Keep a session on each of *nodes*, by its URI, that a lock on what logins read cannot keep out any more."""
        with contextlib.ExitStack() as stack:
            yield Standing(
                {
                    name: stack.enter_context(psycopg.connect(self._through(uri, database), autocommit=True))
                    for name, uri in nodes.items()
                }
            )

    def _through(self, door: str | None, database: str) -> str:
        place = {name: conninfo_to_dict(door)[name] for name in ("host", "port")} if door is not None else {}
        return make_conninfo(self.dsn, dbname=database, **place)

    def sweep(self) -> str | None:
        """Make dead rows and remove them. Return why they cannot be removed, or None once they are."""
        notices: list[str] = []
        left = "nothing was vacuumed"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
            connection.execute(f"INSERT INTO litter SELECT generate_series(1, {LITTER})".encode())
            connection.execute("DELETE FROM litter")
            deadline = time.monotonic() + VACUUM_S
            while time.monotonic() < deadline:
                notices.clear()
                connection.execute("VACUUM (VERBOSE) litter")
                found = _REMOVABLE.search("\n".join(notices))
                if found is not None and found[1] == "0":
                    return None
                left = found[1] if found is not None else "an unknown number of"
                time.sleep(0.2)
            held_by = connection.execute(
                "SELECT string_agg(format('%s xmin %s catalog_xmin %s', slot_name, xmin, catalog_xmin), '; ') "
                "FROM pg_replication_slots WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL"
            ).fetchone()
        return f"{left} of {LITTER} dead rows cannot be removed {VACUUM_S:g} s later; slots: {held_by[0] if held_by else ''}"
