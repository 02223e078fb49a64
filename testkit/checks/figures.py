"""Percentiles, and the longest time without an acknowledgement. Pure arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """A handful of durations in a few numbers, in seconds."""

    count: int
    p50: float
    p99: float
    max: float

    def __str__(self) -> str:
        return f"p50 {self.p50:.3f} s, p99 {self.p99:.3f} s, max {self.max:.3f} s of {self.count}"


def figures(values: Sequence[float]) -> Figures:
    """Return the figures of *values*, of which there must be at least one."""
    return Figures(len(values), percentile(values, 50), percentile(values, 99), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of *values* that *percent* of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def longest_gap(times: Sequence[float], since: float) -> float:
    """Return the longest time between two neighbours of *times* that ended after *since*; infinite if none did."""
    begin, end = longest_pause(times, since)
    return end - begin


def longest_pause(times: Sequence[float], since: float) -> tuple[float, float]:
    """Return when the longest time between two neighbours of *times* that ended after *since* began and ended."""
    pauses = [(earlier, later) for earlier, later in itertools.pairwise(times) if later > since]
    return max(pauses, key=lambda pause: pause[1] - pause[0], default=(since, math.inf))
