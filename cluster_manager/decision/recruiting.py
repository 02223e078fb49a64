"""Recruiting: gather promises of the epoch until a safe set stands, elect, and claim (docs/law.md, F3 to F5).

Promises live in the manager's memory only, so a manager that finds recruiting begun by another starts it anew.  A planned
handover asks the old primary first.  Nothing here is undone: whoever was asked stays fenced until somebody leads.
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision.actions import Action, AskPromise, WriteDocument
from cluster_manager.decision.attempt import in_flight, new_attempt, next_document
from cluster_manager.decision.diagnose import Diagnosis, Finding
from cluster_manager.decision.elect import Elected, Tally, elect, tally
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.suspicion import Health, health, promisable, tell
from cluster_manager.decision.view import View
from pgtopology.document import Candidate, Step, Topology, Transition, TransitionKind
from pgtopology.node import NodeName, Role
from pgtopology.observation import PostmasterState
from pgtopology.orders import StopMode
from pgtopology.timeline import RECORDS_MAX, TimelineRecord, next_timeline

ALLOW_DATA_LOSS = "ALLOW_DATA_LOSS"
"""The cause of a transition in which an operator gave voters up: any one of the rest may alone hold a commit, so that all of
them are waited for, as for an heir."""


def recruit(view: View, document: Topology, transition: Transition) -> tuple[Finding, tuple[Action, ...]]:
    """Return where recruiting stands and what to do next."""
    if not view.epoch_is_ours:
        return in_flight(transition, "an earlier manager began it: recruiting starts anew"), (
            new_attempt(document, transition, "recruiting begins anew under this manager"),
        )
    votes = tally(document, view.promises, view.foreign)
    elected = elect(document, votes)
    if elected is not None and not _is_awaited(view, transition):
        safe_since_ms = _safe_since_ms(document, votes)
        if _finds_no_heir(transition, elected) or transition.cause == ALLOW_DATA_LOSS:
            missing, patience_ms = len(votes.passed_over), view.timings.heir_ms
        else:
            missing, patience_ms = len(_stragglers(view, votes)), view.timings.straggler_ms
        if not missing or view.now_ms - safe_since_ms >= patience_ms:
            claim = _claim(view, document, transition, elected)
            return in_flight(transition, f'"{elected.node}" is elected: {elected.because}'), (claim,)
        return in_flight(transition, "a safe set promised; waiting a moment for better nodes"), _ask(view, document, transition)
    actions = _ask(view, document, transition)
    if elected is not None:
        return in_flight(transition, f'"{transition.from_node}" is still to say how far its WAL reaches'), actions
    needed = document.voters.safe_set_size if document.voters is not None else 0
    able, missing = promisable(view, document)
    if document.voters is not None and not document.is_safe_set(able):
        who = tell(missing)
        reason = f"{len(votes.counted)} of the {needed} voters needed promised epoch {document.epoch}: {who}"
        return Finding(Diagnosis.NO_SAFE_SET, reason, cause=Diagnosis.TRANSITION_IN_FLIGHT), actions
    if not actions and not view.promises:
        return in_flight(transition, f'sessions of "{transition.from_node}" finish what they are doing'), actions
    waiting = tell(votes.passed_over)
    if _all_answered(view, document) and document.voters is not None:
        reason = f"every voter answered, but only {len(votes.counted)} of the {needed} needed count: {waiting}"
        return Finding(Diagnosis.NO_CANDIDATE, reason, cause=Diagnosis.TRANSITION_IN_FLIGHT), actions
    return in_flight(transition, f"gathering promises of epoch {document.epoch}: {waiting}"), actions


def _stragglers(view: View, votes: Tally) -> tuple[NodeName, ...]:
    """Return the voters that have not answered but may within a moment: their PostgreSQL runs, and as a standby.

    Whoever must be stopped, started or found first takes longer than anybody waits.
    """
    nodes = (view.node(name) for name in votes.passed_over)
    return tuple(
        node.name
        for node in nodes
        if node is not None
        and node.observation is not None
        and node.is_heard(view.timings)
        and node.observation.role is Role.STANDBY
        and node.observation.postmaster.state is PostmasterState.RUNNING
        and not _has_answered(view, node.name)
    )


def _has_answered(view: View, name: NodeName) -> bool:
    promise = view.promises.get(name)
    return promise is not None and promise.answer.position is not None


def _finds_no_heir(transition: Transition, elected: Elected) -> bool:
    """Return whether a handover would go back to where it came from."""
    return transition.kind is TransitionKind.SWITCHOVER and elected.node == transition.from_node


def _ask(view: View, document: Topology, transition: Transition) -> tuple[Action, ...]:
    """Ask every node that has data for its promise, until it is known how far the node reaches.

    A planned handover lets sessions finish first, and then asks the old primary before the others: it stops in good order,
    which sends all its WAL to everybody, so that the others are level when they are asked.  Once it is seen to have stopped
    they are: it needs longer to come back as a standby and say how far it reaches.
    """
    old = view.node(transition.from_node)
    if old is not None and _is_awaited(view, transition):
        if not view.proxies_settled and view.now_ms - view.epoch_began_at_ms < _drain_ms(view, transition):
            return ()
        if not old.has_stopped(document.epoch, view.timings):
            return (AskPromise(old.name, StopMode.FAST),)
    return tuple(AskPromise(node.name) for node in view.nodes if _worth_asking(view, document, node))


def _is_awaited(view: View, transition: Transition) -> bool:
    """Return whether this is a handover in good order so far, whose old primary has still to promise."""
    old = view.node(transition.from_node)
    if transition.kind is not TransitionKind.SWITCHOVER or old is None or old.name in view.promises:
        return False
    crashed = old.observation is not None and old.observation.postmaster.unexpected_exit
    alive = health(old, view.timings) is not Health.SILENT and not crashed
    return alive and view.now_ms - view.epoch_began_at_ms < _drain_ms(view, transition) + view.timings.handover_ms


def _drain_ms(view: View, transition: Transition) -> float:
    return transition.drain_ms if transition.drain_ms is not None else view.timings.drain_ms


def _worth_asking(view: View, document: Topology, node: NodeView) -> bool:
    promise = view.promises.get(node.name)
    if promise is not None and promise.answer.promised >= document.epoch and promise.answer.position is not None:
        return False
    return node.observation is None or node.observation.system_identifier is not None


def _all_answered(view: View, document: Topology) -> bool:
    names = document.voters.names if document.voters is not None else ()
    return all(_has_answered(view, name) for name in names)


def _safe_since_ms(document: Topology, votes: Tally) -> float:
    """Return when the promises that count first were a safe set."""
    size = document.voters.safe_set_size if document.voters is not None else 1
    return sorted(one.promise.at_ms for one in votes.counted)[size - 1]


def _claim(view: View, document: Topology, transition: Transition, elected: Elected) -> WriteDocument:
    """Write down candidate and timeline before anything is promoted (F5)."""
    observed = [node.observation.timeline for node in view.nodes if node.observation and node.observation.timeline]
    answered = [promise.answer.position.timeline for promise in view.promises.values() if promise.answer.position]
    lost = [transition.adopts.timeline] if transition.adopts is not None else []
    timeline = next_timeline(document.timelines, [*observed, *answered, *lost])
    record = TimelineRecord(
        timeline=timeline,
        epoch=document.epoch,
        node=elected.node,
        parent=elected.position.timeline,
        fork_lsn=elected.position.lsn,
    )
    passed = tell(elected.passed_over)
    return WriteDocument(
        next_document(
            document,
            candidate=Candidate(elected.node, timeline),
            timelines=(*document.timelines, record)[-RECORDS_MAX:],
            transition=msgspec.structs.replace(transition, step=Step.PROMOTING),
        ),
        f'"{elected.node}" is elected: {elected.because}' + (f" (passed over: {passed})" if passed else ""),
    )
