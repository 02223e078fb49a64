"""``python -m tests.sim``: many seeds, one seed with its trace, or the table of switches."""

from __future__ import annotations

import argparse
import sys
import time

from tests.sim.cluster import Result, run
from tests.sim.switches import SENTENCES, Switch


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Seeded simulation of the cluster.")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds (default 200)")
    parser.add_argument("--seed", type=int, help="the first seed, or the only one with --trace")
    parser.add_argument("--trace", action="store_true", help="print everything that happens under --seed")
    parser.add_argument("--break", dest="broken", type=Switch, choices=list(Switch), help="take one safety sentence away")
    parser.add_argument("--switches", action="store_true", help="how many seeds each broken sentence survives")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    parser.add_argument("--safety-only", action="store_true", help="do not ask whether the cluster gets well again")
    arguments = parser.parse_args()
    if arguments.switches:
        return _switches(arguments.seeds)
    if arguments.trace:
        result = run(arguments.seed or 0, arguments.broken, verbose=True, safety_only=arguments.safety_only)
        _report(result)
        return 1 if result.violation else 0
    return _seeds(arguments)


def _seeds(arguments: argparse.Namespace) -> int:
    first, count, broken = arguments.seed or 0, arguments.seeds, arguments.broken
    began, failed, known, simulated, acknowledged, epochs = time.process_time(), 0, 0, 0.0, 0, 0
    done = 0
    for seed in range(first, first + count):
        done += 1
        result = run(seed, broken, safety_only=arguments.safety_only)
        simulated += result.simulated_ms
        acknowledged += result.acknowledged
        epochs += result.epochs
        known += bool(result.known)
        if result.known and arguments.keep_going:
            print(f"seed {result.seed} stays as it is: {result.known}")
        if result.violation is not None:
            failed += 1
            if arguments.keep_going:
                print(f"seed {result.seed} at {result.simulated_ms / 1000:.1f} s: {result.violation}")
            else:
                _report(result)
                break
    took = time.process_time() - began
    print(
        f"{done} seeds, {failed} failed, {known} stuck for a known reason; {done / took:.1f} seeds and "
        f"{simulated / 1000 / took:.0f} simulated seconds per CPU second; {acknowledged} acknowledged commits, {epochs} epochs"
    )
    return 1 if failed else 0


def _switches(seeds: int) -> int:
    missed = 0
    print(f"{'switch':28} {'seeds':>5}  {'caught by':46} the sentence that is broken")
    for switch in Switch:
        result = first_caught(switch, seeds)
        if result is None or result.violation is None:
            missed += 1
            print(f"{switch:28} {'-':>5}  {'not within ' + str(seeds):46} {SENTENCES[switch]}", flush=True)
        else:
            print(f"{switch:28} {result.seed + 1:>5}  {result.violation.checker:46} {SENTENCES[switch]}", flush=True)
    return 1 if missed else 0


def first_caught(switch: Switch, seeds: int) -> Result | None:
    """Return the first run in which the broken sentence is noticed, or None."""
    for seed in range(seeds):
        result = run(seed, switch)
        if result.violation is not None:
            return result
    return None


def _report(result: Result) -> None:
    if result.violation is None:
        print(f"seed {result.seed}: nothing found in {result.simulated_ms / 1000:.1f} simulated s, {result.steps} steps")
        return
    print(result.trace)
    print(f"seed {result.seed}, step {result.steps}, {result.simulated_ms / 1000:.1f} s: {result.violation}")
    print(f"replay: python -m tests.sim --seed {result.seed} --trace")


if __name__ == "__main__":
    sys.exit(main())
