"""The clients of a verification: writers and readers that remember everything they were told.

asyncpg at the edge; what they were told becomes a History, and judging it is the checker's business.  Every wait has a limit.
What an error proves of a write is pgwire's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator

import asyncpg

from endpointctl.verifying.history import Door, History, Read, Write
from endpointctl.verifying.shadow import Shadow
from pgwire.outcome import Outcome, outcome_of

CONNECT_TIMEOUT_S = 15.0
STATEMENT_TIMEOUT_S = 15.0
RECONNECT_PAUSE_S = 0.02
PACE_S = 0.002
"""Between two statements of a client: load enough to be in the middle of something at any moment, not a benchmark."""

SETTINGS = {
    "application_name": "endpointctl verify",
    # Often a superuser's session, and whoever may make a function in some schema must not get it called (CVE-2018-1058).
    "search_path": "pg_catalog",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
}
"""Given in the startup packet, where they win over what a role or a database carries."""

CONNECTION_FAILURES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What asyncpg raises when a statement is sent in the moment between the server's farewell and the end of the connection.
    asyncpg.InternalClientError,
)


class Workload:
    """Clients on both endpoints, until *stop* is set."""

    def __init__(self, shadow: Shadow, *, writer: str, reader: str, clients: int) -> None:
        self._shadow = shadow
        self._writer = writer
        self._reader = reader
        self._clients = clients
        self._sessions = itertools.count(1)
        self.history = History()
        self.stop = asyncio.Event()
        self.first_acknowledgement = asyncio.Event()

    async def run(self) -> None:
        """Work until told to stop; each client finishes the statement it is in, within its limit."""
        async with asyncio.TaskGroup() as group:
            for client in range(self._clients):
                group.create_task(self._write(client))
            for door, dsn in ((Door.WRITER, self._writer), (Door.READER, self._reader)):
                group.create_task(self._read(door, dsn))

    async def _write(self, client: int) -> None:
        n = 0
        while not self.stop.is_set():
            try:
                async with connected(self._writer) as connection:
                    while not self.stop.is_set():
                        n += 1
                        await self._write_once(connection, client, n)
                        await asyncio.sleep(PACE_S)
            except CONNECTION_FAILURES as error:
                self.history.count_error(name_of(error))
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _write_once(self, connection: asyncpg.Connection, client: int, n: int) -> None:
        sent_s = time.monotonic()
        outcome, sqlstate = Outcome.IN_DOUBT, None
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                await connection.execute(self._shadow.write, client, n)
            outcome = Outcome.COMMITTED
            self.first_acknowledgement.set()
        except asyncpg.PostgresError as error:
            sqlstate = name_of(error)
            outcome = outcome_of_error(error)
            raise
        finally:
            self.history.writes.append(
                Write(client=client, n=n, sent_s=sent_s, done_s=time.monotonic(), outcome=outcome, sqlstate=sqlstate)
            )

    async def _read(self, door: Door, dsn: str) -> None:
        clients = itertools.cycle(range(self._clients))
        while not self.stop.is_set():
            try:
                async with connected(dsn) as connection:
                    session = next(self._sessions)
                    while not self.stop.is_set():
                        await self._read_once(connection, door, session, next(clients))
                        await asyncio.sleep(PACE_S)
            except CONNECTION_FAILURES as error:
                # A replica that has not replayed the schema yet is late, as it may be.
                if name_of(error) not in ("42P01", "3F000"):
                    self.history.count_error(name_of(error))
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _read_once(self, connection: asyncpg.Connection, door: Door, session: int, client: int) -> None:
        sent_s = time.monotonic()
        async with asyncio.timeout(STATEMENT_TIMEOUT_S):
            row = await connection.fetchrow(self._shadow.read, client)
        if row is None:
            return  # a replica on its way to the rows of this run
        self.history.reads.append(
            Read(
                client=client,
                door=door,
                session=session,
                sent_s=sent_s,
                done_s=time.monotonic(),
                register=row["register"],
                listed=row["listed"],
                greatest=row["greatest"],
            )
        )


async def read_final(connection: asyncpg.Connection, shadow: Shadow, history: History) -> None:
    """Write into *history* what the writer shows in the end."""
    for row in await connection.fetch(f"SELECT client, n FROM {shadow.lists} ORDER BY client, n"):  # noqa: S608 - our own name
        history.lists.setdefault(row["client"], []).append(row["n"])
    for row in await connection.fetch(f"SELECT client, n FROM {shadow.registers}"):  # noqa: S608 - our own name
        history.registers[row["client"]] = row["n"]


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Give a connection to *dsn*; it is cut at the end, because after a failure nobody may be there to say goodbye to."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        connection = await asyncpg.connect(dsn, statement_cache_size=0, server_settings=SETTINGS)
    try:
        yield connection
    finally:
        connection.terminate()


def outcome_of_error(error: asyncpg.PostgresError) -> Outcome:
    """Return what *error* proves of its statement; one that asyncpg made itself proves nothing."""
    severity = getattr(error, "severity_en", None)
    return outcome_of(name_of(error), severity) if severity is not None else Outcome.IN_DOUBT


def name_of(error: BaseException) -> str:
    """Return the SQLSTATE of *error*, or what kind of a broken connection it is.

    An error that asyncpg made itself has a SQLSTATE too, but no severity: nobody sent it.
    """
    if isinstance(error, asyncpg.PostgresConnectionError) and getattr(error, "severity", None) is None:
        return "closed"
    if isinstance(error, asyncpg.PostgresError):
        return str(getattr(error, "sqlstate", None) or "XX000")
    return type(error).__name__
