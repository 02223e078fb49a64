"""May the operator's order be carried out? The reason why not, or None."""

from __future__ import annotations

from collections.abc import Sequence

from cluster_manager.decision.actions import ActionKind
from cluster_manager.decision.carrying import awaited_with
from cluster_manager.decision.diagnose import Diagnosis, diagnose_writer
from cluster_manager.decision.observed_members import CAUGHT_UP_BYTES, lag_bytes, node_state
from cluster_manager.decision.prospects import stalled_ms, without_slots
from cluster_manager.decision.prospects import unanswered as is_unanswered
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.situation import Situation, login_problems, survey, survivors
from cluster_manager.decision.suspicion import Health, tell
from cluster_manager.decision.view import View
from pgtopology.document import Durability, Topology, Transition, TransitionKind
from pgtopology.node import NodeName, NodeState
from pgtopology.observation import Port


def refusal(view: View, request: Request) -> str | None:
    """Return why *request* cannot be carried out now, or None if it can."""
    situation = survey(view)
    if situation is not None:
        return why_not(situation, request)
    if view.document is None or view.document.transition is None or request.kind is RequestKind.DATA_LOSS:
        return "there is no cluster yet"
    return _under_way(view.document, view.document.transition)


def why_not(situation: Situation, request: Request) -> str | None:
    """Return the same where there is a cluster."""
    transition = situation.document.transition
    if request.kind is RequestKind.DATA_LOSS:
        return _data_loss_refusal(situation, request)
    if transition is not None:
        return _in_transition_refusal(situation, transition, request)
    refused = _target_refusal(situation, request)
    if refused is None and request.kind is RequestKind.SWITCHOVER:
        refused = _good_order_refusal(situation, request)
    return refused or _election_refusal(situation)


def _target_refusal(situation: Situation, request: Request) -> str | None:
    """Return why the writer cannot go to another voter, or not to the one that is asked for, or None."""
    document = situation.document
    trouble = _unfit(situation, request.to) or _without_slots(situation, request.to) if request.to is not None else None
    if request.to is not None and (request.to == document.writer or request.to not in situation.nodes):
        return trouble
    if len(situation.voters.members) < 2:
        return (
            f'there is no other voter to hand over to: durability is {document.durability}, only "{document.writer}" has every '
            "commit; a third node makes it quorum (endpointctl node add)"
        )
    return trouble


def _good_order_refusal(situation: Situation, request: Request) -> str | None:
    """Return why a handover would not be one in good order, or would lose what can be kept by waiting, or None."""
    finding = diagnose_writer(situation)
    if finding.diagnosis not in (Diagnosis.HEALTHY, Diagnosis.PAUSED) or finding.cause is not None:
        return f"the writer is not well enough to hand over in good order: {finding.reason}"
    if not _beats(situation):
        return f'the quorum heartbeat of "{situation.document.writer}" is not acknowledged'
    to = request.to if request.to is not None else _heir(situation)
    if to is None:
        return "no other voter is streaming"
    if request.to is None and (unfit := without_slots(situation)):
        # The election would decide among all of them.
        return f"the next writer may be one that finds no quorum: {tell(unfit)}; name another one (--to)"
    if not request.allow_slot_loss and (awaited := awaited_with(situation.view, to)):
        return slots_not_there(awaited)
    if problems := login_problems(situation, spared=False):
        return f"a login fails that the next writer may need: {tell(problems)}"
    return None


def _election_refusal(situation: Situation) -> str | None:
    """Return why nobody could be elected, or nobody but the present writer, or None."""
    able, writer = situation.promisable, situation.document.writer
    if not situation.has_safe_set:
        who = tell(situation.missing)
        return f"only {len(able)} of the {situation.voters.safe_set_size} voters needed could promise: {who}"
    if not situation.document.is_safe_set([voter for voter in able if voter.name != writer]):
        return f'without "{writer}" the voters that answer are no safe set: the writer could not leave it'
    return None


def slots_not_there(awaited: Sequence[str]) -> str:
    """Return why a handover that would lose these slots is refused, and what to do."""
    return f"{'; '.join(awaited)}; ask again in a few seconds, or let it go: `endpointctl switchover --allow-slot-loss`"


def hindrance(view: View, request: Request) -> str | None:
    """Return why *request*, which was accepted and has not begun, would not be carried out now, or None.

    What lasts ends the order: carried out when the reason happens to go, hours later perhaps, it would be nobody's wish.
    """
    refused = refusal(view, request)
    writer = view.document.writer if view.document is not None else None
    if refused is not None or request.kind is not RequestKind.SWITCHOVER or writer is None:
        return refused
    ordered = (ActionKind.CHECKPOINT, writer)
    failure = view.failures.get(ordered)
    # One that failed once is tried again first.
    if failure is None or failure.count < 2 or failure.age_ms > view.now_ms - request.asked_at_ms or ordered in view.in_flight:
        return None
    return f'"{writer}" does not write the checkpoint that comes first: {failure.message}'


def _under_way(document: Topology, transition: Transition) -> str:
    return f"a {transition.kind} is under way (epoch {document.epoch})"


def _in_transition_refusal(situation: Situation, transition: Transition, request: Request) -> str | None:
    """Return why the transition is left alone, or None: one that has stalled may be given another attempt."""
    document, voters = situation.document, situation.voters
    under_way = _under_way(document, transition)
    if request.kind is not RequestKind.FAILOVER or transition.kind is TransitionKind.BOOTSTRAP:
        return under_way
    if stalled_ms(situation) is None:
        return f"{under_way}; it goes on by itself, and another attempt may be asked for once status says that it is stuck"
    if request.to is not None and voters.find(request.to) is None:
        return f'"{request.to}" is no voter; the voters are {", ".join(voters.names)}'
    if situation.has_safe_set:
        return None
    return (
        f"{under_way}, and another attempt would not help: {len(situation.promisable)} of the {voters.safe_set_size} voters "
        f"needed could promise: {tell(situation.missing)}; `endpointctl failover --allow-data-loss {document.cluster}` gives "
        "them up for good"
    )


def _data_loss_refusal(situation: Situation, request: Request) -> str | None:
    """Return why nothing has to be given up, or cannot be."""
    transition = situation.document.transition
    if situation.has_safe_set:
        if transition is None:
            return "a safe set answers, so nothing has to be given up: use failover without --allow-data-loss"
        if stalled_ms(situation) is None:
            return f"a safe set answers, so nothing has to be given up: the {transition.kind} goes on by itself"
        return (
            "a safe set answers, so giving voters up would not help: `endpointctl failover`, without --allow-data-loss, begins "
            "another attempt, and `endpointctl explain` tells what each node answers"
        )
    if transition is None and not _is_lost(situation):
        return f'the writer "{situation.document.writer}" is not known to have failed'
    left = survivors(situation)
    if not left:
        return "no node with whole data answers: there is nobody to go on with"
    if request.to is not None and request.to not in [voter.name for voter in left]:
        return f'"{request.to}" cannot go on; those that could are {", ".join(voter.name for voter in left)}'
    return None


def _is_lost(situation: Situation) -> bool:
    """Return whether the writer is of no use as far as can be told: failed without a remedy, silent with durability async, or
    alone, for who should acknowledge its commits is away."""
    writer, is_async = situation.writer, situation.document.durability is Durability.ASYNC
    silent = writer is not None and situation.health[writer.name] in (Health.SILENT, Health.UNSEEN)
    away = silent and writer is not None and writer.port is not Port.ANSWERS
    alone = is_unanswered(situation) is not None
    return (is_async and away) or (not is_async and alone) or diagnose_writer(situation).diagnosis is Diagnosis.NO_SAFE_SET


def heir(view: View) -> NodeName | None:
    """Return the node that a switchover without a wish would most likely go to, or None if there is none."""
    situation = survey(view)
    return _heir(situation) if situation is not None else None


def _heir(situation: Situation) -> NodeName | None:
    """Whoever is close has caught up when the writer has stopped: then tier and name decide, as in an election."""
    view = situation.view
    fit = [
        ((lag_bytes(node, view) or 0) // CAUGHT_UP_BYTES, node.spec.tier, node.name)
        for node in view.nodes
        if _unfit(situation, node.name) is None
    ]
    return min(fit)[2] if fit else None


def _without_slots(situation: Situation, name: str) -> str | None:
    unfit = without_slots(situation)
    return f'"{name}" {unfit[name]}' if name in unfit else None


def _beats(situation: Situation) -> bool:
    seen = situation.writer.observation if situation.writer is not None else None
    age_ms = seen.heartbeat.acknowledged_age_ms if seen is not None and seen.heartbeat is not None else None
    return age_ms is not None and age_ms < situation.timings.stuck_ms


def _unfit(situation: Situation, name: str) -> str | None:
    node, document = situation.node(name), situation.document
    if node is None:
        return f'there is no node "{name}"; the nodes are {", ".join(spec.name for spec in situation.view.specs)}'
    if name == document.writer:
        return f'"{name}" is the writer already'
    if situation.voters.find(name) is None:
        return f'"{name}" is no voter'
    state = node_state(node, situation.view)
    if state is not NodeState.STREAMING:
        return f'"{name}" is {state}, not streaming'
    member = document.member(name)
    if member is not None and member.leaving:
        return f'"{name}" is being taken out of the cluster'
    return None
