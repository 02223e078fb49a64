"""`make bench-failover KILLS=10`: how long writes stop when the primary is lost, and whether anything is lost with it.

N times: the primary's node gets a blow (SIGKILL to its postmaster, or --fault) under clients that record every acknowledged
insert; the outage is their longest time without an acknowledgement.  Beside it stand the manager's own step times of the same
failover.  --pause hands the writer over in good order instead, while new connections are opened all the time: none may fail.
--idle measures what a cluster costs on which nobody works.  Exits with 1 if the checker finds one lost or made-up row.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.idle import Cost, measure
from bench.prober import Prober
from pgtopology.status import NodeStatus
from testkit.checks.figures import figures
from testkit.cluster import Cluster
from testkit.injuries import INJURIES, Injury, Struck, inflict
from testkit.interrupting import end_in_order
from testkit.ledger import Recorder

STEPS = ("published", "recruited", "elected", "promoted", "repointed", "opened")
TOLD_MAX = 3

KILL, SWITCHOVER = "kill", "switchover"
"""The postmaster killed; and no harm at all: the planned handover."""
MOVING = (
    "kill-postgres",
    "kill-node",
    "kill-session",
    "freeze-postmaster",
    "freeze-postgres",
    "freeze-node",
    "freeze-walsenders",
)
BLOWS: dict[str, Injury | None] = {
    KILL: INJURIES["kill-postmaster"],
    SWITCHOVER: None,
    **{name: INJURIES[name] for name in MOVING},
}
"""What may befall the primary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One failover as clients and the manager saw it."""

    victim: str
    successor: str
    outage_s: float
    steps_ms: dict[str, int]
    connected: int = 0
    """New connections meanwhile, where they were opened all the time."""
    not_connected: tuple[str, ...] = ()
    """What the others were told."""
    connect_s_max: float = 0.0


def main() -> int:
    """Run the benchmark on a cluster of its own and print the table."""
    parser = argparse.ArgumentParser(description="kill the primary again and again under recording clients")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--fault",
        default=KILL,
        choices=list(BLOWS),
        help="what befalls the primary (kill)",
    )
    parser.add_argument("--pause", action="store_true", help="planned switchovers, with a new connection every 20 ms")
    parser.add_argument("--idle", type=float, metavar="S", help="only measure processor and memory for S seconds without work")
    parser.add_argument("--pg-bin", help="PostgreSQL's programs, for another version than the bundled one")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=3, choices=(3, 5))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there too")
    arguments = parser.parse_args()
    end_in_order()
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    with tempfile.TemporaryDirectory(prefix="endpointd-bench-") as folder:
        options = ("--pg-bin", arguments.pg_bin) if arguments.pg_bin is not None else ()
        cluster = Cluster(Path(folder) / "c", nodes=arguments.nodes, options=options)
        try:
            console.print(f"starting {arguments.nodes} nodes")
            cluster.up()
            report, is_good = _idle(cluster, console, arguments) if arguments.idle else _run(cluster, console, arguments)
        finally:
            cluster.remove()
    if arguments.json is not None:
        about = {"format_version": 1, "nodes": arguments.nodes, "clients": arguments.clients}
        arguments.json.write_text(json.dumps(about | report, indent=2) + "\n")
    return 0 if is_good else 1


def _idle(cluster: Cluster, console: Console, arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    costs = measure(cluster, arguments.idle)
    table = Table(title=f"{arguments.idle:g} s without work")
    for title in ("program", "% of a core", "MB resident"):
        table.add_column(title, justify="left" if title == "program" else "right")
    for cost in [*costs, _sum(costs)]:
        table.add_row(cost.program, f"{cost.cpu_percent:.2f}", f"{cost.resident_bytes / 1e6:.1f}")
    console.print(table)
    return {"idle_s": arguments.idle, "programs": [dataclasses.asdict(cost) for cost in costs]}, True


def _sum(costs: list[Cost]) -> Cost:
    return Cost(
        program="all",
        cpu_percent=sum(cost.cpu_percent for cost in costs),
        resident_bytes=sum(cost.resident_bytes for cost in costs),
    )


def _run(cluster: Cluster, console: Console, arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    blow: str = SWITCHOVER if arguments.pause else arguments.fault
    dsn = cluster.dsn("writer")
    results: list[Kill] = []
    with Recorder(dsn, clients=arguments.clients) as recorder, contextlib.ExitStack() as stack:
        prober = stack.enter_context(Prober(dsn)) if arguments.pause else None
        for number in range(arguments.kills):
            kill = kill_once(cluster, recorder, blow, prober)
            results.append(kill)
            probed = f", {len(kill.not_connected)} of {kill.connected} new connections failed" if prober is not None else ""
            console.print(
                f"{number + 1}: {kill.victim} -> {kill.successor}, {kill.outage_s * 1000:.0f} ms without a commit{probed}"
            )
    verdict = recorder.check(dsn)
    console.print(_table(results, blow))
    outages = figures([kill.outage_s for kill in results])
    console.print(f"outage: {outages}, {blow}, {arguments.clients} clients")
    refused = [error for kill in results for error in kill.not_connected]
    if prober is not None:
        slowest = max(kill.connect_s_max for kill in results)
        console.print(
            f"new connections: {len(refused)} of {sum(kill.connected for kill in results)} failed, "
            f"the slowest took {slowest:.3f} s{'; told: ' + '; '.join(refused[:TOLD_MAX]) if refused else ''}",
            markup=False,
        )
    console.print(f"checker: {verdict}")
    report = {
        "blow": blow,
        "outage_s": {"p50": outages.p50, "p99": outages.p99, "max": outages.max},
        "kills": [dataclasses.asdict(kill) for kill in results],
        "acknowledged": verdict.acknowledged,
        "lost": len(verdict.lost),
        "fabricated": len(verdict.fabricated),
        "told as failed and there": len(verdict.resurrected),
    }
    return report, verdict.is_clean and not refused


def kill_once(cluster: Cluster, recorder: Recorder, blow: str = KILL, prober: Prober | None = None) -> Kill:
    """Strike the writer of a healthy cluster and return what that cost."""
    before = cluster.wait_healthy(timeout_s=120.0)
    assert before.writer is not None
    recorder.wait_for_more(50, timeout_s=30.0)
    struck = _strike(blow, cluster, cluster.node(before.writer, before))
    after = cluster.wait_for_epoch_after(before.epoch, timeout_s=60.0)
    recorder.wait_for_more(50, timeout_s=60.0)
    outage_s = recorder.outage_s(struck.at)
    struck.undo()
    assert after.writer is not None
    probes = prober.since(struck.at) if prober is not None else []
    return Kill(
        victim=before.writer,
        successor=after.writer,
        outage_s=outage_s,
        steps_ms=_steps(cluster, after.epoch),
        connected=len(probes),
        not_connected=tuple(probe.error for probe in probes if probe.error is not None),
        connect_s_max=max((probe.took_s for probe in probes), default=0.0),
    )


def _strike(blow: str, cluster: Cluster, writer: NodeStatus) -> Struck:
    injury = BLOWS[blow]
    if injury is not None:
        return inflict(injury, cluster, writer)
    at = time.monotonic()
    cluster.ctl("switchover")
    return Struck(at)


def _steps(cluster: Cluster, epoch: int) -> dict[str, int]:
    steps: dict[str, int] = {}
    for event in cluster.events():
        kind, elapsed = str(event["kind"]), event.get("elapsed_ms")
        if event["epoch"] == epoch and kind.startswith("failover.") and isinstance(elapsed, int):
            steps[kind.removeprefix("failover.")] = elapsed
    return steps


def _table(results: list[Kill], blow: str) -> Table:
    table = Table(title=f"{blow} of the primary; step times in ms since the detection")
    for title in ("time", "victim", "successor", "outage ms", *STEPS):
        table.add_column(title, justify="right")
    for number, kill in enumerate(results, start=1):
        steps = (str(kill.steps_ms.get(step, "-")) for step in STEPS)
        table.add_row(str(number), kill.victim, kill.successor, f"{kill.outage_s * 1000:.0f}", *steps)
    return table


if __name__ == "__main__":
    sys.exit(main())
