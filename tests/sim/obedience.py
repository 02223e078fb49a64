"""What a simulated noded does with each order: accept by the real rules, make durable, act.

The sequences are those of `noded.orders`, `node` and `promotion`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from noded import promise as rules
from noded.promise import Circumstances, State, Work
from pgtopology.node import Position, Role
from pgtopology.orders import (
    Acknowledged,
    CheckpointOrder,
    CloneOrder,
    ConfigureOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseAnswer,
    PromiseOrder,
    PromoteOrder,
    Refusal,
    RewindOrder,
    SettingsAnswer,
    SettingsOrder,
    StartOrder,
    StopMode,
    StopOrder,
)
from pgtopology.quorum import synchronous_standby_names
from tests.sim.copies import Copies
from tests.sim.machine import OrderRefused
from tests.sim.processes import lsn_of, parse_names
from tests.sim.switches import Switch
from tests.sim.world import Waits

Outcome = msgspec.Struct | tuple[str, str]
"""An answer, or a refusal's code and message."""
Reply = Callable[[Outcome], None]


class Obedience(Copies):
    """Takes orders."""

    def receive(self, order: Order, reply: Reply) -> None:
        """An order arrives over the network."""
        if not self.taken_up:
            reply(("unavailable", "noded is starting"))
            return
        self.world.spawn(self, self._handled(order), reply)

    def _handled(self, order: Order) -> Waits:
        try:
            match order:
                case PromiseOrder():
                    return (yield from self._promise(order))
                case FollowOrder():
                    return (yield from self._follow(order))
                case PromoteOrder():
                    return (yield from self._promote(order))
                case SettingsOrder():
                    return (yield from self._settings(order))
                case CheckpointOrder():
                    return (yield from self._checkpoint(order))
                case InitOrder():
                    return (yield from self._init(order))
                case ConfigureOrder():
                    return (yield from self._configure(order))
                case StopOrder():
                    return (yield from self._stop_ordered(order))
                case StartOrder():
                    return (yield from self._start_ordered(order))
                case CloneOrder():
                    return (yield from self._begin(order, Work.CLONE))
                case RewindOrder():
                    return (yield from self._begin(order, Work.REWIND))
                case _:
                    raise AssertionError(order)
        except OrderRefused as refused:
            return refused.code, refused.message

    def _accept(self, order: Order, *, primary: bool, change: Callable[[State], State] = lambda state: state) -> None:
        judged = order
        if self.broken is Switch.NO_REVISION and order.epoch == self.state.seen.epoch:
            judged = replace(order, revision=max(order.revision, self.state.seen.revision))
        standby = self.pg.life is not None and self.facts.role is Role.STANDBY
        refused = rules.refusal(self.state, judged, Circumstances(primary=primary, standby=standby, busy=self.work))
        if refused is not None:
            raise OrderRefused(str(refused.reason), refused.message)
        self.store(change(rules.see(self.state, order)))

    def _check_not_overtaken(self, order: Order) -> None:
        state = self.state
        newer = state.promised > order.epoch or state.seen.epoch > order.epoch
        if self.broken is not Switch.NO_REVISION:
            newer = newer or (state.seen.epoch, state.seen.revision) > (order.epoch, order.revision)
        if newer:
            raise OrderRefused(str(Refusal.STALE), "a newer order came meanwhile")

    def _promise(self, order: PromiseOrder) -> Waits:
        deadline = self.world.now + order.deadline_ms - 50
        seen = self.state.seen
        self._accept(order, primary=False, change=lambda state: rules.promise(state, order.epoch))
        # The real noded stands still while it fsyncs, so nothing comes between the promise and its turn.
        yield self.turn
        try:
            yield self._fsync_ms()
            self._check_not_overtaken(order)
            was_primary, position, unknown = yield from self._fence(order)
        finally:
            self.turn.release()
            self.poke()
        if position is None and not unknown:
            found = yield from self._read_position(deadline)
            self._check_not_overtaken(order)
            if self.state.following is not None:
                unknown = "it was told to follow meanwhile"
            elif isinstance(found, Position):
                position = found
            else:
                unknown = found
        state = self.state
        self.host.checks.promised(self.host.name, order.epoch)
        self.world.say("{}: promised {} at {} {}", self.host.name, state.promised, position, unknown)
        return PromiseAnswer(
            node=state.node,
            promised=state.promised,
            incarnation=state.incarnation,
            system_identifier=state.system_identifier,
            whole=state.whole,
            seen=seen,
            position=position,
            unknown_because=unknown,
            was_primary=was_primary,
        )

    def _fence(self, order: PromiseOrder) -> Waits:
        pg = self.pg
        if self.work is not None:
            pg.password_for = None
            return False, None, f"{self.work} is under way"
        if not pg.exists:
            return False, None, "there is no data"
        if self.state.work is not None:
            self._stop_now()
            return False, None, f"an unfinished {self.state.work} left the data unusable"
        if self.broken is Switch.PROMISE_WITHOUT_STOP and pg.life is not None and pg.life.role is Role.PRIMARY:
            return True, None, ""
        self._end_heartbeat()
        was_primary, position = yield from self._cut(stop_mode=order.stop_mode)
        return was_primary, position, ""

    def _configure(self, order: ConfigureOrder) -> Waits:
        self._accept(order, primary=False)
        yield self.turn
        try:
            yield self._fsync_ms()
            self._check_not_overtaken(order)
            self.store(replace(self.state, desired=order.desired))
        finally:
            self.turn.release()
            self.poke()
        return Acknowledged(node=self.state.node)

    def _follow(self, order: FollowOrder) -> Waits:
        self._accept(order, primary=(yield from self._is_primary()))
        yield self._fsync_ms()
        yield self.turn
        try:
            self._check_not_overtaken(order)
            if (yield from self._is_primary()):
                raise OrderRefused(str(Refusal.RUNNING_PRIMARY), "this node has become a primary meanwhile")
            self.store(rules.follow(self.state, order.upstream, order.epoch))
            self._start_or_reload()
        finally:
            self.turn.release()
            self.poke()
        return Acknowledged(node=self.state.node)

    def _promote(self, order: PromoteOrder) -> Waits:
        self._accept(order, primary=False)
        yield self._fsync_ms()
        deadline = self.world.now + order.deadline_ms - 50
        promotion = self.state.promotion
        if (self.promotion is None or self.promotion.ended) and (promotion is None or promotion.epoch != order.epoch):
            if self.pg.life is None or not self.pg.life.ready:
                raise OrderRefused(str(Refusal.FAILED), "PostgreSQL does not accept connections yet")
            self.promotion = self.world.spawn(self, self._promoting(order))
        while self.promotion is not None and not self.promotion.ended:
            if self.world.now >= deadline:
                return Acknowledged(node=self.state.node, done=False)
            yield 5.0
        done = rules.Promotion(order.epoch, order.timeline)
        if self.state.promotion == done and (yield from self._is_primary()):
            return Acknowledged(node=self.state.node)
        raise OrderRefused(str(Refusal.FAILED), self.problem or "the promotion did not happen")

    def _promoting(self, order: PromoteOrder) -> Waits:
        yield self.turn
        pg = self.pg
        try:
            state = self.state
            if state.promised != order.epoch or (state.promotion is not None and state.promotion.epoch >= order.epoch):
                return
            self.promoting = True
            self.problem = None
            yield self._fsync_ms()
            promotion = rules.Promotion(order.epoch, order.timeline)
            self.store(replace(self.state, promotion=promotion, in_force=order.voters, following=None))
            self.list_is_proven = bool(synchronous_standby_names(order.voters, state.node))
            yield self._fsync_ms()
            life = pg.life
            self.configure(rules.writer_configuration(self.state))
            if life is not None and self.broken is Switch.EMPTY_NAMES and self.world.rng.random() < 0.5:
                self._reload_busy()
            else:
                pg.reload()
            if self.broken is not Switch.TIMELINE_REUSE:
                pg.placeholders = order.timeline - 1
            pg.promote(order.epoch)
            while True:
                if self.state.promised != order.epoch or pg.life is None or pg.life is not life:
                    self.problem = "the promotion failed: a newer promise was given, or PostgreSQL ended"
                    self._stop_now()
                    return
                if pg.life.role is Role.PRIMARY and not pg.life.frozen:
                    break
                yield 4.0
            if pg.timeline != order.timeline:
                self.problem = f"the promotion failed: PostgreSQL chose timeline {pg.timeline}"
                self._stop_now()
                return
            self._begin_heartbeat(order.epoch)
            self.world.say("{}: promoted in epoch {} to timeline {}", self.host.name, order.epoch, order.timeline)
        finally:
            self.promoting = False
            self.turn.release()
            self.poke()

    def _reload_busy(self) -> None:
        """A reload while the checkpointer is busy with a restartpoint (S1)."""
        pg, life = self.pg, self.pg.life
        defined, names = (life.sync_defined, life.names_checkpointer) if life is not None else (False, "")
        by_hand = life is not None and life.by_hand
        pg.reload()
        if life is not None:

            def forget() -> None:
                life.sync_defined, life.names_checkpointer, life.by_hand = defined, names, by_hand

            def read() -> None:
                life.sync_defined = bool(pg.conf_names)
                life.names_checkpointer = pg.conf_names
                life.by_hand = pg.conf_by_hand

            for after_ms in (9.0, 905.0):
                self.world.after(after_ms, life, forget)
            self.world.after(1000.0, life, read)

    def _settings(self, order: SettingsOrder) -> Waits:
        self._accept(order, primary=(yield from self._is_primary()))
        deadline = self.world.now + order.deadline_ms - 50
        pg, name, wanted = self.pg, self.state.node, order.in_force
        yield self._fsync_ms()
        yield self.turn
        try:
            self._check_not_overtaken(order)
            before, was_empty = self.state.in_force, not self.list_is_proven
            bounce = before is not None and 0 < before.others_needed(name) < wanted.others_needed(name)
            self.store(replace(self.state, in_force=wanted))
            self.list_is_proven = False
            if pg.life is None:
                self.start()
            else:
                self.configure(rules.writer_configuration(self.state))
                pg.reload()
        finally:
            self.turn.release()
            self.poke()
        names = synchronous_standby_names(wanted, name)
        self.world.say("{}: is to wait for {!r} (revision {})", name, names, order.revision)
        listed = parse_names(names)
        life = pg.life
        barrier: list[int] = []
        bounced = asked = False
        while self.world.now < deadline:
            if life is None or life.dead:
                raise OrderRefused(str(Refusal.FAILED), "PostgreSQL ended")
            if life.names_shown == names and (not (was_empty and names) or life.names_checkpointer == names):
                if self.state.in_force == wanted:
                    self.list_is_proven = bool(names)
                if bounce and not bounced:
                    bounced = True
                    pg.bounce_senders()
                agree = all((sender.name in sender.names[1]) == (sender.name in listed[1]) for sender in life.senders)
                if agree and not asked and life.role is Role.PRIMARY and not life.frozen:
                    asked = True
                    pg.commit(lambda: barrier.append(pg.flushed))
                if barrier:
                    break
            yield 10.0
        else:
            raise OrderRefused(str(Refusal.FAILED), "no quorum acknowledged a commit under the list in time")
        self._check_not_overtaken(order)
        self.poke()
        return SettingsAnswer(node=name, in_force=wanted, barrier_lsn=lsn_of(barrier[0]))

    def _checkpoint(self, order: CheckpointOrder) -> Waits:
        self._accept(order, primary=False)
        yield self.world.jitter(5, 300)
        if self.pg.life is None or self.pg.life.frozen:
            raise OrderRefused(str(Refusal.FAILED), "the checkpoint was not completed")
        self.pg.checkpoint_now()
        return Acknowledged(node=self.state.node)

    def _stop_ordered(self, order: StopOrder) -> Waits:
        self._accept(order, primary=False)
        yield self._fsync_ms()
        yield self.turn
        try:
            self._check_not_overtaken(order)
            self.store(replace(self.state, wanted=False))
            self._end_heartbeat()
            yield from self._stop(order.mode)
        finally:
            self.turn.release()
            self.poke()
        return Acknowledged(node=self.state.node)

    def _start_ordered(self, order: StartOrder) -> Waits:
        """Stop and start, which is what a manager asks for."""
        self._accept(order, primary=False)
        yield self._fsync_ms()
        yield self.turn
        try:
            self._check_not_overtaken(order)
            self.store(replace(self.state, wanted=True))
            self._end_heartbeat()
            yield from self._stop(StopMode.FAST)
            self._start_or_reload()
        finally:
            self.turn.release()
            self.poke()
        return Acknowledged(node=self.state.node)

    def _init(self, order: InitOrder) -> Waits:
        self._accept(order, primary=False)
        yield self._fsync_ms()
        if self.work is None:
            if self.pg.exists:
                raise OrderRefused(str(Refusal.HAS_DATA), "there is data")
            self._begin_work(Work.INIT, self._initialise())
        return Acknowledged(node=self.state.node, done=False)

    def _begin(self, order: CloneOrder | RewindOrder, work: Work) -> Waits:
        self._accept(order, primary=(yield from self._is_primary()))
        if self.work is None and not rules.is_done(self.state, order):
            yield self.turn
            try:
                self._check_not_overtaken(order)
                if (yield from self._is_primary()):
                    raise OrderRefused(str(Refusal.RUNNING_PRIMARY), "this node has become a primary meanwhile")
                if self.work is None and not rules.is_done(self.state, order):
                    marked = rules.begin(self.state, work)
                    if self.broken is Switch.WIPED_COUNTS:
                        marked = replace(marked, whole=self.state.whole)
                    self.store(rules.follow(marked, order.source, order.epoch))
                    doing = self._clone(order.source) if work is Work.CLONE else self._rewind(order.source, order.revision)
                    self._begin_work(work, doing)
            finally:
                self.turn.release()
        return Acknowledged(node=self.state.node, done=False)

    def _start_or_reload(self) -> None:
        if self.state.work is not None:
            self.problem = f"an unfinished {self.state.work} left the data unusable"
            raise OrderRefused(str(Refusal.FAILED), self.problem)
        if self.pg.life is not None:
            self.configure(rules.standby_configuration(self.state))
            self.pg.reload()
        else:
            self.start()
        self.problem = None
