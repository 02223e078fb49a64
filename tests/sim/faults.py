"""Faults, drawn more often than life has them.

Each is begun and, after a while, ended.  Some are drawn together, in the order in which a sentence of the law is needed: a
second failure right after the first, a cut that follows another by less than a lease.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster_manager.decision.view import Request, RequestKind
from pgtopology.node import Role
from tests.sim.cluster import Cluster
from tests.sim.network import LATE
from tests.sim.node import SimNode
from tests.sim.store import HOST as STORE
from tests.sim.switches import Switch

Undo = Callable[[], None]


class Faults:
    """Draws and begins faults; `heal` ends all that are under way."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.rng = cluster.world.rng
        self.until_ms = 0.0
        self.wipes = 0
        self._undo: dict[int, Undo] = {}
        self._number = 0
        self._menu: list[tuple[int, Callable[[], None]]] = [
            (6, self.crash_postgres),
            (4, self.crash_writer),
            (3, self.power_off),
            (3, self.freeze_postgres),
            (3, self.freeze_node),
            (3, self.kill_noded),
            (1, self.freeze_proxy),
            (5, self.partition),
            (3, self.one_way),
            (3, self.clog),
            (3, self.slow_disk),
            (2, self.stall_startup),
            (3, self.reset_stream),
            (3, self.pause_manager),
            (2, self.crash_manager),
            (2, self.lose_store),
            (2, self.ask_switchover),
            (1, self.wipe),
            (1, self.restart_all),
            (3, self.twice),
            (2, self.wandering_cut),
            (2, self.reconnect_to_frozen),
            (2, self.wipe_while_lagging),
            (2, self.promise_then_crash),
            (2, self.lose_candidate),
            (2, self.old_tail),
            (2, self.crash_while_lagging),
        ]
        self._focus = self._choose_focus()
        if self.rng.random() < 0.3 or cluster.broken is Switch.NO_REVISION:
            self.storm()
        if cluster.may_roll_back:
            self._menu.append((4, self.roll_back))

    def _choose_focus(self) -> Callable[[], None] | None:
        """Most runs dwell on one of the compound faults; a broken run on the one that its sentence is about."""
        compound = {
            Switch.RECEIVER_VIEW: self.reconnect_to_frozen,
            Switch.TIMELINE_REUSE: self.lose_candidate,
            Switch.SECOND_CANDIDATE: self.lose_candidate,
            Switch.RECEIVED_ONLY: self.crash_while_lagging,
            Switch.ANSWER_DURING_REPLAY: self.crash_while_lagging,
            Switch.CONTROL_FILE_TIMELINE: self.old_tail,
            Switch.LSN_BEFORE_EPOCH: self.old_tail,
            Switch.WIPED_COUNTS: self.wipe_while_lagging,
            Switch.CONFIGURATION_NOT_FSYNCED: self.promise_then_crash,
            Switch.OPEN_AT_ONCE: self.wandering_cut,
        }
        drawn = self.rng.choice([*compound.values(), None, None, None])
        return drawn if self.cluster.broken is None else compound.get(self.cluster.broken)

    def begin(self, until_ms: float) -> None:
        """Draw faults until then."""
        self.until_ms = until_ms
        self._draw()

    def _draw(self) -> None:
        if self.world.now >= self.until_ms:
            return
        if self._focus is not None and self.rng.random() < 0.4:
            self._focus()
            self.world.after(self.world.jitter(1500, 3500), None, self._draw)
            return
        total = sum(weight for weight, _ in self._menu)
        dice = self.rng.randrange(total)
        for weight, fault in self._menu:
            dice -= weight
            if dice < 0:
                fault()
                break
        pause = self.world.jitter(20, 300) if self.rng.random() < 0.35 else self.world.jitter(300, 2500)
        self.world.after(pause, None, self._draw)

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

    # Whom

    def _node(self) -> SimNode:
        """The writer more often than others."""
        writer = self.cluster.writer()
        if writer is not None and self.rng.random() < 0.4:
            return writer
        return self.cluster.nodes[self.rng.choice(list(self.cluster.nodes))]

    def _others(self, name: str) -> list[str]:
        return [other for other in self.cluster.nodes if other != name]

    def _span(self) -> float:
        return self.world.jitter(100, 900) if self.rng.random() < 0.5 else self.world.jitter(900, 4000)

    # Processes and machines

    def crash_postgres(self, node: SimNode | None = None) -> None:
        """kill -9 of a postmaster."""
        node = node or self._node()
        self.world.say("FAULT PostgreSQL of {} is killed", node.name)
        node.pg.crash()

    def crash_writer(self) -> None:
        """kill -9 of the writer's."""
        self.crash_postgres(self.cluster.writer())

    def power_off(self, node: SimNode | None = None, span_ms: float | None = None) -> None:
        """A machine goes down, and comes back."""
        node = node or self._node()
        self.world.say("FAULT {} loses its power", node.name)
        node.power_off()
        self._for(span_ms if span_ms is not None else self._span(), node.boot)

    def freeze_postgres(self, node: SimNode | None = None, span_ms: float | None = None) -> None:
        """SIGSTOP to PostgreSQL's processes."""
        node = node or self._node()
        life = node.pg.life
        if life is None or life.frozen:
            return
        self.world.say("FAULT PostgreSQL of {} is frozen", node.name)
        node.pg.freeze()
        self._for(span_ms if span_ms is not None else self._span(), lambda: self._thaw(node, life))

    def _thaw(self, node: SimNode, life: object) -> None:
        if node.pg.life is life:
            self.world.say("FAULT PostgreSQL of {} goes on", node.name)
            node.pg.thaw()

    def freeze_node(self, node: SimNode | None = None, span_ms: float | None = None) -> None:
        """A machine stands still."""
        node = node or self._node()
        if node.noded is None or node.noded.frozen:
            return
        self.world.say("FAULT {} stands still", node.name)
        node.freeze()
        self._for(span_ms if span_ms is not None else self._span(), node.thaw)

    def kill_noded(self, node: SimNode | None = None) -> None:
        """kill -9 of a noded; its supervisor starts it again."""
        node = node or self._node()
        if not node.is_up:
            return
        self.world.say("FAULT noded of {} is killed", node.name)
        node.kill_noded()
        self._for(self.world.jitter(100, 2000), lambda: node.boot() if node.is_up else None)

    def freeze_proxy(self) -> None:
        """A proxy stands still, and finds frames that have waited for it."""
        proxy = self.rng.choice(self.cluster.proxies)
        self.world.say("FAULT {} stands still", proxy.name)
        self.world.freeze(proxy)
        self._for(self._span(), lambda: self.world.thaw(proxy))

    def slow_disk(self, node: SimNode | None = None) -> None:
        """fsync takes long."""
        node = node or self._node()
        node.pg.fsync_ms = self.world.jitter(20, 400)
        self.world.say("FAULT the disk of {} is slow", node.name)
        self._for(self._span(), lambda: setattr(node.pg, "fsync_ms", 1.0))

    def stall_startup(self, node: SimNode | None = None) -> None:
        """Replay stands still."""
        node = node or self._node()
        node.pg.stall_startup(self.world.jitter(200, 2500))

    def restart_all(self) -> None:
        """The power of all of them goes."""
        for node in self.cluster.nodes.values():
            self.power_off(node, self.world.jitter(100, 2000))

    def wipe(self, node: SimNode | None = None) -> None:
        """A data directory is gone; rarely, and never while the cluster is not complete."""
        if self.wipes or not self.cluster.is_complete():
            return
        node = node or self._node()
        self.wipes += 1
        self.world.say("FAULT the data of {} is gone", node.name)
        node.wipe()
        self._for(self.world.jitter(50, 300), lambda: node.boot() if node.is_up else None)

    # The network

    def _cut(self, left: list[str], right: list[str], span_ms: float, *, both: bool = True) -> None:
        reset = self.rng.random() < 0.5
        links = [(a, b) for a in left for b in right] + ([(b, a) for a in left for b in right] if both else [])
        net = self.cluster.net
        for link in links:
            net.cut(*link, reset=reset)
        self.world.say("FAULT {} cannot reach {}{}", left, right, "" if both else " (one way)")

        def mend() -> None:
            for link in links:
                net.mend(*link)
            self.world.say("FAULT {} can reach {} again", left, right)

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
        self.world.say("FAULT {} to {} takes {:.0f} ms", *link, delays[link])
        self._for(self._span(), lambda: _forget(delays, link))

    def reset_stream(self) -> None:
        """Connections between two nodes break, and can be made again."""
        left, right = self.rng.sample(list(self.cluster.nodes), 2)
        self._cut([left], [right], self.world.jitter(5, 60))

    def storm(self) -> None:
        """For some seconds many messages come late, twice or never."""
        net = self.cluster.net
        net.late = 0.2
        self._for(4000.0, lambda: setattr(net, "late", LATE))

    # Managers, store, operator

    def pause_manager(self) -> None:
        """A manager stands still and goes on with what it knew."""
        manager = self.rng.choice(self.cluster.managers)
        self.world.say("FAULT {} stands still", manager.name)
        manager.pause()
        self._for(self.world.jitter(50, 4000), manager.resume)

    def crash_manager(self) -> None:
        """A manager dies and is started again."""
        manager = self.rng.choice(self.cluster.managers)
        self.world.say("FAULT {} is killed", manager.name)
        manager.crash()
        self._for(self.world.jitter(100, 2500), manager.start)

    def lose_store(self) -> None:
        """The store is out of reach for a manager or for all."""
        names = self.cluster.managers_names
        left = names if self.rng.random() < 0.5 else [self.rng.choice(names)]
        self._cut(left, [STORE], self._span(), both=self.rng.random() < 0.6)

    def ask_switchover(self) -> None:
        """An operator wants another writer."""
        to = self.rng.choice(list(self.cluster.nodes)) if self.rng.random() < 0.6 else None
        for manager in self.cluster.managers:
            if manager.process is not None and not manager.process.frozen:
                name = self.cluster.nodes[to].name if to else None
                kind = self.rng.choice((RequestKind.FAILOVER, RequestKind.SWITCHOVER))
                manager.process.ask(Request(kind=kind, to=name, asked_at_ms=self.world.now))

    def roll_back(self) -> None:
        """The store is restored from a copy of an earlier epoch."""
        store = self.cluster.store
        if store.document is None or self.cluster.checks.rolled_back or store.document.voters is None:
            return
        epoch = store.document.epoch
        old = [one for one in store.history if one.epoch < epoch and one.voters == store.document.voters]
        if not old or len(store.document.voters.members) < 3:
            return
        to = self.rng.choice(old)
        self.world.say("FAULT the store goes back from epoch {} to {} revision {}", epoch, to.epoch, to.revision)
        store.roll_back(to)

    # Compound faults

    def lose_candidate(self) -> None:
        """The writer fails, and its successor is cut off when it is promoted and not opened yet."""
        writer = self.cluster.writer()
        if writer is None:
            return
        self.power_off(writer, self.world.jitter(900, 3000))
        give_up_ms = self.world.now + 3000

        def look() -> None:
            document = self.cluster.store.document
            if self.world.now >= min(give_up_ms, self.until_ms) or document is None:
                return
            if document.writer is None and document.candidate is not None:
                node = self.cluster.nodes[document.candidate.node]
                if node.pg.life is not None and node.pg.life.role is Role.PRIMARY:
                    others = [*self._others(node.name), *self.cluster.others]
                    if self.rng.random() < 0.5:
                        others = self.cluster.managers_names
                    self._cut([node.name], others, self.world.jitter(800, 3000))
                    return
            self.world.after(self.rng.choice((1.0, 4.0, 12.0)), None, look)

        look()

    def twice(self) -> None:
        """The writer fails, and soon after its successor, while the first one comes back."""
        first = self.cluster.writer()
        if first is None:
            return
        kind = self.rng.randrange(3)
        span_ms = self.world.jitter(600, 2500)
        if kind == 0:
            self.power_off(first, span_ms)
        elif kind == 1:
            self.freeze_postgres(first, span_ms)
        else:
            self._cut([first.name], [*self._others(first.name), *self.cluster.others], span_ms)
        self._later(self.world.jitter(300, 2600), self._second)

    def _second(self) -> None:
        second = self.cluster.writer() or self._node()
        if self.rng.random() < 0.5:
            self.power_off(second)
        else:
            self.freeze_node(second)

    def wandering_cut(self) -> None:
        """The writer is cut off piece by piece: from the manager, from the voters, a proxy with it."""
        writer = self.cluster.writer()
        if writer is None:
            return
        proxy = self.rng.choice(self.cluster.proxies_names)
        managers, others = self.cluster.managers_names, self._others(writer.name)
        span_ms = self.world.jitter(1200, 3500)
        if self.rng.random() < 0.3:
            self._cut([*managers, STORE, *others], [writer.name, proxy], span_ms)
            return
        alone_ms = self.world.jitter(0, 300)
        self._cut(managers, [writer.name], span_ms)
        self._later(alone_ms, lambda: self._cut(others, [writer.name, proxy], span_ms))
        self._later(self.world.jitter(50, alone_ms + 600), lambda: self._cut(managers, [proxy], span_ms))

    def reconnect_to_frozen(self) -> None:
        """A standby loses its connection and connects to a writer that stands still (E2)."""
        writer = self.cluster.writer()
        if writer is None:
            return
        other = self.cluster.nodes[self.rng.choice(self._others(writer.name))]
        self._cut([other.name], [writer.name], self.world.jitter(5, 40))
        freeze = self.freeze_node if self.rng.random() < 0.75 else self.freeze_postgres
        freeze(writer, self.world.jitter(650, 1900))
        if self.rng.random() < 0.5:
            self._cut(self.cluster.managers_names, [writer.name], self.world.jitter(2000, 3000))
        self._later(self.world.jitter(150, 500), lambda: other.pg.stall_startup(self.world.jitter(500, 2500)))

    def wipe_while_lagging(self) -> None:
        """A voter is far behind while another one loses its data, and then the writer goes."""
        writer = self.cluster.writer()
        if writer is None or self.wipes or len(self.cluster.nodes) < 3:
            return
        lagging, wiped = self.rng.sample(self._others(writer.name), 2)
        self.clog(writer.name, lagging)
        self._later(self.world.jitter(30, 300), lambda: self.wipe(self.cluster.nodes[wiped]))
        self._later(self.world.jitter(300, 1500), lambda: self.power_off(writer))

    def promise_then_crash(self) -> None:
        """Voters lose their power, or their noded, in the middle of a failover."""
        writer = self.cluster.writer()
        if writer is None:
            return
        self._cut([writer.name], [*self.cluster.managers_names, STORE], self.world.jitter(500, 1500))
        if self.rng.random() < 0.6:
            self.freeze_postgres(writer, self.world.jitter(620, 1500))
        other = self.cluster.nodes[self.rng.choice(self._others(writer.name))]
        crash = self.power_off if self.rng.random() < 0.6 else self.kill_noded
        if crash == self.power_off:
            self._later(self.world.jitter(500, 1200), lambda: self.power_off(other, self.world.jitter(20, 200)))
        else:
            self._later(self.world.jitter(500, 1200), lambda: self.kill_noded(other))

    def old_tail(self) -> None:
        """An old writer grows a long tail of its own, its successor a short one; then only the old one and another are left."""
        writer = self.cluster.writer()
        if writer is None:
            return
        second_ms = self.world.jitter(800, 2200)
        heal_ms = second_ms + self.world.jitter(-60, 300)
        self._cut([writer.name], [*self._others(writer.name), *self.cluster.managers_names], heal_ms)
        records = self.rng.randint(20, 300)

        def burst() -> None:
            for _ in range(records):
                writer.pg.chatter()

        self._later(self.world.jitter(20, 400), burst)

        def second() -> None:
            successor = self.cluster.writer()
            if successor is not None and successor is not writer:
                self.power_off(successor, self.world.jitter(1500, 4000))

        self._later(second_ms, second)

    def crash_while_lagging(self) -> None:
        """One voter is behind, the other one restarts, and then the writer goes: only the restarted one has everything."""
        writer = self.cluster.writer()
        if writer is None:
            return
        lagging, restarted = self.rng.sample(self._others(writer.name), 2)
        self.clog(writer.name, lagging)
        at_ms = self.world.jitter(80, 500)
        node = self.cluster.nodes[restarted]
        self._later(at_ms, node.pg.crash)
        self._later(at_ms + self.world.jitter(-40, 60), lambda: self.power_off(writer, self.world.jitter(1500, 4000)))


def _forget(delays: dict[tuple[str, str], float], link: tuple[str, str]) -> None:
    delays.pop(link, None)
