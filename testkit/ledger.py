"""Writers that remember every acknowledgement, and the checker that compares their memory with the table afterwards.

Each client inserts rows (client, n) with n growing by one, one transaction each, through whatever it is pointed at.  A number
is never used twice: an insert whose outcome is unknown stays in doubt, and both outcomes of it are allowed.  The checker then
knows for every row of the table whether it may be there, for every acknowledged row that it must be, and for every one that
was told as failed that it must not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from testkit.checks.outcomes import Checked
from testkit.clients.crew import Connection, Crew, Step, connected, execute, fetch, noting_failure

TABLE = "ledger"
PACE_S = 0.004
"""Between two inserts of a client: enough load to be in the middle of a commit at any moment, not a benchmark."""

Row = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checker found."""

    acknowledged: int
    in_doubt: int
    """Attempted and never acknowledged nor refused; each may be there or not."""
    found: int
    lost: tuple[Row, ...]
    """Acknowledged, and not in the table: must be empty."""
    fabricated: tuple[Row, ...]
    """In the table, and never attempted: must be empty."""
    resurrected: tuple[Row, ...] = ()
    """In the table, though the client was told that it failed: must be empty."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing acknowledged was lost, nothing was made up, and what failed is absent."""
        return not self.lost and not self.fabricated and not self.resurrected

    def __str__(self) -> str:
        failed_yet_there = f", {len(self.resurrected)} told as failed and there" if self.resurrected else ""
        return (
            f"{self.acknowledged} acknowledged, {self.in_doubt} in doubt, {self.found} found: "
            f"{len(self.lost)} lost, {len(self.fabricated)} fabricated{failed_yet_there}"
        )


@dataclass(slots=True)
class LedgerMemory:
    """What the clients attempted and were told."""

    attempted: set[Row] = field(default_factory=set)
    acknowledged: set[Row] = field(default_factory=set)
    failed: set[Row] = field(default_factory=set)


def check_ledger(memory: LedgerMemory, present: set[Row]) -> Verdict:
    """Compare *memory* with the rows that are *present*."""
    return Verdict(
        acknowledged=len(memory.acknowledged),
        in_doubt=len(memory.attempted - memory.acknowledged - memory.failed),
        found=len(present),
        lost=tuple(sorted(memory.acknowledged - present)),
        fabricated=tuple(sorted(present - memory.attempted)),
        resurrected=tuple(sorted(memory.failed & present)),
    )


class Inserts:
    """The workload: one insert a step."""

    name = "set"

    def __init__(self, dsn: str, *, clients: int = 4, table: str = TABLE, pace_s: float = PACE_S) -> None:
        self.dsn = dsn
        self.clients = clients
        self.pace_s = pace_s
        self.memory = LedgerMemory()
        self._table = table
        self._next = [0] * clients

    async def prepare(self) -> None:
        """Make the table."""
        async with connected(self.dsn) as connection:
            await execute(connection, f"DROP TABLE IF EXISTS {self._table}")
            await execute(connection, f"CREATE TABLE {self._table} (client int, n int, PRIMARY KEY (client, n))")

    @contextlib.contextmanager
    def session(self, client: int) -> Iterator[Step]:
        """Return the next insert, again and again."""

        async def step(connection: Connection) -> None:
            row = (client, self._next[client])
            self._next[client] += 1
            self.memory.attempted.add(row)
            with noting_failure(lambda: self.memory.failed.add(row)):
                await execute(connection, f"INSERT INTO {self._table} (client, n) VALUES (%s, %s)", *row)
            self.memory.acknowledged.add(row)

        yield step

    async def verdict(self, dsn: str) -> Verdict:
        """Compare what was told with what *dsn* shows."""
        async with connected(dsn) as connection:
            rows = await fetch(connection, f"SELECT client, n FROM {self._table}")
        return check_ledger(self.memory, {(client, n) for client, n in rows})

    async def check(self, dsn: str) -> Checked:
        """Return the same in the words of all checkers."""
        verdict = await self.verdict(dsn)
        violations = [f"row {row} was acknowledged and is gone" for row in verdict.lost]
        violations += [f"row {row} was never attempted" for row in verdict.fabricated]
        violations += [f"row {row} was told as failed and is there" for row in verdict.resurrected]
        return Checked(checker=self.name, summary=str(verdict), violations=tuple(violations))


class Recorder(Crew):
    """A crew that inserts and does nothing else, through *dsn*, which may be anybody's."""

    def __init__(self, dsn: str, *, clients: int = 4) -> None:
        self._inserts = Inserts(dsn, clients=clients)
        super().__init__((self._inserts,))

    def check(self, dsn: str) -> Verdict:
        """Compare what was acknowledged with what *dsn* shows. Call it after `stop`."""
        return asyncio.run(self._inserts.verdict(dsn))
