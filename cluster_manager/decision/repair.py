"""What is to be done about the nodes beside a working writer.

A node without data is cloned; one that runs as a primary, or went down after it had been one, is asked for a promise, which
makes it a standby without upstream and tells how far its history reaches; then it follows if its history is a prefix of the
writer's, is rewound if it went past the point where the writer's left it, and is made anew if it is on a timeline that nobody
claimed, or if rewinding did not help (F7, S3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster_manager.decision.actions import Action, AskPromise, Clone, Follow, Rewind, Stop
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.nodeview import NodeView, is_fresh
from cluster_manager.decision.prospects import KEPT_DOWN
from cluster_manager.decision.suspicion import Health, health
from cluster_manager.decision.view import View
from pgtopology.document import Topology
from pgtopology.node import Role
from pgtopology.observation import Activity, Observation, PostmasterState
from pgtopology.orders import Upstream
from pgtopology.quorum import Voter
from pgtopology.timeline import Timeline, epoch_of, fork_from

CRASHES_MAX = 3
"""Data in which PostgreSQL has ended by itself so often in a row is given up, if the quorum does without it."""
DISK_FREE_MIN = 64 << 20
"""With less room than some WAL segments a server ends for want of it, and a copy would not fit either."""
NO_ROOM = "No space left on device"
"""What PostgreSQL, which runs in the C locale, says of any full disk."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What is wrong with one node, and the order that mends it, if one does."""

    node: str
    diagnosis: Diagnosis
    reason: str
    action: Action | None = None


def repairs(view: View, document: Topology) -> tuple[Repair, ...]:
    """Return what is wrong with each node beside the writer, gravest first."""
    writer = view.node(document.writer)
    if writer is None or document.candidate is None or document.candidate.timeline is None:
        return ()
    source = Upstream(writer.name, writer.spec.address)
    found = [
        repair
        for node in view.nodes
        if node.name != writer.name
        and (repair := _repair(node, view, document, source, document.candidate.timeline)) is not None
    ]
    gravity = [Diagnosis.TWO_PRIMARIES, Diagnosis.REPLICA_DIVERGED, Diagnosis.REPLICA_MISSING]
    return tuple(sorted(found, key=lambda repair: (gravity.index(repair.diagnosis), repair.node)))


def _repair(node: NodeView, view: View, document: Topology, source: Upstream, current: Timeline) -> Repair | None:
    observation = node.observation
    if observation is None or health(node, view.timings) in (Health.SILENT, Health.UNSEEN):
        return Repair(node.name, Diagnosis.REPLICA_MISSING, f'"{node.name}" does not answer')
    if observation.system_identifier is not None and observation.system_identifier != document.system_identifier:
        return Repair(
            node.name,
            Diagnosis.REPLICA_MISSING,
            f'"{node.name}" holds data of another cluster ({observation.system_identifier}) and is left alone',
        )
    member = document.member(node.name)
    if member is not None and member.stopped:
        if observation.postmaster.state is PostmasterState.STOPPED:
            return Repair(node.name, Diagnosis.REPLICA_MISSING, f'"{node.name}" {KEPT_DOWN}')
        reason = f'"{node.name}" is to be down by an operator\'s order'
        return Repair(node.name, Diagnosis.REPLICA_MISSING, reason, Stop(node.name))
    if observation.quarantined:
        # What it holds may be all there is of something: only a person may give it up.
        reason = f'"{node.name}" is quarantined' + _trouble(observation)
        return Repair(node.name, Diagnosis.REPLICA_MISSING, reason)
    if observation.activity is not Activity.IDLE:
        progress = f", {observation.progress_percent} %" if observation.progress_percent is not None else ""
        return Repair(node.name, Diagnosis.REPLICA_MISSING, f'"{node.name}" is {observation.activity}{progress}')
    if observation.system_identifier is None:
        return Repair(
            node.name,
            Diagnosis.REPLICA_MISSING,
            f'"{node.name}" has no data' + _trouble(observation),
            Clone(node.name, source, None, "it has no data"),
        )
    match observation.postmaster.state:
        case PostmasterState.STOPPED:
            if _is_broken(observation) and quorum_does_without(node, view, document):
                reason = f'PostgreSQL on "{node.name}" keeps ending' + _trouble(observation)
                return _anew(node, observation, source, Diagnosis.REPLICA_MISSING, reason)
            return _stopped(node, observation, source)
        case PostmasterState.STARTING:
            return _starting(node, observation, view, document, source)
        case PostmasterState.STOPPING:
            return Repair(node.name, Diagnosis.REPLICA_MISSING, f'"{node.name}" is stopping')
        case PostmasterState.RUNNING:
            return _running(node, observation, view, document, source, current)


def bearable(view: View, document: Topology, actions: Iterable[Action]) -> tuple[Action, ...]:
    """Return those of *actions* after which enough whole voters are left for a safe set.

    Rewinding or cloning a voter takes its WAL out of the count until it is whole again; if too many are remade at once, the
    death of the writer leaves nobody to elect, with all nodes healthy.  One that does not count anyway may always be remade.
    """
    voters = document.voters.members if document.voters is not None else ()
    names = {voter.name for voter in voters}
    away = {voter.name for voter in voters if not _counts(view, voter)} | set(view.being_remade)
    spare = len(voters) - (document.voters.safe_set_size if document.voters is not None else 0)
    kept: list[Action] = []
    for action in actions:
        if isinstance(action, Rewind | Clone) and action.destroys is not None and action.node in names - away:
            if len(away) >= spare:
                continue
            away.add(action.node)
        kept.append(action)
    return tuple(kept)


def _counts(view: View, voter: Voter) -> bool:
    """Return whether the voter's data would count, as far as is known; one that is merely away keeps its data."""
    node = view.node(voter.name)
    if node is None or node.observation is None:
        return True
    return node.observation.whole and node.observation.incarnation == voter.incarnation


def rejoining(view: View, document: Topology, candidate: NodeView) -> tuple[Action, ...]:
    """Return how the nodes that cannot just follow a promoted candidate are brought to it, before it is the writer."""
    claimed = document.candidate
    if claimed is None or claimed.timeline is None:
        return ()
    source = Upstream(candidate.name, candidate.spec.address)
    actions: list[Action] = []
    for node in view.nodes:
        observation = node.observation
        if observation is None or node.name == candidate.name or not is_fresh(node, view.timings):
            continue
        if observation.activity is not Activity.IDLE:
            continue
        if observation.system_identifier is None:
            actions.append(Clone(node.name, source, None, "it has no data"))
            continue
        if observation.system_identifier != document.system_identifier:
            continue
        if observation.promised < document.epoch:
            continue  # it has not said under this epoch how far it reaches
        if observation.postmaster.state is PostmasterState.STOPPED:
            repair = _stopped(node, observation, source)
        elif observation.postmaster.state is PostmasterState.STARTING:
            repair = _starting(node, observation, view, document, source)
        elif observation.role is Role.STANDBY and (away := _why_diverged(observation, document, claimed.timeline)):
            repair = _diverged(node, observation, document, source, away)
        else:
            continue
        if repair.action is not None:
            actions.append(repair.action)
    return bearable(view, document, actions)


def _stopped(node: NodeView, observation: Observation, source: Upstream) -> Repair:
    reason = f'PostgreSQL on "{node.name}" is stopped' + _trouble(observation)
    if observation.foreign or (observation.problem is not None and not observation.whole):
        # Unfinished work left data that cannot be used; nothing but another copy helps.
        return _anew(node, observation, source, Diagnosis.REPLICA_MISSING, reason)
    was_primary = observation.promoted_epoch is not None or observation.problem is not None
    action = AskPromise(node.name) if was_primary else Follow(node.name, source)
    return Repair(node.name, Diagnosis.REPLICA_MISSING, reason, action)


def _starting(node: NodeView, observation: Observation, view: View, document: Topology, source: Upstream) -> Repair:
    """What was rewound or copied may lack WAL of its source's to start at all: it gets there by following, or never.

    What was promoted, by whomever, has in its own WAL all that it needs, and says where it ends once it runs.
    """
    reason = f'"{node.name}" is starting' + _trouble(observation)
    if observation.promoted_epoch is not None or observation.foreign:
        return Repair(node.name, Diagnosis.REPLICA_MISSING, reason)
    if not _is_told_to_follow(observation, document, source):
        return Repair(node.name, Diagnosis.REPLICA_MISSING, reason, Follow(node.name, source))
    return _starved(node, observation, view, document, source) or Repair(node.name, Diagnosis.REPLICA_MISSING, reason)


def _is_told_to_follow(observation: Observation, document: Topology, source: Upstream) -> bool:
    receiver = observation.receiver
    return receiver is not None and (receiver.upstream, receiver.upstream_epoch) == (source.name, document.epoch)


def _starved(node: NodeView, observation: Observation, view: View, document: Topology, source: Upstream) -> Repair | None:
    """Return how one that follows *source* in vain is mended, if it has done so for long enough and can be done without."""
    if node.starved_for_ms < view.timings.lost_stream_ms or not quorum_does_without(node, view, document):
        return None
    reason = f'"{node.name}" follows "{source.name}" but has got no WAL for {node.starved_for_ms / 1000:.1f} s'
    return _anew(node, observation, source, Diagnosis.REPLICA_MISSING, reason)


def _running(
    node: NodeView, observation: Observation, view: View, document: Topology, source: Upstream, current: Timeline
) -> Repair | None:
    if observation.role is Role.PRIMARY:
        return Repair(
            node.name,
            Diagnosis.TWO_PRIMARIES,
            f'"{node.name}" runs as a primary too (epoch {observation.promoted_epoch}); '
            f'the writer of epoch {document.epoch} is "{document.writer}"',
            AskPromise(node.name),
        )
    if observation.role is Role.NONE or observation.timeline is None or observation.replayed_lsn is None:
        if observation.mute_ms >= view.timings.lost_stream_ms:
            mute_s = observation.mute_ms / 1000
            reason = f'PostgreSQL on "{node.name}" runs, but has answered no question for {mute_s:.1f} s{_trouble(observation)}'
            if _has_room(observation) and quorum_does_without(node, view, document):
                return _anew(node, observation, source, Diagnosis.REPLICA_MISSING, reason)
            return Repair(node.name, Diagnosis.REPLICA_MISSING, reason)
        return Repair(node.name, Diagnosis.REPLICA_MISSING, f'"{node.name}" does not say yet how far its WAL reaches')
    receiver = observation.receiver
    if receiver is not None and receiver.streaming and receiver.upstream == source.name:
        if receiver.upstream_epoch == document.epoch:
            return None
        # It follows the same node under an order of an earlier epoch, and would never prove that it is whole.
        reason = f'"{node.name}" follows "{source.name}" by an order of epoch {receiver.upstream_epoch}'
        return Repair(node.name, Diagnosis.REPLICA_MISSING, reason, Follow(node.name, source))
    away = _why_diverged(observation, document, current)
    if away is not None:
        return _diverged(node, observation, document, source, away)
    if not _is_told_to_follow(observation, document, source):
        return Repair(
            node.name,
            Diagnosis.REPLICA_MISSING,
            f'"{node.name}" does not follow "{source.name}" yet',
            Follow(node.name, source),
        )
    reason = f'"{node.name}" follows "{source.name}" but has not been streaming for {node.not_streaming_for_ms / 1000:.1f} s'
    return _starved(node, observation, view, document, source) or Repair(node.name, Diagnosis.REPLICA_MISSING, reason)


def _why_diverged(observation: Observation, document: Topology, current: Timeline) -> str | None:
    """Return how the node's history leaves the writer's, or None if it is a prefix of it."""
    if observation.foreign:
        return "somebody promoted it by hand"
    timeline, replayed = observation.timeline, observation.replayed_lsn
    if timeline is None or replayed is None or timeline == current:
        return None
    fork = fork_from(document.timelines, current, timeline)
    if fork is None:
        return f"its timeline {timeline} is no ancestor of the writer's {current}"
    return f"its WAL goes {replayed - fork} bytes past the fork" if replayed > fork else None


def _diverged(node: NodeView, observation: Observation, document: Topology, source: Upstream, away: str) -> Repair:
    reason = f'"{node.name}" has diverged: {away}' + _trouble(observation)
    claimed = observation.timeline is not None and epoch_of(document.timelines, observation.timeline) is not None
    if observation.foreign or not claimed or observation.problem is not None or observation.incarnation is None:
        return _anew(node, observation, source, Diagnosis.REPLICA_DIVERGED, reason)
    return Repair(
        node.name,
        Diagnosis.REPLICA_DIVERGED,
        reason,
        Rewind(node.name, source, observation.incarnation, away),
    )


def _anew(node: NodeView, observation: Observation, source: Upstream, diagnosis: Diagnosis, reason: str) -> Repair:
    return Repair(node.name, diagnosis, reason, Clone(node.name, source, observation.incarnation, reason))


def quorum_does_without(node: NodeView, view: View, document: Topology) -> bool:
    """Return whether enough other voters stream, so that making this one anew costs no acknowledgement."""
    if document.voters is None or document.writer is None:
        return False
    streaming = [
        other
        for other in view.nodes
        if other.name not in (node.name, document.writer)
        and document.voters.find(other.name) is not None
        and health(other, view.timings) not in (Health.SILENT, Health.UNSEEN)
        and other.observation is not None
        and other.observation.receiver is not None
        and other.observation.receiver.streaming
    ]
    return len(streaming) >= document.voters.others_needed(document.writer)


def _is_broken(observation: Observation) -> bool:
    """Return whether the data, rather than a full disk, keeps PostgreSQL from running."""
    return observation.crashes >= CRASHES_MAX and _has_room(observation)


def _has_room(observation: Observation) -> bool:
    """Return whether it is not for want of room that PostgreSQL does not work; there a copy would not fit either."""
    free = observation.disk is None or observation.disk.free_bytes >= DISK_FREE_MIN
    # Another file system than that of the data may be full, of sockets or logs.
    return free and NO_ROOM not in (observation.problem or "")


def _trouble(observation: Observation) -> str:
    return f" ({observation.problem})" if observation.problem is not None else ""
