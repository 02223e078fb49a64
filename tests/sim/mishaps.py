"""Single faults of processes, machines, the network, managers, the store; each is begun and, after a while, ended."""

from __future__ import annotations

from collections.abc import Callable

from cluster_manager.loop.known import REVISIONS_SKIPPED
from pgtopology.document import Topology
from pgtopology.timeline import Timeline, fork_from
from tests.sim.cluster import Cluster, wait_until
from tests.sim.network import LATE
from tests.sim.node import SimNode
from tests.sim.processes import lsn_of
from tests.sim.store import ANSWER_MS
from tests.sim.store import HOST as STORE
from tests.sim.switches import Switch

Undo = Callable[[], None]
FOR_EVER_MS = 1e9
AWAY = "a voter away, a crash"
TOO_FEW = "writer reaches too few"
UNHEARD = "managers hear too few"
GIVEN_UP = "all but one given up"
_STAYS = {
    Switch.OLD_PRIMARY_NEVER_COUNTS: AWAY,
    Switch.VETO_TOO_STRONG: TOO_FEW,
    Switch.TOUCH_WITHOUT_SAFE_SET: UNHEARD,
    Switch.LEFT_OUT_COUNT: GIVEN_UP,
}
"""Which fault that stays a broken sentence of liveness is about."""


class Mishaps:
    """Begins single faults; `heal` ends all that are under way."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.rng = cluster.world.rng
        self.until_ms = 0.0
        self.lost_copies = 0
        self.leaving = False
        self._undo: dict[int, Undo] = {}
        self._number = 0

    def leave_one(self) -> bool:
        """Begin one fault that stays and that the law bears, if the cluster is whole and well; return whether one was begun.

        A voter is away and the writer's PostgreSQL crashes; or the writer reaches too few voters; or the managers hear too few,
        while the writer has its quorum; or all but one node are gone, and an operator makes do with that one.
        """
        cluster = self.cluster
        forced = _STAYS.get(cluster.broken) if cluster.broken is not None else None
        if forced is None and self.rng.random() < 0.75:
            return False
        if not wait_until(cluster, self.world.now + 20_000.0, cluster.is_healthy):
            return False
        writer = cluster.writer()
        assert writer is not None
        others = self._others(writer.name)
        self.rng.shuffle(others)
        kind = forced or self.rng.choice((AWAY, TOO_FEW, UNHEARD, GIVEN_UP))
        self.world.counts[f"staying fault: {kind}"] += 1
        if kind == AWAY:
            cluster.nodes[others[0]].power_off()
            writer.pg.crash()
        elif kind == TOO_FEW:
            self._cut([writer.name], [*others[len(others) // 2 - 1 :], *cluster.managers_names], FOR_EVER_MS)
        elif kind == UNHEARD:
            half = len(others) // 2
            self._cut([*cluster.managers_names, *others[half:]], [writer.name, *others[:half]], FOR_EVER_MS)
        else:
            for name in [writer.name, *others[1:]]:
                cluster.nodes[name].power_off()
            self.world.after(2500.0, None, self.give_up_voters)
        return True

    def give_up_voters(self) -> None:
        """An operator goes on without the voters that are away (--allow-data-loss)."""
        raise NotImplementedError

    def heal(self) -> None:
        """End every fault."""
        for number in list(self._undo):
            self._end(number)
        self.cluster.net.unreliable = False
        for manager in self.cluster.managers:
            manager.start()
        for node in self.cluster.nodes.values():
            node.boot()
        self.world.say("all faults are over")

    def _begin(self, kind: str, text: str, *arguments: object) -> None:
        """Count a fault that really happens, and say so."""
        self.world.counts[f"fault {kind}"] += 1
        self.world.say("FAULT " + text, *arguments)

    def _for(self, duration_ms: float, undo: Undo) -> None:
        self._number += 1
        self._undo[self._number] = undo
        self.world.after(duration_ms, None, self._end, self._number)

    def _end(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    def _later(self, delay_ms: float, call: Callable[[], None]) -> None:
        def unless_over() -> None:
            if self.world.now < self.until_ms:
                call()

        self.world.after(delay_ms, None, unless_over)

    def _node(self) -> SimNode:
        """The writer more often than others."""
        writer = self.cluster.writer()
        if writer is not None and self.rng.random() < 0.4:
            return writer
        return self.cluster.nodes[self.rng.choice(list(self.cluster.nodes))]

    def _others(self, name: str) -> list[str]:
        return [other for other in self.cluster.nodes if other != name]

    def _all_count(self) -> bool:
        """Return whether the data of every recorded voter counts, and need not be rewound either."""
        document = self.cluster.store.document
        if document is None or document.voters is None or len(document.voters.members) != len(self.cluster.nodes):
            return False
        return all(
            (node := self.cluster.nodes[voter.name]).state.whole
            and node.state.incarnation == voter.incarnation
            and _is_level(node, document)
            for voter in document.voters.members
        )

    def _span(self) -> float:
        return self.world.jitter(100, 900) if self.rng.random() < 0.5 else self.world.jitter(900, 4000)

    def crash_postgres(self, node: SimNode | None = None) -> None:
        """kill -9 of a postmaster."""
        node = node or self._node()
        self._begin("crash_postgres", "PostgreSQL of {} is killed", node.name)
        node.pg.crash()

    def crash_writer(self) -> None:
        """kill -9 of the writer's."""
        self.crash_postgres(self.cluster.writer())

    def power_off(self, node: SimNode | None = None, span_ms: float | None = None) -> None:
        """A machine goes down, and comes back."""
        node = node or self._node()
        self._begin("power_off", "{} loses its power", node.name)
        node.power_off()
        self._for(span_ms if span_ms is not None else self._span(), node.boot)

    def freeze_postgres(self, node: SimNode | None = None, span_ms: float | None = None) -> None:
        """SIGSTOP to PostgreSQL's processes."""
        node = node or self._node()
        life = node.pg.life
        if life is None or life.frozen:
            return
        self._begin("freeze_postgres", "PostgreSQL of {} is frozen", node.name)
        node.pg.freeze()
        self._for(span_ms if span_ms is not None else self._span(), lambda: self._thaw(node, life))

    def _thaw(self, node: SimNode, life: object) -> None:
        if node.pg.life is life:
            self.world.say("      PostgreSQL of {} goes on", node.name)
            node.pg.thaw()

    def freeze_node(self, node: SimNode | None = None, span_ms: float | None = None) -> None:
        """A machine stands still."""
        node = node or self._node()
        if node.noded is None or node.noded.frozen:
            return
        self._begin("freeze_node", "{} stands still", node.name)
        node.freeze()
        self._for(span_ms if span_ms is not None else self._span(), node.thaw)

    def kill_noded(self, node: SimNode | None = None) -> None:
        """kill -9 of a noded; its supervisor starts it again."""
        node = node or self._node()
        if not node.is_up:
            return
        self._begin("kill_noded", "noded of {} is killed", node.name)
        node.kill_noded()
        self._for(self.world.jitter(100, 2000), lambda: node.boot() if node.is_up else None)

    def freeze_proxy(self) -> None:
        """A proxy stands still, and finds frames that have waited for it."""
        proxy = self.rng.choice(self.cluster.proxies)
        self._begin("freeze_proxy", "{} stands still", proxy.name)
        self.world.freeze(proxy)
        self._for(self._span(), lambda: self.world.thaw(proxy))

    def slow_disk(self, node: SimNode | None = None) -> None:
        """fsync takes long."""
        node = node or self._node()
        node.pg.fsync_ms = self.world.jitter(20, 400)
        self._begin("slow_disk", "the disk of {} is slow", node.name)
        self._for(self._span(), lambda: setattr(node.pg, "fsync_ms", 1.0))

    def stall_startup(self, node: SimNode | None = None) -> None:
        """Replay stands still."""
        node = node or self._node()
        self._begin("stall_startup", "replay on {} stands still", node.name)
        node.pg.stall_startup(self.world.jitter(200, 2500))

    def restart_all(self) -> None:
        """The power of all of them goes."""
        self._begin("restart_all", "all of them lose their power")
        for node in self.cluster.nodes.values():
            self.power_off(node, self.world.jitter(100, 2000))

    def wipe(self, node: SimNode | None = None) -> None:
        """A data directory is gone; rarely, and never while the cluster is not complete."""
        if self.lost_copies or not self.cluster.is_complete():
            return
        node = node or self._node()
        self.lost_copies += 1
        self._begin("wipe", "the data of {} is gone", node.name)
        node.wipe()
        self._for(self.world.jitter(50, 300), lambda: node.boot() if node.is_up else None)

    def _cut(self, left: list[str], right: list[str], span_ms: float, *, both: bool = True) -> None:
        reset = self.rng.random() < 0.5
        links = [(a, b) for a in left for b in right] + ([(b, a) for a in left for b in right] if both else [])
        net = self.cluster.net
        for link in links:
            net.cut(*link, reset=reset)
        kind = "partition" if both else "partition in one direction"
        self._begin(kind, "{} cannot reach {}{}", left, right, "" if both else " (one way)")

        def mend() -> None:
            for link in links:
                net.mend(*link)
            self.world.say("      {} can reach {} again", left, right)

        self._for(span_ms, mend)

    def partition(self) -> None:
        """Hosts fall into two halves."""
        hosts = [*self.cluster.nodes, *self.cluster.others]
        self.rng.shuffle(hosts)
        size = self.rng.randint(1, max(1, len(hosts) // 2))
        self._cut(hosts[:size], hosts[size:], self._span())

    def one_way(self) -> None:
        """One link lets nothing pass in one direction."""
        hosts = [*self.cluster.nodes, *self.cluster.others]
        left, right = self.rng.sample(hosts, 2)
        self._cut([left], [right], self._span(), both=self.rng.random() < 0.4)

    def clog(self, source: str | None = None, destination: str | None = None) -> None:
        """A link is slow."""
        nodes = list(self.cluster.nodes)
        hosts = [*nodes, *self.cluster.others] if self.rng.random() < 0.5 else nodes
        first, second = self.rng.sample(hosts, 2)
        link = source or first, destination or second
        if link[0] == link[1]:
            return
        delays = self.cluster.net.delay_ms
        delays[link] = self.world.jitter(20, 800)
        self._begin("clog", "{} to {} takes {:.0f} ms", *link, delays[link])
        self._for(self._span(), lambda: _forget(delays, link))

    def reset_stream(self) -> None:
        """Connections between two nodes break, and can be made again."""
        self._begin("reset_stream", "connections break")
        left, right = self.rng.sample(list(self.cluster.nodes), 2)
        self._cut([left], [right], self.world.jitter(5, 60))

    def storm(self) -> None:
        """For some seconds many messages come late, twice or never."""
        net = self.cluster.net
        self._begin("storm", "many messages come late, twice or never")
        net.late = 0.2
        self._for(4000.0, lambda: setattr(net, "late", LATE))

    def repeat_orders(self) -> None:
        """Orders that were given before arrive again."""
        manager = self.rng.choice(self.cluster.managers)
        for _ in range(self.rng.randint(1, 6)):
            if not manager.sent:
                return
            order = self.rng.choice(manager.sent)
            noded = self.cluster.nodes[order.node].noded
            if noded is None:
                continue
            self._begin(
                "repeat_orders", "{} of revision {} arrives at {} again", type(order).__name__, order.revision, order.node
            )
            self.world.after(self.world.jitter(0, 50), noded, noded.receive, order, _ignore)

    def pause_manager(self) -> None:
        """A manager stands still and goes on with what it knew."""
        manager = self.rng.choice(self.cluster.managers)
        self._begin("pause_manager", "{} stands still", manager.name)
        manager.pause()
        self._for(self.world.jitter(50, 4000), manager.resume)

    def crash_manager(self) -> None:
        """A manager dies and is started again."""
        manager = self.rng.choice(self.cluster.managers)
        self._begin("crash_manager", "{} is killed", manager.name)
        manager.crash()
        self._for(self.world.jitter(100, 2500), manager.start)

    def lose_store(self) -> None:
        """The store is out of reach for a manager or for all."""
        names = self.cluster.managers_names
        left = names if self.rng.random() < 0.5 else [self.rng.choice(names)]
        self._begin("lose_store", "the store is out of reach of {}", left)
        self._cut(left, [STORE], self._span(), both=self.rng.random() < 0.6)

    def roll_back(self) -> None:
        """The store is restored from an earlier copy, of any time, or is empty; the managers are stopped for it.

        A cluster whose commits have one copy only is spared: the store tells which one. So is one in which voters were given
        up: those who were left out know nothing of it.
        """
        managers = self.cluster.managers
        if any(manager.process is not None for manager in managers) and self.cluster.broken is None:
            for manager in managers:
                manager.crash()
            self._for(ANSWER_MS + 50.0, self.roll_back)  # until nothing of theirs is under way
            return
        store = self.cluster.store
        document = store.document
        old = self._copies(store.history, document) if document is not None else []
        if document is None or not old or document.voters is None or document.voters.w < 2 or self.cluster.checks.given_up:
            for manager in managers:
                manager.start()
            return
        to = self.rng.choice(old) if self.cluster.broken is not None or self.rng.random() < 0.8 else None
        if to is None and not self.cluster.checks.has_clocks:
            to = old[-1]
        told = f"epoch {to.epoch} revision {to.revision}" if to is not None else "nothing"
        self._begin("roll_back", "the store goes back from epoch {} revision {} to {}", document.epoch, document.revision, told)
        store.roll_back(to)
        for manager in managers:
            manager.start()
        if to is not None:
            self.restored(to)

    def _copies(self, history: list[Topology], document: Topology) -> list[Topology]:
        """Return those of *history* that may be put back in the place of *document*."""
        old = [one for one in history if one.revision < document.revision]
        if not self.cluster.checks.has_clocks:
            # If more was lost, nothing tells what was written later.
            old = [one for one in old if one.revision > document.revision - REVISIONS_SKIPPED]
        if self.cluster.broken is None:
            return old
        # What the broken run is to show: elections among stale nodes, not the want of voters.
        old = [one for one in old if one.epoch < document.epoch and one.voters == document.voters]
        return old if not self.cluster.checks.rolled_back else []

    def restored(self, document: Topology) -> None:
        """Somebody has restored *document*: whoever does that looks at what it says."""


def _is_level(node: SimNode, document: Topology) -> bool:
    """Return whether the WAL of *node* has not gone past where the newest claimed timeline left it."""
    if not document.timelines or node.pg.timeline == (newest := document.timelines[-1].timeline):
        return True
    fork = fork_from(document.timelines, newest, Timeline(node.pg.timeline))
    return fork is not None and lsn_of(len(node.pg.wal)) <= fork


def _forget(delays: dict[tuple[str, str], float], link: tuple[str, str]) -> None:
    delays.pop(link, None)


def _ignore(_: object) -> None:
    pass
