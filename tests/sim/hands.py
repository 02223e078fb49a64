"""Carries out the acts of a simulated noded: every effect of `noded.acts` on a simulated PostgreSQL, in simulated time.

What is done when is the real code; here is only what comes of it and how long it takes.  A durable write holds up the whole
noded, as the real one stands still while it fsyncs: nothing comes between a promise and its turn.  So its time is owed, and
paid at the next wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from noded.acts import effects as do
from noded.acts.effects import Act, Effect, Failed, Known, Late, Present, Sample, Steps, T, Unanswered, WriterEnd
from noded.law import promise as rules
from noded.law.promise import State
from pgtopology.node import Incarnation, Position, Role
from pgtopology.orders import StopMode, Upstream
from pgtopology.timeline import Timeline
from tests.sim.processes import SEGMENT, TIMEOUT_MS, Life, lsn_of
from tests.sim.switches import Switch
from tests.sim.world import Task, Waits

if TYPE_CHECKING:
    from tests.sim.noded import Noded

SYSTEM_IDENTIFIER = "7000000000000000001"
ASK_ROLE_MS = 300.0
ASK_END_MS = 500.0
"""How long the real noded waits for an answer."""
FAST_STOP_MS = 2000.0


class Hands:
    """What one noded process does to its PostgreSQL."""

    def __init__(self, noded: Noded) -> None:
        self.noded = noded
        self.host = noded.host
        self.world = noded.world
        self.pg = noded.pg
        self.broken = noded.broken
        self.promotion: Task | None = None
        self.written = rules.standby_configuration(noded.state)
        self._owed_ms = 0.0
        self._made: Callable[[], None] | None = None
        """What lies beside the data directory, complete."""

    def carry_out(self, act: Act[T]) -> Generator[Any, Any, T]:
        """Do *act* to its end and return what it ends with; raise what it raises."""
        steps: Steps[T] = iter(act)
        result: object = None
        raised: Exception | None = None
        while True:
            try:
                effect = steps.throw(raised) if raised is not None else steps.send(result)
            except StopIteration as end:
                return end.value
            result = raised = None
            if self.host.dies_before(effect):
                yield 0.0  # for ever
            try:
                result = HOW[type(effect)](self, effect)
                if isinstance(result, Generator):
                    result = yield from result
            except Exception as error:
                raised = error

    def whole_act(self, act: Act[T]) -> Generator[Any, Any, T]:
        """The same, and pay what is owed at the end of it."""
        result = yield from self.carry_out(act)
        if self._owed_ms:
            yield from self.wait(0.0)
        return result

    def wait(self, duration_ms: float) -> Waits:
        owed_ms, self._owed_ms = self._owed_ms, 0.0
        yield duration_ms + owed_ms

    def _fsync(self) -> None:
        self._owed_ms += self.pg.fsync_ms * (0.5 + self.world.rng.random())

    def in_turn(self, effect: do.InTurn[Any]) -> Waits:
        turn = self.noded.turn
        yield turn
        try:
            if self._owed_ms:
                yield from self.wait(0.0)
            return (yield from self.carry_out(effect.steps))
        finally:
            turn.release()

    def begin_promotion(self, effect: do.BeginPromotion) -> None:
        self.promotion = self.world.spawn(self.noded, self.carry_out(effect.steps))

    def await_promotion(self, effect: do.AwaitPromotion) -> Waits:
        deadline = self.world.now + effect.timeout_s * 1000
        while self.promotion is not None and not self.promotion.ended:
            if self.world.now >= deadline:
                return False
            yield from self.wait(5.0)
        return True

    def note(self, effect: do.Note) -> None:
        fields = "".join(f", {name} {value}" for name, value in effect.fields.items() if value is not None)
        self.world.say("{}: {}{}", self.host.name, effect.event, fields)

    def store(self, state: State) -> None:
        if state != self.noded.state:
            self._fsync()
            self.noded.ledger.store(state)

    def look(self) -> Present:
        pg, life = self.pg, self.pg.life
        return Present(
            directory="pgdata",
            state_file="state",
            running=life is not None,
            ready=life is not None and life.ready,
            has_directory=pg.exists,
            has_data=pg.exists,
            standby_signal=pg.standby_signal,
        )

    def recall(self) -> Known:
        facts = self.noded.reporter.facts
        known = facts.timeline > 0
        return Known(
            running=self.pg.life is not None,
            role=facts.role,
            timeline=Timeline(facts.timeline) if known else None,
            wal_end=lsn_of(facts.end) if known else None,
            streaming=facts.streaming,
            mute_ms=self.noded.reporter.mute_ms(),
            turn_is_taken=self.noded.turn.held,
        )

    def ask_role(self, *, by_files: bool) -> Waits:
        pg, life = self.pg, self.pg.life
        if life is None:
            return Role.NONE
        if not pg.standby_signal:
            return Role.PRIMARY
        if not life.ready:
            return Role.STANDBY
        if life.frozen:
            yield from self.wait(ASK_ROLE_MS)
            if pg.life is None:
                return Role.NONE
            if pg.life.frozen:
                return pg.life.role if by_files and pg.standby_signal else Role.PRIMARY
        yield from self.wait(0.3)
        return pg.life.role if pg.life is not None else Role.NONE

    def write(self, configuration: rules.Configuration) -> None:
        """Write the two settings."""
        state = self.noded.state
        self.written = configuration
        names = configuration.synchronous_standby_names
        if self.broken is Switch.EMPTY_NAMES and state.promotion is None:
            names = ""
        upstream = configuration.upstream.name if configuration.upstream is not None else None
        self.pg.sync_name = state.sync_name or ""
        self.pg.configure(upstream, names, durable=self.broken is not Switch.CONFIGURATION_NOT_FSYNCED)

    def start(self, effect: do.Start) -> Position | None:
        pg, noded = self.pg, self.noded
        position = self._position_of_files()
        pg.standby_signal = True
        if self.broken is not Switch.CONFIGURATION_NOT_FSYNCED or not pg.conf_names:
            self.write(effect.configuration)
            pg.saved_conf = pg.conf_upstream, pg.conf_names, pg.password_for
        pg.sync_name = noded.state.sync_name or ""
        noded.reporter.forget()
        pg.start()
        return position

    def _position_of_files(self) -> Position | None:
        """Return where the WAL of a primary ends that was shut down in good order (docs/decisions/0009)."""
        pg = self.pg
        if pg.shut_down:
            return Position(timeline=Timeline(pg.timeline), lsn=lsn_of(len(pg.wal)), replayed_lsn=lsn_of(len(pg.wal)))
        if self.broken is Switch.ANY_CONTROL_FILE:
            end = lsn_of(pg.checkpoint)
            return Position(timeline=Timeline(pg.control_timeline), lsn=end, replayed_lsn=end)
        return None

    def stop(self, mode: StopMode, fast_s: float | None) -> Waits:
        pg, life = self.pg, self.pg.life
        in_good_order = False
        if mode is StopMode.FAST and life is not None and not life.frozen and life.role is Role.PRIMARY:
            life.waiting.clear()
            life.pending.clear()
            life.promoting = True  # no new commits
            pg.chatter()
            deadline = self.world.now + min(FAST_STOP_MS, fast_s * 1000 if fast_s is not None else FAST_STOP_MS)
            while self.world.now < deadline and pg.life is life:
                if pg.flushed == len(pg.wal) and all(s.flush >= pg.flushed for s in life.senders):
                    in_good_order = True
                    break
                yield from self.wait(5.0)
        pg.stop()
        self.noded.reporter.forget()
        pg.shut_down = in_good_order or (pg.shut_down and life is None)

    def reconfigure(self, effect: do.Reconfigure) -> None:
        self._fsync()
        self.write(effect.configuration)
        if effect.promoted and self.broken is Switch.EMPTY_NAMES and self.world.rng.random() < 0.5:
            self._reload_busy()
        else:
            self.pg.reload()

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

    def end_receiver(self) -> Waits:
        pg = self.pg
        deadline = self.world.now + 200
        signalled: object = None
        while pg.life is not None:
            receiver = pg.life.receiver
            if receiver is None or (self.broken is Switch.RECEIVER_VIEW and not receiver.streaming):
                return True
            if self.world.now >= deadline:
                return False
            if receiver is not signalled:
                signalled = receiver
                pg.signal_receiver()
            yield from self.wait(1.0)
        return False

    def ask_end(self) -> Waits:
        pg, life = self.pg, self.pg.life
        if life is None or life.frozen:
            yield from self.wait(ASK_END_MS)
            return Unanswered("nothing came back", refuses=False)
        if life.role is not Role.STANDBY and self.broken is Switch.PROMISE_WITHOUT_STOP:
            end = lsn_of(pg.flushed)
            return Sample(standby=True, timeline=Timeline(pg.timeline), lsn=end, received=0, replayed=end, at_end=True)
        end = max(life.streamed if life.at_end else 0, life.replayed)
        timeline = max(t for t, begin in pg.timelines if begin <= end)
        if self.broken is Switch.RECEIVED_ONLY:
            end = life.streamed or life.replayed // SEGMENT * SEGMENT
        if self.broken is Switch.CONTROL_FILE_TIMELINE:
            timeline = pg.control_timeline
        at_end = (life.at_end and life.replayed >= len(pg.wal)) or self.broken is Switch.ANSWER_DURING_REPLAY
        return Sample(
            standby=life.role is Role.STANDBY and pg.standby_signal,
            timeline=Timeline(timeline),
            lsn=lsn_of(end),
            received=lsn_of(life.streamed) if life.streamed and self.broken is not Switch.ANSWER_DURING_REPLAY else 0,
            replayed=lsn_of(life.replayed),
            at_end=at_end,
        )

    def walk_wal(self) -> Waits:
        yield from self.wait(self.world.jitter(5, 80))
        self.world.counts["position read from the files"] += 1
        end = lsn_of(len(self.pg.wal))
        return Position(timeline=Timeline(self.pg.timeline), lsn=end, replayed_lsn=end)

    def ask_writer(self, upstream: Upstream) -> WriterEnd | None:
        peer, net, name = self.pg.peers[upstream.name], self.host.net, self.host.name
        if net.is_cut(name, peer.node) or net.is_cut(peer.node, name):
            return None
        if peer.life is None or peer.life.frozen or peer.life.role is not Role.PRIMARY:
            return None
        return WriterEnd(timeline=Timeline(peer.timeline), lsn=lsn_of(peer.flushed))

    def checkpoint(self) -> Waits:
        yield from self.wait(self.world.jitter(5, 300))
        if self.pg.life is None or self.pg.life.frozen:
            raise Failed("PostgreSQL does not answer")
        self.pg.checkpoint_now()

    def plant_placeholders(self, effect: do.PlantPlaceholders) -> None:
        if self.broken is not Switch.TIMELINE_REUSE:
            self.pg.placeholders = effect.timeline - 1

    def await_primary(self, effect: do.AwaitPrimary) -> Waits:
        pg, life = self.pg, self.pg.life
        while True:
            if not effect.still_wanted():
                raise Failed("a newer promise was given")
            if pg.life is None or pg.life is not life:
                raise Failed("PostgreSQL ended")
            if pg.life.role is Role.PRIMARY and not pg.life.frozen:
                return Timeline(pg.timeline)
            yield from self.wait(4.0)

    def in_proof(self, effect: do.InProof[Any]) -> Waits:
        deadline = self.world.now + effect.timeout_s * 1000
        carrying = self.carry_out(effect.proof(None))
        while True:
            try:
                wait_ms = next(carrying)
            except StopIteration as end:
                return end.value
            if self.world.now + wait_ms > deadline:
                carrying.close()
                yield max(0.0, deadline - self.world.now)
                raise Late("it took too long")
            yield wait_ms

    def _until(self, condition: Callable[[Life], bool]) -> Waits:
        """Wait until PostgreSQL, which answers, meets *condition*."""
        life = self.pg.life
        while life is None or life.dead or life.frozen or not condition(life):
            if life is None or life.dead:
                raise Failed("PostgreSQL ended")
            yield from self.wait(10.0)

    def await_shown(self, names: str) -> Waits:
        self.world.say("{}: is to wait for {!r}", self.host.name, names)
        yield from self._until(lambda life: life.names_shown == names)

    def await_read(self) -> Waits:
        yield from self._until(lambda life: life.names_checkpointer == self.pg.conf_names)

    def end_walsenders(self) -> Waits:
        yield from self._until(lambda _: True)
        self.world.counts["walsenders bounced"] += 1
        self.pg.bounce_senders()

    def await_agreement(self, listed: tuple[str, ...]) -> Waits:
        yield from self._until(
            lambda life: all((sender.name in sender.names[1]) == (sender.name in listed) for sender in life.senders)
        )

    def commit_barrier(self) -> Waits:
        yield from self._until(lambda life: life.role is Role.PRIMARY)
        barrier: list[int] = []
        self.pg.commit(lambda: barrier.append(self.pg.flushed))
        yield from self._until(lambda _: bool(barrier))
        return lsn_of(barrier[0])

    def make_data(self) -> Waits:
        yield from self.wait(self.world.jitter(100, 300))
        self._made = self.pg.make
        return SYSTEM_IDENTIFIER

    def copy_data(self, source: Upstream) -> Waits:
        if not (yield from self._source_stays(source, self.world.jitter(150, 1200))):
            raise Failed("the source went away")
        copied = self.pg.peers[source.name].snapshot()
        self._made = lambda: self.pg.put(*copied)
        return SYSTEM_IDENTIFIER

    def put_in_place(self) -> None:
        assert self._made is not None
        self._fsync()
        self._made()
        self._made = None
        self.host.checks.data_lost(self.host)

    def rewind_data(self, source: Upstream) -> Waits:
        peer = self.pg.peers[source.name]
        if not (yield from self._source_stays(source, self.world.jitter(20, 80), primary=True)):
            raise Failed("the source cannot be used")
        peer.checkpoint_now()
        if peer.timeline != self.pg.timeline:
            if not (yield from self._source_stays(source, self.world.jitter(60, 500), primary=True)):
                raise Failed("the source went away")
            self.pg.put_rewound(*peer.snapshot(), missing=self.world.rng.randint(0, 3))
            self.host.checks.data_lost(self.host)
        self._fsync()

    def _source_stays(self, source: Upstream, duration_ms: float, *, primary: bool = False) -> Waits:
        """Copy from *source* for so long; return whether it lived and could be reached."""
        peer, net, name = self.pg.peers[source.name], self.host.net, self.host.name
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
            yield from self.wait(20.0)

    def await_ready(self, timeout_s: float) -> Waits:
        pg, deadline = self.pg, self.world.now + timeout_s * 1000
        while pg.life is not None and not pg.life.ready:
            if self.world.now >= deadline:
                return False
            yield from self.wait(5.0)
        return pg.life is not None


def _nothing(_: Hands, __: Effect[Any]) -> None:
    pass


def _begun(_: Task) -> None:
    pass


HOW: dict[type[Effect[Any]], Callable[[Hands, Any], Any]] = {
    do.Now: lambda hands, _: hands.world.now / 1000,
    do.Pause: lambda hands, effect: hands.wait(effect.seconds * 1000),
    do.InTurn: Hands.in_turn,
    do.BeginPromotion: Hands.begin_promotion,
    do.AwaitPromotion: Hands.await_promotion,
    do.BeginWork: lambda hands, effect: _begun(hands.world.spawn(hands.noded, hands.carry_out(effect.steps))),
    do.Store: lambda hands, effect: hands.store(effect.state),
    do.RenewState: lambda hands, _: hands.noded.ledger.renew(),
    do.Poke: lambda hands, _: hands.noded.reporter.poke(),
    do.Note: Hands.note,
    do.LearnSlots: _nothing,
    do.Recall: lambda hands, _: hands.recall(),
    do.Look: lambda hands, _: hands.look(),
    do.AskRole: lambda hands, effect: hands.ask_role(by_files=effect.by_files),
    do.ReadTimeline: lambda hands, _: Timeline(hands.pg.timeline),
    do.Start: Hands.start,
    do.Stop: lambda hands, effect: hands.stop(effect.mode, effect.fast_s),
    do.Reconfigure: Hands.reconfigure,
    do.ReloadSettings: _nothing,
    do.ForgetPassword: lambda hands, _: setattr(hands.pg, "password_for", None),
    do.EndReceiver: lambda hands, _: hands.end_receiver(),
    do.RemovePlaceholders: lambda hands, _: setattr(hands.pg, "placeholders", 0),
    do.ForgetCrashes: _nothing,
    do.Checkpoint: lambda hands, _: hands.checkpoint(),
    do.AskEnd: lambda hands, _: hands.ask_end(),
    do.EndBlockers: _nothing,
    do.ResumeReplay: _nothing,
    do.WalkWal: lambda hands, _: hands.walk_wal(),
    do.AskWriter: lambda hands, effect: hands.ask_writer(effect.upstream),
    do.EnsureSlots: _nothing,
    do.PlantPlaceholders: Hands.plant_placeholders,
    do.TriggerPromotion: lambda hands, effect: hands.pg.promote(effect.epoch),
    do.AwaitPrimary: Hands.await_primary,
    do.BeginHeartbeat: lambda hands, effect: hands.noded.heartbeat.begin(effect.epoch),
    do.EndHeartbeat: lambda hands, _: hands.noded.heartbeat.end(),
    do.InProof: Hands.in_proof,
    do.AwaitShown: lambda hands, effect: hands.await_shown(effect.names),
    do.AwaitRead: lambda hands, _: hands.await_read(),
    do.EndWalsenders: lambda hands, _: hands.end_walsenders(),
    do.AwaitAgreement: lambda hands, effect: hands.await_agreement(effect.listed),
    do.CommitBarrier: lambda hands, _: hands.commit_barrier(),
    do.DrawIncarnation: lambda hands, _: Incarnation(f"{hands.world.rng.getrandbits(24):06x}"),
    do.MakeData: lambda hands, _: hands.make_data(),
    do.CopyData: lambda hands, effect: hands.copy_data(effect.source),
    do.MakeRoom: _nothing,
    do.PutInPlace: lambda hands, _: hands.put_in_place(),
    do.RemoveReplaced: _nothing,
    do.RewindData: lambda hands, effect: hands.rewind_data(effect.source),
    do.RemoveData: lambda hands, _: hands.pg.clear(),
    do.MakePlace: _nothing,
    do.EndTools: _nothing,
    do.SweepUp: _nothing,
    do.ReadIdentifier: lambda hands, _: SYSTEM_IDENTIFIER,
    do.Adopt: lambda hands, _: hands.pg.life is not None,
    do.RewriteSettings: _nothing,
    do.AwaitReady: lambda hands, effect: hands.await_ready(effect.timeout_s),
}
"""What comes of each effect, or a generator that takes its time and ends with it."""
