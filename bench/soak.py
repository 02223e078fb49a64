"""`make soak`: everything that can go wrong, by chance but from a seed, for as long as wanted, under all clients.

After each mishap writes must go on within a bound; every few of them, and at the end, the cluster must become healthy.  Exit
status 0: it did, and no checker found anything.  1: not; the seed is printed and everything the cluster wrote is kept.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from bench.faults.run import make_crew
from bench.mishaps import Mishap, Scene, draw
from testkit.checks.figures import figures, longest_gap
from testkit.checks.outcomes import Checked
from testkit.clients.crew import Crew
from testkit.cluster import Cluster
from testkit.interrupting import end_in_order

GOES_ON_S = 90.0
HEALTHY_S = 180.0
HEALTHY_EVERY = 4
CALM_S = (0.0, 3.0)
"""Between two mishaps: often none, so that they fall into one another."""
OUT = Path("bench-reports")


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """A mishap and what it cost."""

    name: str
    what: str
    at_s: float
    """Since the beginning."""
    outage_s: float


@dataclass(slots=True)
class Soak:
    """A soak under way."""

    cluster: Cluster
    crew: Crew
    random: Random
    console: Console
    begun: float
    happened: list[Happened] = field(default_factory=list)
    healthy_s: list[float] = field(default_factory=list)

    def run(self, until: float) -> None:
        """Let one mishap follow the other. Raises TimeoutError if the cluster does not come back in time."""
        while time.monotonic() < until:
            mishap = draw(self.random)
            if mishap.needs_health or len(self.happened) % HEALTHY_EVERY == 0:
                self.become_healthy()
            self.inflict(mishap)
            time.sleep(self.random.uniform(*CALM_S))
        self.become_healthy()

    def become_healthy(self) -> None:
        """Wait until all is well. Raises TimeoutError."""
        begun = time.monotonic()
        self.cluster.wait_healthy(timeout_s=HEALTHY_S)
        self.healthy_s.append(time.monotonic() - begun)

    def inflict(self, mishap: Mishap) -> None:
        """Let *mishap* happen and wait until writes go on. Raises TimeoutError."""
        status = self.cluster.wait(lambda _status: True, "answering", timeout_s=GOES_ON_S)
        begun = time.monotonic()
        what = mishap.act(Scene(self.cluster, status, self.random))
        self.crew.wait_for_more(20, timeout_s=GOES_ON_S)
        outage_s = longest_gap(self.crew.diary.times(self.crew.workloads[0].name), begun)
        one = Happened(name=mishap.name, what=what, at_s=begun - self.begun, outage_s=outage_s)
        self.happened.append(one)
        self.console.print(f"{one.at_s:7.1f} s  {one.name:16} {one.outage_s:6.2f} s without a commit  {one.what}", markup=False)


def main() -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="seeded mishaps under recording clients")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3, choices=(3, 5))
    parser.add_argument("--pg-bin", help="PostgreSQL's programs, for another version than the bundled one")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"for soak-SEED.json and logs ({OUT})")
    arguments = parser.parse_args()
    end_in_order()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    options = ("--pg-bin", arguments.pg_bin) if arguments.pg_bin is not None else ()
    with tempfile.TemporaryDirectory(prefix="endpointd-soak-") as folder:
        cluster = Cluster(Path(folder) / "c", nodes=arguments.nodes, options=options)
        try:
            console.print(f"seed {arguments.seed}: starting {arguments.nodes} nodes")
            cluster.up()
            cluster.wait_healthy(timeout_s=HEALTHY_S)
            return _run(cluster, console, arguments)
        finally:
            cluster.remove()


def _run(cluster: Cluster, console: Console, arguments: argparse.Namespace) -> int:
    crew = make_crew(cluster, seed=arguments.seed)
    begun = time.monotonic()
    soak = Soak(cluster, crew, Random(arguments.seed), console, begun)
    failure = ""
    checks: list[Checked] = []
    try:
        with crew:
            crew.wait_for_more(50, timeout_s=60.0)
            soak.run(begun + arguments.minutes * 60.0)
        checks = crew.check_all(cluster.dsn("writer"))
    except (TimeoutError, AssertionError, OSError) as error:
        failure = f"{type(error).__name__}: {error}"
    console.print(_table(soak))
    for check in checks:
        console.print(str(check), markup=False)
    if soak.healthy_s:
        console.print(f"{len(soak.happened)} mishaps; healthy again after at most {max(soak.healthy_s):.1f} s")
    is_good = not failure and all(check.is_clean for check in checks)
    kept = arguments.out / f"soak-{arguments.seed}-logs"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"soak-{arguments.seed}.json").write_text(_document(soak, checks, failure, arguments))
    if not is_good:
        cluster.keep_logs(kept)
        console.print(f"FAILED with seed {arguments.seed}: {failure or 'a checker found violations'}", markup=False)
        console.print(f"the cluster's logs are in {kept}")
    return 0 if is_good else 1


def _table(soak: Soak) -> Table:
    table = Table(title="mishaps by kind; seconds without a commit")
    for title in ("kind", "times", "p50", "p99", "max"):
        table.add_column(title, justify="left" if title == "kind" else "right")
    outages: collections.defaultdict[str, list[float]] = collections.defaultdict(list)
    for one in soak.happened:
        outages[one.name].append(one.outage_s)
    for name, values in sorted(outages.items()):
        numbers = figures(values)
        table.add_row(name, str(numbers.count), f"{numbers.p50:.2f}", f"{numbers.p99:.2f}", f"{numbers.max:.2f}")
    return table


def _document(soak: Soak, checks: list[Checked], failure: str, arguments: argparse.Namespace) -> str:
    return (
        json.dumps(
            {
                "format_version": 1,
                "seed": arguments.seed,
                "minutes": arguments.minutes,
                "nodes": arguments.nodes,
                "failure": failure or None,
                "healthy_s_max": max(soak.healthy_s, default=None),
                "happened": [
                    {"name": one.name, "what": one.what, "at_s": one.at_s, "outage_s": one.outage_s} for one in soak.happened
                ],
                "checks": [
                    {"checker": check.checker, "summary": check.summary, "violations": check.violations[:100]}
                    for check in checks
                ],
            },
            indent=2,
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
