"""What one run of a suite showed, read from what it wrote. Pure, but for the reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.compat.inside.compat_recorder import WORST


class Line(msgspec.Struct, frozen=True):
    """One line of a record."""

    test: str | None = None
    outcome: str = ""
    why: str = ""
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of one test."""

    outcome: str
    why: str = ""

    @property
    def is_untestable(self) -> bool:
        """Whether it proved nothing here: skipped, or known to fail by its authors."""
        return self.outcome in ("skipped", "xfailed")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of the tests of one run, by name."""

    seen: dict[str, Seen]
    has_ended: bool
    """It came to its end by itself."""


def read(record: Path) -> Outcomes:
    """Return what a record says; a last line that was cut off does not count. Raises OSError."""
    return gather(_lines(record.read_text(errors="replace")))


def _lines(text: str) -> Iterable[Line]:
    for line in text.split("\n")[:-1]:
        yield msgspec.json.decode(line, type=Line)


def gather(lines: Iterable[Line]) -> Outcomes:
    """Return the worst that each test showed: set-up, call, teardown and subtests each have a line."""
    seen: dict[str, Seen] = {}
    has_ended = False
    for line in lines:
        if line.end is not None:
            has_ended = True
        elif line.test is not None:
            before = seen.get(line.test)
            if before is None or _rank(line.outcome) > _rank(before.outcome):
                seen[line.test] = Seen(line.outcome, line.why)
    return Outcomes(seen, has_ended)


def _rank(outcome: str) -> int:
    return WORST.index(outcome) if outcome in WORST else -1


def printed(text: str, *, has_ended: bool) -> Outcomes:
    """Return what a program of ours printed: on each line a name, a tab, what was seen."""
    seen: dict[str, Seen] = {}
    for line in text.splitlines():
        name, tab, what = line.partition("\t")
        if tab:
            seen[name] = Seen("skipped" if what.startswith("skipped") else what)
    return Outcomes(seen, has_ended)
