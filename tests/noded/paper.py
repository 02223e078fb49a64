"""A noded on paper: its acts carried out on a handful of facts, one line for each effect, and dead before any of them.

What the law wants at an effect, whoever orders it, is asserted where the effect is done.

What lives longer than a noded is in `Disk`: the durable state, the data directory and a PostgreSQL that runs on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from noded.acts import effects as do
from noded.acts.acts import Acts
from noded.acts.effects import Act, Effect, Failed, Known, Present, Sample, Steps, T, WriterEnd
from noded.acts.memory import Memory
from noded.law.promise import Configuration, Promotion, State, writer_configuration
from pgtopology.epoch import Epoch
from pgtopology.lsn import Lsn
from pgtopology.node import Incarnation, Position, Role
from pgtopology.orders import StopMode
from pgtopology.timeline import Timeline

IDENTIFIER = "7"
BASE, NEXT = Timeline(2), Timeline(3)
END = Lsn(900)


class Killed(BaseException):
    """The noded is dead."""


@dataclass
class Disk:
    """What a killed noded leaves."""

    value: State
    unreadable: str | None = None
    has_data: bool = True
    role: Role = Role.STANDBY
    """NONE: PostgreSQL does not run."""
    standby_signal: bool = True
    timeline: Timeline = BASE
    next_timeline: Timeline = NEXT
    configuration: Configuration | None = None
    receives_from: str | None = None
    frozen_receiver: bool = False
    answers: bool = True
    shut_down: bool = False
    """A primary ended here in good order."""
    beside: Incarnation | None = None
    """A complete copy that is not in its place yet."""
    replaced: bool = False
    """What a copy has replaced is still there, and takes as much room as the data."""

    def told(self) -> str:
        """Return what PostgreSQL is and does."""
        if not self.has_data:
            return "no data"
        if self.role is Role.NONE:
            return "down"
        if self.role is Role.PRIMARY:
            assert self.configuration is not None
            return f"primary on {self.timeline} waiting for {self.configuration.synchronous_standby_names or 'nobody'}"
        return f"standby of {self.receives_from or 'nobody'}"


@dataclass
class Paper:
    """One life of a noded."""

    disk: Disk
    dies_at: int | None = None
    """Before this effect, counted from 1."""
    lines: list[str] = field(default_factory=list)
    effects: int = 0
    beating: Epoch | None = None
    now: float = 0.0
    failing: type[Effect[Any]] | None = None
    """The kind of effect that the world does not do."""
    before: Callable[[Effect[Any]], None] | None = None
    """Happens before each effect."""

    def __post_init__(self) -> None:
        self.memory = Memory(self.disk)
        self.acts = Acts(self.memory)
        self._begun: list[Steps[None]] = []
        self._depth = 0

    def do(self, act: Act[T]) -> T:
        """Do *act* to its end, and what it began."""
        done = self._carry_out(act)
        self._finish()
        return done

    def _finish(self) -> None:
        while self._begun:
            self._carry_out(self._begun.pop(0))

    def _carry_out(self, act: Act[T]) -> T:
        steps: Steps[T] = iter(act)
        raised: Exception | None = None
        result: object = None
        while True:
            try:
                effect = steps.throw(raised) if raised is not None else steps.send(result)
            except StopIteration as end:
                return end.value
            raised, result = None, None
            self.effects += 1
            if self.effects == self.dies_at:
                raise Killed
            line = tell(effect)
            if line:
                self.lines.append("  " * self._depth + line)
            try:
                result = self.carry_out_one(effect)
            except Exception as error:
                raised = error

    def carry_out_one(self, effect: Effect[Any]) -> object:
        """Do *effect* and return what comes of it."""
        if self.before is not None:
            self.before(effect)
        if isinstance(effect, self.failing or ()):
            raise Failed("the world did not")
        return HOW.get(type(effect), _nothing)(self, effect)

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def within(self, act: Act[Any]) -> object:
        self._depth += 1
        try:
            return self._carry_out(act)
        finally:
            self._depth -= 1

    def begin(self, steps: Steps[None]) -> None:
        self._begun.append(steps)

    def await_promotion(self) -> bool:
        self._finish()
        return True

    def store(self, state: State) -> None:
        self.disk.value = state

    def renew_state(self) -> None:
        self.disk.unreadable = None

    def stop(self, mode: StopMode) -> None:
        disk = self.disk
        disk.shut_down = mode is StopMode.FAST and disk.role is Role.PRIMARY
        disk.role, disk.receives_from, disk.answers, disk.frozen_receiver = Role.NONE, None, True, False

    def forget_password(self) -> None:
        self.disk.configuration = None

    def end_receiver(self) -> bool:
        if not self.disk.frozen_receiver:
            self.disk.receives_from = None
        return self.disk.receives_from is None

    def plant_placeholders(self, timeline: Timeline) -> None:
        self.disk.next_timeline = timeline

    def trigger_promotion(self, epoch: Epoch) -> None:
        disk = self.disk
        # The promotion is durable, the list stands, and the number is the claimed one (S1, S3).
        assert disk.value.promotion == Promotion(epoch, disk.next_timeline)
        assert disk.configuration == writer_configuration(disk.value)
        disk.role, disk.standby_signal, disk.timeline = Role.PRIMARY, False, disk.next_timeline

    def beat(self, epoch: Epoch | None) -> None:
        self.beating = epoch

    def make_beside(self) -> str:
        self.disk.beside = Incarnation("cccc")
        return IDENTIFIER

    def put_in_place(self) -> None:
        disk = self.disk
        assert disk.beside is not None
        self.gives_up_data()
        disk.replaced = disk.has_data
        disk.has_data, disk.beside, disk.standby_signal, disk.timeline = True, None, True, BASE

    def rewind_data(self) -> None:
        self.gives_up_data()
        self.disk.standby_signal, self.disk.timeline = True, BASE

    def remove_data(self) -> None:
        self.gives_up_data()
        self.disk.has_data = False

    def remove_replaced(self) -> None:
        self.disk.replaced = False

    def sweep_up(self) -> None:
        self.disk.beside, self.disk.replaced = None, False

    def gives_up_data(self) -> None:
        """WAL that may have been acknowledged goes: nobody runs on it, and it is written down that it counts no more (S7)."""
        assert self.disk.role is Role.NONE
        assert self.disk.value.work is not None
        assert not self.disk.value.whole

    def present(self) -> Present:
        disk = self.disk
        running = disk.role is not Role.NONE
        return Present(
            directory="pgdata",
            state_file="state",
            running=running,
            ready=running,
            has_directory=disk.has_data,
            has_data=disk.has_data,
            standby_signal=disk.standby_signal,
        )

    def known(self) -> Known:
        disk = self.disk
        return Known(
            running=disk.role is not Role.NONE,
            role=disk.role if disk.answers else Role.NONE,
            timeline=disk.timeline if disk.answers else None,
            wal_end=END,
            streaming=disk.receives_from is not None,
            mute_ms=0 if disk.answers else 60_000,
        )

    def start(self, configuration: Configuration) -> Position | None:
        disk = self.disk
        assert disk.role is Role.NONE, "two servers on one data directory"
        assert disk.has_data
        disk.role, disk.standby_signal = Role.STANDBY, True
        self.configure(configuration)
        found = Position(timeline=disk.timeline, lsn=END, replayed_lsn=END) if disk.shut_down else None
        disk.shut_down = False
        return found

    def configure(self, configuration: Configuration) -> None:
        disk = self.disk
        disk.configuration = configuration
        assert configuration.synchronous_standby_names or disk.value.in_force is not None  # S1
        if disk.role is Role.STANDBY and configuration.upstream is not None:
            disk.receives_from = configuration.upstream.name
        # One that streams goes on until it is ended: that a configuration is written proves nothing (S2).

    def sample(self) -> do.Sample | do.Unanswered:
        disk = self.disk
        if not disk.answers:
            self.now += 0.5
            return do.Unanswered("timeout", refuses=True)
        standby = disk.role is Role.STANDBY
        return Sample(standby=standby, timeline=disk.timeline, lsn=END, received=0, replayed=END, at_end=True)


_SILENT = (
    do.Now,
    do.Recall,
    do.Look,
    do.LearnSlots,
    do.ForgetCrashes,
    do.MakePlace,
    do.Poke,
    do.ReadTimeline,
    do.ReadIdentifier,
)
"""Effects that are no news."""


def tell(effect: Effect[Any]) -> str:
    """Return *effect* as a line, empty if it is no news."""
    if isinstance(effect, _SILENT):
        return ""
    name = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(effect).__name__).strip()
    told: Callable[[Any], str] = _DETAILS.get(type(effect), lambda _: "")
    return f"{name} {told(effect)}".rstrip()


def _state(state: State) -> str:
    following = f"{state.following.upstream.name} in {state.following.epoch}" if state.following else "nobody"
    words = [f"seen {state.seen.epoch}/{state.seen.revision}", f"promised {state.promised}", f"follows {following}"]
    if state.promotion is not None:
        words.append(f"promoted {state.promotion.epoch}")
    words += [word for word, holds in (("whole", state.whole), ("foreign", state.foreign)) if holds]
    if state.work is not None:
        words.append(f"in the middle of a {state.work}")
    if not state.wanted:
        words.append("not wanted")
    if state.incarnation is None:
        words.append("no data")
    return ", ".join(words)


def _configuration(configuration: Configuration) -> str:
    upstream = configuration.upstream.name if configuration.upstream is not None else "nobody"
    return f"from {upstream}, waiting for {configuration.synchronous_standby_names or 'nobody'}"


_DETAILS: dict[type[Effect[Any]], Callable[[Any], str]] = {
    do.Store: lambda effect: _state(effect.state),
    do.Reconfigure: lambda effect: _configuration(effect.configuration),
    do.Start: lambda effect: _configuration(effect.configuration),
    do.Stop: lambda effect: effect.mode,
    do.Note: lambda effect: effect.event,
    do.PlantPlaceholders: lambda effect: f"below {effect.timeline}",
    do.TriggerPromotion: lambda effect: f"in {effect.epoch}",
    do.BeginHeartbeat: lambda effect: f"of {effect.epoch}",
    do.CopyData: lambda effect: f"of {effect.source.name}",
    do.RewindData: lambda effect: f"to {effect.source.name}",
    do.AwaitShown: lambda effect: effect.names,
    do.AwaitAgreement: lambda effect: ", ".join(effect.listed),
}


def _nothing(_: Paper, __: Effect[Any]) -> None:
    pass


HOW: dict[type[Effect[Any]], Callable[[Paper, Any], object]] = {
    do.Now: lambda paper, _: paper.now,
    do.Pause: lambda paper, effect: paper.pause(effect.seconds),
    do.InTurn: lambda paper, effect: paper.within(effect.steps),
    do.InProof: lambda paper, effect: paper.within(effect.proof(None)),
    do.BeginPromotion: lambda paper, effect: paper.begin(effect.steps),
    do.BeginWork: lambda paper, effect: paper.begin(effect.steps),
    do.AwaitPromotion: lambda paper, _: paper.await_promotion(),
    do.Store: lambda paper, effect: paper.store(effect.state),
    do.RenewState: lambda paper, _: paper.renew_state(),
    do.Recall: lambda paper, _: paper.known(),
    do.Look: lambda paper, _: paper.present(),
    do.AskRole: lambda paper, effect: paper.disk.role if paper.disk.answers or effect.by_files else Role.PRIMARY,
    do.ReadTimeline: lambda paper, _: paper.disk.timeline,
    do.Start: lambda paper, effect: paper.start(effect.configuration),
    do.Stop: lambda paper, effect: paper.stop(effect.mode),
    do.Reconfigure: lambda paper, effect: paper.configure(effect.configuration),
    do.ForgetPassword: lambda paper, _: paper.forget_password(),
    do.EndReceiver: lambda paper, _: paper.end_receiver(),
    do.AskEnd: lambda paper, _: paper.sample(),
    do.WalkWal: lambda paper, _: Position(timeline=paper.disk.timeline, lsn=END, replayed_lsn=END),
    do.AskWriter: lambda paper, _: WriterEnd(timeline=paper.disk.timeline, lsn=END),
    do.PlantPlaceholders: lambda paper, effect: paper.plant_placeholders(effect.timeline),
    do.TriggerPromotion: lambda paper, effect: paper.trigger_promotion(effect.epoch),
    do.AwaitPrimary: lambda paper, _: paper.disk.timeline,
    do.BeginHeartbeat: lambda paper, effect: paper.beat(effect.epoch),
    do.EndHeartbeat: lambda paper, _: paper.beat(None),
    do.CommitBarrier: lambda _, __: END,
    do.DrawIncarnation: lambda _, __: Incarnation("cccc"),
    do.MakeData: lambda paper, _: paper.make_beside(),
    do.CopyData: lambda paper, _: paper.make_beside(),
    do.MakeRoom: lambda paper, _: paper.gives_up_data(),
    do.PutInPlace: lambda paper, _: paper.put_in_place(),
    do.RemoveReplaced: lambda paper, _: paper.remove_replaced(),
    do.RewindData: lambda paper, _: paper.rewind_data(),
    do.RemoveData: lambda paper, _: paper.remove_data(),
    do.SweepUp: lambda paper, _: paper.sweep_up(),
    do.ReadIdentifier: lambda _, __: IDENTIFIER,
    do.Adopt: lambda paper, _: paper.disk.role is not Role.NONE,
    do.AwaitReady: lambda _, __: True,
}
"""What comes of each effect that is more than a line."""
