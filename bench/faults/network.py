"""The faults that cut programs off from one another: each is on a host of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from bench.faults.fault import Arena, Expectation, Fault, Missed, Stage
from testkit.clients.crew import CONNECTION_LOST, Crew, connected, value
from testkit.ledger import Inserts
from testkit.namespaces import Hosts
from testkit.spread import FAR, MANAGER, NEAR, NODES, SpreadCluster

UNDISTURBED_S = 6.0
REFUSED_S = 3.0
"""Within this time a proxy that is cut off with the old writer must have stopped to serve it."""


def _hosts(arena: Arena) -> Hosts:
    assert isinstance(arena.cluster, SpreadCluster)
    return arena.cluster.hosts


@contextlib.contextmanager
def zone_lost(arena: Arena) -> Iterator[None]:
    """The writer and a proxy are cut off from everybody but clients, who go on through that proxy as long as it lets them."""
    writer = arena.writer.name
    rest = [MANAGER, NEAR, *(node.name for node in arena.replicas)]
    far = Inserts(arena.cluster.dsn(FAR), clients=2, table="far")
    with Crew((far,)) as clients:
        clients.wait_for_more(20, timeout_s=30.0)
        arena.strikes()
        with _hosts(arena).cut([writer, FAR], rest):
            yield
            time.sleep(max(0.0, arena.struck_at + REFUSED_S - time.monotonic()))
            if _is_served(arena.cluster.dsn(FAR)):
                raise Missed(f"the isolated proxy still lets clients read from the old writer after {REFUSED_S:g} s")
        # The proxy that was away must serve again.
        clients.wait_for_more(20, timeout_s=60.0)
    arena.checks += clients.check_all(arena.cluster.dsn("writer"))


def _is_served(dsn: str) -> bool:
    """Return whether a client of *dsn* is given an answer within a second."""

    async def ask() -> bool:
        try:
            async with asyncio.timeout(1.0), connected(dsn) as connection:
                return await value(connection, "SELECT 1") == 1
        except CONNECTION_LOST:
            return False

    return asyncio.run(ask())


@contextlib.contextmanager
def writer_without_voters(arena: Arena) -> Iterator[None]:
    """The writer and the other nodes cannot reach one another; the manager and the proxies reach all."""
    arena.strikes()
    with _hosts(arena).cut([arena.writer.name], [node.name for node in arena.replicas]):
        yield


@contextlib.contextmanager
def manager_without_writer(arena: Arena) -> Iterator[None]:
    """The manager and the writer cannot reach one another; everybody else can."""
    arena.strikes()
    with _hosts(arena).cut([arena.writer.name], [MANAGER]):
        arena.goes_on(UNDISTURBED_S)
        status = arena.cluster.status()
        arena.notes.append(f"status: {status.diagnosis}")
        if status.diagnosis == "HEALTHY":
            raise Missed("status says that all is well")
    yield


@contextlib.contextmanager
def manager_alone(arena: Arena) -> Iterator[None]:
    """The manager is cut off from every node and every proxy."""
    arena.strikes()
    with _hosts(arena).cut([MANAGER], [*NODES, NEAR, FAR]):
        arena.goes_on(UNDISTURBED_S)
    yield


@contextlib.contextmanager
def replica_alone(arena: Arena) -> Iterator[None]:
    """One replica is cut off from everybody."""
    arena.strikes()
    other = [name for name in NODES if name != arena.replicas[0].name]
    with _hosts(arena).cut([arena.replicas[0].name], [*other, MANAGER, NEAR, FAR]):
        arena.goes_on(UNDISTURBED_S)
    yield


FAULTS = (
    Fault(
        name="zone-lost",
        scenario=3,
        does="the writer and a proxy cut off from all the rest",
        strike=zone_lost,
        expect=Expectation(outage_s=4.0),
        stage=Stage.NETWORK,
    ),
    Fault(
        name="writer-without-voters",
        scenario=4,
        does="the writer cut off from the other nodes, not from the manager",
        strike=writer_without_voters,
        expect=Expectation(outage_s=5.0),
        stage=Stage.NETWORK,
    ),
    Fault(
        name="manager-without-writer",
        scenario=5,
        does="the manager cut off from the writer alone",
        strike=manager_without_writer,
        expect=Expectation(moves=False, epochs=(0, 0), outage_s=2.0),
        stage=Stage.NETWORK,
    ),
    Fault(
        name="manager-alone",
        scenario=6,
        does="the manager cut off from everybody",
        strike=manager_alone,
        expect=Expectation(moves=False, epochs=(0, 0), outage_s=2.0),
        stage=Stage.NETWORK,
    ),
    Fault(
        name="replica-alone",
        scenario=19,
        does="a replica cut off from everybody",
        strike=replica_alone,
        expect=Expectation(moves=False, epochs=(0, 0), outage_s=2.0),
        stage=Stage.NETWORK,
    ),
)
