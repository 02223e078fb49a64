"""Tells the story of each failover: the steps with their times, as events in the journal and lines in the log.

Times are milliseconds on the manager's monotonic clock since the failure was detected, that is, since the first plan that
called for another writer.  Knows what was written and observed; influences nothing.  A manager that finds a transition begun
by an earlier one counts from its own beginning, and says so.
"""

from __future__ import annotations

from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request
from cluster_manager.decision.view import View
from cluster_manager.record import steps
from cluster_manager.record.flight_files import FlightWriter
from cluster_manager.record.journal import Journal
from cluster_manager.record.past_writers import JUDGED, as_judged, outage_of
from cluster_manager.record.steps import Begun, Claimed, Opened, PauseChanged, Remade, SettingsChanged, Step, VotersChanged
from cluster_manager.report.status import relaxations
from daemonkit.logs import get_logger
from pgtopology.document import Adopted, Topology, Transition, TransitionKind
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.event import Event
from pgtopology.flight import Flight, OutageKind, kind_of
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName
from pgtopology.status import LastFailover


class Chronicle:
    """One story at a time."""

    def __init__(self, journal: Journal, flights: FlightWriter) -> None:
        self._journal = journal
        self._flights = flights
        self._log = get_logger()
        self._detected_ms: float | None = None
        self._kind = TransitionKind.FAILOVER
        self._told: set[str] = set()
        self._rejoining: NodeName | None = None
        self._held_in: Epoch | None = None
        self._last_plan: tuple[object, ...] = ()
        self._relaxations: frozenset[str] = frozenset()
        self._opened_last = _last_opened(journal)
        self.last_failover = _told_by(self._opened_last) if self._opened_last is not None else None

    def planned(self, view: View, plan: Plan) -> None:
        """Record the plan, unless it is the one recorded last; and the moment of detection."""
        gist = plan.gist
        if gist != self._last_plan:
            self._last_plan = gist
            actions = [f"{name} {node}".strip() for name, node in gist[2]] or ["nothing to do"]
            self._journal.append("plan", plan.reason, epoch=_epoch(view), diagnosis=str(plan.diagnosis), actions=actions)
        if plan.diagnosis is Diagnosis.FAILOVER_HELD and self._held_in != _epoch(view):
            self._held_in = _epoch(view)
            self._journal.append("failover.held", plan.reason, epoch=_epoch(view), cause=str(plan.finding.cause))
            self._log.warning("a failover is held back", reason=plan.reason)
        if plan.finding.failed and self._detected_ms is None:
            self._detected_ms = view.now_ms
        self._flights.recorder.planned(view, plan)

    def given_up(self, view: View, request: Request, because: str) -> None:
        """Record that an operator's order ended before anything was changed."""
        self._journal.append("operator.given_up", f"the {request.kind} is given up: {because}", epoch=_epoch(view))
        self._log.warning("an order is given up", order=str(request.kind), because=because)

    def node_noted(self, kind: str, node: NodeName, text: str, document: Topology | None) -> None:
        """Record how an order about which nodes there are to be goes on."""
        self._journal.append(kind, text, epoch=document.epoch if document is not None else NO_EPOCH, node=node)
        self._log.info("nodes that come or go", node=node, what=text)

    def written(self, old: Topology | None, new: Topology, view: View, because: str, began_ms: float, now: float) -> None:
        """Record what the write of *new* over *old*, begun at *began_ms* and done *now*, means."""
        self._flights.recorder.written(old, new, view, because, began_ms, now)
        for step in steps.written(old, new, view):
            self._tell(step, old, new, view, because, now)
        self._flights.wake()

    def _tell(self, step: Step, old: Topology | None, new: Topology, view: View, because: str, now: float) -> None:
        match step:
            case Remade(adopts=adopts):
                self._remade(old, new, adopts, because)
            case Begun(transition=transition, is_first=is_first):
                self._begun(new, transition, view, because, now, is_first=is_first)
            case Claimed():
                self._claimed(step, new, because, now)
            case Opened(ended=ended):
                self._opened(new, ended, because, now)
            case VotersChanged(voters=voters):
                names, durability = list(voters.names), new.durability
                self._journal.append("voters.changed", because, epoch=new.epoch, names=names, w=voters.w, durability=durability)
                self._log.info("voters changed", names=",".join(names), w=voters.w, durability=str(durability))
            case SettingsChanged(version=version):
                self._journal.append("settings.changed", because, epoch=new.epoch, version=version)
            case PauseChanged(is_paused=is_paused):
                self._journal.append("paused" if is_paused else "resumed", because, epoch=new.epoch)

    def _remade(self, old: Topology | None, new: Topology, adopts: Adopted, because: str) -> None:
        self._journal.append(
            "store.adopted",
            because,
            epoch=new.epoch,
            revision=new.revision,
            stored_epoch=old.epoch if old is not None else None,
            stored_revision=old.revision if old is not None else None,
            seen_epoch=adopts.epoch,
            seen_revision=adopts.revision,
            voters=list(new.voters.names) if new.voters is not None else [],
        )
        self._log.warning("the store was behind; its document was made anew", epoch=new.epoch, because=because)

    def _claimed(self, step: Claimed, new: Topology, because: str, now: float) -> None:
        votes, size = step.votes, step.voters.safe_set_size
        recruited_ms = votes.safe_since_ms(size)
        positions = {
            one.voter.name: f"{format_lsn(one.position.lsn)}, timeline {one.position.timeline}, epoch {one.position.epoch}"
            for one in votes.counted
        }
        self._step(
            "recruited",
            f"{len(votes.counted)} voters promised, {size} were needed",
            new,
            recruited_ms if recruited_ms is not None else now,
            positions=positions,
        )
        self._step("elected", because, new, now, node=step.node, passed_over=dict(votes.passed_over))

    def write_failed(self, document: Topology, because: str, began_ms: float, now: float, outcome: str) -> None:
        """Record that *document* was not written."""
        self._flights.recorder.write_failed(document, because, began_ms, now, outcome)

    def observed(self, view: View) -> None:
        """Record the steps that are seen rather than written."""
        self._flights.recorder.observed(view)
        self._flights.wake()
        self._judge_anew()
        if self._detected_ms is None:
            # An earlier manager may have detected what is under way.
            self._detected_ms = self._flights.recorder.detected_ms
        document = view.document
        if document is None:
            return
        self._tell_relaxations(view)
        if document.transition is not None:
            self._tell_progress(view, document)
        if self._rejoining is not None and steps.follows_the_writer(view, self._rejoining):
            told = f'"{self._rejoining}" follows "{document.writer}"'
            self._step("rejoined", told, document, view.now_ms, node=self._rejoining)
            self._rejoining = None
            self._detected_ms = None

    def _tell_progress(self, view: View, document: Topology) -> None:
        """Record how far the candidate of an unfinished transition is."""
        if (promoted := steps.promoted(view)) is not None:
            told = f'"{promoted.name}" runs as the primary'
            self._step("promoted", told, document, view.now_ms, node=promoted.name)
        if document.candidate is not None and (following := steps.repointed(view)):
            self._step("repointed", f"{', '.join(following)} follow", document, view.now_ms, node=document.candidate.node)

    def _judge_anew(self) -> None:
        """Record that the newest failover was none, as the old writer's noded says now that it is heard."""
        flight, opened = self._flights.recorder.flight, self._opened_last
        if flight is None or opened is None or not flight.ended or opened.epoch != flight.last_epoch:
            return
        told = _outage_told(flight)
        if told["outage_kind"] != OutageKind.PLANNED_STOP or opened.fields.get("outage_kind") == OutageKind.PLANNED_STOP:
            return
        judged = self._journal.append(
            JUDGED,
            f'"{flight.from_node}" had been stopped in good order: no failover, but the end of a planned stop',
            epoch=flight.last_epoch,
            node=flight.from_node,
            elapsed_ms=None,
            **told,
        )
        self._log.info("failover judged", epoch=opened.epoch, **told)
        self._opened_last = as_judged(opened, judged)
        self.last_failover = _told_by(self._opened_last)

    def _tell_relaxations(self, view: View) -> None:
        """Record each new word of the writer about commits that do not wait as the cluster promises."""
        present = frozenset(relaxations(view))
        for text in sorted(present - self._relaxations):
            self._log.warning("commits are relaxed", what=text)
            self._journal.append(
                "commits.relaxed", text, epoch=_epoch(view), node=view.document.writer if view.document else None
            )
        self._relaxations = present

    def _begun(self, new: Topology, transition: Transition, view: View, because: str, now: float, *, is_first: bool) -> None:
        self._kind = transition.kind
        self._told.clear()
        if is_first or self._detected_ms is None:
            if self._detected_ms is None or not is_first:
                self._detected_ms = view.now_ms
            self._rejoining = transition.from_node
        if is_first and transition.kind is not TransitionKind.BOOTSTRAP:
            self._step("detected", because, new, self._detected_ms, node=transition.from_node, cause=transition.cause)
            self._step("published", f"no writer; epoch {new.epoch} begins", new, now)
        else:
            self._step("begun", because, new, now, cause=transition.cause)

    def _opened(self, new: Topology, ended: Transition | None, because: str, now: float) -> None:
        cause = ended.cause if ended is not None else ""
        # Steps that were over before anybody looked: the opening proves them.
        self._step("promoted", f'"{new.writer}" runs as the primary', new, now, node=new.writer)
        if new.voters is not None and new.writer is not None and new.voters.others_needed(new.writer):
            self._step("repointed", "the quorum follows", new, now, node=new.writer)
        flight = self._flights.recorder.flight
        told: dict[str, str | int] = {}
        if self._kind is not TransitionKind.BOOTSTRAP and flight is not None and flight.last_epoch == new.epoch:
            told = _outage_told(flight)
        event = self._step("opened", because, new, now, node=new.writer, cause=cause, transition=str(self._kind), **told)
        if self._kind is not TransitionKind.BOOTSTRAP and event is not None:
            self._opened_last = event
            self.last_failover = _told_by(event)
        if self._rejoining in (None, new.writer):
            self._rejoining = None
            self._detected_ms = None

    def _step(
        self, step: str, message: str, document: Topology, at_ms: float, *, node: str | None = None, **fields: object
    ) -> Event | None:
        if step in self._told:
            return None
        self._told.add(step)
        prefix = "bootstrap" if self._kind is TransitionKind.BOOTSTRAP else "failover"
        elapsed_ms = max(0, round(at_ms - self._detected_ms)) if self._detected_ms is not None else None
        named = {"node": node} if node is not None else {}
        self._log.info(f"{prefix} {step}", epoch=document.epoch, elapsed_ms=elapsed_ms, what=message, **named)
        return self._journal.append(
            f"{prefix}.{step}", message, epoch=document.epoch, node=node, elapsed_ms=elapsed_ms, **fields
        )


def _epoch(view: View) -> Epoch:
    return view.document.epoch if view.document is not None else Epoch(0)


def _outage_told(flight: Flight) -> dict[str, str | int]:
    told: dict[str, str | int] = {"outage_kind": kind_of(flight)}
    if flight.outage_ms is not None:
        told["outage_ms"] = round(flight.outage_ms)
    return told


def _last_opened(journal: Journal) -> Event | None:
    """Return the event of the newest failover the journal remembers, as it was judged last."""
    judged: Event | None = None
    for event in reversed(journal.since(0)):
        if event.kind == JUDGED:
            judged = judged or event
        elif event.kind == "failover.opened":
            return as_judged(event, judged if judged is not None and judged.epoch == event.epoch else None)
    return None


def _told_by(event: Event) -> LastFailover:
    """Return the failover that *event* ended; events of earlier versions do not tell its outage."""
    return LastFailover(
        epoch=Epoch(event.epoch),
        cause=str(event.fields.get("cause", "")),
        outage_ms=outage_of(event),
        at=event.at,
        since_detection_ms=event.elapsed_ms,
        kind=str(event.fields.get("outage_kind") or event.fields.get("transition") or "failover"),
    )
