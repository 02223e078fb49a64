"""`make compat`: runs suites directly and through the writer endpoint, and prints how many tests came out the same.

Exit status 0: everything did, or what did not is named in expected.toml, or varies directly too.  1: something else differs, or
a suite did not come to its end.  2: wrong usage.  What could not be had is named and does not fail.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from testkit.interrupting import end_in_order
from tests.compat import fetching
from tests.compat.outcomes import Outcomes
from tests.compat.pgbouncer import PROGRAM as PGBOUNCER
from tests.compat.report import Missed, Report, Scored, details, load, scores_table, today
from tests.compat.running import fetch, run
from tests.compat.score import ABSENT, Expectation, different, expectations, score, unexplained
from tests.compat.server import Side, Way
from tests.compat.stand import Stand, standing
from tests.compat.suite import SUITES, Suite, choose
from tests.compat.upstream import upstream
from tests.versions import VersionError, programs

OUT = Path("bench-reports")
EXPECTED = Path(__file__).with_name("expected.toml")
TLS_VERSION = 18
"""Of the build whose server speaks TLS, and whose client programs are used; the bundled one has neither."""
REPEATS_MAX = 30
AGAIN_MAX = 40
"""If more tests differ than that, running them again would prove nothing that is not plain already."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    suites: tuple[Suite, ...]
    ways: tuple[Way, ...]
    programs: Path | None
    repeats: int
    resume: bool
    out: Path
    say: Callable[[str], None]
    known: tuple[Expectation, ...]


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description="suites run directly and through the endpoint")
    parser.add_argument(
        "--suite", action="append", default=[], metavar="NAME", help="only this one; may be repeated; wildcards"
    )
    parser.add_argument(
        "--way", choices=list(Way), help="this one: plaintext, TLS, PgBouncer in the endpoint's place, or pooled"
    )
    parser.add_argument(
        "--pg-bin", type=Path, metavar="DIR", help="PostgreSQL's programs (bundled; with TLS, and for its own tests: a build)"
    )
    parser.add_argument(
        "--repeats", type=int, choices=range(REPEATS_MAX + 1), default=3, metavar="N", help="of what differs (3)"
    )
    parser.add_argument("--resume", action="store_true", help="leave out what has a good score in the report of a run before")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"for compat.json and what suites print ({OUT})")
    parser.add_argument("--json", action="store_true", help="print the report as JSON; progress goes to standard error")
    parser.add_argument("--list", action="store_true", help="print the suites")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 190, highlight=False)
    if arguments.list:
        for suite in SUITES:
            console.print(f"{suite.name:22} {' '.join(suite.ways):19} {suite.about}", markup=False)
        return 0
    if arguments.pg_bin is not None and not (arguments.pg_bin / "postgres").exists():
        parser.error(f"--pg-bin: there is no {arguments.pg_bin}/postgres")
    try:
        suites = choose(arguments.suite)
    except ValueError as error:
        parser.error(str(error))
    end_in_order()
    options = Options(
        suites=suites,
        ways=(Way(arguments.way),) if arguments.way else tuple(Way),
        programs=arguments.pg_bin,
        repeats=arguments.repeats,
        resume=arguments.resume,
        out=arguments.out.resolve(),
        say=lambda text: print(text, file=sys.stderr, flush=True),
        known=expectations(EXPECTED.read_text()),
    )
    report = load(options.out) if options.resume else Report()
    for way in options.ways:
        report = run_way(way, report, options)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        console.print(scores_table(report))
        for line in details(report):
            console.print(line, markup=False, soft_wrap=True)
    return 0 if all(line.score.has_passed for line in report.scored) else 1


def run_way(way: Way, report: Report, options: Options) -> Report:
    """Run the suites in one way, and return *report* with what came of them; it is saved after each."""
    wanted: list[Suite] = []
    for suite in options.suites:
        done = report.find(suite.name, way)
        if way not in suite.ways or (options.resume and done is not None and done.score.has_passed):
            continue
        try:
            if way is Way.PGBOUNCER and shutil.which(PGBOUNCER) is None:
                raise fetching.UnavailableError("there is no PgBouncer (Debian: apt-get install pgbouncer)")
            fetch(suite)
        except fetching.UnavailableError as error:
            options.say(f"{suite.name}: {error}")
            report = report.with_(Missed(suite=suite.name, way=way, reason=str(error)))
        else:
            wanted.append(suite)
    report.save(options.out)
    for suites in ([each for each in wanted if each.upstream is None], [each for each in wanted if each.upstream is not None]):
        if suites:
            report = _on_one_cluster(suites, way, report, options)
    return report


def _on_one_cluster(suites: Sequence[Suite], way: Way, report: Report, options: Options) -> Report:
    """Run *suites*, which want the same version of the server; PostgreSQL's own tests want theirs."""
    theirs = upstream(suites[0]).major if suites[0].upstream is not None else None
    try:
        tools = programs(theirs) if theirs is not None else options.programs or programs(TLS_VERSION)
    except VersionError as error:
        tools = None
        if way is Way.TLS:
            for suite in suites:
                report = report.with_(Missed(suite=suite.name, way=way, reason=f"no server that speaks TLS: {error}"))
            report.save(options.out)
            return report
    with tempfile.TemporaryDirectory(prefix="compat-") as name:
        chosen = tools if way is Way.TLS or theirs is not None else options.programs
        with standing(Path(name) / "cluster", way, chosen) as stand:
            for suite in suites:
                report = report.with_(measure(suite, stand, way, tools, options))
                report.save(options.out)
    return report


def measure(suite: Suite, stand: Stand, way: Way, tools: Path | None, options: Options) -> Scored | Missed:
    """Run *suite* on both sides, and what differs again."""
    folder = options.out / "compat" / f"{suite.name}-{way}".replace("/", "-").replace(" ", "-")
    if suite.program == "tools.py" and (tools is None or not (tools / "psql").exists()):
        return Missed(suite=suite.name, way=way, reason="there is no build of PostgreSQL with client programs")

    def one(side: Side, folder: Path, only: Sequence[str] = ()) -> Outcomes:
        stand.prepare(suite)
        return run(suite, stand.server(side, suite), folder, only=only, tools=tools)

    sides: dict[Side, Outcomes] = {}
    took_s: dict[str, float] = {}
    for side in Side:
        options.say(f"{suite.name}, {way}, {side} ...")
        begun = time.monotonic()
        sides[side] = one(side, folder / side)
        took_s[side] = round(time.monotonic() - begun, 1)
    apart = unexplained(different(sides[Side.DIRECT], sides[Side.THROUGH]), suite.name, way, options.known)
    again: dict[str, dict[Side, list[str]]] = {test: {side: [] for side in Side} for test in apart}
    if 0 < len(apart) <= AGAIN_MAX and not way.is_told_only:
        for number in range(1, options.repeats + 1):
            options.say(f"{suite.name}, {way}: {len(apart)} tests again, {number} of {options.repeats} ...")
            for side in Side:
                seen = one(side, folder / f"{side}-again-{number}", only=apart).seen
                for test in apart:
                    again[test][side].append(seen[test].outcome if test in seen else ABSENT)
    found = score(
        suite.name,
        way,
        sides[Side.DIRECT],
        sides[Side.THROUGH],
        again={test: (tuple(seen[Side.DIRECT]), tuple(seen[Side.THROUGH])) for test, seen in again.items()},
        known=options.known,
    )
    options.say(f"{suite.name}, {way}: {found.same} of {found.tests} the same")
    packages = (f"PostgreSQL=={upstream(suite).release} {suite.upstream}",) if suite.upstream else fetching.installed(suite)
    return Scored(score=found, server_version=stand.version, packages=packages, date=today(), took_s=took_s)


if __name__ == "__main__":
    sys.exit(main())
