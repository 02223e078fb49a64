"""The unfinished transition: what to do next while there is no writer.

The steps stand in the document, so that whoever finds one continues with it: recruit (gather promises until a safe set stands),
claim (candidate and timeline, by compare-and-swap), then in parallel follow, promote and prove, then open.  Anything that goes
wrong before the opening is answered by a new epoch, never by a second candidate in this one (S5).  Once begun a transition is
finished also while the cluster is paused.
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision import adoption, configuring
from cluster_manager.decision.actions import Action, WriteDocument
from cluster_manager.decision.attempt import in_flight, new_attempt, next_document
from cluster_manager.decision.diagnose import Diagnosis, Finding
from cluster_manager.decision.promoting import bring_up
from cluster_manager.decision.recruiting import ALLOW_DATA_LOSS, recruit
from cluster_manager.decision.refusal import why_not
from cluster_manager.decision.request import RequestKind
from cluster_manager.decision.situation import Situation, survivors
from cluster_manager.decision.suspicion import tell
from cluster_manager.decision.view import View
from pgtopology.document import Durability, Step, Topology, Transition, TransitionKind
from pgtopology.epoch import Epoch
from pgtopology.node import NodeName
from pgtopology.quorum import make_voters


def begin(
    view: View,
    document: Topology,
    finding: Finding,
    *,
    kind: TransitionKind,
    target: NodeName | None = None,
    drain_ms: int | None = None,
) -> WriteDocument:
    """Publish that there is no writer, under the next epoch (F2)."""
    epoch = Epoch(document.epoch + 1)
    transition = Transition(
        kind=kind,
        step=Step.RECRUITING,
        cause=str(finding.cause or finding.diagnosis),
        from_node=document.writer,
        target=target,
        avoid_old=kind is TransitionKind.SWITCHOVER or finding.diagnosis is Diagnosis.SWITCHOVER_REQUESTED,
        first_epoch=epoch,
        started_at=view.wall_time,
        drain_ms=drain_ms,
    )
    return WriteDocument(
        next_document(document, epoch=epoch, writer=None, candidate=None, transition=transition), finding.reason
    )


def give_up_voters(situation: Situation, *, target: NodeName | None = None) -> WriteDocument:
    """Go on with the voters that answer, under the next epoch, and say that durability is reduced (S13).

    The voters left out can never again stand in the way, nor be counted: what only they hold is lost, and they come back as
    followers.
    """
    view, document = situation.view, situation.document
    able = survivors(situation)
    epoch = Epoch(document.epoch + 1)
    old = document.transition
    transition = Transition(
        kind=TransitionKind.FAILOVER,
        step=Step.RECRUITING,
        cause=ALLOW_DATA_LOSS,
        from_node=document.writer if old is None else old.from_node,
        target=target,
        first_epoch=epoch if old is None else old.first_epoch,
        started_at=view.wall_time,
        adopts=old.adopts if old is not None else None,
    )
    return WriteDocument(
        next_document(
            document,
            epoch=epoch,
            writer=None,
            candidate=None,
            transition=transition,
            voters=make_voters(able, min(situation.voters.w, len(able))),
            former_voters=None,
            durability=Durability.REDUCED,
        ),
        f"an operator gives up the voters that do not answer, and what only they hold: {tell(situation.missing)}; "
        "one that still runs may acknowledge commits that will be lost",
    )


def proceed(situation: Situation, transition: Transition) -> tuple[Finding, tuple[Action, ...]]:
    """Return where the transition stands and what to do next.

    A document that was made anew is first completed; an operator may then ask for another attempt at a transition that has
    stalled.  What nodes are to be told of settings waits for a writer, but not for ever.
    """
    document, request = situation.document, situation.view.request
    completed = adoption.completed(situation, transition)
    if completed is not None:
        return Finding(Diagnosis.STORE_BEHIND, completed.because), (completed,)
    if request is not None and request.kind is RequestKind.FAILOVER and why_not(situation, request) is None:
        wanted = msgspec.structs.replace(transition, target=request.to)
        again = new_attempt(document, wanted, "the operator asks for another attempt")
        return in_flight(transition, again.because), (again,)
    if transition.step is Step.PROMOTING and document.candidate is not None:
        finding, actions = bring_up(situation, transition, document.candidate)
    else:
        finding, actions = recruit(situation, transition)
    if any(isinstance(action, WriteDocument) for action in actions):
        return finding, actions
    return finding, (*actions, *configuring.overdue(situation))
