"""`make bench-proxy`: what the way through the proxy costs, beside the direct way and, if wanted, another tree's proxy.

A cluster of one node; in front of it one proxy of this tree and, with --against DIR, one of the tree in DIR, which follow the
same manager.  pgbench goes each way in turn, round after round, so that whatever else the machine does meets all ways alike:
what is printed are medians, and medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from msgspec.structs import replace
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console
from rich.table import Table

from daemonkit.logs import LogSettings
from daemonkit.toml import to_toml
from endpointd.settings import Settings, read_settings
from testkit.cluster import ROOT, Cluster
from testkit.interrupting import end_in_order
from testkit.ports import free_port
from testkit.processes import cpu_s

BULK = "select repeat('x', 1000) from generate_series(1, 20000);\n"
"""20 MB in rows of a kilobyte."""
DIRECT, HERE, OTHER = "direct", "this tree", "the other tree"
START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Work:
    """What pgbench is told to do."""

    name: str
    options: tuple[str, ...]


WORKS = (
    Work("point read, 1 client", ("-S", "-M", "prepared", "-c", "1")),
    Work("point read, 8 clients", ("-S", "-M", "prepared", "-c", "8", "-j", "2")),
    Work("point write, 8 clients", ("-N", "-M", "prepared", "-c", "8", "-j", "2")),
    Work("20 MB result, 2 clients", ("-n", "-c", "2", "-f", "bulk.sql")),
    Work("a connection for each read", ("-S", "-C", "-c", "2")),
)


@dataclass(slots=True)
class Way:
    """One way to the server, and what it took each round."""

    name: str
    port: int
    pid: int | None = None
    rates: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    cpu_us: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Of the proxy, a transaction."""

    def median(self, work: Work) -> float:
        """Return its transactions a second."""
        return statistics.median(self.rates[work.name])

    def ratio(self, other: Way, work: Work) -> float:
        """Return the median of its share of *other*'s rate in the same round."""
        return statistics.median(own / its for own, its in zip(self.rates[work.name], other.rates[work.name], strict=True))

    def cpu(self, work: Work) -> str:
        """Return what a transaction costs the proxy."""
        return f"{statistics.median(self.cpu_us[work.name]):.1f}" if self.pid is not None else ""


def main() -> int:
    """Run the benchmark on a cluster of its own and print the table."""
    parser = argparse.ArgumentParser(description="measure the way through the proxy beside the direct way")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of each way, work and round")
    parser.add_argument("--scale", type=int, default=5, help="of pgbench's tables")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another tree, whose proxy goes beside this one's")
    arguments = parser.parse_args()
    end_in_order()
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    with tempfile.TemporaryDirectory(prefix="endpointd-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "bulk.sql").write_text(BULK)
        cluster = Cluster(folder / "c", nodes=1)
        stack.callback(cluster.remove)
        cluster.up()
        node = cluster.wait_healthy().nodes[0]
        programs = Path(str(cluster.plan()["pg_bin"]))
        environment = cluster.environment() | {"PGPASSFILE": str(_pass_file(cluster, folder)), "PGSSLMODE": "disable"}
        bench = [str(programs / "pgbench"), "-h", "127.0.0.1", "-U", "postgres"]
        ways = [Way(DIRECT, node.port), stack.enter_context(running_proxy(cluster, folder / "here", HERE, ROOT))]
        if arguments.against is not None:
            ways.append(stack.enter_context(running_proxy(cluster, folder / "other", OTHER, arguments.against.resolve())))
        fill = [*bench, "-p", str(node.port), "-i", "-q", "-s", str(arguments.scale), "postgres"]
        subprocess.run(fill, check=True, capture_output=True, env=environment)
        for number in range(arguments.rounds):
            for work in WORKS:
                # Who goes first changes from round to round.
                for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                    command = [*bench, "-p", str(way.port), "-T", str(arguments.seconds), *work.options, "postgres"]
                    _measure(way, work, command, folder, environment)
            console.print(f"round {number + 1} of {arguments.rounds}")
        console.print(_table(ways))
    return 0


def _measure(way: Way, work: Work, command: list[str], folder: Path, environment: dict[str, str]) -> None:
    before_s = cpu_s(way.pid) if way.pid is not None else 0.0
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=folder)
    spent_s = cpu_s(way.pid) - before_s if way.pid is not None else 0.0
    rate = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    count = re.search(r"transactions actually processed: (\d+)", done.stdout)
    if rate is None or count is None:
        raise RuntimeError(f"{work.name}, {way.name}: nothing was done in this time, more --seconds are needed\n{done.stdout}")
    way.rates.setdefault(work.name, []).append(float(rate.group(1)))
    way.cpu_us.setdefault(work.name, []).append(spent_s / int(count.group(1)) * 1e6)


def _pass_file(cluster: Cluster, folder: Path) -> Path:
    password = conninfo_to_dict(cluster.dsn("writer"))["password"]
    file = folder / "pgpass"
    file.touch(mode=0o600)
    file.write_text(f"*:*:*:*:{password}\n")
    return file


@contextlib.contextmanager
def running_proxy(
    cluster: Cluster,
    folder: Path,
    name: str,
    tree: Path,
    *,
    rules: tuple[str, ...] = (),
    tls: bool = False,
    change: Callable[[Settings], Settings] = lambda settings: settings,
) -> Iterator[Way]:
    """Run *tree*'s proxy with the settings of the cluster's own, on other ports, and with what else is to *change*."""
    folder.mkdir()
    settings = read_settings(cluster.data_dir / "settings" / "endpointd.toml")
    port = free_port()
    changed = change(
        replace(
            settings,
            proxy=replace(settings.proxy, name=folder.name, cache=folder / "topology.json", takeover=None),
            writer=replace(settings.writer, port=port, rules=rules),
            reader=replace(settings.reader, port=free_port()),
            http=replace(settings.http, port=free_port()),
            instances=(),
            logs=LogSettings(level="warning"),
        )
    )
    text = to_toml(changed)
    if not tls:
        # A tree from before TLS does not know its tables, nor one from before rules theirs.
        text = "\n\n".join(table for table in text.split("\n\n") if not table.startswith(("[tls]", "[servers]")))
        text = text.replace("rules = []\n", "")
    (folder / "endpointd.toml").write_text(text)
    command = [sys.executable, "-m", "endpointd.daemon", "--config", str(folder / "endpointd.toml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tree, stdout=log, stderr=log)
    try:
        _wait_for_answer(cluster, port, folder / "log")
        yield Way(name, port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30.0)


def _wait_for_answer(cluster: Cluster, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(cluster.dsn("writer"), port=port, connect_timeout=5).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer from a proxy:\n{log.read_text()}") from None
            time.sleep(0.1)
        else:
            return


def _table(ways: list[Way]) -> Table:
    direct, here, *others = ways
    table = Table(title="transactions a second, ratios within rounds, and processor time of the proxies a transaction; medians")
    table.add_column("work")
    for way in ways:
        table.add_column(way.name, justify="right")
    for title in ("here : direct", "µs here", *(("here : other", "µs other") if others else ())):
        table.add_column(title, justify="right")
    for work in WORKS:
        beside = [column for other in others for column in (f"{here.ratio(other, work):.3f}", other.cpu(work))]
        rates = (f"{way.median(work):.1f}" for way in ways)
        table.add_row(work.name, *rates, f"{here.ratio(direct, work):.3f}", here.cpu(work), *beside)
    return table


if __name__ == "__main__":
    sys.exit(main())
