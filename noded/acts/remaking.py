"""Long work on the data directory: made anew, copied, rewound.

One at a time, beside everything else; what it destroys is marked in the durable state before it begins (S7), so that after a
crash nothing half-made is taken for data.  An outcome is an observation: `whole`, `activity`, `problem`.
"""

from __future__ import annotations

from msgspec.structs import replace

from noded.acts.effects import (
    BeginWork,
    CopyData,
    DrawIncarnation,
    Failed,
    ForgetCrashes,
    InTurn,
    Look,
    MakeData,
    MakeRoom,
    Note,
    Now,
    Poke,
    PutInPlace,
    Recall,
    RemoveReplaced,
    RenewState,
    RewindData,
    Steps,
    Stop,
    Store,
)
from noded.acts.gate import Gate, OrderRefused
from noded.acts.memory import Memory
from noded.acts.running import Running
from noded.law import promise as rules
from noded.law.promise import Circumstances, Work
from pgtopology.epoch import Epoch, Revision
from pgtopology.orders import CloneOrder, InitOrder, Refusal, RewindOrder, StopMode, Upstream

MUTE_MS = 10_000
"""A server that answers no session for so long after its start may be replaced by order, although nobody can ask what it is."""


class Remaking:
    """Orders that make the data anew, and the work they begin."""

    def __init__(self, memory: Memory, gate: Gate, running: Running) -> None:
        self._memory = memory
        self._gate = gate
        self._running = running

    def init(self, order: InitOrder) -> Steps[None]:
        """Begin to make a new cluster's data."""
        yield from self._gate.accept(order, primary=False)
        if self._memory.work is None:
            present = yield from Look()
            if present.has_directory:
                raise OrderRefused(Refusal.HAS_DATA, f"{present.directory} exists")
            yield from self._begin(Work.INIT, self.initialise())

    def remake(self, order: CloneOrder | RewindOrder) -> Steps[None]:
        """Mark the data as unusable, durably, and begin to copy or rewind it."""
        memory, work = self._memory, Work.CLONE if isinstance(order, CloneOrder) else Work.REWIND
        by_operator = isinstance(order, CloneOrder) and order.by_operator
        if by_operator and memory.blocked is not None:
            yield from self._lift_quarantine(order)
        mute = isinstance(order, CloneOrder) and (yield from self.is_mute_standby())
        primary = not mute and (yield from self._running.is_primary(by_files=False))
        yield from self._gate.accept(order, primary=primary)
        if memory.work is not None or rules.is_done(memory.state, order):
            return
        left_s = 0.0 if by_operator else memory.copying.left_s((yield from Now()))
        if left_s:
            text = f"the last attempt failed ({memory.copying.reason}); tried again in {left_s:.1f} s"
            raise OrderRefused(Refusal.FAILED, text)
        yield from InTurn(self._remake(order, work, mute=mute))

    def _remake(self, order: CloneOrder | RewindOrder, work: Work, *, mute: bool) -> Steps[None]:
        memory, gate = self._memory, self._gate
        gate.check_not_overtaken(order)
        if mute and (yield from self.is_mute_standby()):
            # Nobody answers for what it is: once no process is left, its files do.
            yield from gate.guard(Stop(StopMode.IMMEDIATE))
            gate.check_not_overtaken(order)
            gate.check_not_primary(not (yield from Look()).standby_signal)
        gate.check_not_primary((yield from self._running.is_primary(by_files=False)))
        if memory.work is None and not rules.is_done(memory.state, order):
            yield from Store(rules.follow(rules.begin(memory.state, work), order.source, order.epoch))
            doing = self.clone(order.source) if isinstance(order, CloneOrder) else self.rewind(order.source, order.revision)
            yield from self._begin(work, doing)

    def is_mute_standby(self) -> Steps[bool]:
        """Return whether PostgreSQL has answered nothing for long since its start, and by its files has not ended recovery.

        It may end it the next moment: only after a stop do the files prove anything.
        """
        memory, state = self._memory, self._memory.state
        known = yield from Recall()
        # A promotion below the promise is history: a former writer that was fenced since is a standby like any other.
        ordered = memory.promoting or (state.promotion is not None and state.promotion.epoch >= state.promised)
        return known.mute_ms >= MUTE_MS and not ordered and (yield from Look()).standby_signal

    def _lift_quarantine(self, order: CloneOrder | RewindOrder) -> Steps[None]:
        """Let *order*, an operator's, replace what is here; the promise is at least its epoch, for the former may be lost."""
        memory, state = self._memory, self._memory.state
        self._gate.check_rules(order, Circumstances(primary=False))
        yield from Note("the quarantine is lifted by an operator", {"quarantined_because": memory.blocked}, "warning")
        yield from RenewState()
        yield from Store(replace(state, promised=Epoch(max(state.promised, order.epoch))))
        memory.blocked = None

    def _begin(self, work: Work, doing: Steps[None]) -> Steps[None]:
        """Begin long work; its outcome is in the observations."""
        memory = self._memory
        memory.work = work
        memory.progress_percent = None
        memory.problem = None
        yield from BeginWork(self._work(work, doing))
        yield from Poke()

    def _work(self, work: Work, doing: Steps[None]) -> Steps[None]:
        memory = self._memory
        try:
            yield from doing
            memory.copying.forget()
            yield from ForgetCrashes()
            yield from Note("long work done", {"work": work})
        except (Failed, OSError) as error:
            yield from Note("long work failed", {"work": work, "error": str(error)}, "warning")
            memory.copying.failed((yield from Now()), str(error))
            memory.problem = f"{work} failed: {error}"
        finally:
            memory.work = None
        yield from Poke()

    def initialise(self) -> Steps[None]:
        """Make a new cluster's data, and start it as a standby without upstream."""
        memory = self._memory
        yield from Store(rules.begin(memory.state, Work.INIT))
        identifier = yield from MakeData()
        incarnation = yield from DrawIncarnation()
        yield from PutInPlace()
        bound = rules.new_data(memory.state, incarnation, identifier)
        # Nothing was ever acknowledged in this cluster, so the first node's data is all there is.
        yield from Store(replace(rules.finish(bound, whole=True), wanted=True))
        yield from self._start()

    def clone(self, source: Upstream) -> Steps[None]:
        """Replace the data by a copy of *source*'s, and follow it unless a promise was given meanwhile."""
        memory = self._memory
        yield from InTurn(Stop(StopMode.IMMEDIATE))
        if (yield from Look()).has_data:
            yield from MakeRoom(source)
        incarnation = yield from DrawIncarnation()
        identifier = yield from CopyData(source, incarnation)
        yield from PutInPlace()
        yield from Store(rules.finish(rules.new_data(memory.state, incarnation, identifier)))
        yield from ForgetCrashes()  # of what was replaced
        try:
            yield from self._start()
        except (Failed, OSError):
            yield from RemoveReplaced()
            raise
        yield from RemoveReplaced()

    def rewind(self, source: Upstream, revision: Revision) -> Steps[None]:
        """Rewind the data to *source*'s history, by order of *revision*, and follow it unless a promise was given meanwhile."""
        yield from InTurn(Stop(StopMode.FAST))
        yield from RewindData(source)
        yield from Store(rules.rewound(self._memory.state, revision))
        yield from self._start()

    def _start(self) -> Steps[None]:
        yield from InTurn(self._start_if_wanted())

    def _start_if_wanted(self) -> Steps[None]:
        if not (yield from Look()).running and self._memory.state.wanted:
            yield from self._running.start()
