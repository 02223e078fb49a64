"""`make fuzz`: so many inputs for everything that reads the wire, guided by coverage, and a table of what came of it.

An input that is not borne is written to a file, its error is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testkit.processes import resident_bytes
from tests.fuzz.engine import Fuzzer, Outcome, watch_for_hangs
from tests.fuzz.targets import TARGETS

GROWTH_BYTES_MAX = 64 << 20
"""Of a process over all inputs of a target: what is kept must not depend on how many came."""


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz what reads the wire")
    parser.add_argument("targets", nargs="*", metavar="NAME", help="words of targets' names; all unless given")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together (1000000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("fuzz-faults"), help="where inputs that are not borne are kept")
    arguments = parser.parse_args()
    chosen = [
        number for number, target in enumerate(TARGETS)
        if not arguments.targets or any(word in target.name for word in arguments.targets)
    ]  # fmt: skip
    if not chosen:
        parser.error(f"no target is called so; there are: {', '.join(target.name for target in TARGETS)}")
    each = -(-arguments.inputs // len(chosen))
    with ProcessPoolExecutor(arguments.jobs) as pool:
        outcomes = list(pool.map(_run, chosen, [each] * len(chosen), [arguments.seed] * len(chosen)))
    table = Table(title=f"{sum(outcome.inputs for outcome, _ in outcomes)} inputs, seed {arguments.seed}")
    for title in ("target", "inputs", "kept", "lines reached", "seconds", "grew by", "faults"):
        table.add_column(title, justify="left" if title == "target" else "right")
    is_good = True
    for number, (outcome, grown_bytes) in zip(chosen, outcomes, strict=True):
        is_bad = outcome.fault is not None or grown_bytes > GROWTH_BYTES_MAX
        is_good = is_good and not is_bad
        table.add_row(
            TARGETS[number].name, str(outcome.inputs), str(outcome.kept), str(outcome.lines), f"{outcome.took_s:.0f}",
            f"{grown_bytes >> 20} MiB", str(int(outcome.fault is not None)),
        )  # fmt: skip
        if outcome.fault is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            kept = arguments.out / f"{TARGETS[number].name.replace(' ', '-')}.bin"
            kept.write_bytes(outcome.fault.data)
            print(f"{TARGETS[number].name}: {kept}, {outcome.fault.data!r}")
            traceback.print_exception(outcome.fault.error)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0 if is_good else 1


def _run(number: int, inputs: int, seed: int) -> tuple[Outcome, int]:
    watch_for_hangs()
    target = TARGETS[number]
    Fuzzer(target.run, target.seeds, target.tokens, seed - 1).run(min(inputs, 2000))  # what is loaded once is no growth
    before = resident_bytes(os.getpid())
    outcome = Fuzzer(target.run, target.seeds, target.tokens, seed).run(inputs)
    return outcome, resident_bytes(os.getpid()) - before


if __name__ == "__main__":
    sys.exit(main())
