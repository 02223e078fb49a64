"""How long this process has been awake: a clock that leaves out what it slept through itself.

Evidence against PostgreSQL is time in which it did not answer although noded was there to hear it.  A loop that stood still,
a machine that was suspended or had no processor left, missed answers that were given in time, and such time is no evidence.
Safety never goes by this clock: how long a heartbeat vouches for the writer is counted on the real one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pgtopology.timing import REPORT_EVERY_MS

STRETCH_MAX_S = 1.5 * REPORT_EVERY_MS / 1000
"""Between two looks at the clock no more than this counts: one and a half rounds of the reporter, which looks every round."""


class Attention:
    """Counts; whoever asks keeps it going."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()
        self._counted = 0.0

    def now(self) -> float:
        """Return for how many seconds this process has been awake."""
        now = self._clock()
        self._counted += min(now - self._looked, STRETCH_MAX_S)
        self._looked = now
        return self._counted
