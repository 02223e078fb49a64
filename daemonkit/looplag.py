"""How late this process's own event loop is.

A program that judges others by their silence must know when it was the deaf one: a loop that was blocked, or a process that
was not scheduled, has missed messages that were delivered in time.  One task sleeps for a short interval over and over; by
how much it wakes too late is the lag.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from prometheus_client import Counter, Gauge

SAMPLES_MAX = 256
STALL_S = 0.1
"""A loop that is later than this has stood still: something took its turn that should not."""
REMEMBERED_S = 60.0
STALLS_MAX = 64

STALLS = Counter("endpointd_loop_stalls", "Times this program's event loop stood still for more than 0.1 s.")
LATEST = Gauge("endpointd_loop_lag_seconds", "The longest that this program's event loop stood still in the last minute.")


class LoopLag:
    """The scheduling delay of the loop that runs `watch`."""

    def __init__(self, *, interval_s: float = 0.05, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._due: float | None = None
        self._is_shown = False
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        self._stalls: deque[tuple[float, float]] = deque(maxlen=STALLS_MAX)

    async def watch(self) -> None:
        """Measure until cancelled; run it as a task of the program's TaskGroup."""
        try:
            while True:
                self.expect()
                await asyncio.sleep(self._interval_s)
                self.sample()
        finally:
            self._due = None

    def expect(self) -> None:
        """Record that the watching task goes to sleep now."""
        self._due = self._clock() + self._interval_s

    def sample(self) -> None:
        """Record that the watching task woke now."""
        if self._due is not None:
            now = self._clock()
            lag = max(0.0, now - self._due)
            self._samples.append((now, lag))
            if lag > STALL_S:
                self._stalls.append((now, lag))
                if self._is_shown:
                    STALLS.inc()
            self._due = None

    def stood_still_ms(self) -> int:
        """Return for how many milliseconds the loop stood still at most, within the last minute; 0 if it never did."""
        now = self._clock()
        return int(max((lag for at, lag in self._stalls if now - at <= REMEMBERED_S), default=0.0) * 1000)

    def publish(self) -> None:
        """Show this loop in the program's metrics."""
        self._is_shown = True
        LATEST.set_function(lambda: self.stood_still_ms() / 1000)

    def worst_ms(self, window_s: float, *, after: float = float("-inf")) -> float:
        """Return the greatest lag in milliseconds of the last *window_s*; of each, what lies *after* a moment on the clock.

        The wake-up that is due and has not happened yet counts too: after a pause, whoever asks may run before the watcher.
        """
        now = self._clock()
        worst_s = min(now - self._due, now - after) if self._due is not None else 0.0
        for at, lag in reversed(self._samples):
            if now - at > window_s:
                break
            worst_s = max(worst_s, min(lag, at - after))
        return max(0.0, worst_s) * 1000.0
