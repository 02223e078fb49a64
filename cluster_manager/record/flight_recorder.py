"""The flight recorder: gathers everything that mattered in one failover or switchover, from detection to the rejoin.

Told by the chronicle (plans, writes, observations) and by the executor (orders and answers); influences nothing, and reads no
clock: every time is told to it, on the manager's one clock.  What a record looks like stands in pgtopology.flight, how what
passes becomes an entry of it in flight_entries, how it comes to disk in flight_files.  The outage it measures begins with the
last sign that the writer was well, so that the time a failure needs to be noticed is in it; a planned handover begins when it
is decided, for the writer was well until then.

Whether an outage was somebody's wish is known to the old writer's noded alone, which may be heard only while the next writer is
being made, or later: then the record is judged anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import count

import msgspec

from cluster_manager.decision.actions import NodeAction
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.view import Promise, View
from cluster_manager.record import steps
from cluster_manager.record.flight_entries import Entries, election_told, plan_change, promise_told, snapshot, write_told
from cluster_manager.record.steps import Begun, Claimed, Opened
from pgtopology.document import Topology, Transition, TransitionKind
from pgtopology.flight import MARKS_OF_AN_ATTEMPT, Flight, Narrator, OrderTold, OutageKind, phases_of
from pgtopology.node import NodeName, Role
from pgtopology.observation import PostmasterState

JUDGED_MS = 30_000
"""So long a record that has ended waits for the old writer's noded before it is counted: that may be starting up."""

PRELUDE_MAX = 20
"""Plan changes kept from before a detection."""


class FlightRecorder:
    """One record at a time. *before* is the newest record of an earlier manager, to be continued if it is unfinished."""

    def __init__(self, *, manager: str, boot: str, before: Flight | None = None) -> None:
        self._manager = manager
        self._boot = boot
        self._good_ms: float | None = None
        self._was_paused = False
        """The writer has failed, and an operator kept failover paused."""
        self._detected_ms: float | None = None
        self._snapshot_nodes: tuple[NodeView, ...] = ()
        self._prelude: deque[tuple[float, Plan]] = deque(maxlen=PRELUDE_MAX)
        self._last_plan: tuple[object, ...] = ()
        self._flight: Flight | None = None
        self._base_ms = 0.0
        self._numbers = count(1)
        self._entries = Entries(self._numbers)
        self._marks: dict[str, float] = {}
        self._seen_promises: dict[NodeName, float] = {}
        self._before = before if before is not None and (not before.ended or before.rejoined_ms is None) else None
        self.is_judged = True
        """Of which kind the outage was is known, as far as it ever will be soon."""
        self.version = 0
        """Grows with every step worth writing down."""

    @property
    def flight(self) -> Flight | None:
        """The record as it stands, or None before the first failover of this manager."""
        if self._flight is None:
            return None
        return msgspec.structs.replace(
            self._flight, marks=dict(self._marks), phases=phases_of(self._marks), **self._entries.as_fields()
        )

    @property
    def detected_ms(self) -> float | None:
        """When the failure under way was detected, on the manager's clock, also if an earlier manager detected it."""
        return self._base_ms if self._flight is not None and not self._flight.ended else None

    def planned(self, view: View, plan: Plan) -> None:
        """Take note of a decision, of what it was made from, and of the promises that have arrived."""
        self._note_writer(view)
        gist = plan.gist
        if gist != self._last_plan:
            self._last_plan = gist
            if self._flight is not None and self._flight.rejoined_ms is None:
                self._entries.add("plans", plan_change(plan, self._at(view.now_ms)))
            self._prelude.append((view.now_ms, plan))
        if plan.diagnosis is Diagnosis.PAUSED and plan.finding.cause is not None:
            self._was_paused = True
        if plan.finding.failed and self._detected_ms is None:
            self._detected_ms, self._snapshot_nodes = view.now_ms, view.nodes
        elif not plan.finding.failed and (view.document is None or view.document.transition is None):
            self._detected_ms = None
        if self._flight is not None and not self._flight.ended:
            self._note_promises(view.promises)

    def written(self, old: Topology | None, new: Topology, view: View, because: str, began_ms: float, now: float) -> None:
        """Take note of a write of the document, and of what it means."""
        if new.transition is not None and new.transition.kind is TransitionKind.BOOTSTRAP:
            return
        told = steps.written(old, new, view) if old is not None else ()
        for step in told:
            if isinstance(step, Begun) and step.is_first:
                self._begin(new, step.transition, view, because)
            elif isinstance(step, Begun) and (self._flight is None or self._flight.ended):
                self._resume(new, step.transition, view, because)
        if self._flight is None or (self._flight.ended and self._flight.rejoined_ms is not None):
            return
        self._note_write(new, because, began_ms, now)
        for step in told:
            match step:
                case Begun(transition=transition):
                    self._attempt(new, transition, view, now)
                case Claimed():
                    self._claimed(step, new, view, now)
                case Opened():
                    self._opened(new, view, now)
                case _:
                    pass

    def write_failed(self, document: Topology, because: str, began_ms: float, now: float, outcome: str) -> None:
        """Take note of a write that did not come about."""
        if self._flight is not None and not self._flight.ended:
            self._note_write(document, because, began_ms, now, outcome)

    def _note_write(self, document: Topology, because: str, began_ms: float, now: float, outcome: str = "written") -> None:
        self._entries.add("writes", write_told(document, because, outcome, at_ms=self._at(began_ms), took_ms=now - began_ms))

    def observed(self, view: View) -> None:
        """Take note of the steps that are seen rather than written."""
        document = view.document
        if document is None:
            return
        if self._before is not None:
            self._take_over(document, view)
        flight = self._flight
        if flight is None:
            return
        flight = self._judge(flight, view)
        if not flight.ended and "promoted" not in self._marks and (promoted := steps.promoted(view)) is not None:
            # When it was heard, not when it was looked at.
            self._mark("promoted", view.now_ms - promoted.age_ms)
            self._snapshot("promoted", view, view.now_ms)
        if flight.ended and flight.rejoined_ms is None and document.writer is not None:
            again = flight.from_node == document.writer
            if again or steps.follows_the_writer(view, flight.from_node):
                self._snapshot("rejoined", view, view.now_ms)
                self._flight = msgspec.structs.replace(flight, rejoined_ms=self._at(view.now_ms))
                self.is_judged = True
                self.version += 1

    def sent(self, action: NodeAction, document: Topology, now: float) -> int:
        """Take note of an order that goes out; return the number to give to `answered`, 0 if no record is being made."""
        if self._flight is None or self._flight.rejoined_ms is not None:
            return 0
        return self._entries.add(
            "orders",
            OrderTold(
                at_ms=self._at(now),
                order=str(action.kind),
                node=action.node,
                epoch=document.epoch,
                revision=document.revision,
            ),
        )

    def answered(self, number: int, outcome: str, message: str, now: float) -> None:
        """Take note of how the order *number* ended: "done", "cancelled", or the code of the refusal."""
        order = self._entries.order(number)
        if order is not None:
            answered = msgspec.structs.replace(order, answered_ms=self._at(now), outcome=outcome, message=message)
            self._entries.replace_order(number, answered)

    def _note_writer(self, view: View) -> None:
        """Remember the last commit that the published writer's noded had acknowledged."""
        document = view.document
        node = view.node(document.writer) if document is not None else None
        observation = node.observation if node is not None else None
        if document is None or node is None or observation is None or observation.role is not Role.PRIMARY:
            return
        if observation.postmaster.state is not PostmasterState.RUNNING or observation.promoted_epoch != document.epoch:
            return
        heartbeat = observation.heartbeat
        if heartbeat is None or heartbeat.epoch != document.epoch or heartbeat.acknowledged_age_ms is None:
            return
        good_ms = view.now_ms - node.age_ms - heartbeat.acknowledged_age_ms
        if self._good_ms is None or good_ms > self._good_ms:
            self._good_ms, self._was_paused = good_ms, False

    def _note_promises(self, promises: Mapping[NodeName, Promise]) -> None:
        for name, promise in promises.items():
            if self._seen_promises.get(name) == promise.at_ms:
                continue
            self._seen_promises[name] = promise.at_ms
            self._entries.add("promises", promise_told(name, promise, self._at(promise.at_ms)))

    def _begin(self, new: Topology, transition: Transition, view: View, because: str) -> None:
        """Begin the record of a new failure."""
        detected_ms = self._detected_ms if self._detected_ms is not None else view.now_ms
        kind, good_ms = self._outage(transition, view, detected_ms)
        self._start(new, transition, view, because, detected_ms, kind)
        self._marks["detected"] = 0.0
        if good_ms is not None:
            self._marks["good"] = round(good_ms - detected_ms, 2)
        nodes = self._snapshot_nodes if self._detected_ms is not None else view.nodes
        self._entries.add("snapshots", snapshot("detected", nodes, 0.0))
        for at_ms, plan in self._prelude:
            if at_ms >= (good_ms if good_ms is not None else detected_ms) or at_ms == self._prelude[-1][0]:
                self._entries.add("plans", plan_change(plan, self._at(at_ms)))
        self._detected_ms = None

    def _outage(self, transition: Transition, view: View, detected_ms: float) -> tuple[OutageKind, float | None]:
        """Return why nobody can commit, and since when nobody could; None if that is unknown."""
        if transition.kind is TransitionKind.SWITCHOVER:
            return OutageKind.SWITCHOVER, detected_ms
        good_ms = self._good_ms
        old = view.node(transition.from_node)
        observation = old.observation if old is not None else None
        if old is not None and observation is not None:
            if observation.left_age_ms is not None:
                left_ms = view.now_ms - old.age_ms - observation.left_age_ms
                return OutageKind.PLANNED_STOP, min(max(good_ms or left_ms, left_ms), detected_ms)
            stopped = observation.postmaster.state is PostmasterState.STOPPED and not observation.postmaster.unexpected_exit
            if stopped and old.is_heard(view.timings):
                return OutageKind.PLANNED_STOP, min(good_ms, detected_ms) if good_ms is not None else None
        kind = OutageKind.PAUSED if self._was_paused else OutageKind.FAILOVER
        return kind, min(good_ms, detected_ms) if good_ms is not None else None

    def _judge(self, flight: Flight, view: View) -> Flight:
        """Take note of what the old writer's noded says of its end, and return the record as it is then."""
        if flight.rejoined_ms is not None or flight.outage_kind not in (OutageKind.FAILOVER, OutageKind.PAUSED):
            return flight
        old = view.node(flight.from_node)
        observation = old.observation if old is not None else None
        if old is not None and observation is not None and observation.left_age_ms is not None:
            left_ms = self._at(view.now_ms - old.age_ms - observation.left_age_ms)
            if "detected" in self._marks:
                self._marks["good"] = min(max(self._marks.get("good", left_ms), left_ms), 0.0)
            phases = phases_of(self._marks) if flight.ended else ()
            outage_ms = round(sum(phase.ms for phase in phases), 2) if phases else flight.outage_ms
            flight = msgspec.structs.replace(flight, outage_kind=str(OutageKind.PLANNED_STOP), outage_ms=outage_ms)
            self._flight, self.is_judged = flight, True
            self.version += 1
            return flight
        if not self.is_judged and self._has_spoken(flight, view):
            self.is_judged = True
            self.version += 1
        return flight

    def _has_spoken(self, flight: Flight, view: View) -> bool:
        """Return whether the old writer's noded has told what became of it, or has been waited for long enough."""
        old = view.node(flight.from_node)
        if old is None:
            return True
        if old.observation is not None and old.observation.role is not Role.PRIMARY and old.is_heard(view.timings):
            return True
        return flight.ended and self._at(view.now_ms) - self._marks.get("opened", 0.0) >= JUDGED_MS

    def _resume(self, new: Topology, transition: Transition, view: View, because: str) -> None:
        """Begin the record of a failure that an earlier manager found and left no record of."""
        self._start(new, transition, view, because, view.now_ms, self._outage(transition, view, view.now_ms)[0])
        self._narrate("an earlier manager began it and left no record; its times are not known", 0.0)
        self._marks.clear()

    def _start(
        self, new: Topology, transition: Transition, view: View, because: str, detected_ms: float, kind: OutageKind
    ) -> None:
        self._before = None
        self.is_judged = kind not in (OutageKind.FAILOVER, OutageKind.PAUSED)
        self._base_ms = detected_ms
        self._entries = Entries(self._numbers)
        self._marks = {}
        self._seen_promises = {}
        self._flight = Flight(
            epoch=transition.first_epoch,
            last_epoch=new.epoch,
            kind=str(transition.kind),
            outage_kind=str(kind),
            cause=transition.cause,
            reason=because,
            from_node=transition.from_node,
            detected_at=view.wall_time,
            detected_monotonic_ms=round(detected_ms, 2),
            managers=(Narrator(manager=self._manager, boot=self._boot, at_ms=0.0, note="detected it"),),
        )

    def _take_over(self, document: Topology, view: View) -> None:
        """Continue what an earlier manager left unfinished, if it is what the document is about."""
        before, self._before = self._before, None
        assert before is not None
        transition = document.transition
        underway = transition is not None and transition.first_epoch == before.epoch and not before.ended
        mending = before.ended and document.writer == before.writer and document.epoch == before.last_epoch
        opened = not before.ended and transition is None and document.epoch >= before.last_epoch and document.writer is not None
        if not (underway or mending or opened):
            return
        self._flight = before
        self._entries = Entries(self._numbers, before)
        self._marks = dict(before.marks)
        one_clock = before.managers and before.managers[-1].boot == self._boot
        if one_clock:
            self._base_ms = before.detected_monotonic_ms
            note = "went on after the manager before it ended"
        else:
            self._base_ms = view.now_ms - self._entries.last_ms()
            self._marks.clear()
            note = "went on with another clock: what passed between the two is not known, nor the outage"
        self._narrate(note, self._at(view.now_ms))
        if opened:
            # Written, but the record of it was not.
            self._marks.clear()
            self._flight = msgspec.structs.replace(
                self._flight, ended=True, writer=document.writer, last_epoch=document.epoch, outage_ms=None
            )
        self.version += 1

    def _narrate(self, note: str, at_ms: float) -> None:
        assert self._flight is not None
        narrator = Narrator(manager=self._manager, boot=self._boot, at_ms=at_ms, note=note)
        known = self._flight.managers
        kept = known if known and known[-1].manager != self._manager else known[:-1]
        self._flight = msgspec.structs.replace(self._flight, managers=(*kept, narrator))

    def _attempt(self, new: Topology, transition: Transition, view: View, now: float) -> None:
        assert self._flight is not None
        self._flight = msgspec.structs.replace(self._flight, last_epoch=new.epoch, cause=transition.cause)
        for mark in MARKS_OF_AN_ATTEMPT:
            self._marks.pop(mark, None)
        if "published" not in self._marks and new.epoch == transition.first_epoch:
            self._mark("published", now)
        else:
            self._mark("begun", now)
        self._snapshot("published" if new.epoch == transition.first_epoch else f"attempt of epoch {new.epoch}", view, now)
        self.version += 1

    def _claimed(self, step: Claimed, new: Topology, view: View, now: float) -> None:
        votes, voters = step.votes, step.voters
        safe_since_ms = votes.safe_since_ms(voters.safe_set_size)
        if step.elected is not None and safe_since_ms is not None:
            self._mark("recruited", safe_since_ms)
            self._mark("elected", view.now_ms)
            self._entries.add("elections", election_told(new.epoch, voters, votes, step.elected, self._at(view.now_ms)))
        self._mark("claimed", now)
        self._snapshot("elected", view, now)
        self.version += 1

    def _opened(self, new: Topology, view: View, now: float) -> None:
        assert self._flight is not None
        self._mark("proven", view.now_ms)
        self._mark("opened", now)
        self._snapshot("opened", view, now)
        phases = phases_of(self._marks)
        detected = "detected" in self._marks
        self._flight = msgspec.structs.replace(
            self._flight,
            ended=True,
            writer=new.writer,
            last_epoch=new.epoch,
            outage_ms=round(sum(phase.ms for phase in phases), 2) if phases else None,
            since_detection_ms=self._at(now) if detected else None,
        )
        self.version += 1

    def _mark(self, name: str, at_ms: float) -> None:
        self._marks[name] = self._at(at_ms)

    def _snapshot(self, step: str, view: View, now: float) -> None:
        self._entries.add("snapshots", snapshot(step, view.nodes, self._at(now)))

    def _at(self, at_ms: float) -> float:
        return round(at_ms - self._base_ms, 2)
