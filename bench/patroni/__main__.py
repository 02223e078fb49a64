"""Runs the comparison and prints one table.

Every system is up the whole time and idle but for the one whose turn it is; the turns go round (each repeat, each fault, each
system), so that what disturbs the machine disturbs all alike.  Exits with 1 if any run lost or made up a row, or did not
come back.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
from rich.console import Console

from bench.patroni.faults import CLIENTS, SPREAD_S, Fault, delays_s, measure
from bench.patroni.install import MissingError, Programs, find_programs
from bench.patroni.report import Measurement, is_clean, summarize, table
from bench.patroni.sides import NODES, Endpointd, Etcd, Patroni, Side
from bench.patroni.texts import DEFAULT, FAST, Variant
from noded.postgres.binaries import Binaries, BinariesError, find_binaries
from testkit.cluster import ROOT

BASELINE = Endpointd.name
SHORT_FAULTS = (Fault.KILL, Fault.SWITCHOVER)

SEED = 1
"""The moments of the strikes are the same in every run, and for all systems."""
START_S = 60.0
TYPICAL_S = {
    BASELINE: {Fault.KILL: 8.0, Fault.KILL_AGENT: 8.0, Fault.FREEZE_NODE: 10.0, Fault.SWITCHOVER: 8.0},
    FAST.name: {Fault.KILL: 15.0, Fault.KILL_AGENT: 20.0, Fault.FREEZE_NODE: 40.0, Fault.SWITCHOVER: 15.0},
    DEFAULT.name: {Fault.KILL: 30.0, Fault.KILL_AGENT: 40.0, Fault.FREEZE_NODE: 75.0, Fault.SWITCHOVER: 30.0},
}
"""How long a run takes, from the strike until it is healthy and the rows are checked: for the announcement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run."""

    binaries: Binaries
    programs: Programs
    variants: Sequence[Variant]
    faults: Sequence[Fault]
    repeats: int

    @property
    def systems(self) -> tuple[str, ...]:
        """The names in the order of their turns."""
        return (BASELINE, *(variant.name for variant in self.variants))

    @property
    def runs(self) -> int:
        """How many measurements that makes."""
        return self.repeats * len(self.faults) * len(self.systems)

    @property
    def duration_s(self) -> float:
        """About how long it takes."""
        each = (TYPICAL_S[system][fault] + SPREAD_S / 2 for system in self.systems for fault in self.faults)
        return START_S + self.repeats * sum(each)


def main() -> int:
    """Run the comparison of the command line."""
    arguments = _parser().parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    # A polite kill cleans up as ^C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        plan = Plan(
            binaries=find_binaries(arguments.pg_bin, prefer_bundled=True),
            programs=find_programs(arguments.venv),
            variants=(FAST,) if arguments.short else (FAST, DEFAULT),
            faults=arguments.fault or (SHORT_FAULTS if arguments.short else tuple(Fault)),
            repeats=arguments.repeat or (1 if arguments.short else 3),
        )
    except (MissingError, BinariesError) as error:
        print(f"bench-patroni: {error}", file=sys.stderr)
        return 1
    versions = {"postgresql": plan.binaries.version, **plan.programs.versions()}
    _announce(console, plan, versions)
    measurements: list[Measurement] = []
    try:
        _run(console, plan, measurements, arguments.logs)
    except KeyboardInterrupt:
        console.print("interrupted; what was measured so far:")
    rows = summarize(measurements, baseline=BASELINE)
    console.print(table(rows, baseline=BASELINE))
    if arguments.json is not None:
        document = {
            "versions": versions,
            "settings": {variant.name: str(variant) for variant in plan.variants},
            "clients": CLIENTS,
            "nodes": NODES,
            "rows": rows,
            "measurements": measurements,
        }
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    return 0 if len(measurements) == plan.runs and is_clean(measurements) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench-patroni", description="endpointd and Patroni under the same clients and faults"
    )
    parser.add_argument("--repeat", type=int, metavar="N", help="how often each fault befalls each system (3)")
    parser.add_argument("--fault", type=Fault, action="append", choices=list(Fault), help="only this fault; may be repeated")
    parser.add_argument("--short", action="store_true", help="Patroni's fast settings only, one repeat, kill and switchover")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there too")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep what all processes wrote there")
    parser.add_argument("--pg-bin", type=Path, metavar="DIR", help="PostgreSQL's programs, for both (the bundled ones)")
    parser.add_argument(
        "--venv", type=Path, metavar="DIR", default=ROOT / ".bench-venv", help="where Patroni is or is installed (.bench-venv)"
    )
    return parser


def _announce(console: Console, plan: Plan, versions: dict[str, str]) -> None:
    for name, version in versions.items():
        console.print(f"{name}: {version}", soft_wrap=True)
    console.print(f"endpointd: as `endpointctl up` makes it, {NODES} nodes, quorum commit")
    for variant in plan.variants:
        console.print(f"{variant.name}: {NODES} nodes, etcd of one member; {variant}", soft_wrap=True)
    if plan.programs.haproxy is None:
        console.print(
            "there is no haproxy (Debian, Ubuntu: apt-get install haproxy): Patroni's clients get a multi-host URI with "
            "target_session_attrs=read-write, and may wait long for a frozen host",
            soft_wrap=True,
        )
    console.print(
        f"{plan.repeats} x {', '.join(plan.faults)} on {', '.join(plan.systems)}, {CLIENTS} clients: "
        f"about {plan.duration_s / 60:.0f} minutes",
        soft_wrap=True,
    )


def _run(console: Console, plan: Plan, measurements: list[Measurement], logs: Path | None) -> None:
    """Add to *measurements*; a system that does not become healthy again is left out from then on, and said so."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="endpointd-bench-")))
        etcd = Etcd(home, plan.programs.etcd)
        stack.callback(etcd.remove)
        etcd.start()
        sides: list[Side] = [Endpointd(home / "endpointd", plan.binaries)]
        sides += [
            Patroni(home / variant.name, variant, programs=plan.programs, binaries=plan.binaries, etcd=etcd)
            for variant in plan.variants
        ]
        for side in sides:
            stack.callback(side.remove)
            if logs is not None:
                stack.callback(_keep_logs, side, logs)
            console.print(f"starting {side.name}")
            side.start()
        for side in sides:
            side.wait_healthy()
        randomness = Random(SEED)
        delays = {fault: delays_s(plan.repeats, randomness) for fault in plan.faults}
        for repeat in range(plan.repeats):
            for fault in plan.faults:
                for side in list(sides):
                    try:
                        one = measure(side, fault, repeat=repeat + 1, delay_s=delays[fault][repeat])
                    except TimeoutError as error:
                        console.print(f"{side.name} is left out from now on: {error}", soft_wrap=True)
                        sides.remove(side)
                        continue
                    measurements.append(one)
                    console.print(_line(one), soft_wrap=True)


def _line(one: Measurement) -> str:
    outage = one.note if one.outage_s is None else f"{one.outage_s:.2f} s without a commit"
    return f"{one.repeat}: {one.fault} of {one.system}: {outage}; {one.acknowledged} acknowledged, {one.lost} lost"


def _keep_logs(side: Side, logs: Path) -> None:
    for log in side.logs():
        if log.exists():
            kept = logs / side.name / os.path.relpath(log, log.parents[1]).replace("/", "-")
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, kept)


if __name__ == "__main__":
    sys.exit(main())
