"""What an error means for the transaction it ended: it did not happen, or nobody knows.

Source: PostgreSQL, "Error Codes".  A broken connection, class 08, 40003 and 57P02 leave the outcome open, and so does a PANIC,
after which the commit record may be on disk.  Every other SQLSTATE is a promise that nothing happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What a client knows after an error."""

    FAILED = "failed"
    """It must not be there."""
    IN_DOUBT = "in doubt"
    """It may be there or not."""


_IN_DOUBT = frozenset({"40003", "57P02"})
_CONNECTION_CLASS = "08"


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error a client was shown."""

    at: float
    """On the monotonic clock."""
    client: str
    """The kind of client."""
    sqlstate: str
    """Empty where the connection ended without one."""
    outcome: Outcome
    text: str


def outcome_of(sqlstate: str | None, severity: str | None = None) -> Outcome:
    """Return what an error with *sqlstate* says of the transaction in which it was raised; None is a connection that broke."""
    if not sqlstate or sqlstate.startswith(_CONNECTION_CLASS) or sqlstate in _IN_DOUBT or severity == "PANIC":
        return Outcome.IN_DOUBT
    return Outcome.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What one checker says."""

    checker: str
    summary: str
    violations: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    def __str__(self) -> str:
        verdict = "clean" if self.is_clean else f"{len(self.violations)} VIOLATIONS: {'; '.join(self.violations[:3])}"
        return f"{self.checker}: {self.summary}: {verdict}"
