"""Clients that move money between accounts, and look at the total through the writer and through the replicas."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from random import Random

from testkit.checks.bank import NAME, OPENING_BALANCE, BankMemory, Transfer, check_bank
from testkit.checks.outcomes import Checked
from testkit.clients.crew import Connection, Step, connected, execute, fetch, noting_failure, value

ACCOUNTS = 12
AMOUNT_MAX = 20
LOOK_EVERY = 5
TOTAL = "SELECT sum(balance)::int8 FROM accounts"


class Bank:
    """The workload: one transfer a step, and at times a look at the total."""

    name = NAME

    def __init__(self, dsn: str, *, seed: int, clients: int = 2, pace_s: float = 0.02) -> None:
        self.dsn = dsn
        self.clients = clients
        self.pace_s = pace_s
        self.memory = BankMemory(ACCOUNTS)
        self._random = Random(seed)
        self._numbers = itertools.count()

    async def prepare(self) -> None:
        """Open the accounts."""
        async with connected(self.dsn) as connection:
            await execute(
                connection,
                f"""
                DROP TABLE IF EXISTS accounts, transfers;
                CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
                CREATE TABLE transfers (client int, n int, debited int, credited int, amount int, PRIMARY KEY (client, n));
                INSERT INTO accounts SELECT id, {OPENING_BALANCE} FROM generate_series(0, {ACCOUNTS - 1}) AS id;
                """,
            )

    @contextlib.contextmanager
    def session(self, client: int) -> Iterator[Step]:
        """Return the next transfer, again and again."""

        async def step(connection: Connection) -> None:
            line = (client, next(self._numbers))
            if line[1] % LOOK_EVERY == 0:
                self.memory.note_read(await value(connection, TOTAL), "writer")
            one, other = self._random.sample(range(ACCOUNTS), 2)
            transfer = Transfer(one, other, self._random.randint(1, AMOUNT_MAX))
            self.memory.attempted[line] = transfer
            with noting_failure(lambda: self.memory.failed.add(line)):
                await _transfer(connection, line, transfer)
            self.memory.acknowledged.add(line)

        yield step

    async def check(self, dsn: str) -> Checked:
        """Compare what was told with the books."""
        async with connected(dsn) as connection:
            accounts = await fetch(connection, "SELECT id, balance FROM accounts")
            rows = await fetch(connection, "SELECT client, n, debited, credited, amount FROM transfers")
        lines = {(client, n): Transfer(*transfer) for client, n, *transfer in rows}
        return check_bank(self.memory, dict(accounts), lines)


async def _transfer(connection: Connection, line: tuple[int, int], transfer: Transfer) -> None:
    changes = sorted([(transfer.debited, -transfer.amount), (transfer.credited, transfer.amount)])
    async with connection.transaction():
        # In the order of the accounts, so that two transfers never wait for one another.
        for account, change in changes:
            await execute(connection, "UPDATE accounts SET balance = balance + %s WHERE id = %s", change, account)
        await execute(
            connection,
            "INSERT INTO transfers VALUES (%s, %s, %s, %s, %s)",
            *line,
            transfer.debited,
            transfer.credited,
            transfer.amount,
        )
