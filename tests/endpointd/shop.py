"""A shop: a writer with a role and a database for clients, perhaps standbys, each with its noded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from daemonkit.principals import Scope, encode_verifiers
from pgtopology.node import Role
from testkit.feedserver import TOKEN, document, member
from tests.noded.members import Cluster, running_members

RULES = ("host all all 127.0.0.1/32 scram-sha-256",)
PASSWORD = "correct horse"
PID = "select pg_backend_pid()"


@contextlib.asynccontextmanager
async def shop(nodes: int) -> AsyncIterator[Cluster]:
    """Run it: role ann owns database shop."""
    async with running_members(nodes, verifiers=encode_verifiers([(Scope.FEED, TOKEN)])) as cluster:
        await cluster.found()
        writer = cluster.members[0]
        for other in cluster.members[1:]:
            await cluster.clone(other, writer)
            await cluster.follow(other, writer)
            await cluster.streaming(other)
        await cluster.sql(writer, f"create role ann login password '{PASSWORD}'")
        await cluster.sql(writer, "create database shop owner ann")
        yield cluster


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
