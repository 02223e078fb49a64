"""Runs clients of several kinds in a thread of their own, and keeps one diary of what all of them were told, and when.

A kind of client (`Workload`) does one step after another on a connection and remembers what its checker needs; the crew
connects, reconnects after errors, and notes each acknowledgement and each error with its time.  Knows no fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, LiteralString, Protocol, Self, cast

import psycopg

from pgwire.outcome import Outcome, outcome_of
from testkit.checks.figures import longest_gap
from testkit.checks.outcomes import Checked, Trouble

STEP_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 30.0
RECONNECT_PAUSE_S = 0.02
DESCRIBED = 500

CONNECTION_LOST = (OSError, TimeoutError, psycopg.Error)
"""The driver is psycopg because it shows the SQLSTATE with which a connection was ended; else everything would be in doubt."""

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Enough(Exception):  # noqa: N818 - no error: the session ends and the client opens another
    """A client has used this connection for long enough."""


Step = Callable[[Connection], Awaitable[None]]
"""One thing a client does; returning is its acknowledgement."""


class Workload(Protocol):
    """One kind of client."""

    name: str
    dsn: str
    clients: int
    pace_s: float
    """Between two steps of a client."""

    async def prepare(self) -> None:
        """Make tables, before any client of the crew begins."""

    def session(self, client: int) -> contextlib.AbstractContextManager[Step]:
        """Return what client number *client* does on a connection that was just opened."""
        ...

    async def check(self, dsn: str) -> Checked:
        """Compare what was told with what *dsn* shows, after all have stopped."""
        ...


class Diary:
    """What all clients were told, with times. Written by the clients' thread, read by others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acknowledged: defaultdict[str, list[float]] = defaultdict(list)
        self._troubles: list[Trouble] = []

    def acknowledge(self, client: str) -> None:
        """Note an acknowledgement, now."""
        with self._lock:
            self._acknowledged[client].append(time.monotonic())

    def trouble(self, client: str, error: BaseException) -> None:
        """Note an error, now."""
        text = f"{type(error).__name__}: {error}"[:DESCRIBED]
        seen = Trouble(time.monotonic(), client, sqlstate_of(error) or "", judge(error), text)
        with self._lock:
            self._troubles.append(seen)

    def count(self, client: str) -> int:
        """Return how many acknowledgements this kind of client has."""
        with self._lock:
            return len(self._acknowledged[client])

    def times(self, client: str) -> list[float]:
        """Return when they were, in order."""
        with self._lock:
            return list(self._acknowledged[client])

    @property
    def troubles(self) -> list[Trouble]:
        """Every error, in order."""
        with self._lock:
            return list(self._troubles)


class Crew:
    """Clients of the kinds *workloads*, at work from `__enter__` to `__exit__`; outages are told of the first kind."""

    def __init__(self, workloads: Sequence[Workload]) -> None:
        self.workloads = tuple(workloads)
        self.diary = Diary()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)

    def __enter__(self) -> Self:
        asyncio.run(self._prepare())
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every client finish what it is doing, within its time limit."""
        self._stop.set()
        self._thread.join(STEP_TIMEOUT_S + CONNECT_TIMEOUT_S)
        if self._failure is not None:
            raise self._failure

    @property
    def acknowledgements(self) -> int:
        """How many steps of the first kind were acknowledged so far."""
        return self.diary.count(self.workloads[0].name)

    @property
    def errors(self) -> list[str]:
        """What clients were told, in order; for people."""
        return [trouble.text for trouble in self.diary.troubles]

    def wait_for_more(self, count: int, *, timeout_s: float) -> None:
        """Wait until the first kind has *count* more acknowledgements than now. Raises TimeoutError."""
        goal = self.acknowledgements + count
        deadline = time.monotonic() + timeout_s
        while self.acknowledgements < goal:
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                last = self.errors[-3:]
                raise TimeoutError(f"no {count} more acknowledgements within {timeout_s:g} s; clients were last told: {last}")
            time.sleep(0.01)

    def outage_s(self, since: float) -> float:
        """Return the longest time without an acknowledgement of the first kind that ended after *since* (monotonic clock)."""
        return longest_gap(self.diary.times(self.workloads[0].name), since)

    def check_all(self, dsn: str) -> list[Checked]:
        """Return what every checker says of what *dsn* shows. Call it after `stop`."""

        async def ask() -> list[Checked]:
            return [await workload.check(dsn) for workload in self.workloads]

        return asyncio.run(ask())

    async def _prepare(self) -> None:
        for workload in self.workloads:
            await workload.prepare()

    def _run(self) -> None:
        try:
            asyncio.run(self._work_all())
        except BaseException as error:  # it is carried over to the thread that waits
            self._failure = error

    async def _work_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for workload in self.workloads:
                for client in range(workload.clients):
                    group.create_task(self._work(workload, client))

    async def _work(self, workload: Workload, client: int) -> None:
        while not self._stop.is_set():
            try:
                async with connected(workload.dsn) as connection:
                    with workload.session(client) as step:
                        while not self._stop.is_set():
                            async with asyncio.timeout(STEP_TIMEOUT_S):
                                await step(connection)
                            self.diary.acknowledge(workload.name)
                            await asyncio.sleep(workload.pace_s)
            except Enough:
                continue
            except CONNECTION_LOST as error:
                self.diary.trouble(workload.name, error)
                await asyncio.sleep(RECONNECT_PAUSE_S)


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    """Connect; every statement is its own transaction unless one is begun."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None)
    try:
        yield connection
    finally:
        # Waits for no answer: nobody may be there to give it.
        await connection.close()


async def fetch(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a statement with *values* for its %s."""
    cursor = await connection.execute(cast("LiteralString", statement), values or None)
    return await cursor.fetchall()


async def value(connection: Connection, statement: str, *values: object) -> Any:
    """Return the first column of the first row, None if there is no row."""
    rows = await fetch(connection, statement, *values)
    return rows[0][0] if rows else None


async def execute(connection: Connection, statement: str, *values: object) -> None:
    """Run a statement; without *values* it may be several."""
    await connection.execute(cast("LiteralString", statement), values or None)


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE an error carries, or None for a connection that broke."""
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def judge(error: BaseException) -> Outcome:
    """Return what *error* says of the transaction in which it was raised."""
    severity = error.diag.severity_nonlocalized if isinstance(error, psycopg.Error) else None
    return outcome_of(sqlstate_of(error), severity)


@contextlib.contextmanager
def noting_failure(remember: Callable[[], None]) -> Iterator[None]:
    """Call *remember* if what is done inside ends with an error that says that nothing happened."""
    try:
        yield
    except CONNECTION_LOST as error:
        if judge(error) is Outcome.FAILED:
            remember()
        raise
