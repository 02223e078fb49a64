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
from cluster_manager.decision.nodeview import NodeView, is_fresh
from cluster_manager.decision.repair import rejoining
from cluster_manager.decision.suspicion import Health, health, promisable, tell
from cluster_manager.decision.view import View
from pgtopology.document import Candidate, Topology, Transition
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, NodeState, Role
from pgtopology.observation import Observation, PostmasterState
from pgtopology.orders import Upstream
from pgtopology.quorum import make_voters, synchronous_standby_names
from pgtopology.timeline import fork_from


def bring_up(
    view: View, document: Topology, transition: Transition, candidate: Candidate
) -> tuple[Finding, tuple[Action, ...]]:
    """Return where the candidate stands and what to do next."""
    node = view.node(candidate.node)
    timeline = candidate.timeline
    if node is None or timeline is None:
        return in_flight(transition, f'the candidate "{candidate.node}" is gone from the settings'), (
            new_attempt(document, transition, f'the candidate "{candidate.node}" is gone'),
        )
    lost = _why_given_up(view, document, node)
    if lost is not None:
        able, missing = promisable(view, document)
        if document.voters is not None and document.is_safe_set(able):
            return in_flight(transition, lost), (new_attempt(document, transition, lost),)
        who = tell(missing)
        return Finding(Diagnosis.NO_SAFE_SET, f"{lost}; {who}", cause=Diagnosis.TRANSITION_IN_FLIGHT), ()
    followers = _followers(view, document, node)
    if not _is_promoted(node, document):
        return in_flight(transition, f'"{node.name}" is being promoted to timeline {timeline}'), (
            Promote(node.name, timeline),
            *followers,
        )
    waiting = _why_not_open(view, document, transition, node)
    if waiting is not None:
        finding = in_flight(transition, f'"{node.name}" is promoted; {waiting}')
        anew = _made_anew(view, document, node)
        if anew is not None:
            return finding, (anew,)
        taught = _taught(view, document, node)
        return finding, (*followers, *_helpers(view, document, node), *taught)
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


def _why_given_up(view: View, document: Topology, node: NodeView) -> str | None:
    """Return why the candidate cannot be waited for any longer, or None (L5)."""
    timings = view.timings
    since_ms = view.now_ms - max(view.epoch_began_at_ms, view.claimed_at_ms)
    if health(node, timings) in (Health.SILENT, Health.UNSEEN):
        return f'the candidate "{node.name}" is silent' if since_ms >= timings.silence_ms else None
    observation = node.observation
    if observation is None:
        return None
    if is_fresh(node, timings) and observation.postmaster.state is PostmasterState.STOPPED:
        return f'PostgreSQL on the candidate "{node.name}" has stopped'
    if observation.foreign:
        return f'somebody promoted the candidate "{node.name}" by hand'
    if observation.promised > document.epoch:
        return f'the candidate "{node.name}" has promised epoch {observation.promised}'
    if observation.role is Role.PRIMARY:
        if not _is_promoted(node, document):
            return f'the candidate "{node.name}" runs as the primary of another epoch or timeline'
        stuck = since_ms >= timings.opening_ms and node.running_for_ms >= timings.opening_ms
        return f'the candidate "{node.name}" finds no quorum' if stuck else None
    still = min(since_ms, node.replay_advanced_age_ms, node.running_for_ms)
    return f'the candidate "{node.name}" makes no progress' if still >= timings.replay_progress_ms else None


def _followers(view: View, document: Topology, candidate: NodeView) -> tuple[Action, ...]:
    """Order the fenced standbys whose history the candidate's continues to stream from it, also before it is promoted (L2)."""
    upstream = Upstream(candidate.name, candidate.spec.address)
    return tuple(
        Follow(node.name, upstream)
        for node in view.nodes
        if node.name != candidate.name and node.observation is not None and _may_follow(node, node.observation, document)
    )


def _helpers(view: View, document: Topology, candidate: NodeView) -> tuple[Action, ...]:
    """Bring up who could complete the quorum of a candidate that has waited for it for a while.

    Nodes that have not promised this epoch are asked, for they may have come back since; those that went past the fork are
    rewound or made anew from the candidate.  That destroys nothing that was acknowledged: the candidate was elected by a safe
    set (S7).
    """
    if candidate.running_for_ms < view.timings.helpers_ms:
        return ()
    late = tuple(
        AskPromise(node.name)
        for node in view.nodes
        if node.name != candidate.name
        and is_fresh(node, view.timings)
        and node.observation is not None
        and node.observation.system_identifier == document.system_identifier
        and node.observation.promised < document.epoch
    )
    return (*late, *rejoining(view, document, candidate))


def _made_anew(view: View, document: Topology, candidate: NodeView) -> WriteDocument | None:
    """Record a voter that was made anew from the promoted candidate, once it is whole (docs/decisions/0005).

    Its former data can never again acknowledge nor promise, and the candidate's list names it.
    """
    voters = document.voters
    for node in view.nodes:
        before, voter = voters.find(node.name) if voters is not None else None, node.voter()
        if voters is None or before is None or voter is None or voter == before or node.name == candidate.name:
            continue
        if not _is_whole_copy(node, view, document):
            continue
        others = [one for one in voters.members if one != before]
        members = tuple(
            msgspec.structs.replace(member, incarnation=voter.incarnation) if member.name == node.name else member
            for member in document.members
        )
        return WriteDocument(
            next_document(document, voters=make_voters([*others, voter], voters.w), members=members),
            f'"{node.name}" was made anew from "{candidate.name}" and is whole: it votes with its new data',
        )
    return None


def _is_whole_copy(node: NodeView, view: View, document: Topology) -> bool:
    """Return whether the node holds everything the candidate held when it was copied, and streams from it in this epoch."""
    observation = node.observation
    if observation is None or not is_fresh(node, view.timings) or document.candidate is None:
        return False
    receiver = observation.receiver
    return (
        observation.whole
        and observation.system_identifier == document.system_identifier
        and observation.timeline == document.candidate.timeline
        and receiver is not None
        and receiver.streaming
        and receiver.upstream == document.candidate.node
        and receiver.upstream_epoch == document.epoch
    )


def _taught(view: View, document: Topology, candidate: NodeView) -> tuple[Action, ...]:
    """Put the recorded voters in force on the candidate, if its list names one that was made anew since it was promoted."""
    observation = candidate.observation
    voters = document.voters
    if observation is None or voters is None or observation.synchronous_standby_names is None:
        return ()
    in_force = observation.synchronous_standby_names == synchronous_standby_names(voters, candidate.name)
    return () if in_force else (PutInForce(candidate.name, voters),)


def _may_follow(node: NodeView, observation: Observation, document: Topology) -> bool:
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


def _why_not_open(view: View, document: Topology, transition: Transition, node: NodeView) -> str | None:
    """Return what the opening still waits for, or None: the quorum's proof (S1, L6) and the old writer's readers (S14)."""
    observation = node.observation
    voters = document.voters
    if observation is None or voters is None or not is_fresh(node, view.timings):
        return "it has not been heard lately"
    heartbeat = observation.heartbeat
    if heartbeat is None or heartbeat.epoch != document.epoch or heartbeat.acknowledged_age_ms is None:
        return "its first quorum commit is not acknowledged" + (
            f" ({heartbeat.error})" if heartbeat and heartbeat.error else ""
        )
    needed = voters.others_needed(node.name)
    proofs = {voter.sync_name for voter in voters.members if voter.name != node.name}
    flushed = {
        sender.name
        for sender in observation.walsenders
        if sender.name in proofs
        and sender.slot == sender.name
        and sender.flush_lsn is not None
        and heartbeat.lsn is not None
        and sender.flush_lsn >= heartbeat.lsn
    }
    if len(flushed) < needed:
        return f"{len(flushed)} of the {needed} other voters needed have flushed its first commit"
    old = transition.from_node
    # Who led before a document that was made anew is not known, so nobody is known to have stopped.
    if (transition.adopts is not None and old is None) or (
        old is not None and not _is_proven_stopped(view, document, old, node)
    ):
        # Its heartbeat vouches for it as long as its WAL arrived somewhere; a frame of ours as long as it may have been lent.
        since_ms = [view.started_at_ms, *(promise.wal_advanced_at_ms for promise in view.promises.values())]
        if not view.proxies_settled:
            since_ms.append(view.epoch_began_at_ms)
        left_ms = view.timings.reader_lease_ms - (view.now_ms - max(since_ms))
        if left_ms > 0:
            whom = f'"{old}"' if old is not None else "the former writer"
            return f"{whom} may still be read through a proxy for {left_ms:.0f} ms"
    return None


def _is_proven_stopped(view: View, document: Topology, old: NodeName, candidate: NodeView) -> bool:
    """Return whether the old primary cannot be serving anybody."""
    if old == candidate.name:
        return True
    promise = view.promises.get(old)
    if promise is not None and promise.answer.promised >= document.epoch:
        return True
    node = view.node(old)
    if node is None or node.observation is None:
        return False
    stopped = is_fresh(node, view.timings) and node.observation.postmaster.state is PostmasterState.STOPPED
    return stopped or node.has_stopped(document.epoch, view.timings)


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
