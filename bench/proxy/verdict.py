"""Figures of what was measured: only what was measured within one round is compared. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TIE = (0.97, 1.03)
"""A median within is no difference."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one way made of one column in one round."""

    tps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    """Of the proxy, a transaction; None where there is none."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One way by another, round by round."""

    other: str
    median: float
    quartiles: tuple[float, float]
    wins: int
    rounds: int

    @property
    def verdict(self) -> str:
        """In one word."""
        if TIE[0] <= self.median <= TIE[1]:
            return "tie"
        return "ahead" if self.median > 1 else "behind"


@dataclass(frozen=True, slots=True)
class Row:
    """One way in one column: medians."""

    way: str
    tps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    to_direct: Ratio | None
    to_peer: Ratio | None
    """To the better of the peers, for what is no peer itself."""


def percentiles(took_ms: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile of *took_ms*; nothing took 0."""
    if len(took_ms) < 2:
        only = took_ms[0] if took_ms else 0.0
        return only, only
    found = statistics.quantiles(took_ms, n=100, method="inclusive")
    return found[49], found[98]


def ratio(own: Sequence[Taken], other: Sequence[Taken], name: str) -> Ratio:
    """Return *own* by *other*, which is called *name*, both of the same rounds."""
    found = [mine.tps / its.tps for mine, its in zip(own, other, strict=True)]
    low, _, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else (found[0],) * 3
    return Ratio(name, statistics.median(found), (low, high), sum(each > 1 for each in found), len(found))


def rows(taken: Mapping[str, Sequence[Taken]], *, direct: str, peers: Sequence[str]) -> list[Row]:
    """Return a row of each way in *taken*, all of one column; the better peer is the one with the higher median."""
    there = [peer for peer in peers if peer in taken]
    better = max(there, key=lambda peer: statistics.median(each.tps for each in taken[peer]), default=None)
    found: list[Row] = []
    for way, rounds in taken.items():
        spent = [each.cpu_us for each in rounds if each.cpu_us is not None]
        is_ours = way != direct and way not in peers
        found.append(
            Row(
                way,
                statistics.median(each.tps for each in rounds),
                statistics.median(each.p50_ms for each in rounds),
                statistics.median(each.p99_ms for each in rounds),
                statistics.median(spent) if spent else None,
                ratio(rounds, taken[direct], direct) if way != direct and direct in taken else None,
                ratio(rounds, taken[better], better) if is_ours and better is not None else None,
            )
        )
    return found
