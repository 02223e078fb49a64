"""The schema a verification works in: made, marked as ours, and dropped by it.

A schema of the same name that does not carry our mark is somebody else's and is never touched.  The mark names the run, so
that a second run which replaces the first one's schema is noticed and not taken for a loss.  So do the tables: a replica that
is late must not show an earlier run's.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from daemonkit.exits import Failure

SCHEMA = "endpointd_verify"
MARK = "endpointd verify, run "


@dataclass(frozen=True, slots=True)
class Shadow:
    """The tables of one run, and the statements on them."""

    run: str
    """Hexadecimal digits."""

    @property
    def lists(self) -> str:
        """The table that rows are appended to."""
        return f"{SCHEMA}.lists_{self.run}"

    @property
    def registers(self) -> str:
        """The table of the registers."""
        return f"{SCHEMA}.registers_{self.run}"

    @property
    def make(self) -> str:
        """Makes everything."""
        return f"""
            CREATE SCHEMA {SCHEMA};
            CREATE TABLE {self.lists} (client int NOT NULL, n bigint NOT NULL);
            CREATE INDEX ON {self.lists} (client, n);
            CREATE TABLE {self.registers} (client int PRIMARY KEY, n bigint NOT NULL);
            COMMENT ON SCHEMA {SCHEMA} IS '{self.mark}';
        """

    @property
    def mark(self) -> str:
        """The schema's comment."""
        return f"{MARK}{self.run}"

    @property
    def write(self) -> str:
        """Appends $2 to the list of client $1 and sets its register, in one statement."""
        return f"""
            WITH appended AS (INSERT INTO {self.lists} (client, n) VALUES ($1, $2))
            UPDATE {self.registers} SET n = $2 WHERE client = $1
        """  # noqa: S608 - our own names

    @property
    def read(self) -> str:
        """Shows register and list of client $1 in one snapshot."""
        return f"""
            SELECT r.n AS register, l.listed, l.greatest FROM {self.registers} r,
                   LATERAL (SELECT count(*) AS listed, coalesce(max(n), 0) AS greatest
                              FROM {self.lists} WHERE client = r.client) l
             WHERE r.client = $1
        """  # noqa: S608 - our own names


async def make_schema(connection: asyncpg.Connection, shadow: Shadow, clients: int) -> bool:
    """Make the schema of a run; return whether one that an earlier run left had to be dropped.

    Raises Failure if there is one that is not ours.
    """
    mark = await _mark(connection)
    if mark is not None and not mark.startswith(MARK):
        raise Failure(
            f'there is a schema "{SCHEMA}" that verify did not make, nothing was touched',
            hint="rename it, or drop it yourself",
        )
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '5s'; DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await connection.execute(shadow.make)
        sql = f"INSERT INTO {shadow.registers} SELECT client, 0 FROM generate_series(0, $1::int - 1) client"  # noqa: S608 - our own name
        await connection.execute(sql, clients)
    return mark is not None


async def is_schema_of(connection: asyncpg.Connection, shadow: Shadow) -> bool:
    """Return whether the schema is still the one of this run."""
    return await _mark(connection) == shadow.mark


async def drop_schema(connection: asyncpg.Connection, shadow: Shadow) -> None:
    """Drop the schema if it is this run's."""
    if await is_schema_of(connection, shadow):
        await connection.execute(f"SET lock_timeout = '10s'; DROP SCHEMA {SCHEMA} CASCADE")


async def _mark(connection: asyncpg.Connection) -> str | None:
    """Return the schema's comment, "" without one, or None if there is no such schema."""
    row = await connection.fetchrow(
        "SELECT coalesce(obj_description(oid, 'pg_namespace'), '') AS mark FROM pg_namespace WHERE nspname = $1", SCHEMA
    )
    return str(row["mark"]) if row is not None else None
