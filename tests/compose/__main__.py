"""`make compose-test`: the cluster of docker-compose.yml on a real engine, under faults, with every acknowledgement recorded.

Builds the image, brings the cluster up with the documented commands, does to containers what happens to containers, takes
everything down and up again, and compares each node's table with what was acknowledged.  Prints the outages.  Exit status 0:
all well.  1: something is not, or no engine can be had; ENDPOINTD_COMPOSE_SKIP=1 makes the latter a skip.  Everything it
made is removed at the end, also after ^C; what a SIGKILL leaves of an engine of its own, by the next run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from testkit.ledger import Recorder
from tests.compose import checks
from tests.compose.engine import Engine, EngineError, engine
from tests.compose.faults import FAULTS, Outcome, inflict
from tests.compose.images import base_image, build
from tests.compose.shell import CommandError, run
from tests.compose.stack import Stack, compose_command

SKIP = "ENDPOINTD_COMPOSE_SKIP"
LINE_MAX = 400
OUTAGE_S_MAX = 5.0
"""Of one fault, on a busy machine; the table shows what it was."""
SHORT_FAULTS = 2
"""How many of the faults the short form knows: a crash and a freeze."""
START_S_MAX = 30.0
"""Without the only proxy, until it is started again."""


def main() -> int:
    """Run the test."""
    parser = argparse.ArgumentParser(prog="python -m tests.compose", description="the container test")
    parser.add_argument("--base", default=os.environ.get("ENDPOINTD_BASE"), help="image to build on")
    parser.add_argument("--bundled", action="store_true", help="on a bare Debian, with the bundled PostgreSQL")
    parser.add_argument("--short", action="store_true", help="only the first faults, to the primary: for every change")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with engine() as found, tempfile.TemporaryDirectory(prefix="endpointd-compose-", dir=found.folder) as folder:
            return _run(found, Path(folder), console, options.base, bundled=options.bundled, short=options.short)
    except EngineError as error:
        if os.environ.get(SKIP) == "1":
            console.print(f"COMPOSE TEST SKIPPED, because {SKIP}=1: {error}")
            return 0
        console.print(f"COMPOSE TEST FAILED: {error}\n({SKIP}=1 makes this a skip)")
        return 1
    except (CommandError, AssertionError, TimeoutError, RuntimeError) as error:
        console.print(f"COMPOSE TEST FAILED: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("COMPOSE TEST INTERRUPTED; everything it made is removed")
        return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(found: Engine, folder: Path, console: Console, base: str | None, *, bundled: bool, short: bool) -> int:
    kind = "started for this test" if found.is_own else "found"
    compose = run([*compose_command(), "version", "--short"])
    console.print(f"engine {found.version} ({kind}), compose {compose}")
    image = f"endpointd-test:{os.getpid()}"
    stack = Stack(found, image, folder)
    stack.remove_leftovers()
    try:
        begun = time.monotonic()
        chosen = base_image(found, base, bundled=bundled)
        console.print(f"base {chosen}: {time.monotonic() - begun:.0f} s")
        begun = time.monotonic()
        build(found, chosen, image)
        console.print(f"image built in {time.monotonic() - begun:.0f} s: {checks.image(stack)}")
        found.enter_network()
        stack.prepare()
        stack.check_file()
        console.print("docker-compose config: clean")
        outcomes = _scenario(stack, console, short=short)
        slow = [each for each in outcomes if each.outage_s > (START_S_MAX if each.victim == "proxy" else OUTAGE_S_MAX)]
        assert not slow, f"writes stopped for too long: {', '.join(f'{each.fault} of {each.victim}' for each in slow)}"
        stack.logs.unlink(missing_ok=True)
        console.print("COMPOSE TEST PASSED")
        return 0
    except Exception:
        _show_logs(stack, console)
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stack.remove()


def _scenario(stack: Stack, console: Console, *, short: bool) -> list[Outcome]:
    console.print(f"up until healthy: {stack.up():.1f} s")
    for line in checks.hardening(stack):
        console.print(line)
    console.print(checks.encryption(stack))
    outcomes: list[Outcome] = []
    with Recorder(stack.dsn("writer"), clients=4) as recorder:
        console.print(checks.names(stack))
        for fault in FAULTS[:SHORT_FAULTS] if short else FAULTS:
            for on_primary in (True,) if short else (True, False):
                outcome = inflict(stack, recorder, fault, on_primary=on_primary)
                outcomes.append(outcome)
                moved = f", writer moved to {outcome.moved_to}" if outcome.moved_to else ""
                console.print(
                    f"  {outcome.fault:22} {outcome.victim:13} {outcome.outage_s * 1000:6.0f} ms without a commit{moved}; "
                    f"healthy {outcome.healthy_s:.1f} s after its return"
                )
        console.print(checks.names(stack))
        outcomes += checks.daemons(stack, recorder)
        for outcome in outcomes[-2:]:
            console.print(f"  {outcome.fault:22} {outcome.victim:13} {outcome.outage_s * 1000:6.0f} ms without a commit")
        begun = time.monotonic()
        down_s, up_s = stack.down(), stack.up()
        recorder.wait_for_more(50, timeout_s=60.0)
        console.print(
            f"down {down_s:.1f} s, up until healthy {up_s:.1f} s, {recorder.outage_s(begun):.1f} s without a commit in all"
        )
        if not short:
            _die_and_grow(stack, recorder, console)
    console.print(_table(outcomes))
    for door in ("writer", "n1", "n2", "n3") if short else ("writer", "n1", "n2", "n3", "n4"):
        verdict = checks.verdict(stack, recorder, door)
        console.print(f"{door:6} {verdict}")
        assert verdict.is_clean, f"rows are missing or made up on {door}"
    return outcomes


def _die_and_grow(stack: Stack, recorder: Recorder, console: Console) -> None:
    begun = time.monotonic()
    stack.kill_all()
    up_s = stack.up()
    recorder.wait_for_more(50, timeout_s=60.0)
    console.print(
        f"everything killed at once, up until healthy {up_s:.1f} s, {recorder.outage_s(begun):.1f} s without a commit"
    )
    stack.env["ENDPOINTD_NODES"] = "n1,n2,n3,n4"
    begun = time.monotonic()
    console.print(f"a fourth node, working after {stack.up('--profile', 'n4'):.1f} s", end="")
    recorder.wait_for_more(50, timeout_s=30.0)
    joined_s = recorder.outage_s(begun)
    console.print(f", {joined_s * 1000:.0f} ms without a commit")
    assert joined_s < OUTAGE_S_MAX, "writes stopped while a node joined"


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("fault", "to", "without a commit", "writer moved to", "all well after")
    for outcome in outcomes:
        table.add_row(
            outcome.fault,
            outcome.victim,
            f"{outcome.outage_s * 1000:.0f} ms",
            outcome.moved_to or "-",
            f"{outcome.healthy_s:.1f} s",
        )
    return table


def _show_logs(stack: Stack, console: Console) -> None:
    """Keep what the containers said, and show the last of it."""
    try:
        console.print(stack.compose("ps"), markup=False)
        stack.keep_logs()
        console.print(f"the containers' logs are in {stack.logs}; their last errors and warnings:")
        lines = stack.logs.read_text().splitlines()
        for line in [each for each in lines if '"level":"error"' in each or '"level":"warning"' in each][-10:]:
            console.print(line[:LINE_MAX], markup=False, soft_wrap=True)
    except (CommandError, OSError) as error:
        console.print(f"(no logs: {error})", markup=False)


if __name__ == "__main__":
    sys.exit(main())
