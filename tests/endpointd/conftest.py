"""Servers for the proxy's tests: one primary with two standbys for a whole run, and a proxy in front of them for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pgtopology.document import Topology
from pgtopology.node import Role
from testkit.feedserver import FeedServer, document, feed_server, member
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.servers import PASSWORD, Postgres


@dataclass(frozen=True)
class Servers:
    """n1 is the primary, n2 and n3 stream from it."""

    n1: Postgres
    n2: Postgres
    n3: Postgres

    def document(self, *, noded_port: int = 1, epoch: int = 1, revision: int = 1) -> Topology:
        """Return the document of the healthy cluster."""
        return document(
            member("n1", self.n1.port, role=Role.PRIMARY, noded_port=noded_port),
            member("n2", self.n2.port, noded_port=noded_port),
            member("n3", self.n3.port, noded_port=noded_port),
            writer="n1",
            epoch=epoch,
            revision=revision,
        )


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Real servers that no test may stop."""
    made: list[Postgres] = []
    try:
        n1 = Postgres(tmp_path_factory.mktemp("n1"))
        made.append(n1)
        n1.start()
        n1.sql(f"create role scram login password '{PASSWORD}'")
        for name in ("n2", "n3"):
            standby = Postgres(tmp_path_factory.mktemp(name), upstream=n1)
            made.append(standby)
            standby.start()
        yield Servers(*made)
    finally:
        for server in reversed(made):
            server.remove()


@dataclass(frozen=True)
class Duo:
    """A primary and its standby, which a test may do anything to."""

    n1: Postgres
    n2: Postgres

    def document(self, *, noded_port: int = 1, **changes: Any) -> Topology:
        """Return a document of these two: n1 is the primary, unless the writer or candidate is n2."""
        stands = changes.get("writer") or changes.get("candidate")
        return document(
            member("n1", self.n1.port, role=Role.STANDBY if stands == "n2" else Role.PRIMARY, noded_port=noded_port),
            member("n2", self.n2.port, role=Role.PRIMARY if changes.get("writer") == "n2" else Role.STANDBY,
                   noded_port=noded_port),
            **changes,
        )  # fmt: skip


@pytest.fixture
def duo(tmp_path: Path) -> Iterator[Duo]:
    """Two servers, started."""
    (tmp_path / "n1").mkdir()
    (tmp_path / "n2").mkdir()
    made: list[Postgres] = []
    try:
        made.append(Postgres(tmp_path / "n1"))
        made[0].start()
        made[0].sql(f"create role scram login password '{PASSWORD}'")
        made.append(Postgres(tmp_path / "n2", upstream=made[0]))
        made[1].start()
        yield Duo(*made)
    finally:
        for server in reversed(made):
            server.remove()


@dataclass(frozen=True)
class Stage:
    """Everything there is: a manager, a proxy, three servers."""

    feed: FeedServer
    proxy: Proxy
    servers: Servers


@pytest_asyncio.fixture
async def stage(servers: Servers, tmp_path: Path) -> AsyncIterator[Stage]:
    """A proxy in front of healthy servers."""
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        await running.wait_for_health(status="serving")
        yield Stage(feed, running, servers)
