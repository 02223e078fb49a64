"""noded's own sessions in its PostgreSQL: superuser, through the private unix socket, kept open before they are needed.

Every setting that could change what a statement of ours does is given in the startup packet, where it wins over ALTER ROLE
and ALTER DATABASE (S11).  A session opens at its first use and again after a failure; it runs one statement at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from noded.conf import CONTROL_ROLE
from noded.walsender import Walsender

SETTINGS = {
    "synchronous_commit": "on",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "lock_timeout": "2000",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "search_path": "pg_catalog",
    "client_min_messages": "warning",
    "client_connection_check_interval": "0",
    "jit": "off",
}

CONNECT_TIMEOUT_S = 2


class SessionError(Exception):
    """A statement failed, or the server could not be reached; the text says why."""

    def __init__(self, message: str, *, lost: bool) -> None:
        super().__init__(message)
        self.lost = lost
        """The connection is gone: nobody knows what became of the statement."""


@dataclass(slots=True)
class Session:
    """One SQL session, called *name* in pg_stat_activity."""

    socket_dir: Path
    port: int
    password: str = field(repr=False)
    name: str
    database: str = "postgres"
    warnings: list[str] = field(default_factory=list)
    """Of the last statement."""
    _connection: asyncpg.Connection | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def row(self, sql: str, *arguments: object, timeout_s: float | None) -> asyncpg.Record:
        """Return the first row of *sql*. Raises SessionError.

        With no timeout the statement is never cancelled, but when the caller is, the connection is cut: PostgreSQL would
        answer a cancel request during a commit's wait with success.
        """
        rows = await self.rows(sql, *arguments, timeout_s=timeout_s)
        if not rows:
            raise SessionError("no row was returned", lost=False)
        return rows[0]

    async def rows(self, sql: str, *arguments: object, timeout_s: float | None) -> list[asyncpg.Record]:
        """Return the rows of *sql*. As `row`."""
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                self.warnings.clear()
                finished = False
                try:
                    connection = await self._open()
                    rows = await connection.fetch(sql, *arguments)
                    finished = True
                    return rows
                except asyncpg.PostgresError:
                    finished = self._connection is not None and not self._connection.is_closed()
                    raise
                finally:
                    if not finished:
                        self.drop()
        except TimeoutError as error:
            raise SessionError("the statement took too long", lost=True) from error
        except asyncpg.PostgresError as error:
            raise SessionError(f"{_sqlstate(error)}: {error}", lost=self._connection is None) from error
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise SessionError(str(error) or type(error).__name__, lost=True) from error

    def drop(self) -> None:
        """Cut the connection, if there is one, without a word to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError, asyncpg.InterfaceError, RuntimeError):
                connection.terminate()

    async def _open(self) -> asyncpg.Connection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        connection = await asyncpg.connect(
            host=str(self.socket_dir),
            port=self.port,
            user=CONTROL_ROLE,
            password=self.password,
            database=self.database,
            ssl=False,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={**SETTINGS, "application_name": self.name},
        )
        connection.add_log_listener(self._hear)
        self._connection = connection
        return connection

    def _hear(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        if len(self.warnings) < 10:
            self.warnings.append(str(message))


def _sqlstate(error: asyncpg.PostgresError) -> str:
    """Return the SQLSTATE, which asyncpg sets in a way that type checkers cannot see."""
    return str(getattr(error, "sqlstate", None) or "XX000")


class Sessions:
    """All of them."""

    def __init__(self, *, socket_dir: Path, port: int, password: str) -> None:
        self._socket_dir = socket_dir
        self._port = port
        self._password = password
        self.control = self.fresh("endpointd control")
        """For orders."""
        self.observer = self.fresh("endpointd observer")
        self.heartbeat = self.fresh("endpointd heartbeat")
        self.auditor = self.fresh("endpointd auditor")
        """For what waits for the quorum and must hold up nobody: each of its commits may."""
        self.walsender = self.fresh_walsender("endpointd position")

    def fresh(self, name: str, *, database: str = "postgres") -> Session:
        """Return another session: a new backend that shows what new backends see. The caller drops it."""
        return Session(self._socket_dir, self._port, self._password, name, database)

    def fresh_walsender(self, name: str) -> Walsender:
        """Return another replication connection, not opened yet. The caller closes it."""
        path = self._socket_dir / f".s.PGSQL.{self._port}"
        return Walsender(path, user=CONTROL_ROLE, password=self._password, name=name)

    def drop(self) -> None:
        """Cut all connections: the server is gone, or goes."""
        for session in (self.control, self.observer, self.heartbeat, self.auditor):
            session.drop()
        self.walsender.close()
