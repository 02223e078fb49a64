"""Simulated proxies with the real routing table and the real rule of who may be served; and the clients behind them.

A client writes numbered records and remembers which were acknowledged; it also reads through the writer endpoint.  A proxy
serves the writer while a frame of the lease holder is fresh or, while none is, while the writer's own noded vouches for it.
"""

from __future__ import annotations

from collections.abc import Callable

from endpointd.routing.freshness import HEARTBEAT_VALID_S, Freshness, heartbeat_until, lease_until
from endpointd.routing.table import EMPTY, Door, eligible, make_table
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.node import Role
from pgtopology.observation import Observation
from pgtopology.report import FeedFrame, ProxyReport
from pgtopology.succession import may_replace
from pgtopology.timing import FRAME_LEASE_MS
from tests.sim.checkers.stale_reads import StaleReads
from tests.sim.checks import Acknowledged, Checks
from tests.sim.manager import SimManager
from tests.sim.network import Network, Stream
from tests.sim.node import SimNode
from tests.sim.switches import Switch
from tests.sim.world import Owner, World

FRAME_MS = 150.0
ASK_MS = 150.0
PATIENCE_MS = 1500.0
CANCEL_MS = 300.0


class SimProxy(Owner):
    """One proxy."""

    def __init__(
        self,
        world: World,
        net: Network,
        checks: Checks,
        name: str,
        nodes: dict[str, SimNode],
        managers: list[SimManager],
        broken: Switch | None,
    ) -> None:
        super().__init__()
        self.broken = broken
        self.world, self.net, self.checks, self.name, self.nodes = world, net, checks, name, nodes
        self.topology: Topology | None = None
        self.table = EMPTY
        self.freshness = Freshness()
        self.clients: list[Client] = []
        self._settled = NO_EPOCH
        self._up = {manager.name: Stream(name, manager.name) for manager in managers}
        for manager in managers:
            stream = Stream(manager.name, name)
            self._send_frames(manager, stream, None)
        self._witness()

    # The feed

    def _send_frames(self, manager: SimManager, stream: Stream, sent: Topology | None) -> None:
        self.world.after(FRAME_MS, None, self._send_frames, manager, stream, sent)
        self.frame(manager, stream)

    def frame(self, manager: SimManager, stream: Stream | None = None) -> None:
        """Have *manager* send a frame now, if it leads."""
        process = manager.process
        if process is None or process.frozen or process.published is None:
            return
        lease_ms = min(FRAME_LEASE_MS, int(process.lease_ms))
        if lease_ms <= 0:
            return
        document = process.published
        report = process.reports.get(self.name)
        process.lent_ms[self.name] = self.world.now
        frame = FeedFrame(
            lease_ms=lease_ms,
            epoch=document.epoch,
            revision=document.revision,
            document=document,
            echo_ms=report.clock_ms if report is not None else None,
        )
        self.net.stream(stream or Stream(manager.name, self.name), self, self._take, frame, manager)

    def _take(self, frame: FeedFrame, manager: SimManager) -> None:
        document, held = frame.document, self.topology
        if document is not None and document is not held and (held is None or may_replace(held, document) is None):
            self._set(document)
        self._vouch(lease=lease_until(frame, self.topology))
        self._report(manager)

    def _report(self, manager: SimManager) -> None:
        if all(client.is_settled() for client in self.clients):
            self._settled = self.table.epoch
        process = manager.process
        if process is not None:
            self.net.stream(self._up[manager.name], process, process.take_report, self._said())

    def _said(self) -> ProxyReport:
        return ProxyReport(
            name=self.name,
            version="",
            epoch=self._settled,
            revision=self.table.revision,
            sessions=len(self.clients),
            engine="sim",
            clock_ms=int(self.world.now),
        )

    def _set(self, topology: Topology) -> None:
        old, self.topology = self.table, topology
        self.table = make_table(topology)
        if self.table.writer != old.writer or self.table.epoch != old.epoch:
            self.freshness = Freshness()
            for client in self.clients:
                client.look_up()
            self.world.say("{}: routes writers to {} (epoch {})", self.name, topology.writer, topology.epoch)

    def _vouch(self, *, lease: float | None = None, heartbeat: float | None = None) -> None:
        before = self.freshness
        self.freshness = Freshness(
            lease_until=max(before.lease_until, lease) if lease is not None else before.lease_until,
            heartbeat_until=max(before.heartbeat_until, heartbeat) if heartbeat is not None else before.heartbeat_until,
        )

    # The witness

    def _witness(self) -> None:
        self.world.after(ASK_MS, self, self._witness)
        topology, asked_ms = self.topology, self.world.now
        if topology is None or topology.writer is None or self.freshness.lease_until > asked_ms / 1000:
            return
        node = self.nodes[topology.writer]

        def arrive() -> None:
            noded = node.noded
            if noded is not None and not noded.frozen and noded.started_up:
                self.net.send(node.name, self.name, self, self._told, noded.compose(), topology, asked_ms)

        self.net.send(self.name, node.name, None, arrive)

    def _told(self, seen: Observation, topology: Topology, asked_ms: float) -> None:
        if self.topology is not topology or self.world.now - asked_ms > HEARTBEAT_VALID_S * 1000:
            return
        answer = heartbeat_until(seen, topology, asked_ms / 1000)
        if not isinstance(answer, str):
            self._vouch(heartbeat=answer)

    # Routing

    def writer(self) -> SimNode | None:
        """Return whom the writer's door leads to now, or None if writers wait."""
        fresh = self.freshness.is_valid(self.world.now / 1000) or self.broken is Switch.STALE_ROUTE
        if self.frozen or not fresh:
            return None
        found = eligible(self.table, Door.WRITER, fallback_to_writer=False)
        return self.nodes[found[0].node] if found else None

    def still_serves(self, node: SimNode, epoch: Epoch) -> bool:
        """Return whether a session that was given *node* in *epoch* has not been ended."""
        return self.table.is_planned or self.is_current(node, epoch)

    def is_current(self, node: SimNode, epoch: Epoch) -> bool:
        """Return whether *node* is the writer of this very epoch."""
        table = self.table
        return table.writer is not None and table.writer.node == node.name and table.epoch == epoch


class Client(Owner):
    """One client behind one proxy, forever: it writes, or it only reads."""

    def __init__(self, world: World, net: Network, checks: Checks, reads: StaleReads, proxy: SimProxy, *, writes: bool) -> None:
        super().__init__()
        self.world, self.net, self.checks, self.reads, self.proxy, self.writes = world, net, checks, reads, proxy, writes
        self.acknowledged = 0
        self.last_ms = 0.0
        self._turn = 0
        self._session: tuple[SimNode, Epoch] | None = None
        proxy.clients.append(self)
        self._next(self._turn)

    def is_settled(self) -> bool:
        """Return whether no session of an earlier writer is left."""
        return self._session is None or self.proxy.is_current(*self._session)

    def look_up(self) -> None:
        """The table changed: a session whose server is lost ends, and the client begins anew."""
        if self._session is not None and not self.proxy.still_serves(*self._session):
            self._session = None
            self.world.after(1.0, self, self._next, self._turn)

    def _next(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._turn += 1
        world, proxy = self.world, self.proxy
        node = proxy.writer()
        self._session = None
        if node is None:
            world.after(30.0, self, self._next, self._turn)
            return
        world.after(PATIENCE_MS, self, self._next, self._turn)
        began_ms, epoch, turn = world.now, proxy.table.epoch, self._turn
        lent = proxy.freshness.lease_until > began_ms / 1000
        self._session = node, epoch
        if self.writes and world.rng.random() < 0.8:
            self.net.send(proxy.name, node.name, None, self._write, proxy, node, epoch, turn)
        else:
            self.net.send(proxy.name, node.name, None, self._read, proxy, node, epoch, turn, began_ms, lent)

    def _write(self, proxy: SimProxy, node: SimNode, epoch: Epoch, turn: int) -> None:
        life = node.pg.life
        if life is None or not life.ready or life.role is not Role.PRIMARY or life.promoting:
            return
        if life.frozen:
            life.parked.append((self._write, (proxy, node, epoch, turn)))
            return
        made: list[tuple[int, int]] = []

        def acknowledged() -> None:
            commit = self.checks.acknowledged(*made[0], node.name, life.epoch)
            self.net.send(node.name, proxy.name, proxy, self._answered, commit, proxy, node, epoch, turn)

        made.append(node.pg.commit(acknowledged))
        if proxy.broken is Switch.CANCELLED_WAIT:
            self.world.after(CANCEL_MS, life, self._cancel, node, made[0], acknowledged)

    def _cancel(self, node: SimNode, made: tuple[int, int], acknowledged: Callable[[], None]) -> None:
        """The client takes its waiting commit back, and PostgreSQL answers with a warning and success."""
        waiting = node.pg.life.waiting if node.pg.life is not None else []
        if (made[1], acknowledged) in waiting:
            waiting.remove((made[1], acknowledged))
            acknowledged()

    def _answered(self, commit: Acknowledged, proxy: SimProxy, node: SimNode, epoch: Epoch, turn: int) -> None:
        if turn == self._turn:
            self._session = None
        if proxy.still_serves(node, epoch):
            self.acknowledged += 1
            self.last_ms = self.world.now
            self.checks.seen_by_client(commit)
        self.world.after(self.world.jitter(5, 60), self, self._next, turn)

    def _read(self, proxy: SimProxy, node: SimNode, epoch: Epoch, turn: int, began_ms: float, lent: bool) -> None:
        life = node.pg.life
        if life is None or not life.ready:
            return
        if life.frozen:
            life.parked.append((self._read, (proxy, node, epoch, turn, began_ms, lent)))
            return
        if life.role is not Role.PRIMARY:
            return
        proven = life.proven
        row = proven, node.pg.wal[proven - 1] if proven else 0, life.epoch
        stale = self.reads.look(began_ms, node, life.visible, lent=lent)
        self.net.send(node.name, proxy.name, proxy, self._shown, stale, row, proxy, node, epoch, turn)

    def _shown(
        self, stale: str | None, row: tuple[int, int, int], proxy: SimProxy, node: SimNode, epoch: Epoch, turn: int
    ) -> None:
        if turn == self._turn:
            self._session = None
        if proxy.still_serves(node, epoch):
            self.reads.shown(stale)
            if row[0]:
                self.checks.read(node.name, *row)
        self.world.after(self.world.jitter(5, 60), self, self._next, turn)
