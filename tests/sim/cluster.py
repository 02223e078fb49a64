"""A whole simulated cluster, one run of it under faults, and the question whether it got well again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.flapping import AntiFlap
from cluster_manager.decision.nodeview import NodeSpec
from pgtopology.document import Durability, Endpoint, Endpoints, Topology
from pgtopology.node import Address, NodeName, Role
from tests.sim.checkers.acknowledged_writes import AcknowledgedWrites
from tests.sim.checkers.lost_document import LostDocument
from tests.sim.checkers.numbers import Numbers
from tests.sim.checkers.one_writer import OneWriter
from tests.sim.checkers.operators_word import OperatorsWord
from tests.sim.checkers.promises import Promises
from tests.sim.checkers.safe_sets import SafeSets
from tests.sim.checkers.seen_rows import SeenRows
from tests.sim.checkers.stale_reads import StaleReads
from tests.sim.checkers.timelines import Timelines
from tests.sim.checks import Checks
from tests.sim.manager import SimManager
from tests.sim.network import Network
from tests.sim.node import SimNode
from tests.sim.postgres import Postgres
from tests.sim.proxy import Client, SimProxy
from tests.sim.store import SimStore
from tests.sim.switches import FIVE_NODES, TWO_MANAGERS, Switch
from tests.sim.world import Violation, World

FAULTS_MS = 12_000.0
GOES_ON_MS = 20_000.0
"""While one fault stays that the law bears, writes go on within half of this."""
SHORT_HEALING_MS = 5_000.0
LOOK_MS = 100.0
HEALING_MS = 90_000.0
"""Within this time after the last fault everything is well again: the longest patience of the manager, 30 s, thrice."""


class Cluster:
    """Nodes, managers, a store, proxies and clients."""

    def __init__(
        self,
        seed: int,
        broken: Switch | None,
        *,
        verbose: bool = False,
        size: int | None = None,
        managers: int | None = None,
        chance: Random | None = None,
    ) -> None:
        self.world = world = World(seed, verbose=verbose, chance=chance)
        self.broken = broken
        self.net = Network(world)
        self.checks = checks = Checks(world)
        checks.has_clocks = seed % 20 != 17
        drawn = 3 if world.rng.random() < 0.7 else 5
        if size is None:
            size = 5 if broken in FIVE_NODES else drawn
        self.may_roll_back = broken is Switch.STORE_ROLLED_BACK or (broken is None and seed % 10 == 7)
        peers: dict[str, Postgres] = {}
        self.nodes: dict[str, SimNode] = {}
        names = [f"n{number}" for number in range(1, size + 1)]
        for name in names:
            node = self.nodes[name] = SimNode(world, self.net, checks, NodeName(name), peers, broken)
            peers[name] = node.pg
        checks.nodes = self.nodes
        reads = StaleReads(checks)
        self.acknowledged_writes = AcknowledgedWrites(checks)
        checks.install(
            [
                self.acknowledged_writes,
                OneWriter(checks),
                Timelines(checks),
                Promises(checks),
                Numbers(checks, law=broken not in (Switch.TIMELINE_REUSE, Switch.SECOND_CANDIDATE)),
                SafeSets(checks),
                LostDocument(checks),
                reads,
                SeenRows(checks),
                OperatorsWord(checks),
            ]
        )
        self.specs = specs = tuple(
            NodeSpec(name=NodeName(name), zone="z", address=Address(name, 5432), noded=Address(name, 6460), dns=f"{name}.sim")
            for name in names
        )
        door = Endpoint(host="p", port=1, dns="p")
        endpoints = Endpoints(writer=door, reader=door)
        self.store = SimStore(world, self.net, checks, broken)
        alone = world.rng.random() < 0.4 and broken not in TWO_MANAGERS
        self.managers_names = ["m1", "m2"][: managers or (1 if alone else 2)]
        self.managers = [
            SimManager(world, self.net, self.store, name, self.nodes, specs, endpoints, broken) for name in self.managers_names
        ]
        self.proxies_names = ["p1", "p2"]
        self.others = [*self.managers_names, *self.proxies_names]
        self.proxies = [
            SimProxy(world, self.net, checks, name, self.nodes, self.managers, broken) for name in self.proxies_names
        ]
        for node in self.nodes.values():
            self.net.on_cut.append(node.pg.link_cut)
        self.net.on_cut.append(self._feed_cut)
        flaps = broken is None and world.rng.random() < 0.25
        hold = AntiFlap(hold_after=world.rng.choice((1, 2, 3)), hold_ms=world.rng.choice((15_000, 60_000))) if flaps else None
        for manager in self.managers:
            manager.anti_flap = hold or manager.anti_flap
            manager.publish = self._publish
            manager.fellows = self.managers
            manager.start()
        self.clients = [
            Client(world, self.net, checks, reads, proxy, writes=writes)
            for proxy in self.proxies
            for writes in (True, True, False)
        ]
        world.after(500.0, None, self._chatter)
        world.after(3000.0, None, self._checkpoints)

    def set_members(self, names: list[str]) -> None:
        """Have the managers' settings name these nodes."""
        for manager in self.managers:
            manager.set_specs(tuple(spec for spec in self.specs if spec.name in names))

    def _publish(self, manager: SimManager, _: Topology) -> None:
        for proxy in self.proxies:
            proxy.frame(manager)

    def _feed_cut(self, source: str, destination: str, reset: bool) -> None:
        """A reset connection of a proxy is one that the manager does not have any more."""
        for manager in self.managers:
            if reset and manager.process is not None and manager.name in (source, destination):
                manager.process.lose_report(destination if manager.name == source else source)

    def _chatter(self) -> None:
        for node in self.nodes.values():
            life = node.pg.life
            if life is not None and life.role is Role.PRIMARY and not life.frozen:
                node.pg.chatter()
        self.world.after(150.0, None, self._chatter)

    def _checkpoints(self) -> None:
        for node in self.nodes.values():
            life = node.pg.life
            if life is not None and not life.frozen and self.world.rng.random() < 0.5:
                node.pg.checkpoint_now()
        self.world.after(2500.0, None, self._checkpoints)

    def writer(self) -> SimNode | None:
        """Return the published writer."""
        return self.checks.writer()

    def is_complete(self) -> bool:
        """Return whether every node is a voter that streams and is whole, and the quorum is the wanted one."""
        document = self.store.document
        if document is None or document.writer is None or document.voters is None:
            return False
        if document.durability is not Durability.QUORUM or len(document.voters.members) != len(self.nodes):
            return False
        for voter in document.voters.members:
            node = self.nodes[voter.name]
            life = node.pg.life
            if life is None or node.state.incarnation != voter.incarnation or not node.state.whole:
                return False
            if voter.name != document.writer and (life.receiver is None or not life.receiver.streaming):
                return False
        return True

    def is_healthy(self) -> bool:
        """Return whether the leading manager says so, and it is so."""
        if not self.is_complete():
            return False
        for manager in self.managers:
            process = manager.process
            if process is not None and process.leads and process.plan is not None:
                return process.plan.diagnosis is Diagnosis.HEALTHY and process.document == self.store.document
        return False

    def is_held(self) -> bool:
        """Return whether the leading manager holds a failover back, as it is told to."""
        leading = [manager.process for manager in self.managers if manager.process is not None and manager.process.leads]
        return any(p.plan is not None and p.plan.diagnosis is Diagnosis.FAILOVER_HELD for p in leading)

    def diagnoses(self) -> str:
        """Return what the managers say."""
        said: list[str] = []
        for manager in self.managers:
            process = manager.process
            if process is not None and process.plan is not None:
                said.append(f"{manager.name}: {process.plan.diagnosis} {process.plan.reason}")
        return " | ".join(said)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one run."""

    seed: int
    violation: Violation | None
    simulated_ms: float
    steps: int
    acknowledged: int
    epochs: int
    digest: int
    counts: Counter[str]
    trace: str = ""


def run(
    seed: int,
    broken: Switch | None = None,
    *,
    verbose: bool = False,
    safety_only: bool = False,
    focus: str | None = None,
) -> Result:
    """Play one seed to its end; with *safety_only* nobody asks whether it gets well again."""
    from tests.sim.faults import Faults

    cluster = Cluster(seed, broken, verbose=verbose)
    world = cluster.world
    faults = Faults(cluster, focus)
    violation: Violation | None = None
    try:
        calm = Random(seed).random()
        if calm < 0.75:
            wait_until(cluster, 12_000.0, cluster.is_healthy)
        faults.begin(world.now + FAULTS_MS)
        world.run_until(world.now + FAULTS_MS)
        faults.heal()
        if not safety_only or broken is not None:
            if faults.leave_one():
                _goes_on(cluster)
            faults.heal()
        asked = not safety_only
        well = wait_until(cluster, world.now + (HEALING_MS if asked else SHORT_HEALING_MS), cluster.is_healthy)
        if not well and asked:
            raise Violation(
                "healthy again", f"not within {HEALING_MS / 1000:.0f} s after the last fault: {cluster.diagnoses()}"
            )
        if well and asked:
            before = max(client.last_ms for client in cluster.clients)
            if not wait_until(cluster, world.now + 5000, lambda: max(client.last_ms for client in cluster.clients) > before):
                raise Violation("healthy again", "no client's write is acknowledged")
        cluster.acknowledged_writes.at_the_end()
    except Violation as found:
        violation = found
    document = cluster.store.document
    return Result(
        seed=seed,
        violation=violation,
        simulated_ms=world.now,
        steps=world.steps,
        acknowledged=len(cluster.checks.commits),
        epochs=document.epoch if document is not None else 0,
        digest=world.rng.getrandbits(64),
        counts=world.counts,
        trace=world.trace() if violation is not None else "",
    )


def _goes_on(cluster: Cluster) -> None:
    """Raise Violation unless commits are acknowledged although one fault stays."""
    clients = [client for client in cluster.clients if client.writes]
    wait_until(cluster, cluster.world.now + GOES_ON_MS / 2, lambda: False)
    before = max(client.last_ms for client in clients)
    end_ms = cluster.world.now + GOES_ON_MS / 2
    if not wait_until(cluster, end_ms, lambda: max(client.last_ms for client in clients) > before):
        raise Violation("goes on with one fault", f"not within {GOES_ON_MS / 1000:.0f} s: {cluster.diagnoses()}")


def wait_until(cluster: Cluster, end_ms: float, condition: object) -> bool:
    """Let time pass until *condition* holds, at most until *end_ms*; return whether it did.

    Time in which a failover is held back, as it is meant to be, does not count.
    """
    assert callable(condition)
    patience_ms = 2 * cluster.managers[0].anti_flap.hold_ms
    while cluster.world.now < end_ms:
        cluster.world.run_until(cluster.world.now + LOOK_MS)
        if patience_ms > 0 and cluster.is_held():
            end_ms += LOOK_MS
            patience_ms -= LOOK_MS
        if condition():
            return True
    return False
