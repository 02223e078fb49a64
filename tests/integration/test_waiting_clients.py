"""While no quorum is there, impatient clients fill the writer with backends that wait: nobody who mends it is locked out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

import asyncpg
import psycopg
import pytest

from pgtopology.codec import decode
from pgtopology.drill import Drill
from pgtopology.status import Status
from pgwire.scram import format_verifier, make_verifier
from testkit.cluster import Cluster
from tests.integration.test_rehearsals import metrics

CLIENTS = 200
PATIENCE_S = 1
"""How long a client waits for its commit before it drops the connection and comes again."""
CONNECTIONS_MAX = 100
"""PostgreSQL's max_connections here; eight of them are reserved for superusers."""
FULL = 85
"""Of those, so many that wait leave next to nothing for an ordinary role."""


class Impatient:
    """Clients that insert, and drop what takes too long as if their network were gone: nothing is cancelled."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.acknowledged = 0

    def __enter__(self) -> Impatient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(self._client())

    async def _client(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(self._dsn, timeout=PATIENCE_S, ssl=False)
                await self._insert(connection)
            await asyncio.sleep(0.05)

    async def _insert(self, connection: asyncpg.Connection) -> None:
        while not self._over.is_set():
            commit = asyncio.ensure_future(connection.execute("INSERT INTO impatient DEFAULT VALUES"))
            done, _ = await asyncio.wait({commit}, timeout=PATIENCE_S)
            if not done:
                connection.terminate()
            await commit
            self.acknowledged += 1


@contextlib.contextmanager
def without_standbys(cluster: Cluster, writer: str) -> Iterator[Callable[[], None]]:
    """Stop all nodes but *writer* for a `with` block; give what starts them before its end."""
    away = [node.name for node in cluster.status().nodes if node.name != writer]

    def bring_back() -> None:
        while away:
            cluster.start_node(away.pop())

    for name in away:
        cluster.stop_node(name)
    try:
        yield bring_back
    finally:
        bring_back()


def is_full(cluster: Cluster, writer: str) -> Callable[[Status], bool]:
    return lambda status: (cluster.node(writer, status).connections_waiting or 0) >= FULL


@pytest.mark.timeout(400)
def test_two_hundred_impatient_clients_lock_nobody_out(make_cluster: Callable[[], Cluster]) -> None:
    cluster = make_cluster()
    cluster.up()
    before = cluster.wait_healthy()
    assert before.writer is not None
    writer = before.writer
    drill = decode(cluster.ctl("drill", "--json").stdout, Drill)
    assert drill.possible, drill.verdict
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        # One round of hashing: with 4,096 in each of two hundred clients a busy machine does little else within their patience.
        verifier = format_verifier(make_verifier("app", b"sixteen bytes of", 1))
        connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{verifier}'".encode())
        connection.execute("CREATE TABLE impatient (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT now())")
        connection.execute("GRANT ALL ON impatient TO app")
    door = before.endpoints.writer
    dsn = f"postgresql://app:app@{door.host}:{door.port}/postgres"
    with Impatient(dsn) as clients:
        cluster.wait(lambda _: clients.acknowledged > CLIENTS, "writing", timeout_s=90.0)
        with without_standbys(cluster, writer) as bring_back:
            stuck = cluster.wait(lambda status: status.state == "stuck", "stuck", timeout_s=60.0)
            assert not stuck.survives.server_crash
            full = cluster.wait(is_full(cluster, writer), f"full of clients that wait on {writer}", timeout_s=60.0)
            assert (full.state, full.epoch, full.writer) == ("stuck", before.epoch, writer)
            assert "connections wait for it" in str(full.at_risk)
            gauges = metrics(cluster)
            assert gauges["endpointd_stuck"] == 1.0
            assert gauges["endpointd_failover_possible"] == 0.0
            waiting = f'endpointd_node_connections_waiting_for_quorum{{node="{writer}"'
            assert next(value for name, value in gauges.items() if name.startswith(waiting)) >= FULL
            assert f"of {CONNECTIONS_MAX} connections wait for the quorum" in cluster.ctl("doctor", check=False).stdout
            assert f"of {CONNECTIONS_MAX} connections wait for the quorum" in cluster.ctl("status").stdout
            knock = ("psql", "writer", "--", "-At", "-c", "SELECT 'let in'")
            cluster.wait(lambda _: cluster.ctl(*knock, check=False).stdout.strip() == "let in", "open to an operator")
            drilled = decode(cluster.ctl("drill", "--json", check=False).stdout, Drill)
            assert not drilled.possible
            so_far = clients.acknowledged
            bring_back()
            cluster.wait(lambda _: clients.acknowledged > so_far + CLIENTS, "written to again", timeout_s=60.0)
        after = cluster.wait_healthy()
        assert (after.epoch, after.writer) == (before.epoch, writer)

        with without_standbys(cluster, writer) as bring_back:
            cluster.wait(is_full(cluster, writer), f"full again on {writer}", timeout_s=60.0)
            so_far = clients.acknowledged
            cluster.kill_postgres(writer)
            bring_back()
            cluster.wait_for_epoch_after(before.epoch)
            cluster.wait(lambda _: clients.acknowledged > so_far + CLIENTS, "written to after the failover", timeout_s=60.0)
        cluster.wait_healthy()
