"""How long to leave alone what has just failed: nothing is tried at full speed again and again.  Pure; time is an argument.

The first failures may be free, because most have a cause that is gone at once; after that each pause is twice the last one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """The pauses of one thing that is tried. All times in seconds on one monotonic clock."""

    first_s: float
    max_s: float
    free: int = 0
    """So many failures in a row cost no pause."""
    failures: int = 0
    """In a row."""
    reason: str = ""
    """Why the last one failed."""
    not_before: float = 0.0

    def failed(self, now: float, reason: str) -> None:
        """Count a failure; the next attempt is due after a pause."""
        self.failures += 1
        self.reason = reason
        paid = self.failures - self.free
        pause_s = min(self.first_s * 2 ** min(paid - 1, 30), self.max_s) if paid > 0 else 0.0
        self.not_before = now + pause_s

    def left_s(self, now: float) -> float:
        """Return how long the next attempt has to wait; 0 if it is due."""
        return max(0.0, self.not_before - now)

    def forget(self) -> None:
        """It has succeeded, or somebody wants it tried at once."""
        self.failures = 0
        self.reason = ""
        self.not_before = 0.0
