"""What the clients of a verification did and were told: values only.

Each client owns one list and one register.  Its n-th write appends n to the list and sets the register to n, in one statement;
a number is never used twice, so a write whose outcome is unknown stays in doubt for ever.  Times are seconds on the clients'
one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pgwire.outcome import Outcome


class Door(StrEnum):
    """Where a read was made."""

    WRITER = "writer"
    READER = "reader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write, over."""

    client: int
    n: int
    sent_s: float
    done_s: float
    outcome: Outcome
    sqlstate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One read of one client's register and list, in one snapshot."""

    client: int
    door: Door
    session: int
    """Unique for each connection."""
    sent_s: float
    done_s: float
    register: int
    listed: int
    """How many numbers the list held."""
    greatest: int
    """The greatest of them, 0 if there was none."""


@dataclass(slots=True)
class History:
    """The whole run. *final* is what the writer shows after it: the list and the register of each client."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    """By SQLSTATE, or by the name of a connection's failure: how often clients were told so."""
    lists: dict[int, list[int]] = field(default_factory=dict)
    registers: dict[int, int] = field(default_factory=dict)

    def count_error(self, what: str) -> None:
        """Count an error that a client was told."""
        self.errors[what] = self.errors.get(what, 0) + 1
