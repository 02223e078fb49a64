"""May the operator's order be carried out? The reason why not, or None."""

from __future__ import annotations

from collections.abc import Sequence

from cluster_manager.decision.actions import ActionKind
from cluster_manager.decision.carrying import awaited_with
from cluster_manager.decision.diagnose import Diagnosis, diagnose_writer
from cluster_manager.decision.members import CAUGHT_UP_BYTES, lag_bytes, node_state
from cluster_manager.decision.prospects import stalled_ms
from cluster_manager.decision.prospects import unanswered as is_unanswered
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.suspicion import Health, health, login_problems, promisable, survivors, tell
from cluster_manager.decision.view import View
from pgtopology.document import Durability, Topology, Transition, TransitionKind
from pgtopology.node import NodeName, NodeState
from pgtopology.observation import Port


def refusal(view: View, request: Request) -> str | None:
    """Return why *request* cannot be carried out now, or None if it can."""
    document = view.document
    if document is None:
        return "there is no cluster yet"
    if request.kind is RequestKind.DATA_LOSS:
        return _data_loss_refusal(view, document, request)
    if document.transition is not None:
        return _in_transition_refusal(view, document, document.transition, request)
    if request.to is not None and (request.to == document.writer or view.node(request.to) is None):
        return _unfit(view, document, request.to)
    if document.voters is None or len(document.voters.members) < 2:
        return (
            f'there is no other voter to hand over to: durability is {document.durability}, only "{document.writer}" has every '
            "commit; a third node makes it quorum (endpointctl node add)"
        )
    if request.to is not None:
        trouble = _unfit(view, document, request.to)
        if trouble is not None:
            return trouble
    if request.kind is RequestKind.SWITCHOVER:
        finding = diagnose_writer(view, document)
        if finding.diagnosis not in (Diagnosis.HEALTHY, Diagnosis.PAUSED) or finding.cause is not None:
            return f"the writer is not well enough to hand over in good order: {finding.reason}"
        if not _beats(view, document):
            return f'the quorum heartbeat of "{document.writer}" is not acknowledged'
        if request.to is None and heir(view, document) is None:
            return "no other voter is streaming"
        to = request.to if request.to is not None else heir(view, document)
        if not request.allow_slot_loss and to is not None and (awaited := awaited_with(view, to)):
            return slots_not_there(awaited)
        if problems := login_problems(view, document, spared=False):
            return f"a login fails that the next writer may need: {tell(problems)}"
    able, missing = promisable(view, document)
    if not document.is_safe_set(able):
        who = tell(missing)
        return f"only {len(able)} of the {document.voters.safe_set_size} voters needed could promise: {who}"
    others = [voter for voter in able if voter.name != document.writer]
    if not document.is_safe_set(others):
        return f'without "{document.writer}" the voters that answer are no safe set: the writer could not leave it'
    return None


def slots_not_there(awaited: Sequence[str]) -> str:
    """Return why a handover that would lose these slots is refused, and what to do."""
    return f"{'; '.join(awaited)}; ask again in a few seconds, or let it go: `endpointctl switchover --allow-slot-loss`"


def hindrance(view: View, request: Request) -> str | None:
    """Return why *request*, which was accepted and has not begun, would not be carried out now, or None.

    What lasts ends the order: carried out when the reason happens to go, hours later perhaps, it would be nobody's wish.
    """
    why_not = refusal(view, request)
    writer = view.document.writer if view.document is not None else None
    if why_not is not None or request.kind is not RequestKind.SWITCHOVER or writer is None:
        return why_not
    ordered = (ActionKind.CHECKPOINT, writer)
    failure = view.failures.get(ordered)
    # One that failed once is tried again first.
    if failure is None or failure.count < 2 or failure.age_ms > view.now_ms - request.asked_at_ms or ordered in view.in_flight:
        return None
    return f'"{writer}" does not write the checkpoint that comes first: {failure.message}'


def _in_transition_refusal(view: View, document: Topology, transition: Transition, request: Request) -> str | None:
    """Return why the transition is left alone, or None: one that has stalled may be given another attempt."""
    under_way = f"a {transition.kind} is under way (epoch {document.epoch})"
    if request.kind is not RequestKind.FAILOVER or transition.kind is TransitionKind.BOOTSTRAP:
        return under_way
    if stalled_ms(view, document) is None:
        return f"{under_way}; it goes on by itself, and another attempt may be asked for once status says that it is stuck"
    if request.to is not None and (document.voters is None or document.voters.find(request.to) is None):
        names = ", ".join(document.voters.names) if document.voters is not None else ""
        return f'"{request.to}" is no voter; the voters are {names}'
    able, missing = promisable(view, document)
    if not document.is_safe_set(able):
        needed = document.voters.safe_set_size if document.voters is not None else 0
        return (
            f"{under_way}, and another attempt would not help: {len(able)} of the {needed} voters needed could promise: "
            f"{tell(missing)}; `endpointctl failover --allow-data-loss {document.cluster}` gives them up for good"
        )
    return None


def _data_loss_refusal(view: View, document: Topology, request: Request) -> str | None:
    """Return why nothing has to be given up, or cannot be."""
    able, _ = promisable(view, document)
    if document.voters is None:
        return "there is no cluster yet"
    if document.is_safe_set(able):
        if document.transition is None:
            return "a safe set answers, so nothing has to be given up: use failover without --allow-data-loss"
        if stalled_ms(view, document) is None:
            return f"a safe set answers, so nothing has to be given up: the {document.transition.kind} goes on by itself"
        return (
            "a safe set answers, so giving voters up would not help: `endpointctl failover`, without --allow-data-loss, begins "
            "another attempt, and `endpointctl explain` tells what each node answers"
        )
    if document.transition is None and not _is_lost(view, document):
        return f'the writer "{document.writer}" is not known to have failed'
    left = survivors(view, document)
    if not left:
        return "no node with whole data answers: there is nobody to go on with"
    if request.to is not None and request.to not in [voter.name for voter in left]:
        return f'"{request.to}" cannot go on; those that could are {", ".join(voter.name for voter in left)}'
    return None


def _is_lost(view: View, document: Topology) -> bool:
    """Return whether the writer is of no use as far as can be told: failed without a remedy, silent with durability async, or
    alone, for who should acknowledge its commits is away."""
    finding = diagnose_writer(view, document)
    writer = view.node(document.writer)
    silent = writer is not None and health(writer, view.timings) in (Health.SILENT, Health.UNSEEN)
    unanswered = writer is not None and writer.port is not Port.ANSWERS
    is_async = document.durability is Durability.ASYNC
    alone = is_unanswered(view, document) is not None
    return finding.diagnosis is Diagnosis.NO_SAFE_SET or (is_async and silent and unanswered) or (not is_async and alone)


def heir(view: View, document: Topology) -> NodeName | None:
    """Return the node that a switchover without a wish would most likely go to, or None if there is none.

    Whoever is close has caught up when the writer has stopped: then tier and name decide, as in an election.
    """
    fit = [
        ((lag_bytes(node, document, view) or 0) // CAUGHT_UP_BYTES, node.spec.tier, node.name)
        for node in view.nodes
        if _unfit(view, document, node.name) is None
    ]
    return min(fit)[2] if fit else None


def _beats(view: View, document: Topology) -> bool:
    writer = view.node(document.writer)
    heartbeat = writer.observation.heartbeat if writer is not None and writer.observation is not None else None
    return (
        heartbeat is not None
        and heartbeat.acknowledged_age_ms is not None
        and heartbeat.acknowledged_age_ms < view.timings.stuck_ms
    )


def _unfit(view: View, document: Topology, name: str) -> str | None:
    node = view.node(name)
    if node is None:
        return f'there is no node "{name}"; the nodes are {", ".join(spec.name for spec in view.specs)}'
    if name == document.writer:
        return f'"{name}" is the writer already'
    if document.voters is None or document.voters.find(name) is None:
        return f'"{name}" is no voter'
    state = node_state(node, document, view)
    if state is not NodeState.STREAMING:
        return f'"{name}" is {state}, not streaming'
    member = document.member(name)
    if member is not None and member.leaving:
        return f'"{name}" is being taken out of the cluster'
    return None
