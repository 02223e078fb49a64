"""`make bench-failover KILLS=10`: how long writes stop when the primary is lost, and whether anything is lost with it.

N times: the primary's node gets a blow (SIGKILL to its postmaster, or --fault) under clients that record every acknowledged
insert; the outage is their longest time without an acknowledgement.  Beside it stand the manager's own step times of the same
failover.  Exits with 1 if the checker finds one lost or made-up row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.blows import Blow, strike
from bench.cluster import Cluster
from bench.ledger import Recorder

STEPS = ("published", "recruited", "elected", "promoted", "repointed", "opened")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One failover as clients and the manager saw it."""

    victim: str
    successor: str
    outage_s: float
    steps_ms: dict[str, int]


def main() -> int:
    """Run the benchmark on a cluster of its own and print the table."""
    parser = argparse.ArgumentParser(description="kill the primary again and again under recording clients")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--fault", type=Blow, default=Blow.KILL, choices=list(Blow), help="what befalls the primary (kill)")
    parser.add_argument("--pg-bin", help="PostgreSQL's programs, for another version than the bundled one")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=3, choices=(3, 5))
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    with tempfile.TemporaryDirectory(prefix="endpointd-bench-") as folder:
        options = ("--pg-bin", arguments.pg_bin) if arguments.pg_bin is not None else ()
        cluster = Cluster(Path(folder) / "c", nodes=arguments.nodes, options=options)
        try:
            console.print(f"starting {arguments.nodes} nodes")
            cluster.up()
            cluster.let_flap()
            return _run(cluster, console, arguments.fault, times=arguments.kills, clients=arguments.clients)
        finally:
            cluster.remove()


def _run(cluster: Cluster, console: Console, blow: Blow, *, times: int, clients: int) -> int:
    dsn = cluster.dsn("writer")
    results: list[Kill] = []
    with Recorder(dsn, clients=clients) as recorder:
        for number in range(times):
            kill = kill_once(cluster, recorder, blow)
            results.append(kill)
            console.print(f"{number + 1}: {kill.victim} -> {kill.successor}, {kill.outage_s * 1000:.0f} ms without a commit")
    verdict = recorder.check(dsn)
    console.print(_table(results, blow))
    outages = [kill.outage_s for kill in results]
    console.print(f"outage: median {statistics.median(outages):.3f} s, max {max(outages):.3f} s over {times} x {blow}")
    console.print(f"checker: {verdict}")
    return 0 if verdict.is_clean else 1


def kill_once(cluster: Cluster, recorder: Recorder, blow: Blow = Blow.KILL) -> Kill:
    """Strike the writer of a healthy cluster and return what that cost."""
    before = cluster.wait_healthy(timeout_s=120.0)
    assert before.writer is not None
    recorder.wait_for_more(50, timeout_s=30.0)
    struck = strike(blow, cluster, cluster.node(before.writer, before))
    after = cluster.wait_for_epoch_after(before.epoch, timeout_s=60.0)
    recorder.wait_for_more(50, timeout_s=60.0)
    outage_s = recorder.outage_s(struck.at)
    struck.undo()
    assert after.writer is not None
    return Kill(
        victim=before.writer,
        successor=after.writer,
        outage_s=outage_s,
        steps_ms=_steps(cluster, after.epoch),
    )


def _steps(cluster: Cluster, epoch: int) -> dict[str, int]:
    steps: dict[str, int] = {}
    for event in cluster.events():
        kind, elapsed = str(event["kind"]), event.get("elapsed_ms")
        if event["epoch"] == epoch and kind.startswith("failover.") and isinstance(elapsed, int):
            steps[kind.removeprefix("failover.")] = elapsed
    return steps


def _table(results: list[Kill], blow: Blow) -> Table:
    table = Table(title=f"{blow} of the primary; step times in ms since the detection")
    for title in ("time", "victim", "successor", "outage ms", *STEPS):
        table.add_column(title, justify="right")
    for number, kill in enumerate(results, start=1):
        steps = (str(kill.steps_ms.get(step, "-")) for step in STEPS)
        table.add_row(str(number), kill.victim, kill.successor, f"{kill.outage_s * 1000:.0f}", *steps)
    return table


if __name__ == "__main__":
    sys.exit(main())
