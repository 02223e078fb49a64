"""What clients were told in a run, and what a checker says of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pgwire.outcome import Outcome


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
