"""A proxy with pooled endpoints, real nodeds and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from daemonkit.principals import Scope, encode_verifiers
from pgtopology.node import Role
from testkit.feedserver import TOKEN, FeedServer, document, feed_server, member
from testkit.ports import free_port
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.test_failover import Connection, connect
from tests.noded.members import Cluster, Member, running_members

RULES = ("host all all 127.0.0.1/32 scram-sha-256",)
PASSWORD = "correct horse"
PID = "select pg_backend_pid()"


class Scene:
    """A writer and its noded, perhaps standbys, a feed, and a proxy."""

    def __init__(self, cluster: Cluster, feed: FeedServer, running: Proxy, writer_port: int, reader_port: int) -> None:
        self.cluster = cluster
        self.feed = feed
        self.proxy = running
        self.writer_port = writer_port
        self.reader_port = reader_port

    @property
    def writer(self) -> Member:
        return self.cluster.members[0]

    async def sql(self, statement: str) -> str:
        """Return what the writer answers its superuser, asked directly."""
        rows = await self.cluster.sql(self.writer, statement)
        return str(rows[0][0]) if rows else ""

    async def come(self, **options: object) -> Connection:
        given = {"user": "ann", "password": PASSWORD, "dbname": "shop", **options}
        return await connect(self.writer_port, **given)

    async def sessions(self) -> list[tuple[str, str | None]]:
        """Return state and waits of the pooled sessions."""
        return [(each.state, each.waits) for each in (await self.proxy.sessions()).sessions if "pooled" in each.endpoint]

    async def servers(self) -> int:
        """Return how many server processes serve the database."""
        return int(await self.sql("select count(*) from pg_stat_activity where datname = 'shop'"))


async def until(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    found: object = None
    try:
        async with asyncio.timeout(20):
            while (found := await ask()) != wanted:
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{found!r} is not {wanted!r}") from None


def places(cluster: Cluster, **changes: object):
    return document(
        *(
            member(f"n{n}", one.pg_port, role=Role.PRIMARY if n == 1 else Role.STANDBY, noded_port=one.http_port)
            for n, one in enumerate(cluster.members, 1)
        ),
        **{"writer": "n1", **changes},  # type: ignore[arg-type]
    )


@contextlib.asynccontextmanager
async def scene(
    directory: Path, *, pool: str = "pool_size = 5", limits: str = "", more: str = "", in_proxy: str = "", nodes: int = 1
) -> AsyncIterator[Scene]:
    known = encode_verifiers([(Scope.FEED, TOKEN)])
    writer_port, reader_port = free_port(), free_port()
    rules = f"rules = {list(RULES)!r}".replace("'", '"')
    pooled = "\n".join(
        f'[pooled_{name}]\nhost = "127.0.0.1"\nport = {port}\n{rules}\n{pool}'
        for name, port in (("writer", writer_port), ("reader", reader_port))
    )
    async with running_members(nodes, verifiers=known) as cluster:
        await cluster.found()
        writer = cluster.members[0]
        for other in cluster.members[1:]:
            await cluster.clone(other, writer)
            await cluster.follow(other, writer)
            await cluster.streaming(other)
        await cluster.sql(writer, f"create role ann login password '{PASSWORD}'")
        await cluster.sql(writer, "create database shop owner ann")
        async with (
            feed_server(places(cluster)) as feed,
            proxy(
                directory / "p", [feed.port], rules=RULES, limits=limits, more=f"{pooled}\n{more}", in_proxy=in_proxy
            ) as running,
        ):
            await running.wait_for_health(status="serving")
            yield Scene(cluster, feed, running, writer_port, reader_port)
