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

SAMPLES_MAX = 256


class LoopLag:
    """The scheduling delay of the loop that runs `watch`."""

    def __init__(self, *, interval_s: float = 0.05, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._due: float | None = None
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)

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
            self._samples.append((now, max(0.0, now - self._due)))
            self._due = None

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
