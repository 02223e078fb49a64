"""Writers that remember every acknowledgement, and the checker that compares their memory with the table afterwards.

Each client inserts rows (client, n) with n growing by one, one transaction each, through whatever it is pointed at.  A number
is never used twice: an insert whose outcome is unknown stays in doubt, and both outcomes of it are allowed.  The checker then
knows for every row of the table whether it may be there, and for every acknowledged row that it must be.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import asyncpg

TABLE = "ledger"
PACE_S = 0.004
"""Between two inserts of a client: enough load to be in the middle of a commit at any moment, not a benchmark."""
INSERT_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 30.0
RECONNECT_PAUSE_S = 0.02

_CONNECTION_LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What asyncpg raises when a statement is sent in the moment between the server's farewell and the end of the connection.
    asyncpg.InternalClientError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checker found."""

    acknowledged: int
    in_doubt: int
    """Attempted and never acknowledged; each may be there or not."""
    found: int
    lost: tuple[tuple[int, int], ...]
    """Acknowledged, and not in the table: must be empty."""
    fabricated: tuple[tuple[int, int], ...]
    """In the table, and never attempted: must be empty."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing acknowledged was lost and nothing was made up."""
        return not self.lost and not self.fabricated

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} acknowledged, {self.in_doubt} in doubt, {self.found} found: "
            f"{len(self.lost)} lost, {len(self.fabricated)} fabricated"
        )


@dataclass(slots=True)
class _Memory:
    attempted: set[tuple[int, int]] = field(default_factory=set)
    acknowledged: set[tuple[int, int]] = field(default_factory=set)
    acknowledged_at: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Recorder:
    """Clients that write through *dsn* in a thread of their own, from `__enter__` to `__exit__`."""

    def __init__(self, dsn: str, *, clients: int = 4) -> None:
        self._dsn = dsn
        self._clients = clients
        self._memory = _Memory()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def __enter__(self) -> Self:
        asyncio.run(_make_table(self._dsn))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every client finish what it is doing, within its time limit."""
        self._stop.set()
        self._thread.join(INSERT_TIMEOUT_S + CONNECT_TIMEOUT_S)
        if self._failure is not None:
            raise self._failure

    @property
    def acknowledgements(self) -> int:
        """How many inserts were acknowledged so far."""
        with self._lock:
            return len(self._memory.acknowledged)

    @property
    def errors(self) -> list[str]:
        """What clients were told, in order; for people."""
        with self._lock:
            return list(self._memory.errors)

    def wait_for_more(self, count: int, *, timeout_s: float) -> None:
        """Wait until *count* more inserts than now are acknowledged. Raises TimeoutError."""
        goal = self.acknowledgements + count
        self._wait(lambda: self.acknowledgements >= goal, timeout_s, f"{count} more acknowledgements")

    def outage_s(self, since: float) -> float:
        """Return the longest time without an acknowledgement that ended after *since* (monotonic clock)."""
        with self._lock:
            times = list(self._memory.acknowledged_at)
        return max((later - earlier for earlier, later in itertools.pairwise(times) if later > since), default=float("inf"))

    def check(self, dsn: str) -> Verdict:
        """Compare what was acknowledged with what *dsn* shows. Call it after `stop`."""
        present = asyncio.run(_read_table(dsn))
        with self._lock:
            memory = self._memory
            return Verdict(
                acknowledged=len(memory.acknowledged),
                in_doubt=len(memory.attempted - memory.acknowledged),
                found=len(present),
                lost=tuple(sorted(memory.acknowledged - present)),
                fabricated=tuple(sorted(present - memory.attempted)),
            )

    def _wait(self, is_met: Callable[[], bool], timeout_s: float, wanted: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_met():
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                last = self.errors[-3:]
                raise TimeoutError(f"no {wanted} within {timeout_s:g} s; clients were last told: {last}")
            time.sleep(0.01)

    def _run(self) -> None:
        try:
            asyncio.run(self._write_all())
        except BaseException as error:  # it is carried over to the thread that waits
            self._failure = error

    async def _write_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for client in range(self._clients):
                group.create_task(self._write(client))

    async def _write(self, client: int) -> None:
        n = 0
        while not self._stop.is_set():
            try:
                async with _connected(self._dsn) as connection:
                    while not self._stop.is_set():
                        row = (client, n)
                        n += 1
                        await self._insert(connection, row)
                        await asyncio.sleep(PACE_S)
            except _CONNECTION_LOST as error:
                with self._lock:
                    self._memory.errors.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _insert(self, connection: asyncpg.Connection, row: tuple[int, int]) -> None:
        with self._lock:
            self._memory.attempted.add(row)
        async with asyncio.timeout(INSERT_TIMEOUT_S):
            await connection.execute(f"INSERT INTO {TABLE} (client, n) VALUES ($1, $2)", *row)
        with self._lock:
            self._memory.acknowledged.add(row)
            self._memory.acknowledged_at.append(time.monotonic())


@contextlib.asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        yield connection
    finally:
        # No goodbye: after a failure nobody may be there to answer it.
        connection.terminate()


async def _make_table(dsn: str) -> None:
    async with _connected(dsn) as connection:
        await connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        await connection.execute(f"CREATE TABLE {TABLE} (client int, n int, PRIMARY KEY (client, n))")


async def _read_table(dsn: str) -> set[tuple[int, int]]:
    async with _connected(dsn) as connection:
        rows = await connection.fetch(f"SELECT client, n FROM {TABLE}")
    return {(row["client"], row["n"]) for row in rows}
