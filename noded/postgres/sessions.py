"""noded's own sessions in its PostgreSQL: superuser, through the private unix socket, kept open before they are needed.

Every setting that could change what a statement of ours does is given in the startup packet, where it wins over ALTER ROLE
and ALTER DATABASE (S11).  A session opens at its first use and again after a failure; it runs one statement at a time.  Those
that a promotion and its proof need are opened while nothing depends on them, and have run their statements once: a plan that
is kept and a name that is cached need no lock on any catalog.  There is more than one way in (`Routes`), because a role or a
database can be lost; decision 0012.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from noded.law.backoff import Backoff
from noded.postgres.conf import CONTROL_ROLE, DATABASE, SUPERUSER
from noded.postgres.walsender import Walsender

SETTINGS = {
    "role": "none",
    "synchronous_commit": "on",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # Shorter than any answer is waited for: a statement that meets a lock fails, and its session lives on.
    "lock_timeout": "250",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "search_path": "pg_catalog",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "session_replication_role": "origin",
    "client_min_messages": "warning",
    "client_connection_check_interval": "0",
    "default_tablespace": "",
    "temp_tablespaces": "",
    "plan_cache_mode": "force_generic_plan",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "lc_messages": "C",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "row_security": "on",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
}

SETTINGS_SINCE = {17: {"transaction_timeout": "0", "event_triggers": "off"}}
"""What a major version and the later ones know besides."""

BOUNDED = {"statement_timeout": "1500"}
"""Of a session that reads what users wrote: the server ends a statement before nobody waits for it any more. A backend that is
left alone goes on, with all its memory."""

CONNECT_TIMEOUT_S = 2
ANOTHER_WAY = frozenset({"28000", "28P01", "3D000", "42501", "55000"})
"""SQLSTATEs of a login that may work as another role or in another database: the role may not, its password is another, the
database is missing, a right is missing, the database lets nobody in."""
_OF_A_DATABASE = frozenset({"0A", "22", "2F", "38", "42", "P0", "XX"})
"""Classes of errors that come of what a database holds: functions, operators and types, also ours and PostgreSQL's own, are its
own objects, and whoever renames one in our database has left it alone in the next."""
LACKS_RIGHTS = f'PostgreSQL hides what its processes do: role "{CONTROL_ROLE}" lacks SUPERUSER'
"""What is wrong where what others do is NULL."""
_STALE = frozenset({"0A000", "26000", "42501"})
"""What a new session may not meet: a statement that was prepared cannot be run any more; or the role of the login has lost its
rights, or was dropped and another one of its name has them. PostgreSQL says so before it has done anything."""


class SessionError(Exception):
    """A statement failed, or the server could not be reached; the text says why."""

    def __init__(self, message: str, *, lost: bool, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        """What PostgreSQL called the error; None if it said nothing."""
        self.lost = lost
        """The connection is gone: nobody knows what became of the statement."""


@dataclass(frozen=True, slots=True)
class Route:
    """As whom to log in, and where."""

    role: str
    database: str


ROUTES = (
    Route(CONTROL_ROLE, DATABASE),
    Route(CONTROL_ROLE, "postgres"),
    Route(CONTROL_ROLE, "template1"),
    Route(SUPERUSER, DATABASE),
)
"""The ways in, the best one first. A cluster of an earlier version has no database of ours until its writer has made it; the
last one is for putting right our role."""


class Routes:
    """The ways in that are tried, in this order."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES, hangs: Backoff | None = None) -> None:
        self.all = routes
        self._last = routes[0]
        self.hangs = hangs if hangs is not None else Backoff(first_s=0.5, max_s=15.0, free=1)
        """Logins in a row that nobody answered. Each leaves a backend that waits, for a lock on pg_authid perhaps, until
        authentication_timeout ends it: without a pause ours would take every slot."""

    @property
    def in_order(self) -> tuple[Route, ...]:
        """All of them, first the one that worked last."""
        return (self._last, *(route for route in self.all if route != self._last))

    def works(self, route: Route) -> bool:
        """Note that *route* works; return whether that is news."""
        news, self._last = route != self._last, route
        return news


@dataclass(slots=True)
class Session:
    """One SQL session, called *name* in pg_stat_activity."""

    socket_dir: Path
    port: int
    password: str = field(repr=False)
    name: str
    routes: Routes
    settings: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    """Of the last statement."""
    statements: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    """What is run once, with these arguments, whenever the session is opened, and is prepared from then on."""
    route: Route | None = None
    """The way in that was taken last."""
    _connection: asyncpg.Connection | None = None
    _prepared: dict[str, PreparedStatement] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_busy(self) -> bool:
        """Whether a statement is under way."""
        return self._turn.locked()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None and not self._connection.is_closed()

    async def open(self, *, timeout_s: float) -> None:
        """Open the connection unless it is. Raises SessionError."""
        await self.rows("SELECT", timeout_s=timeout_s)

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
                was_open = self.is_open
                try:
                    return await self._run(sql, arguments)
                except asyncpg.PostgresError as error:
                    if not was_open or sqlstate_of(error) not in _STALE:
                        raise
                return await self._run(sql, arguments)
        except TimeoutError as error:
            raise SessionError("the statement took too long", lost=True) from error
        except asyncpg.PostgresError as error:
            sqlstate = sqlstate_of(error)
            raise SessionError(f"{sqlstate}: {error}", lost=self._connection is None, sqlstate=sqlstate) from error
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, UnicodeError) as error:
            # asyncpg decodes names and messages as UTF-8, and PostgreSQL sends those that are not as they are.
            raise SessionError(str(error) or type(error).__name__, lost=True) from error

    async def _run(self, sql: str, arguments: tuple[object, ...]) -> list[asyncpg.Record]:
        """Run *sql*, and keep the connection if it was answered and can be used again."""
        self.warnings.clear()
        finished = False
        try:
            connection = await self._open()
            prepared = self._prepared.get(sql)
            rows = await (prepared.fetch(*arguments) if prepared else connection.fetch(sql, *arguments))
            finished = True
            return rows
        except asyncpg.PostgresError as error:
            finished = self.is_open and sqlstate_of(error) not in _STALE
            raise
        except AttributeError as error:
            # What asyncpg raises if `drop` cuts the connection between two steps of a statement.
            if self._connection is not None:
                raise
            raise SessionError("the connection was cut", lost=True) from error
        finally:
            if not finished:
                self.drop()

    def drop(self) -> None:
        """Cut the connection, if there is one, without a word to the server."""
        connection, self._connection = self._connection, None
        self._prepared = {}
        if connection is not None:
            _cut(connection)

    async def _open(self) -> asyncpg.Connection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._prepared = {}
        loop, hangs = asyncio.get_running_loop(), self.routes.hangs
        if left_s := hangs.left_s(loop.time()):
            raise SessionError(f"the last login was not answered; tried again in {left_s:.1f} s", lost=True)
        refused: asyncpg.PostgresError | None = None
        unfit: tuple[asyncpg.Connection, Route] | None = None
        try:
            for route in self.routes.in_order:
                try:
                    connection = await self._connect(route)
                except (TimeoutError, asyncio.CancelledError):
                    hangs.failed(loop.time(), "not answered")
                    raise
                except asyncpg.PostgresError as error:
                    if not may_work_elsewhere(sqlstate_of(error)):
                        raise
                    refused = refused or error
                    continue
                hangs.forget()
                self._connection, self.route = connection, route
                connection.add_log_listener(self._hear)
                try:
                    await self._prepare(connection)
                except asyncpg.PostgresError as error:
                    if not may_work_elsewhere(sqlstate_of(error)):
                        raise
                    refused = refused or error
                    self._connection, self._prepared = None, {}
                    if unfit is None:
                        unfit = connection, route
                    else:
                        _cut(connection)
                    continue
                self.routes.works(route)
                return connection
            assert refused is not None
            if unfit is not None:
                # What fails in every database is asked for again over this one, not by four logins each time.
                (self._connection, self.route), unfit = unfit, None
            raise refused
        finally:
            if unfit is not None:
                _cut(unfit[0])

    async def _prepare(self, connection: asyncpg.Connection) -> None:
        self._prepared = {}
        for sql, arguments in self.statements:
            prepared = await connection.prepare(sql)
            await prepared.fetch(*arguments)
            self._prepared[sql] = prepared

    async def _connect(self, route: Route) -> asyncpg.Connection:
        return await asyncpg.connect(
            host=str(self.socket_dir),
            port=self.port,
            user=route.role,
            password=self.password,
            database=route.database,
            ssl=False,
            target_session_attrs="any",
            timeout=CONNECT_TIMEOUT_S,
            server_settings={**self.settings, "application_name": self.name},
        )

    def _hear(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        if len(self.warnings) < 10:
            self.warnings.append(str(message))


def _cut(connection: asyncpg.Connection) -> None:
    with contextlib.suppress(OSError, asyncpg.InterfaceError, RuntimeError):
        connection.terminate()


def may_work_elsewhere(sqlstate: str | None) -> bool:
    """Return whether a login, or a statement of ours, that fails with *sqlstate* may not fail as another role or in another
    database."""
    return sqlstate is not None and (sqlstate in ANOTHER_WAY or sqlstate[:2] in _OF_A_DATABASE)


def shown(name: bytes) -> str:
    """Return *name*, what textsend() gave of a name in a catalog, for people: not every name is UTF-8."""
    return name.decode(errors="backslashreplace")


def sqlstate_of(error: asyncpg.PostgresError) -> str:
    """Return the SQLSTATE, which asyncpg sets in a way that type checkers cannot see."""
    return str(getattr(error, "sqlstate", None) or "XX000")


class Sessions:
    """All of them."""

    def __init__(self, *, socket_dir: Path, port: int, password: str, major: int) -> None:
        self._socket_dir = socket_dir
        self._port = port
        self._password = password
        self._settings = dict(SETTINGS)
        for since, settings in SETTINGS_SINCE.items():
            self._settings |= settings if major >= since else {}
        self.routes = Routes()
        self.standing: tuple[Session, ...] = ()
        """Those that are opened before they are needed."""
        self.control = self.fresh("endpointd control")
        """For orders."""
        self.observer = self.fresh("endpointd observer")
        self.heartbeat = self.fresh("endpointd heartbeat")
        self.auditor = self.fresh("endpointd auditor", settings=BOUNDED)
        """For what waits for the quorum and must hold up nobody: each of its commits may."""
        self._walsenders = {role: self._walsender_of(role, "endpointd position") for role in (CONTROL_ROLE, SUPERUSER)}
        self.checkpoint = self.fresh("endpointd checkpoint")
        """For the checkpoint before a planned handover, which may take long, when strangers may have every connection."""
        self.standing = (self.control, self.observer, self.heartbeat, self.checkpoint)

    def fresh(self, name: str, *, database: str | None = None, settings: dict[str, str] | None = None) -> Session:
        """Return another session: a new backend that shows what new backends see. The caller drops it.

        *database*: another than ours. *settings*: other than those of all our sessions.
        """
        # What holds up whoever visits a user's database is no sign of what happens in ours.
        routes = self.routes if database is None else Routes((Route(CONTROL_ROLE, database),))
        return Session(self._socket_dir, self._port, self._password, name, routes, {**self._settings, **(settings or {})})

    def only(self, route: Route) -> Routes:
        """Return the one way in *route*."""
        return Routes((route,), self.routes.hangs)

    @property
    def walsender(self) -> Walsender:
        """The replication connection, as the role that could log in last."""
        return self._walsenders[self.routes.in_order[0].role]

    def fresh_walsender(self, name: str) -> Walsender:
        """Return another replication connection, not opened yet. The caller closes it."""
        return self._walsender_of(self.routes.in_order[0].role, name)

    def _walsender_of(self, role: str, name: str) -> Walsender:
        return Walsender(self._socket_dir / f".s.PGSQL.{self._port}", user=role, password=self._password, name=name)

    def drop(self) -> None:
        """Cut all connections: the server is gone, or goes."""
        self.routes.hangs.forget()
        for session in (*self.standing, self.auditor):
            session.drop()
        for walsender in self._walsenders.values():
            walsender.close()
