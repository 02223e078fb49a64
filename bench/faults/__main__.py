"""`make faults`: plays the faults on clusters of its own and prints what came of them.

Exit status 0: every expectation met and every checker clean.  1: not.  2: wrong usage.  With --unsafe one node lies when it
promises, and a violation is what is wanted: 0 if the checkers noticed.  What is not possible on this machine has a row that
says why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from bench.faults import report
from bench.faults.catalogue import FAULTS, SHORT, choose
from bench.faults.fault import Fault, Stage
from bench.faults.run import Result, play
from bench.faults.stages import opened
from bench.faults.unsafe import lie
from testkit.interrupting import end_in_order

OUT = Path("bench-reports")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description="play faults under recording clients")
    parser.add_argument("names", nargs="*", metavar="FAULT", help="which ones, by name or number of the scenario (all)")
    parser.add_argument("--list", action="store_true", help="print the faults and what is expected of them")
    parser.add_argument("--repeat", type=int, default=1, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help=f"{', '.join(SHORT)}, and --unsafe: for every change")
    parser.add_argument("--unsafe", action="store_true", help="only prove that the checkers notice a broken promise")
    parser.add_argument("--honest", action="store_true", help="the schedule of --unsafe with the promise kept: nothing is lost")
    parser.add_argument("--pg-bin", help="PostgreSQL's programs, for another version than the bundled one")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"for faults.json and faults.svg ({OUT})")
    arguments = parser.parse_args()
    end_in_order()
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    try:
        faults = choose(arguments.names or (SHORT if arguments.short else ()))
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        for fault in FAULTS:
            console.print(f"{fault.scenario:>3}  {fault.name:24} {fault.does}: {fault.expect}", markup=False)
        return 0
    results: list[Result] = []
    if not (arguments.unsafe or arguments.honest):
        for result in _play_all(faults, console, arguments):
            results.append(result)
            _write(arguments.out, results, seed=arguments.seed, repeat=arguments.repeat)
        console.print(report.table(results))
        console.print(f"report: {arguments.out / 'faults.json'}, picture: {arguments.out / 'faults.svg'}")
    noticed = True
    if arguments.unsafe or arguments.honest or arguments.short:
        noticed = lie(console, pg_bin=arguments.pg_bin, honest=arguments.honest)
    good = all(result.is_good or result.not_possible is not None for result in results)
    return 0 if good and noticed else 1


def _play_all(faults: Sequence[Fault], console: Console, arguments: argparse.Namespace) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="endpointd-faults-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for stage in Stage:
            chosen = [fault for fault in faults if fault.stage is stage]
            if not chosen:
                continue
            with opened(stage, folder, pg_bin=arguments.pg_bin) as cluster:
                for fault in chosen:
                    if isinstance(cluster, str):
                        result = Result(fault=fault, not_possible=cluster)
                    else:
                        console.print(f"{fault.scenario} {fault.name}: {fault.does}", style="bold", markup=False)
                        begun = time.monotonic()
                        result = play(cluster, fault, repeat=arguments.repeat, seed=arguments.seed)
                        if not result.is_good and not result.not_possible:
                            kept = arguments.out / f"logs-{fault.name}"
                            cluster.keep_logs(kept)
                            console.print(f"  the cluster's logs are in {kept}")
                        console.print("\n".join(report.describe(result)), markup=False)
                        console.print(f"  took {time.monotonic() - begun:.0f} s")
                        if result.broken is not None:
                            cluster.renew()
                    yield result


def _write(folder: Path, results: Sequence[Result], **about: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.json").write_text(report.document(results, **about))
    (folder / "faults.svg").write_text(report.drawing(results, "Faults: what clients saw"))


if __name__ == "__main__":
    sys.exit(main())
