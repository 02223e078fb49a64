"""Tells the story of each failover: the steps with their times, as events in the journal and lines in the log.

Times are milliseconds on the manager's monotonic clock since the failure was detected, that is, since the first plan that
called for another writer.  Knows what was written and observed; influences nothing.  A manager that finds a transition begun
by an earlier one counts from its own beginning, and says so.
"""

from __future__ import annotations

from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.elect import tally
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request
from cluster_manager.decision.view import View
from cluster_manager.flightfiles import FlightWriter
from cluster_manager.journal import Journal
from cluster_manager.pastwriters import JUDGED, as_judged, outage_of
from cluster_manager.statusview import relaxations
from daemonkit.logs import get_logger
from pgtopology.document import Topology, Transition, TransitionKind
from pgtopology.epoch import Epoch
from pgtopology.event import Event
from pgtopology.flight import Flight, OutageKind, kind_of
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, Role
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

    def written(self, old: Topology | None, new: Topology, view: View, because: str, began_ms: float, now: float) -> None:
        """Record what the write of *new* over *old*, begun at *began_ms* and done *now*, means."""
        self._flights.recorder.written(old, new, view, because, began_ms, now)
        adopts = new.transition.adopts if new.transition is not None else None
        if adopts is not None and (old is None or new.revision > old.revision + 1):
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
        if new.transition is not None and (old is None or new.epoch > old.epoch):
            self._begun(old, new, new.transition, view, because, now)
        elif new.transition is not None and new.candidate is not None and old is not None and old.candidate is None:
            votes = tally(old, view.promises, view.foreign)
            safe_ms = sorted(one.promise.at_ms for one in votes.counted)
            size = old.voters.safe_set_size if old.voters is not None else 1
            recruited_ms = safe_ms[size - 1] if len(safe_ms) >= size else now
            positions = {
                one.voter.name: f"{format_lsn(one.position.lsn)}, timeline {one.position.timeline}, epoch {one.position.epoch}"
                for one in votes.counted
            }
            self._step(
                "recruited", f"{len(safe_ms)} voters promised, {size} were needed", new, recruited_ms, positions=positions
            )
            self._step("elected", because, new, now, node=new.candidate.node, passed_over=dict(votes.passed_over))
        elif new.writer is not None and old is not None and old.writer is None:
            self._opened(old, new, because, now)
        elif old is not None and new.voters != old.voters and new.voters is not None:
            self._journal.append(
                "voters.changed",
                because,
                epoch=new.epoch,
                names=list(new.voters.names),
                w=new.voters.w,
                durability=new.durability,
            )
            self._log.info("voters changed", names=",".join(new.voters.names), w=new.voters.w, durability=str(new.durability))
        elif old is not None and new.desired != old.desired:
            self._journal.append("settings.changed", because, epoch=new.epoch, version=new.desired.version)
        elif old is not None and new.paused != old.paused:
            self._journal.append("paused" if new.paused else "resumed", because, epoch=new.epoch)
        self._flights.wake()

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
        candidate = view.node(document.candidate.node) if document.candidate is not None else None
        if document.transition is not None and candidate is not None and candidate.observation is not None:
            observation = candidate.observation
            if observation.role is Role.PRIMARY and observation.promoted_epoch == document.epoch:
                self._step("promoted", f'"{candidate.name}" runs as the primary', document, view.now_ms, node=candidate.name)
            followers = [
                node.name
                for node in view.nodes
                if node.observation is not None
                and (receiver := node.observation.receiver) is not None
                and receiver.streaming
                and (receiver.upstream, receiver.upstream_epoch) == (candidate.name, document.epoch)
            ]
            needed = document.voters.others_needed(candidate.name) if document.voters is not None else 0
            if needed and len(followers) >= needed:
                self._step("repointed", f"{', '.join(followers)} follow", document, view.now_ms, node=candidate.name)
        if self._rejoining is not None and document.writer is not None:
            node = view.node(self._rejoining)
            receiver = node.observation.receiver if node is not None and node.observation is not None else None
            if receiver is not None and receiver.streaming and receiver.upstream == document.writer:
                self._step(
                    "rejoined", f'"{self._rejoining}" follows "{document.writer}"', document, view.now_ms, node=self._rejoining
                )
                self._rejoining = None
                self._detected_ms = None

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

    def _begun(self, old: Topology | None, new: Topology, transition: Transition, view: View, because: str, now: float) -> None:
        first = new.epoch == transition.first_epoch
        self._kind = transition.kind
        self._told.clear()
        if first or self._detected_ms is None:
            if self._detected_ms is None or not first:
                self._detected_ms = view.now_ms
            self._rejoining = transition.from_node
        if first and transition.kind is not TransitionKind.BOOTSTRAP:
            self._step("detected", because, new, self._detected_ms, node=transition.from_node, cause=transition.cause)
            self._step("published", f"no writer; epoch {new.epoch} begins", new, now)
        else:
            self._step("begun", because, new, now, cause=transition.cause)

    def _opened(self, old: Topology, new: Topology, because: str, now: float) -> None:
        transition = old.transition
        cause = transition.cause if transition is not None else ""
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
