"""The pipeline: a view in, a plan out. Total and deterministic.

    observations -> suspicion (per node) -> diagnosis -> election / transition / repair -> Plan

Each step stands in its own file; this one only says in which order the questions are asked.  A plan with a WriteDocument has
nothing else in it: what follows from a document is decided after it was written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster_manager.decision import adoption, bootstrap, transition
from cluster_manager.decision.actions import Action, Checkpoint
from cluster_manager.decision.beside import beside_the_writer
from cluster_manager.decision.diagnose import Diagnosis, Finding, diagnose_store, diagnose_writer
from cluster_manager.decision.nodeview import NEVER_MS
from cluster_manager.decision.refusal import why_not
from cluster_manager.decision.repair import Repair
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.situation import Situation, survey
from cluster_manager.decision.view import View
from pgtopology.document import TransitionKind

CALM_WAKE_MS = 100
"""How long nothing may happen before the ages are looked at again: a third of what makes an observation stale."""

BUSY_WAKE_MS = 10
"""The same while a transition is under way: a third of the wait for stragglers."""

REST_WAKE_MS = 200
"""The same while all is well: the time between two words of a node."""

SOONEST_WAKE_MS = 1
"""A timer may be early by less than that."""


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
    """Return the plan for *view*: the answer to the first of these questions that has one.

    1. Is the store behind what anybody has seen? Its document is made anew, or nothing is done (S12).
    2. Are there no voters yet? A cluster is made, if that was ordered.
    3. Does an operator give up the voters that do not answer? The rest goes on (S13).
    4. Is a transition unfinished? It goes on from where the document says that it stands (D3).
    5. Does the law call for another writer? That there is none is published, and nothing else is touched yet (F1, F2).
    6. Does an operator want another writer? It hands over, in good order if it is well (F8).
    7. Else it leads on, and everything beside it is kept in order.

    Nothing of it is done before so many voters were heard that the store cannot be behind without anybody saying so: a manager
    that has only begun would otherwise order the past (S12).
    """
    plan = _answer(view)
    unheard = adoption.unheard(view)
    if not unheard or plan.goes_on_regardless:
        return plan
    why = f"nothing is ordered before more of {', '.join(unheard)} were heard: the store may be behind them"
    return replace(plan, finding=replace(plan.finding, reason=f"{plan.reason}; {why}"), actions=(), is_unsure=True)


def _answer(view: View) -> Plan:
    behind = diagnose_store(view)
    if behind is not None:
        return replace(_plan(view, *adoption.adopt(view, behind)), is_unsure=True)
    situation = survey(view)
    if situation is None:
        return _plan(view, *bootstrap.bring_about(view))
    request, under_way = view.request, situation.document.transition
    if request is not None and request.kind is RequestKind.DATA_LOSS and why_not(situation, request) is None:
        return _go_on_without(situation, request)
    if under_way is not None:
        return _plan(view, *transition.proceed(situation, under_way))
    writer = diagnose_writer(situation)
    if writer.failed:
        begun = transition.begin(view, situation.document, writer, kind=TransitionKind.FAILOVER)
        return _plan(view, writer, (begun,))
    if request is not None and why_not(situation, request) is None:
        return _hand_over(situation, request, writer)
    proposal = beside_the_writer(situation, writer)
    actions = (proposal.write,) if proposal.write is not None else proposal.orders
    return _plan(view, proposal.finding or writer, actions, proposal.repairs)


def _go_on_without(situation: Situation, request: Request) -> Plan:
    """Give up the voters that do not answer, as an operator takes it upon himself."""
    lost = Finding(Diagnosis.NO_SAFE_SET, "an operator goes on without a safe set")
    given_up = _plan(situation.view, lost, (transition.give_up_voters(situation, target=request.to),))
    return replace(given_up, goes_on_regardless=True)


def _hand_over(situation: Situation, request: Request, writer: Finding) -> Plan:
    """Begin what the operator asks for: in good order if the writer is well, else as a failover."""
    view, document = situation.view, situation.document
    asked = Finding(Diagnosis.SWITCHOVER_REQUESTED, f'the operator asks "{document.writer}" to hand over')
    kind = TransitionKind.SWITCHOVER if writer.diagnosis is Diagnosis.HEALTHY else TransitionKind.FAILOVER
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
