"""Faults, drawn more often than life has them.

Each is begun and, after a while, ended.  Some are drawn together, in the order in which a sentence of the law is needed: a
second failure right after the first, a cut that follows another by less than a lease.
"""

from __future__ import annotations

from collections.abc import Callable

from pgtopology.node import Role
from pgtopology.orders import CloneOrder, Upstream
from pgtopology.timeline import TOLD_MAX
from tests.sim.cluster import Cluster
from tests.sim.node import SimNode
from tests.sim.operators import Operators
from tests.sim.store import HOST as STORE
from tests.sim.switches import Switch

MUTE_FOR_MS = 14_000.0
"""Longer than a server is silent before it may be replaced."""


class Faults(Operators):
    """Draws single and compound faults."""

    def __init__(self, cluster: Cluster, focus: str | None = None) -> None:
        super().__init__(cluster)
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
            (1, self.promote_by_hand),
            (3, self.repeat_orders),
            (3, self.twice),
            (2, self.wandering_cut),
            (2, self.reconnect_to_frozen),
            (2, self.wipe_while_lagging),
            (2, self.promise_then_crash),
            (2, self.lose_candidate),
            (2, self.old_tail),
            (2, self.crash_while_lagging),
            (2, self.hang_among_new),
            (1, self.usurp),
            (1, self.strange_hand),
            (1, self.hand_on_cut_off),
            (1, self.crash_cut_off),
            (1, self.split),
            (1, self.lose_most),
            (1, self.give_up_voters),
            (1, self.pause),
            (1, self.stop_node),
            (1, self.reinit),
            (1, self.remove_node),
            (1, self.lose_state),
            (1, self.mute),
        ]
        self._focus = getattr(self, focus) if focus is not None else self._choose_focus()
        if self.rng.random() < 0.3 or cluster.broken is Switch.NO_REVISION:
            self.storm()
        if cluster.may_roll_back:
            self._menu.append((4, self.roll_back))

    def _choose_focus(self) -> Callable[[], None] | None:
        """Most runs dwell on one of the compound faults; a broken run on the one that its sentence is about."""
        compound = {
            Switch.RECEIVER_VIEW: self.reconnect_to_frozen,
            Switch.PROMISE_WITHOUT_STOP: self.promise_then_crash,
            Switch.TIMELINE_REUSE: self.lose_candidate,
            Switch.SECOND_CANDIDATE: self.lose_candidate,
            Switch.RECEIVED_ONLY: self.crash_while_lagging,
            Switch.ANSWER_DURING_REPLAY: self.crash_while_lagging,
            Switch.ANY_CONTROL_FILE: self.crash_while_lagging,
            Switch.CONTROL_FILE_TIMELINE: self.old_tail,
            Switch.LSN_BEFORE_EPOCH: self.old_tail,
            Switch.WIPED_COUNTS: self.wipe_while_lagging,
            Switch.CONFIGURATION_NOT_FSYNCED: self.promise_then_crash,
            Switch.OPEN_AT_ONCE: self.wandering_cut,
            Switch.FOREIGN_FOLLOWS: self.usurp,
            Switch.NARROW_FIRST: self.remove_node,
            Switch.RECORD_UNKNOWN: self.remove_node,
            Switch.STRANGE_HANDS: self.strange_hand,
            Switch.SURVIVOR_MISSED: self.lose_most,
            Switch.NEEDLESS_LOSS: self.give_up_voters,
            Switch.LEFT_OUT_COUNT: self.lose_most,
            Switch.STALE_ROUTE: self.wandering_cut,
            Switch.LONE_HEARTBEAT: self.hand_on_cut_off,
            Switch.CANCELLED_WAIT: self.crash_while_lagging,
            Switch.ACKNOWLEDGED_BY_NAME: self.crash_while_lagging,
            Switch.STARTS_AS_PRIMARY: self.crash_cut_off,
            Switch.OPEN_UNPROVEN: self.crash_cut_off,
            Switch.PAUSE_IGNORED: self.pause,
            Switch.LEASE_IGNORED: self.split,
            Switch.BLIND_WRITES: self.split,
            Switch.NO_REVISION: self.repeat_orders,
        }
        drawn = self.rng.choice([*dict.fromkeys(compound.values()), None, None, None])
        return drawn if self.cluster.broken is None else compound.get(self.cluster.broken)

    def begin(self, until_ms: float) -> None:
        """Draw faults until then."""
        self.until_ms = until_ms
        self._draw()

    def _draw(self) -> None:
        if self.world.now >= self.until_ms:
            return
        if self._focus is not None and self.rng.random() < 0.4:
            self.world.counts[f"compound {self._focus.__name__}"] += 1
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
        if writer is None or self.lost_copies or len(self.cluster.nodes) < 3:
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
        self._cut([writer.name], [*self.cluster.managers_names, STORE], self.world.jitter(900, 2000))
        if self.rng.random() < 0.8:
            self.freeze_postgres(writer, self.world.jitter(620, 1300))
        other = self.cluster.nodes[self.rng.choice(self._others(writer.name))]
        crash = self.power_off if self.rng.random() < 0.6 else self.kill_noded
        if crash == self.power_off:
            self._later(self.world.jitter(600, 1100), lambda: self.power_off(other, self.world.jitter(20, 200)))
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

    def hang_among_new(self) -> None:
        """The standbys have just been started when the writer's PostgreSQL hangs: only that it takes no connection tells."""
        writer = self.cluster.writer()
        if writer is None:
            return
        self.freeze_postgres(writer, self.world.jitter(1700, 3500))
        for name in self._others(writer.name):
            self.crash_postgres(self.cluster.nodes[name])

    def usurp(self) -> None:
        """While a failover goes on elsewhere, somebody promotes a standby by hand whose noded is dead, and uses it."""
        writer = self.cluster.writer()
        if writer is None:
            return
        node = self.cluster.nodes[self.rng.choice(self._others(writer.name))]
        away_ms = self.world.jitter(300, 2500)
        node.kill_noded()
        self._for(away_ms, lambda: node.boot() if node.is_up else None)
        fails = self.rng.random() < 0.7
        if fails:
            self.power_off(writer, self.world.jitter(900, 3000))
        if self.rng.random() < 0.6:
            self._cut([node.name], self._others(node.name), away_ms)

        def use() -> None:
            self.promote_by_hand(node)
            self._later(self.world.jitter(70, 150), burst)
            if self.rng.random() < 0.3:
                self._later(self.world.jitter(100, away_ms), node.pg.crash)

        def burst() -> None:
            for _ in range(self.rng.randint(1, 40)):
                node.pg.chatter()

        self._later(self.world.jitter(0, away_ms), use)

    def hand_on_cut_off(self) -> None:
        """The writer is cut off together with a proxy, and somebody there empties its list, so that it acknowledges itself."""
        writer = self.cluster.writer()
        if writer is None:
            return
        cut_off = [writer.name, self.rng.choice(self.cluster.proxies_names)]
        rest = [name for name in [*self.cluster.nodes, *self.cluster.others, STORE] if name not in cut_off]
        self._cut(rest, cut_off, self.world.jitter(1800, 3500))
        for _ in range(3):
            self._later(self.world.jitter(600, 1700), lambda: self.strange_hand(writer))

    def crash_cut_off(self) -> None:
        """The writer is cut off from the voters and crashes, and soon its machine too: what it had not sent is only there."""
        writer = self.cluster.writer()
        if writer is None:
            return
        span_ms = self.world.jitter(1500, 3500)
        self._cut([writer.name], self._others(writer.name), span_ms)
        if self.rng.random() < 0.7:
            self._cut(self.cluster.managers_names, [writer.name], self.world.jitter(200, 1500))
        at_ms = self.world.jitter(50, 500)
        self._later(at_ms, writer.pg.crash)
        if self.rng.random() < 0.7:
            self._later(at_ms + self.world.jitter(300, 1200), lambda: self.power_off(writer, self.world.jitter(1500, 4000)))

    def split(self) -> None:
        """The leading manager, the writer and a proxy are on one side, everybody else and the store on the other."""
        writer, leader = self.cluster.writer(), self._leader()
        if writer is None or leader is None:
            return
        proxy = self.rng.choice(self.cluster.proxies_names)
        left = [leader.host.name, writer.name, proxy]
        right = [name for name in [*self.cluster.nodes, *self.cluster.others, STORE] if name not in left]
        self._begin("split", "the leader and the writer are on a side of their own")
        self._cut(left, right, self.world.jitter(2500, 5000))

    def lose_state(self) -> None:
        """The state of a standby's noded is lost: the node is quarantined until an operator has it made anew."""
        node = self._to_spare()
        if node is None:
            return
        self.lost_copies += 1
        self._begin("lose_state", "the state of {} is lost", node.name)
        node.lose_state(damaged=self.rng.random() < 0.5)
        self.world.after(self.world.jitter(100, 1000), None, node.boot)
        self.world.after(self.world.jitter(1000, 4000), None, self._make_anew, node)

    def _make_anew(self, node: SimNode) -> None:
        """Give the order again until the quarantine is lifted."""
        noded, writer, document = node.noded, self.cluster.writer(), self.cluster.store.document
        if noded is not None and noded.started_up and noded.memory.blocked is None:
            return
        if noded is not None and noded.started_up and writer is not None and document is not None:
            order = CloneOrder(
                cluster=document.cluster,
                node=node.name,
                system_identifier=document.system_identifier,
                epoch=document.epoch,
                revision=document.revision,
                voters=document.voters,
                timelines=document.timelines[-TOLD_MAX:],
                source=Upstream(writer.name, next(spec.address for spec in self.cluster.specs if spec.name == writer.name)),
                destroys=node.state.incarnation,
                by_operator=True,
            )
            noded.receive(order, _ignore)
        self.world.after(1000.0, None, self._make_anew, node)

    def mute(self) -> None:
        """A standby's PostgreSQL ends, and its next one accepts connections but answers nothing for long."""
        node = self._to_spare()
        if node is None or node.pg.life is None:
            return
        self._begin("mute", "PostgreSQL of {} will answer nothing after its next start", node.name)
        self._silence(node, node.pg.life, self.world.now + 2000.0)
        node.pg.crash()

    def _silence(self, node: SimNode, old: object, until_ms: float) -> None:
        life, noded = node.pg.life, node.noded
        if life is not None and life is not old and life.ready and noded is not None and noded.reporter.facts.role is Role.NONE:
            node.pg.freeze()
            self._for(MUTE_FOR_MS, lambda: self._thaw(node, life))
        elif self.world.now < until_ms:
            self.world.after(1.0, None, self._silence, node, old, until_ms)

    def _to_spare(self) -> SimNode | None:
        """Return a standby that the cluster, which is whole, does without."""
        writer = self.cluster.writer()
        if writer is None or self.lost_copies or not self.cluster.is_complete():
            return None
        node = self.cluster.nodes[self.rng.choice(self._others(writer.name))]
        return node if self._can_spare(node) else None


def _ignore(_: object) -> None:
    pass
