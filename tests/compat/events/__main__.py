"""`python -m tests.compat.events`: plays every event with every driver and prints what their applications saw.

Exit status 0: everything was played.  1: a program did not come to its end.  2: wrong usage.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from rich.console import Console
from rich.table import Table

from testkit.cluster import Cluster
from testkit.interrupting import end_in_order
from tests.compat import fetching
from tests.compat.events.player import Player, Step
from tests.compat.events.scene import EVENTS, Event, play
from tests.compat.suite import ASYNCPG, NODE_PG, PG8000, POSTGRES_JS, PSYCOPG, PSYCOPG2

PROGRAMS = Path(__file__).resolve().parent / "drivers"
OUT = Path("bench-reports")


@dataclass(frozen=True, slots=True)
class Driver:
    """One driver and its program."""

    package: str
    program: str

    def command(self) -> list[str]:
        """Return what plays an event named behind it. Raises UnavailableError."""
        if self.program.endswith(".cjs"):
            fetching.node_modules((NODE_PG, POSTGRES_JS))
            return ["node", str(PROGRAMS / self.program)]
        return [str(fetching.python((PSYCOPG, PSYCOPG2, ASYNCPG, PG8000))), str(PROGRAMS / self.program)]

    def environment(self) -> dict[str, str]:
        """Return what the program needs beside the server's variables."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PYTHON", "NODE_"))}
        kept["PYTHONPATH"] = str(fetching.ROOT)
        if self.program.endswith(".cjs"):
            kept["NODE_PATH"] = str(fetching.node_modules((NODE_PG, POSTGRES_JS)))
        return kept

    def special(self) -> list[str]:
        """Return the events that only this driver plays."""
        command, environment = [*self.command(), "--special"], self.environment()
        return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60).stdout)


DRIVERS = (
    Driver(PSYCOPG, "psycopg3.py"),
    Driver(PSYCOPG2, "psycopg2_.py"),
    Driver(ASYNCPG, "asyncpg_.py"),
    Driver(PG8000, "pg8000_.py"),
    Driver(NODE_PG, "node_pg.cjs"),
    Driver(POSTGRES_JS, "postgres_js.cjs"),
)


def main() -> int:
    """Play what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat.events", description="what drivers make of a failover")
    parser.add_argument("names", nargs="*", metavar="EVENT", help="which ones; wildcards (all)")
    parser.add_argument("--list", action="store_true", help="print the events")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"for events.json and what programs say ({OUT})")
    parser.add_argument("--json", action="store_true", help="print what was seen as JSON")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 190, highlight=False)
    chosen = [event for event in EVENTS if not arguments.names or _is_named(event, arguments.names)]
    if not chosen:
        parser.error(f"no event is called so; there are {', '.join(event.name for event in EVENTS)}")
    if arguments.list:
        for event in chosen:
            console.print(f"{event.name:28} {event.about}", markup=False)
        return 0
    end_in_order()
    drivers: dict[Driver, list[str]] = {}
    for driver in DRIVERS:
        try:
            drivers[driver] = driver.special()
        except fetching.UnavailableError as error:
            print(f"{driver.package} is left out: {error}", file=sys.stderr)
    seen: dict[str, dict[str, tuple[Step, ...]]] = {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="events-") as name:
        cluster = Cluster(Path(name) / "cluster")
        try:
            cluster.up()
            for event in chosen:
                print(f"{event.name} ...", file=sys.stderr, flush=True)
                seen[event.name] = play(event, cluster, lambda event_name: _start(event_name, drivers, cluster, arguments.out))
        finally:
            cluster.remove()
    (arguments.out / "events.json").write_bytes(msgspec.json.format(msgspec.json.encode(seen)))
    if arguments.json:
        print((arguments.out / "events.json").read_text())
    else:
        for event in chosen:
            console.print(_table(event, seen[event.name]))
    lost = [step for players in seen.values() for steps in players.values() for step in steps if step.error == "nothing came"]
    return 1 if lost else 0


def _is_named(event: Event, names: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(event.name, name) for name in names)


def _start(event: str, drivers: dict[Driver, list[str]], cluster: Cluster, out: Path) -> list[Player]:
    specials = {each.name for each in EVENTS if each.special}
    server = urlsplit(cluster.dsn("writer"))
    variables = {
        "PGHOST": server.hostname or "",
        "PGPORT": str(server.port),
        "PGUSER": server.username or "",
        "PGPASSWORD": server.password or "",
        "PGDATABASE": server.path.lstrip("/"),
        "PGSSLMODE": "disable",
    }
    return [
        Player.start(driver.package, [*driver.command(), event], driver.environment() | variables, out / "events.log")
        for driver, special in drivers.items()
        if event not in specials or event in special
    ]


def _table(event: Event, seen: dict[str, tuple[Step, ...]]) -> Table:
    table = Table(title=f"{event.name}: {event.about}", show_lines=True)
    table.add_column("driver")
    table.add_column("what the application saw")
    for driver, steps in seen.items():
        table.add_row(driver, "\n".join(map(str, steps)))
    return table


if __name__ == "__main__":
    sys.exit(main())
