"""The pipeline: a view in, a plan out. Total and deterministic.

    observations -> suspicion (per node) -> diagnosis -> election / transition / repair -> Plan

Each step stands in its own file; this one only says in which order the questions are asked.  A plan with a WriteDocument has
nothing else in it: what follows from a document is decided after it was written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from cluster_manager.decision import adoption, attempt, bootstrap, configuring, membership, transition
from cluster_manager.decision.actions import Action, Checkpoint, Clone, Rewind, WriteDocument
from cluster_manager.decision.diagnose import Diagnosis, Finding, diagnose_store, diagnose_writer
from cluster_manager.decision.members import refreshed
from cluster_manager.decision.nodeview import NEVER_MS, is_fresh
from cluster_manager.decision.refusal import refusal
from cluster_manager.decision.repair import Repair, bearable, repairs
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.suspicion import promisable
from cluster_manager.decision.view import View
from pgtopology.document import Step, Topology, TransitionKind
from pgtopology.epoch import Revision

MEMBERS_CHANGED = "the members changed"
"""The reason of a write that only notes down what was observed of the nodes."""

CALM_WAKE_MS = 100
"""How long nothing may happen before the ages are looked at again: a third of what makes an observation stale."""

BUSY_WAKE_MS = 10
"""The same while a transition is under way: a third of the wait for stragglers."""

REST_WAKE_MS = 200
"""The same while all is well: the time between two words of a node."""

SOONEST_WAKE_MS = 1
"""A timer may be early by less than that."""

_WRITER_IS_THERE = (Diagnosis.COMMIT_STUCK,)
"""Besides HEALTHY: the writer answers, so that a node may be made anew from it, which may be just what it waits for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is the case, what is to be done, and when to look again."""

    finding: Finding
    actions: tuple[Action, ...]
    wake_at_ms: float
    repairs: tuple[Repair, ...] = ()
    is_unsure: bool = False
    """Whether the store may be behind what nodes have seen, so that nobody may change the document."""
    goes_on_regardless: bool = False
    """Whether an operator takes it upon himself that nodes are away."""

    @property
    def diagnosis(self) -> Diagnosis:
        """The name of the situation."""
        return self.finding.diagnosis

    @property
    def reason(self) -> str:
        """The sentence beside it."""
        return self.finding.reason

    @property
    def is_restful(self) -> bool:
        """Whether an observation that says nothing new need not be decided upon: ages are looked at when the alarm is due."""
        return self.diagnosis is Diagnosis.HEALTHY and not self.actions

    @property
    def gist(self) -> tuple[Diagnosis, Diagnosis | None, tuple[tuple[str, str], ...]]:
        """What makes it another plan than the last one: the situation, its cause, and which action concerns whom."""
        concerned = tuple((type(one).__name__, getattr(one, "node", "")) for one in self.actions)
        return self.diagnosis, self.finding.cause, concerned


def decide(view: View) -> Plan:
    """Return the plan for *view*.

    Nothing of it is done before so many voters were heard that the store cannot be behind without anybody saying so: a manager
    that has only begun would otherwise order the past (S12).
    """
    plan = _decide(view)
    unheard = adoption.unheard(view)
    if not unheard or plan.goes_on_regardless:
        return plan
    why = f"nothing is ordered before more of {', '.join(unheard)} were heard: the store may be behind them"
    return replace(plan, finding=replace(plan.finding, reason=f"{plan.reason}; {why}"), actions=(), is_unsure=True)


def _decide(view: View) -> Plan:
    finding = diagnose_store(view)
    if finding is not None:
        return replace(_plan(view, *adoption.adopt(view, finding)), is_unsure=True)
    document = view.document
    if document is None:
        return _plan(view, *bootstrap.found(view))
    request = view.request
    if request is not None and request.kind is RequestKind.DATA_LOSS and refusal(view, request) is None:
        lost = Finding(Diagnosis.NO_SAFE_SET, "an operator goes on without a safe set")
        given_up = _plan(view, lost, (transition.give_up_voters(view, document, target=request.to),))
        return replace(given_up, goes_on_regardless=True)
    if document.transition is not None:
        if document.transition.step is Step.INITIALISING:
            return _plan(view, *bootstrap.initialise(view, document, document.transition))
        again = adoption.completed(view, document, document.transition)
        if again is not None:
            return _plan(view, Finding(Diagnosis.STORE_BEHIND, again.because), (again,))
        if request is not None and request.kind is RequestKind.FAILOVER and refusal(view, request) is None:
            wanted = msgspec.structs.replace(document.transition, target=request.to)
            again = attempt.new_attempt(document, wanted, "the operator asks for another attempt")
            return _plan(view, attempt.in_flight(document.transition, again.because), (again,))
        finding, actions = transition.proceed(view, document, document.transition)
        if not any(isinstance(action, WriteDocument) for action in actions):
            actions = (*actions, *configuring.overdue(view, document))
        return _plan(view, finding, actions)
    finding = diagnose_writer(view, document)
    if finding.failed:
        kind = TransitionKind.FAILOVER
        return _plan(view, finding, (transition.begin(view, document, finding, kind=kind),))
    if view.request is not None and refusal(view, view.request) is None:
        return _asked(view, document, view.request, finding)
    return _beside_the_writer(view, document, finding)


def _asked(view: View, document: Topology, request: Request, finding: Finding) -> Plan:
    """Begin what the operator asks for: in good order if the writer is well, else as a failover."""
    asked = Finding(Diagnosis.SWITCHOVER_REQUESTED, f'the operator asks "{document.writer}" to hand over')
    kind = TransitionKind.SWITCHOVER if finding.diagnosis is Diagnosis.HEALTHY else TransitionKind.FAILOVER
    if request.kind is RequestKind.SWITCHOVER and document.writer is not None and not _is_checkpointed(view, request):
        waiting = Finding(asked.diagnosis, f'{asked.reason}; "{document.writer}" writes a checkpoint first')
        return _plan(view, waiting, (Checkpoint(document.writer),))
    begun = transition.begin(view, document, asked, kind=kind, target=request.to, drain_ms=request.drain_ms)
    return _plan(view, asked, (begun,))


def _is_checkpointed(view: View, request: Request) -> bool:
    """Return whether the writer's stop will be short, or has been waited for long enough."""
    at_ms = view.checkpointed_at_ms
    fresh = at_ms is not None and view.now_ms - at_ms < view.timings.checkpointed_ms
    return fresh or view.now_ms - request.asked_at_ms >= view.timings.checkpoint_ms


def _beside_the_writer(view: View, document: Topology, finding: Finding) -> Plan:
    """Keep the rest of the cluster in order, whatever little is the matter with the writer."""
    found = repairs(view, document)
    calm = finding.diagnosis is Diagnosis.HEALTHY
    if calm and found:
        finding = Finding(found[0].diagnosis, "; ".join(repair.reason for repair in found))
    current = refreshed(document, view)
    if current != document:
        written = msgspec.structs.replace(current, revision=Revision(document.revision + 1))
        return _plan(view, finding, (WriteDocument(written, MEMBERS_CHANGED),), found)
    trusted = finding.diagnosis in _WRITER_IS_THERE or calm
    wanted = [repair.action for repair in found if repair.action is not None and (trusted or not _destroys(repair.action))]
    actions = [*bearable(view, document, wanted), *configuring.untold(view, document)]
    if calm and view.checkpointed_at_ms is None and document.writer is not None:
        # A promotion leaves the old timeline in the control file until the next checkpoint, minutes later; a writer that dies
        # before it could not be rewound afterwards.
        actions.append(Checkpoint(document.writer))
    change = membership.next_step(view, document) if calm else None
    if finding.diagnosis is Diagnosis.COMMIT_STUCK:
        change = membership.unstick(view, document)
    if change is not None:
        what, action = change
        if isinstance(action, WriteDocument):
            return _plan(view, _changing(finding, what), (action,), found)
        if action is not None:
            actions.append(action)
        if not found or not calm:
            finding = _changing(finding, what)
    _, missing = promisable(view, document)
    if missing and finding.diagnosis is Diagnosis.HEALTHY:
        # One that is merely late says nothing new; one that answers and does not count does.
        who = "; ".join(f'voter "{name}" {why}' for name, why in missing.items() if _is_heard(view, name))
        finding = Finding(Diagnosis.REPLICA_MISSING, who) if who else finding
    if document.paused and finding.diagnosis is Diagnosis.HEALTHY:
        finding = Finding(Diagnosis.PAUSED, f"{finding.reason}; automatic failover is paused")
    return _plan(view, finding, tuple(actions), found)


def _changing(finding: Finding, what: str) -> Finding:
    """Return the finding while something about the voters is being changed: for its own sake, or because commits are stuck."""
    if finding.diagnosis is Diagnosis.COMMIT_STUCK:
        return Finding(finding.diagnosis, f"{finding.reason}; {what}")
    return Finding(Diagnosis.VOTERS_CHANGING, what)


def _is_heard(view: View, name: str) -> bool:
    node = view.node(name)
    return node is not None and is_fresh(node, view.timings)


def _destroys(action: Action) -> bool:
    return isinstance(action, Rewind) or (isinstance(action, Clone) and action.destroys is not None)


def _plan(view: View, finding: Finding, actions: tuple[Action, ...], found: tuple[Repair, ...] = ()) -> Plan:
    in_transition = view.document is not None and view.document.transition is not None
    plan = Plan(finding, actions, view.now_ms + BUSY_WAKE_MS, found)
    if in_transition or finding.failed:
        return plan
    calm_ms = REST_WAKE_MS if plan.is_restful else CALM_WAKE_MS
    return replace(plan, wake_at_ms=view.now_ms + min(calm_ms, _until_silence_counts(view)))


def _until_silence_counts(view: View) -> float:
    """Return in how many milliseconds the next age passes a limit that makes a silent writer a failed one."""
    timings = view.timings
    writer = view.node(view.document.writer) if view.document is not None else None
    if writer is None:
        return NEVER_MS
    due = [timings.fresh_ms - writer.age_ms, timings.silence_ms - writer.age_ms]
    due += [timings.silence_ms - node.wal_advanced_age_ms for node in view.nodes]
    return max(SOONEST_WAKE_MS, min((ms for ms in due if ms > 0), default=NEVER_MS))
