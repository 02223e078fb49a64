"""What was measured, and what it comes to: medians, ratios and one table.

Pure.  The ratio is of medians, to the first system of the same fault; no number is left out and none is rounded before it is
printed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One fault on one system, as its clients saw it."""

    repeat: int
    system: str
    fault: str
    outage_s: float | None
    """Longest time without an acknowledgement; None: the clients could not write again in time."""
    acknowledged: int
    in_doubt: int
    lost: int
    fabricated: int
    note: str = ""
    """What went wrong, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All runs of one fault on one system."""

    fault: str
    system: str
    runs: int
    failed: int
    """Runs that clients could not write again after."""
    median_s: float | None
    max_s: float | None
    ratio: float | None
    """Of the median to that of the baseline; None where one of them is missing."""
    acknowledged: int
    lost: int
    fabricated: int


def summarize(measurements: Sequence[Measurement], *, baseline: str) -> list[Row]:
    """Return one row for every fault and system, in the order they were first measured."""
    rows: list[Row] = []
    for fault in dict.fromkeys(one.fault for one in measurements):
        of_fault = [one for one in measurements if one.fault == fault]
        base = _median([one for one in of_fault if one.system == baseline])
        for system in dict.fromkeys(one.system for one in of_fault):
            runs = [one for one in of_fault if one.system == system]
            median = _median(runs)
            outages = _outages(runs)
            rows.append(
                Row(
                    fault=fault,
                    system=system,
                    runs=len(runs),
                    failed=len(runs) - len(outages),
                    median_s=median,
                    max_s=max(outages, default=None),
                    ratio=median / base if median is not None and base else None,
                    acknowledged=sum(one.acknowledged for one in runs),
                    lost=sum(one.lost for one in runs),
                    fabricated=sum(one.fabricated for one in runs),
                )
            )
    return rows


def is_clean(measurements: Sequence[Measurement]) -> bool:
    """Return whether every run ended with writes going on, nothing lost and nothing made up."""
    return all(one.outage_s is not None and not one.lost and not one.fabricated for one in measurements)


def table(rows: Sequence[Row], *, baseline: str) -> Table:
    """Return *rows* as a table for people."""
    shown = Table(title=f"writes stopped, in seconds; ratio of medians to {baseline}")
    for title in ("fault", "system"):
        shown.add_column(title)
    for title in ("runs", "median s", "max s", "ratio", "acknowledged", "lost", "fabricated"):
        shown.add_column(title, justify="right")
    last = None
    for row in rows:
        if last is not None and row.fault != last:
            shown.add_section()
        runs = str(row.runs) if not row.failed else f"{row.runs} ({row.failed} failed)"
        shown.add_row(
            row.fault if row.fault != last else "",
            row.system,
            runs,
            _seconds(row.median_s),
            _seconds(row.max_s),
            "-" if row.ratio is None else f"{row.ratio:.1f}",
            str(row.acknowledged),
            str(row.lost),
            str(row.fabricated),
        )
        last = row.fault
    return shown


def _outages(runs: Sequence[Measurement]) -> list[float]:
    return [one.outage_s for one in runs if one.outage_s is not None]


def _median(runs: Sequence[Measurement]) -> float | None:
    outages = _outages(runs)
    return statistics.median(outages) if outages else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
