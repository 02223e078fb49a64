"""`make bench-logins`: what a login costs the proxy, and whether its time tells who exists.

A cluster of one node.  The ways: the server's own port, a proxy that checks clients' proofs itself and keeps servers' sessions
for the next client (plaintext and TLS), one that keeps none, one that leaves the proof to the server, and PgBouncer where it is
installed, which is given the role's SCRAM secret and keeps its servers' sessions too.  Round after round each way logs in so
many times, one after the other; counted is the proxy's time of the processor, not the client's.

Then a role that exists and one that does not are tried with a wrong password in turn, each time from another address, so that
nobody is slowed down: the medians must be within each other's spread.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from bench.ourproxy import running_proxy
from bench.peers import pgbouncer
from bench.wire import next_message
from endpointd.settings import Settings, WarmSettings
from pgwire.messages import sasl_initial_response, sasl_response
from pgwire.scram import MECHANISM, ScramClient, format_verifier, keys_of_password, make_verifier
from pgwire.startup import encode_startup, make_startup
from testkit.cluster import ROOT, Cluster
from testkit.interrupting import end_in_order
from testkit.processes import run_s

USER = "bench_login"
PASSWORD = "a password of some length"  # noqa: S105 - of a cluster that lives for a minute
RELAYED = ("host all all all relay",)
START_TIMEOUT_S = 20.0


@dataclass(slots=True)
class Way:
    """One way to a session, and what it took each round."""

    name: str
    port: int
    pid: int | None
    sslmode: str = "disable"
    cpu_ms: list[float] = field(default_factory=list[float])
    """Of the proxy, a login."""
    took_ms: list[float] = field(default_factory=list[float])

    def measure(self, count: int) -> None:
        """Log in *count* times."""
        before_s = run_s(self.pid) if self.pid is not None else 0.0
        began = time.perf_counter()
        for _ in range(count):
            self.log_in()
        self.took_ms.append((time.perf_counter() - began) / count * 1000)
        if self.pid is not None:
            self.cpu_ms.append((run_s(self.pid) - before_s) / count * 1000)

    def log_in(self) -> None:
        psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname="postgres", sslmode=self.sslmode,
            connect_timeout=10,
        ).close()  # fmt: skip


def main() -> int:
    """Run the benchmark on a cluster of its own and print its tables."""
    parser = argparse.ArgumentParser(description="measure what a login costs the proxy, beside PgBouncer")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--logins", type=int, default=100, help="of each way in a round")
    parser.add_argument("--tries", type=int, default=1000, help="with a wrong password, of each kind")
    arguments = parser.parse_args()
    end_in_order()
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    with tempfile.TemporaryDirectory(prefix="endpointd-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        cluster = Cluster(folder / "c", nodes=1)
        stack.callback(cluster.remove)
        cluster.up()
        node = cluster.wait_healthy().nodes[0]
        verifier = format_verifier(make_verifier(PASSWORD, b"sixteen bytes of"))
        with psycopg.connect(cluster.dsn(node.name), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{verifier}'".encode())
        ways = [Way("server", node.port, None)]
        for title, rules, warm in (
            ("proxy, its own proof", (), WarmSettings(enabled=True)),
            ("proxy, its own proof, fresh", (), WarmSettings(enabled=False)),
            ("proxy, left to the server", RELAYED, WarmSettings()),
        ):

            def change(settings: Settings, warm: WarmSettings = warm) -> Settings:
                return replace(settings, warm=warm)

            found = stack.enter_context(running_proxy(cluster, folder / f"p{len(ways)}", ROOT, rules=rules, change=change))
            ways.append(Way(title, found.port, found.pid))
        proven = ways[1]
        ways.append(Way("proxy, its own proof, TLS", proven.port, proven.pid, "require"))
        ways += stack.enter_context(_pgbouncer(cluster, folder, node.port, verifier))
        for way in ways:
            _wait_until_open(way)
        for number in range(arguments.rounds):
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                way.measure(arguments.logins)
            console.print(f"round {number + 1} of {arguments.rounds}")
        console.print(_table(ways))
        for way in ways[:2]:
            console.print(_told_apart(way, asyncio.run(_refused(way.port, arguments.tries))))
    return 0


def _wait_until_open(way: Way) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            way.log_in()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


@contextlib.contextmanager
def _pgbouncer(cluster: Cluster, folder: Path, server: int, verifier: str) -> Iterator[list[Way]]:
    """Run PgBouncer in session mode, in plaintext and with TLS; no way if there is none."""
    users = f'"{USER}" "{verifier}"\n'
    with pgbouncer(folder, server=server, users=users, tls=cluster.data_dir / "tls", keeps_servers=True) as found:
        ways = [] if found is None else [Way("PgBouncer", *found), Way("PgBouncer, TLS", *found, "require")]
        yield ways


async def _refused(port: int, tries: int) -> dict[str, list[float]]:
    """Return how many milliseconds a refusal takes, for a role that exists and one that does not."""
    keys = keys_of_password("wrong")(b"any salt will do", 1)  # the client's work is not what is measured
    took: dict[str, list[float]] = {USER: [], "nobody_at_all": []}
    for number in range(tries):
        order = list(took) if number % 2 else list(reversed(took))
        for place, user in enumerate(order):
            address = f"127.{1 + place}.{number // 250 % 250}.{1 + number % 250}"
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            writer.write(encode_startup(make_startup(user, "postgres")))
            await next_message(reader)
            scram = ScramClient(lambda _salt, _count: keys, "n" * 24)
            writer.write(sasl_initial_response(MECHANISM, scram.first))
            challenge = (await next_message(reader)).payload
            began = time.perf_counter()
            writer.write(sasl_response(scram.respond(challenge[4:])))
            refused = (await next_message(reader)).payload
            took[user].append((time.perf_counter() - began) * 1000)
            assert b"28P01" in refused, refused
            writer.close()
    return took


def _spread(values: list[float]) -> tuple[float, float, float]:
    """Return quartiles and median, in order."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def _table(ways: list[Way]) -> Table:
    table = Table(title="a login: processor time of the proxy, and how long it takes; medians of rounds, in milliseconds")
    for title in ("way", "processor time", "from", "to", "takes"):
        table.add_column(title, justify="left" if title == "way" else "right")
    for way in ways:
        spent = (
            [f"{value:.2f}" for value in (statistics.median(way.cpu_ms), min(way.cpu_ms), max(way.cpu_ms))]
            if way.cpu_ms
            else [""] * 3
        )
        table.add_row(way.name, *spent, f"{statistics.median(way.took_ms):.2f}")
    return table


def _told_apart(way: Way, took: dict[str, list[float]]) -> Table:
    known, unknown = (_spread(values) for values in took.values())
    is_same = known[0] <= unknown[1] <= known[2] and unknown[0] <= known[1] <= unknown[2]
    verdict = "within each other's quartiles" if is_same else "TOLD APART"
    table = Table(title=f"{way.name}: milliseconds until a wrong password is refused, {len(took[USER])} tries each: {verdict}")
    for title in ("role", "lower quartile", "median", "upper quartile"):
        table.add_column(title, justify="left" if title == "role" else "right")
    for name, values in (("exists", known), ("does not", unknown)):
        table.add_row(name, *(f"{value:.3f}" for value in values))
    return table


if __name__ == "__main__":
    sys.exit(main())
