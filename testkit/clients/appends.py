"""Clients that append unique values to shared lists, each in a transaction that locks, reads and writes the list."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from random import Random

from testkit.checks.appends import NAME, AppendMemory, check_appends
from testkit.checks.outcomes import Checked
from testkit.clients.crew import Connection, Step, connected, execute, fetch, noting_failure, value

TABLE = "lists"
LANES = 3
"""Lists that grow at the same time; few, so that clients meet."""
FULL = 100
"""Then the lane goes on with a new list: an array is written anew by each append."""
GENERATIONS = 1_000_000


class Appends:
    """The workload: one append a step."""

    name = NAME

    def __init__(self, dsn: str, *, seed: int, clients: int = 2, pace_s: float = 0.02) -> None:
        self.dsn = dsn
        self.clients = clients
        self.pace_s = pace_s
        self.memory = AppendMemory()
        self._random = Random(seed)
        self._values = itertools.count(1)
        self._generation = [0] * LANES

    async def prepare(self) -> None:
        """Make the table."""
        async with connected(self.dsn) as connection:
            await execute(connection, f"DROP TABLE IF EXISTS {TABLE}")
            await execute(connection, f"CREATE TABLE {TABLE} (key int PRIMARY KEY, items bigint[] NOT NULL)")

    @contextlib.contextmanager
    def session(self, client: int) -> Iterator[Step]:
        """Return the next append, again and again."""
        yield self._append

    async def _append(self, connection: Connection) -> None:
        lane = self._random.randrange(LANES)
        generation = self._generation[lane]
        key = lane * GENERATIONS + generation
        item = next(self._values)
        self.memory.attempted[item] = key
        with noting_failure(lambda: self.memory.failed.add(item)):
            async with connection.transaction():
                await execute(connection, f"INSERT INTO {TABLE} VALUES (%s, '{{}}') ON CONFLICT DO NOTHING", key)
                before = await value(connection, f"SELECT items FROM {TABLE} WHERE key = %s FOR UPDATE", key)
                after = await value(
                    connection, f"UPDATE {TABLE} SET items = items || %s::bigint WHERE key = %s RETURNING items", item, key
                )
        self.memory.acknowledged.add(item)
        self.memory.note_read(key, before)
        self.memory.note_read(key, after)
        if len(after) >= FULL:
            self._generation[lane] = max(self._generation[lane], generation + 1)

    async def check(self, dsn: str) -> Checked:
        """Compare what was told with the lists."""
        async with connected(dsn) as connection:
            rows = await fetch(connection, f"SELECT key, items FROM {TABLE}")
        return check_appends(self.memory, dict(rows))
