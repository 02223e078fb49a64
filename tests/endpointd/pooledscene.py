"""A proxy with pooled endpoints, real nodeds and PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from testkit.feedserver import FeedServer, feed_server
from testkit.ports import free_port
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.shop import PASSWORD, RULES, places, shop
from tests.endpointd.test_failover import Connection, connect
from tests.noded.members import Cluster, Member


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


@contextlib.asynccontextmanager
async def scene(
    directory: Path, *, pool: str = "pool_size = 5", limits: str = "", more: str = "", in_proxy: str = "", nodes: int = 1
) -> AsyncIterator[Scene]:
    writer_port, reader_port = free_port(), free_port()
    rules = f"rules = {list(RULES)!r}".replace("'", '"')
    pooled = "\n".join(
        f'[pooled_{name}]\nhost = "127.0.0.1"\nport = {port}\n{rules}\n{pool}'
        for name, port in (("writer", writer_port), ("reader", reader_port))
    )
    async with (
        shop(nodes) as cluster,
        feed_server(places(cluster)) as feed,
        proxy(directory / "p", [feed.port], rules=RULES, limits=limits, more=f"{pooled}\n{more}", in_proxy=in_proxy) as running,
    ):
        await running.wait_for_health(status="serving")
        yield Scene(cluster, feed, running, writer_port, reader_port)
