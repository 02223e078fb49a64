"""What a run of `make compat` leaves: a report that a later run can go on from, and its tables."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

import msgspec
from rich.table import Table

from tests.compat.score import Score, Verdict
from tests.compat.server import Way

FILE = "compat.json"
VERSION = 1


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """A suite with its score."""

    score: Score
    server_version: str
    packages: tuple[str, ...]
    date: str
    took_s: dict[str, float]
    """By side."""


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """A suite that could not be had: it is named, and not counted."""

    suite: str
    way: Way
    reason: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    version: int = VERSION
    scored: tuple[Scored, ...] = ()
    missed: tuple[Missed, ...] = ()

    def find(self, suite: str, way: Way) -> Scored | None:
        """Return the score of *suite* in *way*, if there is one."""
        return next((each for each in self.scored if (each.score.suite, each.score.way) == (suite, way)), None)

    def with_(self, new: Scored | Missed) -> Report:
        """Return the report with *new* in place of what was known of that suite."""
        key = _key(new)
        scored = tuple(each for each in self.scored if _key(each) != key)
        missed = tuple(each for each in self.missed if _key(each) != key)
        if isinstance(new, Scored):
            return Report(scored=(*scored, new), missed=missed)
        return Report(scored=scored, missed=(*missed, new))

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f"{FILE}.new"
        new.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
        new.replace(folder / FILE)


def load(folder: Path) -> Report:
    """Return the report in *folder*; an empty one if there is none, or one of another version."""
    try:
        report = msgspec.json.decode((folder / FILE).read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError):
        return Report()
    return report if report.version == VERSION else Report()


def today() -> str:
    """Return the date as it stands in a report."""
    return dt.datetime.now(dt.UTC).date().isoformat()


def _key(line: Scored | Missed) -> tuple[str, Way]:
    return (line.score.suite, line.score.way) if isinstance(line, Scored) else (line.suite, line.way)


def scores_table(report: Report) -> Table:
    """Return one row per suite and way."""
    table = Table(title="transparency: outcomes that are the same directly and through the writer endpoint")
    for head in ("suite", "way", "PostgreSQL"):
        table.add_column(head)
    for head in ("tests", "same", "of these skipped", "vary", "expected", "different", "direct s", "through s"):
        table.add_column(head, justify="right")
    for line in report.scored:
        score = line.score
        counts = [str(_count(score, verdict)) for verdict in (Verdict.VARIES, Verdict.EXPECTED, Verdict.DIFFERENT)]
        times = [f"{line.took_s.get(side, 0.0):.0f}" for side in ("direct", "through")]
        figures = (str(score.tests), str(score.same), str(score.untestable), *counts, *times)
        table.add_row(", ".join(line.packages) or score.suite, score.way, line.server_version, *figures)
    return table


def _count(score: Score, verdict: Verdict) -> int:
    return sum(each.verdict is verdict for each in score.differences)


def details(report: Report) -> Iterable[str]:
    """Yield a line for each difference, each problem and each suite that could not be had."""
    for line in report.scored:
        name = f"{line.score.suite} ({line.score.way})"
        for problem in line.score.problems:
            yield f"{name}: NO SCORE: {problem}"
        for each in line.score.differences:
            sides = f"{', '.join(each.direct)} directly, {', '.join(each.through)} through"
            why = each.reason or each.why
            yield f"{name}: {each.verdict}: {each.test}: {sides}" + (f": {why}" if why else "")
    for missed in report.missed:
        yield f"{missed.suite} ({missed.way}): not run: {missed.reason}"
