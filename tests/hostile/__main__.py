"""`make hostile`: does everything that a tenant can do, ends the writer each time, and prints what came of it.

Exit status 0: there was a writer again each time, or the thing was refused, or told where nothing else is possible.  1: not.
2: wrong usage.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from testkit.interrupting import end_in_order
from tests.hostile.stand import Stand
from tests.hostile.thing import Thing
from tests.hostile.things import choose, things
from tests.hostile.trial import BOUND_S, Blow, Trial, Verdict, play

OUT = Path("bench-reports")
REPORT = "hostile.json"
QUIET = "nothing"
"""The thing whose outage is the figure of a quiet failover."""
QUIET_FACTOR = 4.0
"""On a machine so busy that a quiet failover takes long, the bound is so many times that."""
CELL_MAX = 60


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One trial as it is kept."""

    thing: str
    blow: str
    verdict: str
    before: str
    outage_ms: int | None
    alone_ms: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    took_s: float


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description="what a tenant can do by SQL")
    parser.add_argument("names", nargs="*", metavar="THING", help="which ones; wildcards (all)")
    parser.add_argument("--list", action="store_true", help="print the things")
    parser.add_argument("--fast", action="store_true", help="those that are played with every change")
    parser.add_argument("--blow", choices=list(Blow), help="only this end of the writer")
    parser.add_argument("--pg-bin", help="PostgreSQL's programs, for another version than the bundled one")
    parser.add_argument("--jobs", type=int, choices=range(1, 9), default=1, metavar="N", help="clusters at the same time (1)")
    parser.add_argument("--resume", action="store_true", help="leave out what is good in the report of a run before")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"for hostile.json and logs ({OUT})")
    arguments = parser.parse_args()
    end_in_order()
    console = Console(width=None if sys.stdout.isatty() else 190, highlight=False)
    try:
        chosen = choose(arguments.names)
    except ValueError as error:
        parser.error(str(error))
    chosen = tuple(thing for thing in chosen if thing.fast or not arguments.fast)
    if not arguments.list:
        # Whatever was asked for, the quiet figure comes first.
        chosen = (*choose([QUIET]), *(thing for thing in chosen if thing.name != QUIET))
    if arguments.list:
        for thing in chosen:
            console.print(f"{thing.name:40} {thing.ends}{', fast' if thing.fast else ''}", markup=False)
        return 0
    file: Path = arguments.out / REPORT
    lines = _kept(file) if arguments.resume else {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="endpointd-hostile-") as folder:
        Path(folder).chmod(0o755)
        Run(Path(folder), arguments, lines, console).play(chosen)
    names = {thing.name for thing in chosen}
    shown = [line for line in lines.values() if line.thing in names]
    console.print(_table(shown))
    good = all(line.verdict != Verdict.FAILED for line in shown)
    failed = sorted({line.thing for line in shown if line.verdict == Verdict.FAILED})
    console.print(
        f"{len({line.thing for line in shown})} things, {len(failed)} failed, {time.monotonic() - begun:.0f} s; report: {file}"
    )
    return 0 if good else 1


class Run:
    """Plays things on as many clusters at the same time as was asked for, and keeps what came of each in a file."""

    def __init__(
        self, folder: Path, arguments: argparse.Namespace, lines: dict[tuple[str, str], Line], console: Console
    ) -> None:
        self.file: Path = arguments.out / REPORT
        self._blows = (Blow(arguments.blow),) if arguments.blow else tuple(Blow)
        self._lines = lines
        self._console = console
        self._stands = [Stand(folder / f"s{number}", pg_bin=arguments.pg_bin) for number in range(arguments.jobs)]
        quiet = [line.outage_ms or 0 for line in lines.values() if line.thing == QUIET]
        self._bound_s = max([BOUND_S, *(QUIET_FACTOR * outage_ms / 1000 for outage_ms in quiet)])
        self._stop = threading.Event()
        self._writing = threading.Lock()

    def play(self, chosen: Sequence[Thing]) -> None:
        """Play *chosen*; the first of them alone."""
        left: queue.SimpleQueue[Thing] = queue.SimpleQueue()
        for thing in chosen[1:]:
            left.put(thing)
        try:
            self._blows_of(self._stands[0], chosen[0])
            with ThreadPoolExecutor(len(self._stands)) as pool:
                try:
                    for done in [pool.submit(self._work, stand, left) for stand in self._stands]:
                        done.result()
                finally:
                    self._stop.set()
        finally:
            for stand in self._stands:
                stand.close()

    def _work(self, stand: Stand, left: queue.SimpleQueue[Thing]) -> None:
        while not self._stop.is_set():
            try:
                thing = left.get_nowait()
            except queue.Empty:
                return
            self._blows_of(stand, thing)

    def _blows_of(self, stand: Stand, thing: Thing) -> None:
        stand.open()
        if thing not in things(stand.major):
            return
        for blow in self._blows:
            before = self._lines.get((thing.name, blow))
            if self._stop.is_set() or (before is not None and before.verdict != Verdict.FAILED):
                continue
            trial = _play(stand, thing, blow, self._bound_s)
            if thing.name == QUIET and trial.outage_s is not None:
                self._bound_s = max(self._bound_s, QUIET_FACTOR * trial.outage_s)
            self._note(_line(trial))
            if trial.is_broken:
                stand.renew(self.file.parent / f"hostile-{thing.name}-{blow}")
                stand.open()
            if trial.verdict is Verdict.REFUSED:
                # It was never done: another end of the writer would be that of "nothing".
                return

    def _note(self, line: Line) -> None:
        with self._writing:
            self._lines[line.thing, line.blow] = line
            self._console.print(_told(line), markup=False)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_bytes(msgspec.json.format(msgspec.json.encode(list(self._lines.values()))))


def _play(stand: Stand, thing: Thing, blow: Blow, bound_s: float) -> Trial:
    """Play; what the suite itself cannot do is a failure of that trial, and of no other."""
    try:
        return play(stand, thing, blow, bound_s=bound_s)
    except (OSError, AssertionError, TimeoutError) as error:
        return Trial(thing, blow, Verdict.FAILED, problems=[f"{type(error).__name__}: {error}"], is_broken=True)


def _line(trial: Trial) -> Line:
    return Line(
        thing=trial.thing.name,
        blow=trial.blow,
        verdict=trial.verdict,
        before=trial.before,
        outage_ms=round(trial.outage_s * 1000) if trial.outage_s is not None else None,
        alone_ms=round(trial.alone_s * 1000),
        problems=tuple(trial.problems),
        notes=tuple(trial.notes),
        took_s=round(trial.took_s, 1),
    )


def _kept(file: Path) -> dict[tuple[str, str], Line]:
    if not file.exists():
        return {}
    return {(line.thing, line.blow): line for line in msgspec.json.decode(file.read_bytes(), type=list[Line])}


def _told(line: Line) -> str:
    outage = f"{line.outage_ms} ms" if line.outage_ms is not None else "-"
    words = " | ".join((*line.problems, *line.notes)).replace("\n", " ")[:400]
    begun = f"{line.verdict:8} {line.thing:36} {line.blow:10} {outage:>9} ({line.took_s:.0f} s)"
    return f"{begun} before: {line.before[:100]!r} {words!r}"


def _table(lines: list[Line]) -> Table:
    """Return one row a thing."""
    table = Table("thing", "before", "alone ms", "kill ms", "switchover ms", "verdict", "why")
    for name in dict.fromkeys(line.thing for line in lines):
        mine = {line.blow: line for line in lines if line.thing == name}
        verdicts = list(dict.fromkeys(line.verdict for line in mine.values()))
        first = next(iter(mine.values()))
        why = [
            *(word for line in mine.values() for word in line.problems),
            *(word for line in mine.values() for word in line.notes),
        ]
        cells = [
            name,
            first.before[:CELL_MAX],
            str(first.alone_ms),
            *(_milliseconds(mine.get(blow)) for blow in Blow),
            ", ".join(verdicts),
            (why[0] if why else "")[:CELL_MAX].replace("\n", " "),
        ]
        table.add_row(*(cell.encode("unicode_escape").decode("ascii").replace("[", "\\[") for cell in cells))
    return table


def _milliseconds(line: Line | None) -> str:
    if line is None or line.verdict == Verdict.REFUSED:
        return ""
    return "none" if line.outage_ms is None else str(line.outage_ms)


if __name__ == "__main__":
    sys.exit(main())
