"""`make bench-idle`: what ten thousand clients that say nothing cost a proxy, and whether others notice them.

The clients are here, a server that answers every query with nothing is a process of its own; the proxy follows a manager that
is none.  For each way, our proxy and PgBouncer where it is installed, in plaintext and with TLS: the memory of the proxy for a
pair of client and server connection (Pss, user memory alone; what the kernel keeps for sockets is the same for all), and how
long a query of another client takes before they come, while they are there, and when they have gone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from bench.ourproxy import running_proxy
from bench.peers import pgbouncer
from bench.wire import next_message
from daemonkit.descriptors import allow_descriptors
from daemonkit.proctable import descendants
from endpointd.settings import FeedSettings, NodedSettings, Settings
from pgtopology.node import Role
from pgwire.messages import Backend, query
from pgwire.startup import ACCEPTED, SSL_REQUEST, encode_startup, make_startup
from testkit.cluster import ROOT, Cluster
from testkit.feedserver import TOKEN, FeedServer, document, feed_server, member
from testkit.interrupting import end_in_order
from testkit.ports import free_port
from testkit.processes import proportional_bytes

RELAYED = ("host all all all relay",)
OPENING_AT_ONCE = 32
FIRST = 300
"""Clients with whom a proxy gets going; what one more costs is counted from there."""
OPEN_S = 300.0
ANSWER_S = 30.0
SETTLE_S = 3.0
"""What was garbage is collected, and what was freed is given back."""
DESCRIPTORS_BESIDE = 200


@dataclass(slots=True)
class Way:
    """One way to the server, and what was measured."""

    name: str
    port: int
    pid: int
    is_encrypted: bool = False
    clients: int = 0
    bytes_each: float = 0.0
    queries_ms: list[list[float]] = field(default_factory=list[list[float]])
    """Before the idle clients, beside them, and after."""

    @property
    def memory(self) -> int:
        """The memory of all its processes."""
        return sum(proportional_bytes(pid) for pid in (self.pid, *descendants(self.pid)))


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description="measure what idle clients cost a proxy")
    parser.add_argument("--clients", type=int, default=10_000, help=f"more than {FIRST}")
    parser.add_argument("--workers", type=int, default=2, help="processes of our proxy")
    parser.add_argument("--server", type=int, metavar="PORT", help="of a PostgreSQL on 127.0.0.1 that trusts postgres, instead")
    parser.add_argument("--queries", type=int, default=3000, help="of another client, each time")
    arguments = parser.parse_args()
    if arguments.clients <= FIRST:
        parser.error(f"--clients: expected more than {FIRST}, got {arguments.clients}")
    end_in_order()
    allowed = allow_descriptors()
    most = allowed - DESCRIPTORS_BESIDE
    fewer = min(arguments.clients, most, most * arguments.workers // 2)
    if fewer < arguments.clients:
        sys.stderr.write(f"a process may open {allowed} descriptors, and a proxy needs two for a client: {fewer} clients\n")
        arguments.clients = fewer
    console = Console(width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory(prefix="endpointd-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        # Of a real cluster: its certificates, and the settings that `up` gives a proxy.
        cluster = Cluster(folder / "c", nodes=1)
        cluster.up()
        cluster.down()
        try:
            # asyncio's own loop asks the kernel for room for as many events as there are connections, and Python's collector
            # looks at them all: both would be measured here, and not in the proxy.
            gc.disable()
            ways = uvloop.run(_measure_all(cluster, folder, arguments, console))
        finally:
            cluster.remove()
    console.print(_table(ways))
    return 0


async def _measure_all(cluster: Cluster, folder: Path, asked: argparse.Namespace, console: Console) -> list[Way]:
    stub, allowed = asked.server or free_port(), allow_descriptors()
    topology = document(member("n1", stub, role=Role.PRIMARY), writer="n1")
    measured: list[Way] = []
    with _running_stub(stub) if asked.server is None else contextlib.nullcontext():
        async with feed_server(topology) as feed:
            for is_encrypted in (False, True):
                for title in ("endpointd", "PgBouncer"):
                    place = folder / f"{title}-{is_encrypted}"
                    place.mkdir()
                    if title == "endpointd":
                        clients = asked.clients
                        opened = _ours(cluster, place, feed, clients, asked.workers)
                    else:
                        clients = min(asked.clients, (allowed - DESCRIPTORS_BESIDE) // 2)  # it is one process
                        opened = _theirs(cluster, place, stub, clients)
                    async with opened as way:
                        if way is None:
                            console.print(f"there is no {title} here")
                            continue
                        way.is_encrypted = is_encrypted
                        way.name = f"{title}, TLS" if is_encrypted else title
                        way.clients = clients
                        await _measure(way, clients, asked.queries)
                        measured.append(way)
                        console.print(f"{way.name}: measured")
    return measured


@contextlib.asynccontextmanager
async def _ours(cluster: Cluster, folder: Path, feed: FeedServer, clients: int, workers: int) -> AsyncIterator[Way | None]:
    token = folder / "feed-token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    meeting = folder / "m"
    meeting.mkdir(mode=0o700)

    def change(settings: Settings) -> Settings:
        return replace(
            settings,
            proxy=replace(settings.proxy, workers=workers, takeover=meeting / "s" if workers > 1 else None),
            feed=FeedSettings(urls=(f"http://127.0.0.1:{feed.port}",), token_file=token),
            nodeds=NodedSettings(token_file=token),
            limits=replace(settings.limits, sessions_max=clients + 100),
        )

    with contextlib.ExitStack() as stack:
        running = running_proxy(cluster, folder / "proxy", ROOT, rules=RELAYED, change=change)
        # It waits for the proxy, which waits for the feed of this very loop.
        found = await asyncio.to_thread(stack.enter_context, running)
        try:
            yield Way("endpointd", found.port, found.pid)
        finally:
            await asyncio.to_thread(stack.close)


@contextlib.asynccontextmanager
async def _theirs(cluster: Cluster, folder: Path, stub: int, clients: int) -> AsyncIterator[Way | None]:
    with pgbouncer(folder, server=stub, users=None, tls=cluster.data_dir / "tls", clients_max=clients + 100) as found:
        if found is None:
            yield None
            return
        async with asyncio.timeout(ANSWER_S):
            while True:
                with contextlib.suppress(OSError):
                    _, probe = await asyncio.open_connection("127.0.0.1", found[0])
                    probe.close()
                    break
                await asyncio.sleep(0.05)
        yield Way("PgBouncer", *found)


@contextlib.contextmanager
def _running_stub(port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "bench.stubserver", str(port)], cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def _measure(way: Way, clients: int, queries: int) -> None:
    other = await _log_in(way)
    way.queries_ms.append(await _ask(other, queries))
    turns = asyncio.Semaphore(OPENING_AT_ONCE)

    async def come() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with turns:
            return await _log_in(way)

    async with asyncio.timeout(OPEN_S):
        everybody = await asyncio.gather(*(come() for _ in range(FIRST)))
        await asyncio.sleep(SETTLE_S)
        before = way.memory
        everybody += await asyncio.gather(*(come() for _ in range(clients - FIRST)))
    await asyncio.sleep(SETTLE_S)
    way.bytes_each = (way.memory - before) / (clients - FIRST)
    way.queries_ms.append(await _ask(other, queries))
    for _, writer in everybody:
        writer.close()
    await asyncio.sleep(SETTLE_S)
    way.queries_ms.append(await _ask(other, queries))
    other[1].close()


async def _log_in(way: Way) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        if way.is_encrypted:
            writer.write(SSL_REQUEST)
            assert await reader.readexactly(1) == ACCEPTED
            await writer.start_tls(_TLS)
        writer.write(encode_startup(make_startup("postgres", "postgres")))
        await _until_ready(reader)
    return reader, writer


async def _until_ready(reader: asyncio.StreamReader) -> None:
    while True:
        found = await next_message(reader)
        assert found.kind != Backend.ERROR_RESPONSE, found.payload
        if found.kind == Backend.READY_FOR_QUERY:
            return


async def _ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], queries: int) -> list[float]:
    """Return how many milliseconds each query took."""
    reader, writer = connection
    took: list[float] = []
    for _ in range(queries):
        began = time.perf_counter()
        writer.write(query("select 1"))
        await _until_ready(reader)
        took.append((time.perf_counter() - began) * 1000)
    return took


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_TLS = _unverified()


def _table(ways: list[Way]) -> Table:
    table = Table(title="idle clients: memory of the proxy, and a query of another client in milliseconds")
    for title in ("way", "clients", "KiB a pair", "p50 before", "beside them", "after", "p99 before", "beside them", "after"):
        table.add_column(title, justify="left" if title == "way" else "right")
    for way in ways:
        shown = [f"{statistics.median(each):.3f}" for each in way.queries_ms]
        shown += [f"{statistics.quantiles(each, n=100)[98]:.3f}" for each in way.queries_ms]
        table.add_row(way.name, str(way.clients), f"{way.bytes_each / 1024:.1f}", *shown)
    return table


if __name__ == "__main__":
    sys.exit(main())
