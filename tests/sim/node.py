"""One simulated host with its noded: the real promise rules on a simulated PostgreSQL.

The sequences (accept, make durable, act; what a promise cuts, when a position is known, how a promotion is proven) are those
of `noded.orders`, `fence`, `promotion`, `takeup` and `copies`, as tasks of simulated time.  What a power failure leaves is
`disk`; what a killed noded leaves is `disk` and a running PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from noded import promise as rules
from noded.promise import Circumstances, State, Work
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.node import Incarnation, NodeName, Position, Role
from pgtopology.observation import Activity, Heartbeat, Observation, Postmaster, PostmasterState, Receiver, Walsender
from pgtopology.orders import (
    Acknowledged,
    CheckpointOrder,
    CloneOrder,
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
    StopMode,
    Upstream,
)
from pgtopology.quorum import synchronous_standby_names
from pgtopology.timeline import Timeline
from tests.sim.checks import Checks
from tests.sim.network import Network
from tests.sim.postgres import SEGMENT, TIMEOUT_MS, Postgres, lsn_of, parse_names
from tests.sim.switches import Switch
from tests.sim.world import Lock, Owner, Task, Waits, World

ROUND_MS = 200.0
SYSTEM_IDENTIFIER = "7000000000000000001"
CLUSTER = "sim"
_ACTIVITIES = {Work.INIT: Activity.INITIALISING, Work.CLONE: Activity.CLONING, Work.REWIND: Activity.REWINDING}

Reply = Callable[["Outcome"], None]
Outcome = msgspec.Struct | tuple[str, str]
"""An answer, or a refusal's code and message."""


class OrderRefused(Exception):  # noqa: N818 - it says what was done
    """An order is not carried out."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SimNode:
    """A host: disks, power, and whatever runs."""

    def __init__(
        self, world: World, net: Network, checks: Checks, name: NodeName, peers: dict[str, Postgres], broken: Switch | None
    ) -> None:
        self.world = world
        self.net = net
        self.checks = checks
        self.name = name
        self.broken = broken
        self.pg = Postgres(world, net, checks, name, peers)
        self.pg.on_exit = self._pg_exited
        self.disk = State(cluster=CLUSTER, node=name)
        self.is_up = True
        self.noded: Noded | None = None
        self.subscribers: dict[str, Callable[[Observation], None]] = {}
        self.unexpected_exit = False
        self._next_pid = 1
        self.boot()

    @property
    def state(self) -> State:
        """What the noded goes by now."""
        return self.noded.state if self.noded is not None else self.disk

    def boot(self) -> None:
        """Start the noded (and the machine, if it is off)."""
        self.is_up = True
        if self.noded is None:
            self._next_pid += 1
            self.noded = Noded(self, self._next_pid)

    def kill_noded(self) -> None:
        """SIGKILL; PostgreSQL lives on as an orphan."""
        if self.noded is not None:
            self.noded.dead = True
            self.noded = None

    def power_off(self) -> None:
        """Everything stops, and what was not fsynced is gone."""
        self.kill_noded()
        self.is_up = False
        self.pg.stop()
        self.pg.lose_unsynced()
        self.checks.data_lost(self)

    def wipe(self) -> None:
        """The disk of the data directory was replaced; the state beside it lives."""
        self.kill_noded()
        self.pg.stop()
        if self.broken is not Switch.WIPED_COUNTS:
            self.pg.clear()
        else:
            self.pg.put(self.pg.wal[: self.world.rng.randint(1, max(1, len(self.pg.wal)))], self.pg.timelines[:1])
            self.pg.timelines = [entry for entry in self.pg.timelines if entry[1] <= len(self.pg.wal)]
        self.checks.data_lost(self)

    def freeze(self) -> None:
        """Freeze the whole machine."""
        if self.noded is not None:
            self.world.freeze(self.noded)
        self.pg.freeze()

    def thaw(self) -> None:
        """Let everything on it go on."""
        if self.noded is not None:
            self.world.thaw(self.noded)
        self.pg.thaw()

    def _pg_exited(self) -> None:
        if self.noded is not None:
            self.world.after(0.3, self.noded, self.noded.bury)


class Noded(Owner):
    """One noded process."""

    def __init__(self, host: SimNode, pid: int) -> None:
        super().__init__()
        self.host = host
        self.world = host.world
        self.pg = host.pg
        self.pid = pid
        self.broken = host.broken
        self.state = host.disk
        self.turn = Lock()
        self.work: Work | None = None
        self.promoting = False
        self.problem: str | None = None
        self.unexpected_exit = False
        self.list_is_proven = False
        self.promotion: Task | None = None
        self.sequence = 0
        self.facts = Facts()
        self.beat_epoch: Epoch | None = None
        self.beat_acknowledged_ms: float | None = None
        self.beat_pending_ms: float | None = None
        self.beat_end: int | None = None
        self.deaf_since_ms: float | None = None
        self.mark: tuple[Any, int, int] | None = None
        self.taken_up = False
        self._publishing = False
        self._beating = 0
        host.checks.state_changed(host.name, self.state.promised, (self.state.seen.epoch, self.state.seen.revision))
        self.world.spawn(self, self._take_up(), self._begin_rounds)

    # Durable state

    def store(self, state: State) -> None:
        """Make *state* durable, and go by it."""
        before = self.state
        if state == before:
            return
        self.state = state
        if self.broken is Switch.PROMISE_NOT_DURABLE and state.promised > self.host.disk.promised:
            late = self.host.disk
            self.host.disk = replace(state, promised=late.promised, seen=late.seen, following=late.following)
            self.world.after(3000.0, self, self._make_durable)
        else:
            self.host.disk = state
        if (state.promised, state.seen) != (before.promised, before.seen):
            self.host.checks.state_changed(self.host.name, state.promised, (state.seen.epoch, state.seen.revision))

    def _make_durable(self) -> None:
        self.host.disk = self.state

    # Orders

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
        refused = rules.refusal(self.state, judged, Circumstances(primary=primary, busy=self.work))
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
        yield self._fsync_ms()
        yield self.turn
        try:
            self._check_not_overtaken(order)
            was_primary, unknown = yield from self._fence(order)
        finally:
            self.turn.release()
            self.poke()
        position: Position | None = None
        if not unknown:
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
            return False, f"{self.work} is under way"
        if not pg.exists:
            return False, "there is no data"
        if self.state.work is not None:
            self._stop_now()
            return False, f"an unfinished {self.state.work} left the data unusable"
        if self.broken is Switch.PROMISE_WITHOUT_STOP and pg.life is not None and pg.life.role is Role.PRIMARY:
            return True, ""
        self._end_heartbeat()
        return (yield from self._cut(stop_mode=order.stop_mode)), ""

    def _cut(self, *, stop_mode: StopMode) -> Waits:
        pg = self.pg
        if pg.life is None:
            self.start()
            return False
        promoting = self.promoting
        role = yield from self._role()
        if promoting or role is not Role.STANDBY:
            was_primary = not pg.standby_signal
            yield from self._stop(StopMode.IMMEDIATE if promoting else stop_mode)
            self.start()
            return was_primary
        self.configure(rules.standby_configuration(self.state))
        pg.reload()
        gone = yield from self._receiver_is_gone()
        if not gone:
            yield from self._stop(StopMode.IMMEDIATE)
            self.start()
        return False

    def _receiver_is_gone(self) -> Waits:
        pg = self.pg
        deadline = self.world.now + 200
        signalled: object = None
        while pg.life is not None:
            receiver = pg.life.receiver
            if self.broken is Switch.RECEIVER_VIEW:
                if receiver is None or not receiver.streaming:
                    return True
            elif receiver is None:
                return True
            if self.world.now >= deadline:
                return False
            if receiver is not signalled:
                signalled = receiver
                pg.signal_receiver()
            yield 1.0
        return False

    def _read_position(self, deadline: float) -> Waits:
        pg = self.pg
        reason = "PostgreSQL is starting"
        while self.world.now < deadline:
            life = pg.life
            if life is None:
                return "PostgreSQL ended"
            if not life.ready or life.frozen:
                yield 6.0
                continue
            if life.role is not Role.STANDBY:
                if self.broken is Switch.PROMISE_WITHOUT_STOP:
                    return Position(timeline=Timeline(pg.timeline), lsn=lsn_of(pg.flushed), replayed_lsn=lsn_of(pg.flushed))
                return "PostgreSQL is not a standby"
            if (life.at_end and life.replayed >= len(pg.wal)) or self.broken is Switch.ANSWER_DURING_REPLAY:
                end = max(life.streamed if life.at_end else 0, life.replayed)
                timeline = max(t for t, begin in pg.timelines if begin <= end)
                if self.broken is Switch.RECEIVED_ONLY:
                    end = life.streamed or life.replayed // SEGMENT * SEGMENT
                if self.broken is Switch.CONTROL_FILE_TIMELINE:
                    timeline = pg.control_timeline
                return Position(timeline=Timeline(timeline), lsn=lsn_of(end), replayed_lsn=lsn_of(life.replayed))
            reason = "local WAL is being replayed"
            yield 4.0
        return reason

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
        """A reload while the checkpointer is busy with a restartpoint (E1, E10)."""
        pg, life = self.pg, self.pg.life
        defined, names = (life.sync_defined, life.names_checkpointer) if life is not None else (False, "")
        pg.reload()
        if life is not None:

            def forget() -> None:
                life.sync_defined, life.names_checkpointer = defined, names

            def read() -> None:
                life.sync_defined = bool(pg.conf_names)
                life.names_checkpointer = pg.conf_names

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
        if self.work is None:
            yield self.turn
            try:
                self._check_not_overtaken(order)
                if (yield from self._is_primary()):
                    raise OrderRefused(str(Refusal.RUNNING_PRIMARY), "this node has become a primary meanwhile")
                if self.work is None:
                    marked = rules.begin(self.state, work)
                    if self.broken is Switch.WIPED_COUNTS:
                        marked = replace(marked, whole=self.state.whole)
                    self.store(rules.follow(marked, order.source, order.epoch))
                    doing = self._clone(order.source) if work is Work.CLONE else self._rewind(order.source)
                    self._begin_work(work, doing)
            finally:
                self.turn.release()
        return Acknowledged(node=self.state.node, done=False)

    # Long work

    def _begin_work(self, work: Work, doing: Waits) -> None:
        self.work, self.problem = work, None
        self.world.spawn(self, doing, self._work_ended)
        self.poke()

    def _work_ended(self, problem: str | None) -> None:
        if problem:
            self.problem = problem
            self.world.say("{}: {} failed: {}", self.host.name, self.work, problem)
        else:
            self.world.say("{}: {} done, {} records", self.host.name, self.work, len(self.pg.wal))
        self.work = None
        self.poke()

    def _initialise(self) -> Waits:
        self.store(rules.begin(self.state, Work.INIT))
        yield self.world.jitter(100, 300)
        self.pg.make()
        bound = rules.new_data(self.state, self._draw_incarnation(), SYSTEM_IDENTIFIER)
        self.store(replace(rules.finish(bound, whole=True), wanted=True))
        yield from self._start_after_work()
        return None

    def _clone(self, source: Upstream) -> Waits:
        yield self.turn
        self._stop_now()
        self.turn.release()
        incarnation = self._draw_incarnation()
        kept = self.state.incarnation
        if not (yield from self._source_stays(source, self.world.jitter(150, 1200))):
            return "clone failed: the source went away"
        self.pg.put(*self.host.pg.peers[source.name].snapshot())
        yield self._fsync_ms()
        self.store(rules.finish(rules.new_data(self.state, incarnation, SYSTEM_IDENTIFIER)))
        if self.broken is Switch.WIPED_COUNTS:
            self.store(replace(self.state, whole=True, incarnation=kept or incarnation))
        self.host.checks.data_lost(self.host)
        yield from self._start_after_work()
        return None

    def _rewind(self, source: Upstream) -> Waits:
        yield self.turn
        yield from self._stop(StopMode.FAST)
        self.turn.release()
        peer = self.host.pg.peers[source.name]
        if not (yield from self._source_stays(source, self.world.jitter(20, 80), primary=True)):
            return "rewind failed: the source cannot be used"
        peer.checkpoint_now()
        if peer.timeline != self.pg.timeline:
            if not (yield from self._source_stays(source, self.world.jitter(60, 500), primary=True)):
                return "rewind failed: the source went away"
            self.pg.put(*peer.snapshot())
            self.host.checks.data_lost(self.host)
        yield self._fsync_ms()
        whole = True if self.broken is Switch.WIPED_COUNTS else None
        self.store(rules.finish(self.state, whole=whole))
        yield from self._start_after_work()
        return None

    def _source_stays(self, source: Upstream, duration_ms: float, *, primary: bool = False) -> Waits:
        """Copy from *source* for so long; return whether it lived and could be reached."""
        peer, net, name = self.host.pg.peers[source.name], self.host.net, self.host.name
        life, end = peer.life, self.world.now + duration_ms
        unreachable_ms = 0.0
        while True:
            if life is None or life.dead or not life.ready or (primary and life.role is not Role.PRIMARY):
                return False
            if life.frozen or net.is_cut(name, source.name) or net.is_cut(source.name, name):
                unreachable_ms += 20.0
                end += 20.0
                if unreachable_ms > TIMEOUT_MS:
                    return False
            elif self.world.now >= end:
                return True
            yield 20.0

    def _start_after_work(self) -> Waits:
        yield self.turn
        if self.pg.life is None and self.state.wanted:
            self.start()
        self.turn.release()

    def _draw_incarnation(self) -> Incarnation:
        return Incarnation(f"{self.world.rng.getrandbits(24):06x}")

    # PostgreSQL

    def configure(self, configuration: rules.Configuration) -> None:
        """Write the two settings."""
        names = configuration.synchronous_standby_names
        if self.broken is Switch.EMPTY_NAMES and self.state.promotion is None:
            names = ""
        upstream = configuration.upstream.name if configuration.upstream is not None else None
        self.pg.sync_name = self.state.sync_name or ""
        self.pg.configure(upstream, names, durable=self.broken is not Switch.CONFIGURATION_NOT_FSYNCED)

    def start(self) -> None:
        """Start as the durable state says."""
        pg = self.pg
        pg.standby_signal = True
        if self.broken is not Switch.CONFIGURATION_NOT_FSYNCED or not pg.conf_names:
            self.configure(rules.standby_configuration(self.state))
            pg.saved_conf = pg.conf_upstream, pg.conf_names, pg.password_for
        pg.sync_name = self.state.sync_name or ""
        self.unexpected_exit = False
        self.facts = Facts()
        pg.start()

    def _stop_now(self) -> None:
        self.pg.stop()
        self.facts = Facts()
        self.unexpected_exit = False

    def _stop(self, mode: StopMode) -> Waits:
        pg, life = self.pg, self.pg.life
        if mode is StopMode.FAST and life is not None and life.role is Role.PRIMARY and not life.frozen:
            life.waiting.clear()
            life.pending.clear()
            life.promoting = True  # no new commits
            pg.chatter()
            deadline = self.world.now + 2000
            while self.world.now < deadline and pg.life is life:
                if pg.flushed == len(pg.wal) and all(s.flush >= pg.flushed for s in life.senders):
                    break
                yield 5.0
        self._stop_now()

    def _role(self) -> Waits:
        pg = self.pg
        life = pg.life
        if life is None:
            return Role.NONE
        if not pg.standby_signal:
            return Role.PRIMARY
        if not life.ready:
            return Role.STANDBY
        if life.frozen:
            yield 300.0
            if pg.life is None:
                return Role.NONE
            if pg.life.frozen:
                return Role.PRIMARY
        yield 0.3
        return pg.life.role if pg.life is not None else Role.NONE

    def _is_primary(self) -> Waits:
        role = yield from self._role()
        return self.promoting or role is Role.PRIMARY

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

    def bury(self) -> None:
        """PostgreSQL ended, and nobody ordered it."""
        self._end_heartbeat()
        self.facts = Facts()
        if self.pg.life is None:
            self.unexpected_exit = True
        self.poke()

    def _take_up(self) -> Waits:
        pg = self.pg
        yield self.world.jitter(20, 150)
        yield self.turn
        try:
            work = self.state.work
            if work in (Work.INIT, Work.CLONE):
                self._stop_now()
                if self.broken is Switch.WIPED_COUNTS and pg.exists:
                    self.store(replace(self.state, work=None))
                else:
                    pg.clear()
                    self.store(rules.no_data(self.state))
            if work is not None:
                self.problem = f"an earlier {work} was interrupted"
            if not pg.exists:
                if self.state.system_identifier is not None:
                    self.problem = "the data directory is gone"
                    self.store(rules.no_data(self.state))
                return
            if pg.life is not None:
                yield from self._adopted()
            elif self.state.wanted and self.state.work is None:
                self.start()
        finally:
            self.turn.release()

    def _adopted(self) -> Waits:
        pg, state = self.pg, self.state
        if not state.wanted or state.work is not None:
            yield from self._stop(StopMode.FAST)
            return
        deadline = self.world.now + 1000
        while pg.life is not None and not pg.life.ready and self.world.now < deadline:
            yield 5.0
        may_remain = rules.may_remain_primary(state)
        configuration = rules.standby_configuration(state)
        role = yield from self._role()
        if role is Role.PRIMARY and may_remain:
            self.configure(rules.writer_configuration(state))
            pg.reload()
        elif self.broken is Switch.PROMISE_WITHOUT_STOP and role is Role.PRIMARY:
            return
        elif configuration.upstream is None or role is Role.PRIMARY:
            self.promoting = may_remain
            yield from self._cut(stop_mode=StopMode.IMMEDIATE)
            self.promoting = False
        else:
            self.configure(configuration)
            pg.reload()

    # Rounds

    def _begin_rounds(self, _: object) -> None:
        self.taken_up = True
        self.world.after(0.0, self, self._round)
        self.world.after(self.world.jitter(0, 100), self, self._watch_wholeness)
        self.poke()

    def _round(self) -> None:
        self.poke()
        life = self.pg.life
        if life is not None and life.frozen and life.ready:
            if self.deaf_since_ms is None:
                self.deaf_since_ms = self.world.now
        else:
            self.deaf_since_ms = None
        if self.facts.role is Role.PRIMARY and not self.turn.held:
            promotion = self.state.promotion
            if promotion is not None and rules.may_remain_primary(self.state, Timeline(self.facts.timeline)):
                self._begin_heartbeat(promotion.epoch)
            elif self.broken is not Switch.PROMISE_WITHOUT_STOP:
                self.world.spawn(self, self._end_usurper())
        self.world.after(ROUND_MS, self, self._round)

    def _end_usurper(self) -> Waits:
        yield self.turn
        try:
            if self.facts.role is not Role.PRIMARY or self.pg.life is None:
                return
            self.world.say("{}: was promoted by nobody's order and is stopped", self.host.name)
            self._end_heartbeat()
            self.store(replace(self.state, following=None, whole=False))
            yield from self._stop(StopMode.IMMEDIATE)
            self.start()
        finally:
            self.turn.release()

    def _watch_wholeness(self) -> None:
        self.world.after(100.0, self, self._watch_wholeness)
        state, facts, pg = self.state, self.facts, self.pg
        following = state.following
        if state.whole or state.work is not None or state.incarnation is None or following is None:
            self.mark = None
            return
        if pg.life is None or not facts.streaming:
            return
        if self.mark is None or self.mark[0] != following:
            peer = pg.peers[following.upstream.name]
            reachable = not self.host.net.is_cut(self.host.name, peer.node) and not self.host.net.is_cut(
                peer.node, self.host.name
            )
            if reachable and peer.life is not None and not peer.life.frozen and peer.life.role is Role.PRIMARY:
                self.mark = following, peer.timeline, peer.flushed
            return
        _, timeline, end = self.mark
        if facts.timeline != timeline or facts.end < end:
            if facts.timeline > timeline:
                self.mark = None
            return
        if rules.is_newest_upstream(state, following):
            self.store(replace(state, whole=True))
            self.world.say("{}: data {} is whole", self.host.name, state.incarnation)
            self.host.checks.data_lost(self.host)
            self.poke()

    # The heartbeat

    def _begin_heartbeat(self, epoch: Epoch) -> None:
        if self.beat_epoch != epoch:
            self._end_heartbeat()
            self.beat_epoch = epoch
            self._beat(self._beating)

    def _end_heartbeat(self) -> None:
        self._beating += 1
        self.beat_epoch = self.beat_acknowledged_ms = self.beat_pending_ms = self.beat_end = None

    def _beat(self, beating: int) -> None:
        life = self.pg.life
        if beating != self._beating or self.beat_epoch is None:
            return
        if life is None or life.role is not Role.PRIMARY or life.frozen or life.promoting:
            self.beat_pending_ms = self.beat_pending_ms or (self.world.now if life is not None else None)
            self.world.after(50.0, self, self._beat, beating)
            return
        self.beat_pending_ms = began = self.world.now

        made: list[tuple[int, int]] = []

        def acknowledged() -> None:
            self.host.checks.acknowledged(*made[0], self.host.name, life.epoch)
            self.world.after(0.3, self, self._beat_acknowledged, beating, began)

        made.append(self.pg.commit(acknowledged))

    def _beat_acknowledged(self, beating: int, began: float) -> None:
        if beating != self._beating:
            return
        self.beat_pending_ms = None
        self.beat_acknowledged_ms = self.world.now
        self.beat_end = self.pg.flushed
        self.poke()
        self.world.after(max(0.0, began + 200.0 - self.world.now), self, self._beat, beating)

    # Observations

    def poke(self) -> None:
        """Something has changed: tell it soon."""
        if not self._publishing:
            self._publishing = True
            self.world.after(self.world.jitter(1, 4), self, self._publish)

    def _publish(self) -> None:
        self._publishing = False
        self._gather()
        observation = self.compose()
        for tell in self.host.subscribers.values():
            tell(observation)

    def _gather(self) -> None:
        pg, life, facts = self.pg, self.pg.life, self.facts
        if life is None:
            self.facts = Facts()
            return
        if life.frozen:
            return
        facts = Facts()
        receiver = life.receiver
        facts.running = receiver is not None
        if not life.ready:
            facts.role = self.facts.role
            self.facts = facts
            return
        facts.role = life.role
        facts.names = life.names_shown
        if life.senders:
            facts.senders = tuple(
                Walsender(
                    name=s.name,
                    slot=s.slot,
                    streaming=True,
                    flush_lsn=lsn_of(s.flush),
                    replay_lsn=lsn_of(s.flush),
                    sync_priority=1 if s.name in s.names[1] else 0,
                )
                for s in life.senders
            )
        if life.role is Role.PRIMARY:
            facts.end = pg.flushed
            facts.timeline = pg.timeline
        else:
            facts.end = max(min(life.streamed, pg.flushed), life.replayed)
            facts.timeline = max(t for t, begin in pg.timelines if begin <= facts.end)
            facts.replayed = life.replayed
            facts.streaming = receiver is not None and receiver.streaming
        self.facts = facts

    def compose(self) -> Observation:
        """Return what is known."""
        now, state, facts, life = self.world.now, self.state, self.facts, self.pg.life
        self.sequence += 1
        if life is None:
            pm_state = PostmasterState.STOPPED
        else:
            pm_state = PostmasterState.RUNNING if life.ready else PostmasterState.STARTING
        following = state.following
        known = facts.timeline > 0
        activity = _ACTIVITIES[self.work] if self.work is not None else Activity.IDLE
        heartbeat = None
        if self.beat_epoch is not None:
            heartbeat = Heartbeat(
                epoch=self.beat_epoch,
                acknowledged_age_ms=int(now - self.beat_acknowledged_ms) if self.beat_acknowledged_ms is not None else None,
                pending_ms=int(now - self.beat_pending_ms) if self.beat_pending_ms is not None else 0,
                lsn=lsn_of(self.beat_end) if self.beat_end is not None else None,
            )
        return Observation(
            node=state.node,
            noded_pid=self.pid,
            sequence=self.sequence,
            system_identifier=state.system_identifier,
            incarnation=state.incarnation,
            whole=state.whole,
            promised=state.promised,
            seen=state.seen,
            promoted_epoch=state.promotion.epoch if state.promotion is not None else None,
            activity=Activity.PROMOTING if self.promoting and self.work is None else activity,
            problem=self.problem,
            postmaster=Postmaster(
                state=pm_state,
                pid=life.pid if life is not None else None,
                exit_status=None,
                unexpected_exit=self.unexpected_exit,
                deaf_ms=int(now - self.deaf_since_ms) if self.deaf_since_ms is not None else 0,
            ),
            role=facts.role if life is not None else Role.NONE,
            timeline=Timeline(facts.timeline) if known else None,
            wal_end=lsn_of(facts.end) if known else None,
            replayed_lsn=lsn_of(facts.replayed) if known and facts.role is Role.STANDBY else None,
            receiver=Receiver(
                running=facts.running,
                streaming=facts.streaming,
                upstream=following.upstream.name if following is not None else None,
                upstream_epoch=following.epoch if following is not None else NO_EPOCH,
            )
            if life is not None and facts.role is not Role.PRIMARY
            else None,
            heartbeat=heartbeat,
            walsenders=facts.senders,
            synchronous_standby_names=facts.names,
            data_dir="",
        )

    def _fsync_ms(self) -> float:
        return self.pg.fsync_ms * (0.5 + self.world.rng.random())


class Facts:
    """What a round of gathering found."""

    __slots__ = ("end", "names", "replayed", "role", "running", "senders", "streaming", "timeline")

    def __init__(self) -> None:
        self.role = Role.NONE
        self.timeline = 0
        self.end = 0
        self.replayed = 0
        self.running = False
        self.streaming = False
        self.names: str | None = None
        self.senders: tuple[Walsender, ...] = ()
