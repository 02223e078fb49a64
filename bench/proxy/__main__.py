"""Runs the benchmark on a cluster of its own of one node, and prints, writes or draws what was found."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from bench.proxy.columns import BULK, BULK_FILE, CLIENTS, MANY, Column, columns
from bench.proxy.picture import picture
from bench.proxy.verdict import Ratio, Row, Taken, percentiles, rows
from bench.proxy.ways import DIRECT, ENGINES, PEERS, Way, open_ways
from deployment.cluster import PostgresSettings
from pgwire.scram import format_verifier, make_verifier
from testkit.cluster import Cluster
from testkit.interrupting import end_in_order
from testkit.processes import run_s

USER = "bench_proxy"
PASSWORD = "a password of some length"  # noqa: S105 - of a cluster that lives for a while
LOGGED = 0.2
"""Of the transactions, whose latency pgbench writes down."""
START_TIMEOUT_S = 20.0
SHORT_ROUNDS = 3

Measured = dict[str, dict[str, list[Taken]]]
"""By column and way, round by round."""


@dataclass(frozen=True, slots=True)
class Client:
    """pgbench, and where it works."""

    program: Path
    folder: Path
    seconds: int
    measured: Measured = field(default_factory=dict[str, dict[str, list[Taken]]])

    def ask(self, way: Way, column: Column) -> None:
        """Have *way* do what *column* says, and note what it took.

        Whoever has not done one transaction by the end is given more time. Raises RuntimeError.
        """
        seconds = max(self.seconds, column.seconds_min)
        for longer in (1, 4, 16):
            why = self._try(way, column, seconds * longer)
            if why is None:
                return
        raise RuntimeError(f"{column.name}, {way.name}: {why}")

    def _try(self, way: Way, column: Column, seconds: int) -> str | None:
        """Return why there is nothing to note, None if there is."""
        logged = () if column.options[0] == "-n" else (f"--sampling-rate={LOGGED}",)
        options = [*column.options, "-T", str(seconds), "-l", "--log-prefix=took", *logged]
        before_s = run_s(way.pid) if way.pid is not None else 0.0
        done = subprocess.run(
            [str(self.program), "-h", way.host, "-p", str(way.port), "-U", USER, *options, USER],
            capture_output=True,
            text=True,
            env=_environment(self.folder, is_encrypted=column.is_encrypted),
            cwd=self.folder,
        )
        spent_s = run_s(way.pid) - before_s if way.pid is not None else 0.0
        took_ms = [int(line.split()[2]) / 1000 for file in self.folder.glob("took.*") for line in file.open()]
        for file in self.folder.glob("took.*"):
            file.unlink()
        rate = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
        count = re.search(r"transactions actually processed: (\d+)", done.stdout)
        if done.returncode or rate is None or count is None or not int(count.group(1)):
            return f"{done.stderr}\n{done.stdout}"
        p50_ms, p99_ms = percentiles(took_ms)
        cpu_us = spent_s / int(count.group(1)) * 1e6 if way.pid is not None else None
        taken = Taken(float(rate.group(1)), p50_ms, p99_ms, cpu_us)
        self.measured.setdefault(column.name, {}).setdefault(way.name, []).append(taken)
        return None


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="bench.proxy", description="measure the ways to a server beside one another")
    parser.add_argument("--rounds", type=int, default=7, help="each asks every way for every column")
    parser.add_argument("--seconds", type=int, default=1, help="of each way, column and round")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_ROUNDS} rounds of 8 clients, bulk and connections")
    parser.add_argument("--many", action="store_true", help="with 256 and 1000 clients too")
    parser.add_argument("--only", metavar="WORDS", action="append", help="columns whose name has these words; may be repeated")
    parser.add_argument(
        "--ways", metavar="WORDS", action="append", help="ways whose name has these words; direct always is one"
    )
    parser.add_argument("--engine", action="append", choices=ENGINES, help="of our proxy (all there are)")
    parser.add_argument("--sockets", action="store_true", help="our proxy over Unix sockets too")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another tree, whose proxy goes beside this one's")
    parser.add_argument(
        "--pg-bin", type=Path, metavar="DIR", help="PostgreSQL's programs (bundled; with TLS for direct and HAProxy)"
    )
    parser.add_argument("--scale", type=int, default=10, help="of pgbench's tables")
    parser.add_argument("--list", action="store_true", help="print the columns and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios to direct")
    arguments = parser.parse_args()
    chosen = [
        column
        for column in columns((*CLIENTS, *MANY) if arguments.many else CLIENTS)
        if (column.is_short or not arguments.short)
        and (arguments.only is None or any(words in column.name for words in arguments.only))
    ]
    if not chosen:
        parser.error("--only: no column has these words; --list prints them")
    if arguments.list:
        sys.stdout.writelines(f"{column.name}\n" for column in chosen)
        return 0
    if arguments.short:
        arguments.rounds = min(arguments.rounds, SHORT_ROUNDS)
    end_in_order()
    console = Console(width=None if sys.stdout.isatty() else 150)
    found = _measure(chosen, arguments, console)
    results = {column.name: rows(found[column.name], direct=DIRECT, peers=PEERS) for column in chosen if column.name in found}
    for name, each in results.items():
        console.print(_table(name, each))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_document(found, results), indent=1))
    if arguments.svg is not None:
        arguments.svg.write_text(picture(results))
    return 0


def _measure(chosen: Sequence[Column], arguments: argparse.Namespace, console: Console) -> Measured:
    clients_max = max(column.clients for column in chosen) + 100
    postgres = PostgresSettings(settings={"max_connections": str(3 * clients_max)})
    options = ("--pg-bin", str(arguments.pg_bin)) if arguments.pg_bin is not None else ()
    with tempfile.TemporaryDirectory(prefix="endpointd-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        cluster = Cluster(folder / "c", nodes=1, options=options, postgres=postgres)
        stack.callback(cluster.remove)
        cluster.up()
        verifier = format_verifier(make_verifier(PASSWORD, b"sixteen bytes of"))
        node = cluster.wait_healthy().nodes[0]
        with psycopg.connect(cluster.dsn(node.name), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{verifier}'".encode())
            connection.execute(f"CREATE DATABASE {USER} OWNER {USER}".encode())
            answer = connection.execute("SHOW ssl").fetchone()
        (folder / BULK_FILE).write_text(BULK)
        file = folder / "pgpass"
        file.touch(mode=0o600)
        file.write_text(f"*:*:*:*:{PASSWORD}\n")
        ways = stack.enter_context(
            open_ways(
                cluster,
                folder,
                users=f'"{USER}" "{verifier}"\n',
                clients_max=clients_max,
                against=arguments.against.resolve() if arguments.against is not None else None,
                engines=arguments.engine or ENGINES,
                tls=answer == ("on",),
                sockets=arguments.sockets,
            )
        )
        wanted = [
            way for way in ways if arguments.ways is None or any(words in way.name for words in (DIRECT, *arguments.ways))
        ]
        client = Client(_pgbench(Path(str(cluster.plan()["pg_bin"])), chosen), folder, arguments.seconds)
        _fill(client, ways[0], arguments.scale)
        for way in wanted:
            _wait_until_open(way)
        for number in range(arguments.rounds):
            for column in chosen:
                able = [way for way in wanted if way.takes(column)]
                for way in able if number % 2 == 0 else reversed(able):
                    client.ask(way, column)
            console.print(f"round {number + 1} of {arguments.rounds}")
        return client.measured


def _pgbench(programs: Path, chosen: Sequence[Column]) -> Path:
    """Return a pgbench that speaks TLS if that is wanted: the server's own may not. Raises RuntimeError."""
    own, other = programs / "pgbench", shutil.which("pgbench")
    if not any(column.is_encrypted for column in chosen):
        return own
    for program in (own, Path(other) if other is not None else own):
        tried = subprocess.run([program, "-d", "host=/nonexistent sslmode=require"], capture_output=True, text=True)
        if "not compiled in" not in tried.stderr:
            return program
    raise RuntimeError("no pgbench here speaks TLS: choose columns without it (--only), or another PostgreSQL (--pg-bin)")


def _environment(folder: Path, *, is_encrypted: bool) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"PGPASSFILE": str(folder / "pgpass"), "PGSSLMODE": "require" if is_encrypted else "disable"}


def _fill(client: Client, way: Way, scale: int) -> None:
    fill = [client.program, "-h", "127.0.0.1", "-p", str(way.port), "-U", USER, "-i", "-q", "-s", str(scale), USER]
    subprocess.run(fill, check=True, capture_output=True, env=_environment(client.folder, is_encrypted=False))


def _wait_until_open(way: Way) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    login = {"user": USER, "password": PASSWORD, "dbname": USER, "sslmode": "disable", "connect_timeout": 10}
    while True:
        try:
            psycopg.connect(host=way.host, port=way.port, **login).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


_TITLES = ("way", "tps", ": direct", "quartiles", "better peer", ": it", "quartiles", "wins", "", "µs CPU", "p50 ms", "p99 ms")


def _table(name: str, found: Sequence[Row]) -> Table:
    table = Table(title=f"{name}: medians of rounds", title_justify="left")
    for title in _TITLES:
        table.add_column(title, justify="left" if title in ("way", "better peer", "") else "right")
    for row in found:
        table.add_row(
            row.way,
            f"{row.tps:.1f}" if row.tps >= 10 else f"{row.tps:.3f}",
            *_shown(row.to_direct)[:2],
            row.to_peer.other if row.to_peer is not None else "",
            *_shown(row.to_peer),
            f"{row.cpu_us:.1f}" if row.cpu_us is not None else "",
            f"{row.p50_ms:.3f}",
            f"{row.p99_ms:.3f}",
        )
    return table


def _shown(ratio: Ratio | None) -> tuple[str, str, str, str]:
    if ratio is None:
        return "", "", "", ""
    low, high = ratio.quartiles
    return f"{ratio.median:.3f}", f"{low:.3f}–{high:.3f}", f"{ratio.wins}/{ratio.rounds}", ratio.verdict


def _document(measured: Measured, results: dict[str, list[Row]]) -> dict[str, object]:
    return {
        "columns": {
            column: {
                "rows": [asdict(row) for row in results[column]],
                "rounds": {way: [asdict(each) for each in rounds] for way, rounds in ways.items()},
            }
            for column, ways in measured.items()
        }
    }


if __name__ == "__main__":
    sys.exit(main())
