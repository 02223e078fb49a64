"""The ways to a server that are measured, and which columns each of them can be asked for."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from bench.ourproxy import running_proxy
from bench.peers import haproxy, pgbouncer
from bench.proxy.columns import Column
from deployment.local.layout import Layout
from endpointd.relay.choice import why_not_native
from endpointd.settings import PooledSettings, ProxySettings, Settings
from testkit.cluster import ROOT, Cluster
from testkit.ports import free_port

DIRECT = "direct"
OURS = "endpointd"
POOLED = "endpointd pooled"
TO_SOCKET, ALL_SOCKETS = "endpointd to a Unix socket", "endpointd, Unix sockets alone"
SESSION, TRANSACTION, HAPROXY = "PgBouncer session", "PgBouncer transaction", "HAProxy"
PEERS = (SESSION, TRANSACTION, HAPROXY)
TRANSACTION_SERVERS = 32
ENGINES: tuple[str, ...] = tuple(
    engine for engine in typing.get_args(typing.get_type_hints(ProxySettings)["engine"]) if engine != "auto"
)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the server."""

    name: str
    port: int
    pid: int | None
    """Of the proxy."""
    speaks_tls: bool
    host: str = "127.0.0.1"
    """Or the directory of a Unix socket."""
    keeps_statements: bool = True
    """Statements that are prepared in the protocol are still there in the next transaction."""

    def takes(self, column: Column) -> bool:
        """Return whether it can be asked for *column*."""
        return (self.speaks_tls or not column.is_encrypted) and (self.keeps_statements or not column.is_prepared)


@contextlib.contextmanager
def open_ways(
    cluster: Cluster,
    folder: Path,
    *,
    users: str,
    clients_max: int,
    against: Path | None,
    engines: Sequence[str],
    tls: bool,
    sockets: bool,
) -> Iterator[list[Way]]:
    """Run every proxy there is in front of the only node of *cluster*; *tls*: its server speaks TLS.

    *sockets*: also ours that finds the server by a Unix socket, and is found by one.
    """
    port = cluster.wait_healthy().nodes[0].port
    with contextlib.ExitStack() as stack:
        ways = [Way(DIRECT, port, None, tls)]
        trees = [(OURS, ROOT), *([("other tree", against)] if against is not None else [])]
        for title, tree in trees:
            for engine in engines:
                pooled = free_port() if tree is ROOT and engine == engines[-1] and why_not_native() is None else None

                def change(settings: Settings, engine: str = engine, pooled: int | None = pooled) -> Settings:
                    limits = replace(settings.limits, sessions_max=clients_max)
                    which = replace(settings.proxy, engine=typing.cast("typing.Any", engine))
                    pool = PooledSettings(port=pooled, pool_size=TRANSACTION_SERVERS) if pooled is not None else None
                    return replace(settings, limits=limits, proxy=which, pooled_writer=pool)

                name = title if len(engines) == 1 else f"{title} {engine}"
                found = stack.enter_context(running_proxy(cluster, folder / name.replace(" ", "-"), tree, change=change))
                ways.append(Way(name, found.port, found.pid, True))
                if pooled is not None:
                    ways.append(Way(POOLED, pooled, found.pid, True))
        if sockets:
            ways += stack.enter_context(_by_sockets(cluster, folder, clients_max, engines[0]))
        for title, mode, servers in ((SESSION, "session", None), (TRANSACTION, "transaction", TRANSACTION_SERVERS)):
            peer = stack.enter_context(
                pgbouncer(
                    folder,
                    server=port,
                    users=users,
                    tls=cluster.data_dir / "tls",
                    clients_max=clients_max,
                    mode=mode,
                    servers_max=servers,
                    keeps_servers=True,
                )
            )
            if peer is not None:
                ways.append(Way(title, *peer, True, keeps_statements=mode == "session"))
        peer = stack.enter_context(haproxy(folder, server=port, clients_max=2 * clients_max))
        if peer is not None:
            ways.append(Way(HAPROXY, *peer, tls))
        yield ways


@contextlib.contextmanager
def _by_sockets(cluster: Cluster, folder: Path, clients_max: int, engine: str) -> Iterator[list[Way]]:
    directory = folder / "sockets"
    directory.mkdir()

    def change(settings: Settings) -> Settings:
        return replace(
            settings,
            limits=replace(settings.limits, sessions_max=clients_max),
            proxy=replace(settings.proxy, engine=typing.cast("typing.Any", engine), unix_socket_directory=directory),
            servers=replace(settings.servers, unix_socket=str(Layout(cluster.data_dir).sockets / "{node}")),
        )

    with running_proxy(cluster, folder / "by-sockets", ROOT, change=change) as found:
        yield [
            Way(TO_SOCKET, found.port, found.pid, True),
            Way(ALL_SOCKETS, found.port, found.pid, False, host=str(directory)),
        ]
