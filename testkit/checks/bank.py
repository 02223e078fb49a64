"""Bank: transfers change no total, and every acknowledged transfer is in the books.

A transfer moves money between two accounts and writes a line in the same transaction.  So every read of all accounts, from the
writer or a replica, has the same total; and at the end the balances follow from the lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from testkit.checks.outcomes import Checked

NAME = "bank"
OPENING_BALANCE = 1000


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money from one account to another."""

    debited: int
    credited: int
    amount: int


Line = tuple[int, int]
"""Client and number: unique."""


@dataclass(slots=True)
class BankMemory:
    """What the clients attempted, were told and read."""

    accounts: int
    attempted: dict[Line, Transfer] = field(default_factory=dict)
    acknowledged: set[Line] = field(default_factory=set)
    failed: set[Line] = field(default_factory=set)
    reads: int = 0
    wrong_totals: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """What all accounts hold together, always."""
        return self.accounts * OPENING_BALANCE

    def note_read(self, total: int | None, where: str) -> None:
        """Remember the total that was read through *where*; None is a table without a row."""
        self.reads += 1
        if total != self.total:
            self.wrong_totals.append(f"the {where} showed a total of {total}, not {self.total}")


def check_bank(memory: BankMemory, balances: Mapping[int, int], lines: Mapping[Line, Transfer]) -> Checked:
    """Compare *memory* with the accounts and the lines at the end."""
    violations = list(memory.wrong_totals)
    violations += [f"transfer {line} was acknowledged and is gone" for line in sorted(memory.acknowledged - lines.keys())]
    violations += [f"transfer {line} was told as failed and is there" for line in sorted(memory.failed & lines.keys())]
    violations += [
        f"transfer {line} is {transfer}, attempted was {memory.attempted.get(line)}"
        for line, transfer in sorted(lines.items())
        if memory.attempted.get(line) != transfer
    ]
    expected = dict.fromkeys(range(memory.accounts), OPENING_BALANCE)
    for transfer in lines.values():
        expected[transfer.debited] = expected.get(transfer.debited, 0) - transfer.amount
        expected[transfer.credited] = expected.get(transfer.credited, 0) + transfer.amount
    violations += [
        f"account {account} holds {balances.get(account)}, by its lines it should hold {balance}"
        for account, balance in sorted(expected.items())
        if balances.get(account) != balance
    ]
    doubtful = len(memory.attempted) - len(memory.acknowledged) - len(memory.failed)
    summary = (
        f"{len(memory.acknowledged)} acknowledged, {len(memory.failed)} failed, {doubtful} in doubt, {memory.reads} totals read"
    )
    return Checked(checker=NAME, summary=summary, violations=tuple(violations))
