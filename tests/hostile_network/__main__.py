"""`make hostile-network`: attacks every listener in every way, kills the primary meanwhile, and prints a table.

Exit status 0: no outage was much longer than in peace, no program ended or grew, no loop stood still, and nothing acknowledged
was lost.  1: not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testkit.cluster import Cluster
from testkit.interrupting import end_in_order
from testkit.ledger import Recorder
from tests.hostile_network.attacks import LISTENERS, Way
from tests.hostile_network.suite import Suite, Trial, combinations, few

KILLS = 5


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile_network", description="the primary killed under attack")
    parser.add_argument("--listener", choices=[listener.name for listener in LISTENERS], help="only this one")
    parser.add_argument("--way", choices=list(Way), help="only in this way")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"for each attack ({KILLS})")
    parser.add_argument("--short", action="store_true", help="one attack on each listener, one kill each")
    parser.add_argument("--pg-bin", help="PostgreSQL's programs, for another version than the bundled one")
    arguments = parser.parse_args()
    end_in_order()
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    chosen = [
        (listener, way)
        for listener, way in (few() if arguments.short else combinations())
        if arguments.listener in (None, listener.name) and arguments.way in (None, way)
    ]
    with tempfile.TemporaryDirectory(prefix="endpointd-hostile-") as folder:
        options = ("--pg-bin", arguments.pg_bin) if arguments.pg_bin is not None else ()
        cluster = Cluster(Path(folder) / "c", options=options)
        try:
            cluster.up()
            dsn = cluster.dsn("writer")
            with Recorder(dsn) as recorder:
                suite = Suite(
                    cluster,
                    recorder,
                    kills=1 if arguments.short else arguments.kills,
                    quiet_kills=3 if arguments.short else arguments.kills,
                    say=lambda text: console.print(text, markup=False, soft_wrap=True),
                )
                trials = [suite.play(listener, way) for listener, way in chosen]
            verdict = recorder.check(dsn)
        finally:
            cluster.remove()
    console.print(_table(suite, trials))
    console.print(f"checker: {verdict}", markup=False)
    return 0 if verdict.is_clean and not any(trial.problems for trial in trials) else 1


def _table(suite: Suite, trials: list[Trial]) -> Table:
    table = Table(title=f"quiet: median outage {suite.quiet.median_s:.2f} s")
    for title in ("listener", "attack", "median s", "worst s", "loops late s", "crowd", "verdict"):
        table.add_column(title, justify="right" if title.endswith(" s") else "left")
    for trial in trials:
        measured = trial.measured
        table.add_row(
            trial.listener.name,
            str(trial.way),
            f"{measured.median_s:.2f}",
            f"{max(measured.outages_s):.2f}",
            f"{measured.lag_s:.2f}",
            trial.crowd,
            "; ".join(trial.problems) or "good",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
