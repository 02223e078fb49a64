"""Promoting: from the claim to the opening (docs/law.md, F5, F6).

The other promised nodes follow the candidate at once, it is promoted, its first commit must be seen flushed by the quorum, and
nobody may still be served by the old primary; then it is named the writer.  A candidate is given up only by a new epoch, and
only if others could do better (L5).
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision.actions import Action, AskPromise, Follow, Promote, PutInForce, WriteDocument
from cluster_manager.decision.attempt import in_flight, new_attempt, next_document
from cluster_manager.decision.diagnose import Diagnosis, Finding
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.proof import flushed_by
from cluster_manager.decision.repair import rejoining
from cluster_manager.decision.situation import Situation
from cluster_manager.decision.suspicion import tell
from pgtopology.document import Candidate, Topology, Transition
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, NodeState, Role
from pgtopology.observation import Observation, PostmasterState
from pgtopology.orders import Upstream
from pgtopology.quorum import make_voters, synchronous_standby_names
from pgtopology.timeline import fork_from


def bring_up(situation: Situation, transition: Transition, candidate: Candidate) -> tuple[Finding, tuple[Action, ...]]:
    """Return where the candidate stands and what to do next."""
    document = situation.document
    node, timeline = situation.node(candidate.node), candidate.timeline
    if node is None or timeline is None:
        return in_flight(transition, f'the candidate "{candidate.node}" is gone from the settings'), (
            new_attempt(document, transition, f'the candidate "{candidate.node}" is gone'),
        )
    lost = _why_given_up(situation, node)
    if lost is not None:
        if situation.has_safe_set:
            return in_flight(transition, lost), (new_attempt(document, transition, lost),)
        reason = f"{lost}; {tell(situation.missing)}"
        return Finding(Diagnosis.NO_SAFE_SET, reason, cause=Diagnosis.TRANSITION_IN_FLIGHT), ()
    followers = _followers(situation, node)
    if not _is_promoted(node, document):
        return in_flight(transition, f'"{node.name}" is being promoted to timeline {timeline}'), (
            Promote(node.name, timeline),
            *followers,
        )
    waiting = _why_not_proven(situation, node) or _why_still_read(situation, transition, node)
    if waiting is not None:
        finding = in_flight(transition, f'"{node.name}" is promoted; {waiting}')
        anew = _made_anew(situation, node)
        if anew is not None:
            return finding, (anew,)
        return finding, (*followers, *_helpers(situation, node), *_taught(situation, node))
    return in_flight(transition, f'"{node.name}" has its quorum'), (_open(document, node),)


def _is_promoted(node: NodeView, document: Topology) -> bool:
    observation = node.observation
    return (
        observation is not None
        and document.candidate is not None
        and observation.role is Role.PRIMARY
        and observation.promoted_epoch == document.epoch
        and observation.timeline == document.candidate.timeline
    )


def _why_given_up(situation: Situation, node: NodeView) -> str | None:
    """Return why the candidate cannot be waited for any longer, or None (L5)."""
    view, document, timings = situation.view, situation.document, situation.timings
    since_ms = view.now_ms - max(view.epoch_began_at_ms, view.claimed_at_ms)
    seen = situation.heard.get(node.name)
    if seen is None:
        return f'the candidate "{node.name}" is silent' if since_ms >= timings.silence_ms else None
    if node.name in situation.fresh and seen.postmaster.state is PostmasterState.STOPPED:
        return f'PostgreSQL on the candidate "{node.name}" has stopped'
    if seen.foreign:
        return f'somebody promoted the candidate "{node.name}" by hand'
    if seen.promised > document.epoch:
        return f'the candidate "{node.name}" has promised epoch {seen.promised}'
    if seen.role is Role.PRIMARY:
        if not _is_promoted(node, document):
            return f'the candidate "{node.name}" runs as the primary of another epoch or timeline'
        stuck = since_ms >= timings.opening_ms and node.running_for_ms >= timings.opening_ms
        return f'the candidate "{node.name}" finds no quorum' if stuck else None
    still = min(since_ms, node.replay_advanced_age_ms, node.running_for_ms)
    return f'the candidate "{node.name}" makes no progress' if still >= timings.replay_progress_ms else None


def _followers(situation: Situation, candidate: NodeView) -> tuple[Action, ...]:
    """Order the fenced standbys whose history the candidate's continues to stream from it, also before it is promoted (L2)."""
    upstream = Upstream(candidate.name, candidate.spec.address)
    return tuple(
        Follow(node.name, upstream)
        for node in situation.view.nodes
        if node.name != candidate.name and node.observation is not None and _may_follow(node.observation, situation.document)
    )


def _helpers(situation: Situation, candidate: NodeView) -> tuple[Action, ...]:
    """Bring up who could complete the quorum of a candidate that has waited for it for a while.

    Nodes that have not promised this epoch are asked, for they may have come back since; those that went past the fork are
    rewound or made anew from the candidate.  That destroys nothing that was acknowledged: the candidate was elected by a safe
    set (S7).
    """
    document = situation.document
    if candidate.running_for_ms < situation.timings.helpers_ms:
        return ()
    late = tuple(
        AskPromise(name)
        for name, seen in situation.fresh.items()
        if name != candidate.name and seen.system_identifier == document.system_identifier and seen.promised < document.epoch
    )
    return (*late, *rejoining(situation, candidate))


def _made_anew(situation: Situation, candidate: NodeView) -> WriteDocument | None:
    """Record a voter that was made anew from the promoted candidate, once it is whole (docs/decisions/0005).

    Its former data can never again acknowledge nor promise, and the candidate's list names it.
    """
    document, voters = situation.document, situation.voters
    for name, seen in situation.fresh.items():
        before, voter = voters.find(name), situation.nodes[name].voter()
        if before is None or voter is None or voter == before or name == candidate.name:
            continue
        if not _is_whole_copy(seen, document):
            continue
        others = [one for one in voters.members if one != before]
        members = tuple(
            msgspec.structs.replace(member, incarnation=voter.incarnation) if member.name == name else member
            for member in document.members
        )
        return WriteDocument(
            next_document(document, voters=make_voters([*others, voter], voters.w), members=members),
            f'"{name}" was made anew from "{candidate.name}" and is whole: it votes with its new data',
        )
    return None


def _is_whole_copy(seen: Observation, document: Topology) -> bool:
    """Return whether the node holds everything the candidate held when it was copied, and streams from it in this epoch."""
    receiver, candidate = seen.receiver, document.candidate
    return (
        candidate is not None
        and seen.whole
        and seen.system_identifier == document.system_identifier
        and seen.timeline == candidate.timeline
        and receiver is not None
        and receiver.streaming
        and receiver.upstream == candidate.node
        and receiver.upstream_epoch == document.epoch
    )


def _taught(situation: Situation, candidate: NodeView) -> tuple[Action, ...]:
    """Put the recorded voters in force on the candidate, if its list names one that was made anew since it was promoted."""
    shown = candidate.observation.synchronous_standby_names if candidate.observation is not None else None
    if shown is None or shown == synchronous_standby_names(situation.voters, candidate.name):
        return ()
    return (PutInForce(candidate.name, situation.voters),)


def _may_follow(observation: Observation, document: Topology) -> bool:
    receiver = observation.receiver
    record = document.timelines[-1]
    timeline, replayed = observation.timeline, observation.replayed_lsn
    if timeline is None or replayed is None or receiver is None:
        return False
    fork = fork_from(document.timelines, record.timeline, timeline)
    return (
        observation.promised == document.epoch
        and not observation.foreign
        and observation.role is Role.STANDBY
        and observation.postmaster.state is PostmasterState.RUNNING
        and not (receiver.upstream == record.node and receiver.upstream_epoch == document.epoch)
        and (timeline == record.timeline or (fork is not None and replayed <= fork))
    )


def _why_not_proven(situation: Situation, node: NodeView) -> str | None:
    """Return why the quorum has not proven the candidate yet, or None: its first commit is flushed there (F6, S1, L6)."""
    seen, voters = situation.fresh.get(node.name), situation.voters
    if seen is None:
        return "it has not been heard lately"
    heartbeat = seen.heartbeat
    if heartbeat is None or heartbeat.epoch != situation.document.epoch or heartbeat.acknowledged_age_ms is None:
        error = f" ({heartbeat.error})" if heartbeat and heartbeat.error else ""
        return f"its first quorum commit is not acknowledged{error}"
    needed = voters.others_needed(node.name)
    others = [voter for voter in voters.members if voter.name != node.name]
    flushed = {sender.name for sender in flushed_by(seen, others, heartbeat.lsn)} if heartbeat.lsn is not None else set[str]()
    if len(flushed) >= needed:
        return None
    return f"{len(flushed)} of the {needed} other voters needed have flushed its first commit"


def _why_still_read(situation: Situation, transition: Transition, node: NodeView) -> str | None:
    """Return why somebody may still be served by the old primary, or None (S14)."""
    view, old = situation.view, transition.from_node
    # Who led before a document that was made anew is not known, so nobody is known to have stopped.
    unknown = transition.adopts is not None and old is None
    if not unknown and (old is None or _is_proven_stopped(situation, old, node)):
        return None
    # Its heartbeat vouches for it as long as its WAL arrived somewhere; a frame of ours as long as it may have been lent.
    since_ms = [view.started_at_ms, *(promise.wal_advanced_at_ms for promise in view.promises.values())]
    if not view.proxies_settled:
        since_ms.append(view.epoch_began_at_ms)
    left_ms = situation.timings.reader_lease_ms - (view.now_ms - max(since_ms))
    whom = f'"{old}"' if old is not None else "the former writer"
    return f"{whom} may still be read through a proxy for {left_ms:.0f} ms" if left_ms > 0 else None


def _is_proven_stopped(situation: Situation, old: NodeName, candidate: NodeView) -> bool:
    """Return whether the old primary cannot be serving anybody."""
    epoch = situation.document.epoch
    if old == candidate.name:
        return True
    promise = situation.view.promises.get(old)
    if promise is not None and promise.answer.promised >= epoch:
        return True
    node, seen = situation.node(old), situation.fresh.get(old)
    if node is None or node.observation is None:
        return False
    stopped = seen is not None and seen.postmaster.state is PostmasterState.STOPPED
    return stopped or node.has_stopped(epoch, situation.timings)


def _open(document: Topology, node: NodeView) -> WriteDocument:
    """Name the writer (F6)."""
    record = document.timelines[-1]
    members = tuple(
        msgspec.structs.replace(
            member,
            role=Role.PRIMARY,
            state=NodeState.RUNNING,
            timeline=record.timeline,
            reader_eligible=False,
            lag_bytes=0,
        )
        if member.name == node.name
        else member
        for member in document.members
    )
    return WriteDocument(
        next_document(
            document,
            writer=node.name,
            timelines=(*document.timelines[:-1], msgspec.structs.replace(record, opened=True)),
            members=members,
            transition=None,
        ),
        f'"{node.name}" is the writer of epoch {document.epoch} on timeline {record.timeline}, '
        f"from {format_lsn(record.fork_lsn)}",
    )
