"""Sessions on the reader endpoint that watch a counter grow, and the client on the writer that makes it grow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from testkit.checks.bank import BankMemory
from testkit.checks.monotonic import NAME, ReaderMemory, check_reads
from testkit.checks.outcomes import Checked
from testkit.clients.bank import TOTAL
from testkit.clients.crew import Connection, Enough, Step, connected, execute, value

SERVER = "SELECT inet_server_port()"
STEPS_MAX = 400
"""Then a session ends and another begins, which may be led to another replica."""


class Ticks:
    """The workload that makes the counter grow, through the writer."""

    name = "tick"
    clients = 1

    def __init__(self, dsn: str, *, pace_s: float = 0.02) -> None:
        self.dsn = dsn
        self.pace_s = pace_s
        self.acknowledged = 0

    async def prepare(self) -> None:
        """Make the counter."""
        async with connected(self.dsn) as connection:
            await execute(connection, "DROP TABLE IF EXISTS ticks; CREATE TABLE ticks (n int8); INSERT INTO ticks VALUES (0)")

    @contextlib.contextmanager
    def session(self, client: int) -> Iterator[Step]:
        """Return the next tick, again and again."""

        async def step(connection: Connection) -> None:
            n = await value(connection, "UPDATE ticks SET n = n + 1 RETURNING n")
            self.acknowledged = max(self.acknowledged, int(n or 0))

        yield step

    async def check(self, dsn: str) -> Checked:
        """Say that nothing acknowledged was lost."""
        at_end = await _counter(dsn)
        told = f"the counter ended as {at_end}, but {self.acknowledged} was acknowledged"
        lost = (told,) if at_end < self.acknowledged else ()
        return Checked(checker=self.name, summary=f"{self.acknowledged} acknowledged", violations=lost)


class Readers:
    """The workload that reads: the counter, which must not go back, and the bank's total, which must not change."""

    name = NAME

    def __init__(self, dsn: str, ticks: Ticks, bank: BankMemory, *, clients: int = 2, pace_s: float = 0.03) -> None:
        self.dsn = dsn
        self.clients = clients
        self.pace_s = pace_s
        self.memory = ReaderMemory()
        self._ticks = ticks
        self._bank = bank

    async def prepare(self) -> None:
        """Nothing: others make the tables."""

    @contextlib.contextmanager
    def session(self, client: int) -> Iterator[Step]:
        """Return the next read, again and again."""
        number = self.memory.open()
        server: str | None = None
        steps = 0

        async def step(connection: Connection) -> None:
            nonlocal server, steps
            server = server or str(await value(connection, SERVER))
            try:
                n = await value(connection, "SELECT n FROM ticks")
                total = await value(connection, TOTAL)
            except psycopg.errors.UndefinedTable:
                # A replica that has not replayed the tables yet.
                return
            if n is not None:
                self.memory.note_read(number, n, server)
            if total is not None:
                self._bank.note_read(total, f"replica on port {server}")
            steps += 1
            if steps > STEPS_MAX:
                raise Enough

        try:
            yield step
        finally:
            self.memory.close(number)

    async def check(self, dsn: str) -> Checked:
        """Say whether a session saw the counter go back."""
        at_end = await _counter(dsn)
        return check_reads(self.memory, acknowledged=self._ticks.acknowledged, at_end=at_end)


async def _counter(dsn: str) -> int:
    async with connected(dsn) as connection:
        return int(await value(connection, "SELECT n FROM ticks") or 0)
