"""``python -m tests.sim``: many seeds, one seed with its trace, what occurred in them, or the table of switches."""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.sim.cluster import Result, run
from tests.sim.coverage import tell_coverage
from tests.sim.play import PLAYS, play
from tests.sim.switches import ELSEWHERE, LIVENESS, SENTENCES, Switch

TELL_EVERY = 100
"""Seeds after which the digest so far is told, so that a short run can be compared with the beginning of a long one."""

TABLE_HEAD: tuple[str, ...] = ("| switch | seeds until caught | caught by | what is broken |", "|---|---:|---|---|")

COLLECT_EVERY = 20
"""Seeds between two collections of cyclic garbage, which would cost a tenth of the time if they came by themselves."""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Seeded simulation of the cluster.")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds (default 200)")
    parser.add_argument("--seed", type=int, help="the first seed, or the only one with --trace")
    parser.add_argument("--jobs", type=int, default=1, help="in how many processes (default 1)")
    parser.add_argument("--trace", action="store_true", help="print everything that happens under --seed")
    parser.add_argument("--break", dest="broken", type=Switch, choices=list(Switch), help="take one sentence of the law away")
    parser.add_argument("--switches", action="store_true", help="how many seeds each broken sentence survives")
    parser.add_argument("--into", type=Path, metavar="FILE", help="put the table of --switches into this document")
    parser.add_argument("--focus", help="the fault that every run dwells on, by its name in faults.py or mishaps.py")
    parser.add_argument("--coverage", action="store_true", help="how often each fault, diagnosis and action occurred")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    parser.add_argument("--safety-only", action="store_true", help="do not ask whether the cluster gets well again")
    parser.add_argument("--play", choices=list(PLAYS), help="print one transition, from the blow to the next writer")
    arguments = parser.parse_args()
    if arguments.play:
        print(play(arguments.play), end="")
        return 0
    if arguments.switches:
        return _switches(arguments.seeds, arguments.into)
    if arguments.trace:
        result = run(
            arguments.seed or 0,
            arguments.broken,
            verbose=True,
            safety_only=arguments.safety_only,
            focus=arguments.focus,
        )
        _report(result, told=True)
        return 1 if result.violation else 0
    return _seeds(arguments)


class _Run:
    """One seed, as a process of its own is told to play it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._broken: Switch | None = arguments.broken
        self._safety_only: bool = arguments.safety_only
        self._focus: str | None = arguments.focus

    def __call__(self, seed: int) -> Result:
        gc.disable()
        if seed % COLLECT_EVERY == 0:
            gc.collect()
        return run(seed, self._broken, safety_only=self._safety_only, focus=self._focus)


@contextlib.contextmanager
def _results(arguments: argparse.Namespace, seeds: Iterable[int]) -> Iterator[Iterator[Result]]:
    """Give the results in the order of the seeds."""
    play = _Run(arguments)
    if arguments.jobs <= 1:
        yield map(play, seeds)
        return
    pool = ProcessPoolExecutor(arguments.jobs)
    try:
        yield pool.map(play, seeds, chunksize=8)
    finally:
        pool.shutdown(cancel_futures=True)


def _seeds(arguments: argparse.Namespace) -> int:
    first = arguments.seed or 0
    began = time.monotonic()
    failed = done = acknowledged = epochs = 0
    simulated = 0.0
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    with _results(arguments, range(first, first + arguments.seeds)) as results:
        for result in results:
            done += 1
            simulated += result.simulated_ms / 1000
            acknowledged += result.acknowledged
            epochs += result.epochs
            counts.update(result.counts)
            digest.update(f"{result.seed} {result.steps} {result.epochs} {result.acknowledged}\n".encode())
            if done % TELL_EVERY == 0:
                print(f"{done} seeds so far, digest {digest.hexdigest()[:16]}", flush=True)
            if result.violation is not None:
                failed += 1
                if not arguments.keep_going:
                    _report(result)
                    break
                print(f"seed {result.seed} at {result.simulated_ms / 1000:.1f} s: {result.violation}", flush=True)
    took = time.monotonic() - began
    print(
        f"{done} seeds, {failed} failed; {done / took:.1f} seeds and "
        f"{simulated / took:.0f} simulated seconds per second; {acknowledged} acknowledged commits, {epochs} epochs"
    )
    print(f"digest of (seed, steps, epochs, acknowledged): {digest.hexdigest()[:16]}")
    missing = 0
    if arguments.coverage:
        text, missing = tell_coverage(counts)
        print(text)
    return 1 if failed or missing else 0


def _switches(seeds: int, document: Path | None) -> int:
    """Print the table of docs/faults.md, and put it into *document* if every switch is caught."""
    rows: list[str] = list(TABLE_HEAD)
    print("\n".join(rows))
    missed = 0
    for switch in Switch:
        result = first_caught(switch, range(seeds))
        if result is None or result.violation is None:
            missed += 1
            seen, by = "-", f"not within {seeds}"
        else:
            seen, by = str(result.seed + 1), result.violation.checker
        rows.append(f"| `{switch}` | {seen} | {by} | {SENTENCES[switch]} |")
        print(rows[-1], flush=True)
    print("\nWhat the simulator cannot express, and the test that covers it:")
    for sentence, test in ELSEWHERE.items():
        print(f"  {sentence}\n      {test}")
    if missed:
        return 1
    if document is not None:
        document.write_text(with_table(document.read_text(), rows))
    return 0


def with_table(text: str, rows: list[str]) -> str:
    """Return *text* with *rows* in place of the table of the same head. Raises ValueError if there is none."""
    before, head, rest = text.partition("\n".join(TABLE_HEAD) + "\n")
    if not head:
        raise ValueError(f"there is no table that begins with {TABLE_HEAD[0]}")
    after = rest.splitlines(keepends=True)
    while after and after[0].startswith("|"):
        del after[0]
    return before + "\n".join(rows) + "\n" + "".join(after)


def first_caught(switch: Switch, seeds: Iterable[int]) -> Result | None:
    """Return the first run of *seeds* in which the broken sentence is noticed, or None."""
    for seed in seeds:
        result = run(seed, switch, safety_only=switch not in LIVENESS)
        if result.violation is not None:
            return result
    return None


def _report(result: Result, *, told: bool = False) -> None:
    if result.violation is None:
        print(f"seed {result.seed}: nothing found in {result.simulated_ms / 1000:.1f} simulated s, {result.steps} steps")
        return
    if not told:
        print(result.trace)
    print(f"seed {result.seed}, step {result.steps}, {result.simulated_ms / 1000:.1f} s: {result.violation}")
    print(f"replay: python -m tests.sim --seed {result.seed} --trace")


if __name__ == "__main__":
    sys.exit(main())
