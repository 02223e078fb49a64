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
from cluster_manager.decision.situation import Situation
from cluster_manager.decision.suspicion import Health, tell
from cluster_manager.decision.view import View
from pgtopology.document import Candidate, Step, Transition, TransitionKind
from pgtopology.node import NodeName, Role
from pgtopology.observation import PostmasterState
from pgtopology.orders import StopMode
from pgtopology.timeline import RECORDS_MAX, TimelineRecord, next_timeline

ALLOW_DATA_LOSS = "ALLOW_DATA_LOSS"
"""The cause of a transition in which an operator gave voters up: any one of the rest may alone hold a commit, so that all of
them are waited for, as for an heir."""


def recruit(situation: Situation, transition: Transition) -> tuple[Finding, tuple[Action, ...]]:
    """Return where recruiting stands and what to do next."""
    view, document = situation.view, situation.document
    if not view.epoch_is_ours:
        return in_flight(transition, "an earlier manager began it: recruiting starts anew"), (
            new_attempt(document, transition, "recruiting begins anew under this manager"),
        )
    votes = tally(document, view.promises, view.foreign)
    elected = elect(document, votes)
    if elected is None:
        actions = _ask(situation, transition)
        return _why_nobody(situation, transition, votes, actions), actions
    if _is_awaited(situation, transition):
        still = f'"{transition.from_node}" is still to say how far its WAL reaches'
        return in_flight(transition, still), _ask(situation, transition)
    if _is_worth_waiting(situation, transition, votes, elected):
        waiting = "a safe set promised; waiting a moment for better nodes"
        return in_flight(transition, waiting), _ask(situation, transition)
    claim = _claim(situation, transition, elected)
    return in_flight(transition, f'"{elected.node}" is elected: {elected.because}'), (claim,)


def _why_nobody(situation: Situation, transition: Transition, votes: Tally, asked: tuple[Action, ...]) -> Finding:
    """Return why nobody is elected yet: what is being waited for, or that waiting does not help."""
    view, epoch, needed = situation.view, situation.document.epoch, situation.voters.safe_set_size
    if not situation.has_safe_set:
        who = tell(situation.missing)
        reason = f"{len(votes.counted)} of the {needed} voters needed promised epoch {epoch}: {who}"
        return Finding(Diagnosis.NO_SAFE_SET, reason, cause=Diagnosis.TRANSITION_IN_FLIGHT)
    if not asked and not view.promises:
        return in_flight(transition, f'sessions of "{transition.from_node}" finish what they are doing')
    waiting = tell(votes.passed_over)
    if all(_has_answered(view, name) for name in situation.voters.names):
        reason = f"every voter answered, but only {len(votes.counted)} of the {needed} needed count: {waiting}"
        return Finding(Diagnosis.NO_CANDIDATE, reason, cause=Diagnosis.TRANSITION_IN_FLIGHT)
    return in_flight(transition, f"gathering promises of epoch {epoch}: {waiting}")


def _is_worth_waiting(situation: Situation, transition: Transition, votes: Tally, elected: Elected) -> bool:
    """Return whether somebody better may still promise: within a moment, or longer where it costs nobody a choice (F4, F8)."""
    view, timings = situation.view, situation.timings
    if _finds_no_heir(transition, elected) or transition.cause == ALLOW_DATA_LOSS:
        missing, patience_ms = len(votes.passed_over), timings.heir_ms
    else:
        missing, patience_ms = len(_stragglers(situation, votes)), timings.straggler_ms
    safe_since_ms = votes.safe_since_ms(situation.voters.safe_set_size)
    return missing > 0 and safe_since_ms is not None and view.now_ms - safe_since_ms < patience_ms


def _stragglers(situation: Situation, votes: Tally) -> tuple[NodeName, ...]:
    """Return the voters that have not answered but may within a moment: their PostgreSQL runs, and as a standby.

    Whoever must be stopped, started or found first takes longer than anybody waits.
    """
    return tuple(
        name
        for name in situation.voters.names
        if name in votes.passed_over
        and (seen := situation.heard.get(name)) is not None
        and seen.role is Role.STANDBY
        and seen.postmaster.state is PostmasterState.RUNNING
        and not _has_answered(situation.view, name)
    )


def _has_answered(view: View, name: NodeName) -> bool:
    promise = view.promises.get(name)
    return promise is not None and promise.answer.position is not None


def _finds_no_heir(transition: Transition, elected: Elected) -> bool:
    """Return whether a handover would go back to where it came from."""
    return transition.kind is TransitionKind.SWITCHOVER and elected.node == transition.from_node


def _ask(situation: Situation, transition: Transition) -> tuple[Action, ...]:
    """Ask every node that has data for its promise, until it is known how far the node reaches.

    A planned handover lets sessions finish first, and then asks the old primary before the others: it stops in good order,
    which sends all its WAL to everybody, so that the others are level when they are asked.  Once it is seen to have stopped
    they are: it needs longer to come back as a standby and say how far it reaches.
    """
    view = situation.view
    old = situation.node(transition.from_node)
    if old is not None and _is_awaited(situation, transition):
        if not view.proxies_settled and view.now_ms - view.epoch_began_at_ms < _drain_ms(situation, transition):
            return ()
        if not old.has_stopped(situation.document.epoch, situation.timings):
            return (AskPromise(old.name, StopMode.FAST),)
    return tuple(AskPromise(node.name) for node in view.nodes if _worth_asking(situation, node))


def _is_awaited(situation: Situation, transition: Transition) -> bool:
    """Return whether this is a handover in good order so far, whose old primary has still to promise."""
    view, old = situation.view, situation.node(transition.from_node)
    if transition.kind is not TransitionKind.SWITCHOVER or old is None or old.name in view.promises:
        return False
    crashed = old.observation is not None and old.observation.postmaster.unexpected_exit
    if crashed or situation.health[old.name] is Health.SILENT:
        return False
    return view.now_ms - view.epoch_began_at_ms < _drain_ms(situation, transition) + situation.timings.handover_ms


def _drain_ms(situation: Situation, transition: Transition) -> float:
    return transition.drain_ms if transition.drain_ms is not None else situation.timings.drain_ms


def _worth_asking(situation: Situation, node: NodeView) -> bool:
    promise = situation.view.promises.get(node.name)
    if promise is not None and promise.answer.promised >= situation.document.epoch and promise.answer.position is not None:
        return False
    return node.observation is None or node.observation.system_identifier is not None


def _claim(situation: Situation, transition: Transition, elected: Elected) -> WriteDocument:
    """Write down candidate and timeline before anything is promoted (F5)."""
    view, document = situation.view, situation.document
    observed = [node.observation.timeline for node in view.nodes if node.observation and node.observation.timeline]
    answered = [promise.answer.position.timeline for promise in view.promises.values() if promise.answer.position]
    lost = [transition.adopts.timeline] if transition.adopts is not None else []
    timeline = next_timeline(document.timelines, [*observed, *answered, *lost], document.epoch)
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
