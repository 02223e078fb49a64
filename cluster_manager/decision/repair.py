"""What is to be done about the nodes beside a working writer.

A node without data is cloned; one that runs as a primary, or went down after it had been one, is asked for a promise, which
makes it a standby without upstream and tells how far its history reaches; then it follows if its history is a prefix of the
writer's, is rewound if it went past the point where the writer's left it, and is made anew if it is on a timeline that nobody
claimed, or if rewinding did not help (F7, S3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cluster_manager.decision.actions import Action, AskPromise, Clone, Follow, Rewind, Stop
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.prospects import KEPT_DOWN
from cluster_manager.decision.situation import Situation
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
SLOTS_NAMED = 5
"""So many slots that might be dropped are named."""
NO_ROOM = "No space left on device"
"""What PostgreSQL, which runs in the C locale, says of any full disk."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What is wrong with one node, and the order that mends it, if one does."""

    node: str
    diagnosis: Diagnosis
    reason: str
    action: Action | None = None


GRAVITY = (Diagnosis.TWO_PRIMARIES, Diagnosis.REPLICA_DIVERGED, Diagnosis.REPLICA_MISSING)


def repairs(situation: Situation) -> tuple[Repair, ...]:
    """Return what is wrong with each node beside the writer, gravest first."""
    writer, led = situation.writer, situation.document.candidate
    if writer is None or led is None or led.timeline is None:
        return ()
    source = Upstream(writer.name, writer.spec.address)
    beside = [node for node in situation.view.nodes if node.name != writer.name]
    found = [one for node in beside if (one := _repair(situation, node, source, led.timeline)) is not None]
    found = [_with_data_kept(one, writer) for one in found]
    return tuple(sorted(found, key=lambda one: (GRAVITY.index(one.diagnosis), one.node)))


def without_slot(source: NodeView) -> str | None:
    """Return why nobody can be copied from *source*: a copy needs a slot there before its first byte. None if there is one."""
    seen = source.observation
    if seen is None or seen.slots is None or seen.slots.used < seen.slots.limit:
        return None
    idle = [slot.name for slot in seen.user_slots if not slot.active] or [slot.name for slot in seen.user_slots]
    which = f"; drop one there ({', '.join(idle[:SLOTS_NAMED])})" if idle else ""
    return f'all {seen.slots.limit} replication slots of "{source.name}" are used, and a copy needs one{which}'


def _with_data_kept(one: Repair, source: NodeView) -> Repair:
    """Return *one* without an order to give data up for a copy that could not even begin."""
    if not isinstance(one.action, Clone) or one.action.destroys is None or (why := without_slot(source)) is None:
        return one
    return replace(one, action=None, reason=f"{one.reason}; it is not copied anew: {why}")


def _repair(situation: Situation, node: NodeView, source: Upstream, current: Timeline) -> Repair | None:
    seen = situation.heard.get(node.name)
    if seen is None:
        return _missing(node, f'"{node.name}" does not answer')
    left_alone = _left_alone(situation, node, seen)
    if left_alone is not None:
        return left_alone
    if seen.system_identifier is None:
        reason = f'"{node.name}" has no data' + _trouble(seen)
        return _missing(node, reason, Clone(node.name, source, None, "it has no data"))
    match seen.postmaster.state:
        case PostmasterState.STOPPED:
            if _is_broken(seen) and quorum_does_without(situation, node):
                reason = f'PostgreSQL on "{node.name}" keeps ending' + _trouble(seen)
                return _anew(node, seen, source, Diagnosis.REPLICA_MISSING, reason)
            return _stopped(node, seen, source)
        case PostmasterState.STARTING:
            return _starting(situation, node, seen, source)
        case PostmasterState.STOPPING:
            return _missing(node, f'"{node.name}" is stopping')
        case PostmasterState.RUNNING:
            return _running(situation, node, seen, source, current)


def _left_alone(situation: Situation, node: NodeView, seen: Observation) -> Repair | None:
    """Return why the node is not mended now whatever is wrong with its PostgreSQL, or None."""
    document = situation.document
    if seen.system_identifier not in (None, document.system_identifier):
        return _missing(node, f'"{node.name}" holds data of another cluster ({seen.system_identifier}) and is left alone')
    member = document.member(node.name)
    if member is not None and member.stopped:
        if seen.postmaster.state is PostmasterState.STOPPED:
            return _missing(node, f'"{node.name}" {KEPT_DOWN}')
        return _missing(node, f'"{node.name}" is to be down by an operator\'s order', Stop(node.name))
    if seen.quarantined:
        # What it holds may be all there is of something: only a person may give it up.
        return _missing(node, f'"{node.name}" is quarantined' + _trouble(seen))
    if seen.activity is not Activity.IDLE:
        progress = f", {seen.progress_percent} %" if seen.progress_percent is not None else ""
        return _missing(node, f'"{node.name}" is {seen.activity}{progress}')
    return None


def _missing(node: NodeView, reason: str, action: Action | None = None) -> Repair:
    return Repair(node.name, Diagnosis.REPLICA_MISSING, reason, action)


def bearable(situation: Situation, actions: Iterable[Action]) -> tuple[Action, ...]:
    """Return those of *actions* after which enough whole voters are left for a safe set.

    Rewinding or cloning a voter takes its WAL out of the count until it is whole again; if too many are remade at once, the
    death of the writer leaves nobody to elect, with all nodes healthy.  One that does not count anyway may always be remade.
    """
    voters = situation.voters
    away = {voter.name for voter in voters.members if not _counts(situation, voter)} | situation.view.being_remade
    spare = len(voters.members) - voters.safe_set_size
    kept: list[Action] = []
    for action in actions:
        if isinstance(action, Rewind | Clone) and action.destroys is not None and action.node in set(voters.names) - away:
            if len(away) >= spare:
                continue
            away.add(action.node)
        kept.append(action)
    return tuple(kept)


def _counts(situation: Situation, voter: Voter) -> bool:
    """Return whether the voter's data would count, as far as is known; one that is merely away keeps its data."""
    node = situation.node(voter.name)
    if node is None or node.observation is None:
        return True
    return node.observation.whole and node.observation.incarnation == voter.incarnation


def rejoining(situation: Situation, candidate: NodeView) -> tuple[Action, ...]:
    """Return how the nodes that cannot just follow a promoted candidate are brought to it, before it is the writer."""
    claimed = situation.document.candidate
    if claimed is None or claimed.timeline is None:
        return ()
    source = Upstream(candidate.name, candidate.spec.address)
    beside = [situation.nodes[name] for name in situation.fresh if name != candidate.name]
    actions = [_rejoining(situation, node, situation.fresh[node.name], source, claimed.timeline) for node in beside]
    can_copy = without_slot(candidate) is None
    kept = [action for action in actions if can_copy or not isinstance(action, Clone) or action.destroys is None]
    return bearable(situation, [action for action in kept if action is not None])


def _rejoining(situation: Situation, node: NodeView, seen: Observation, source: Upstream, current: Timeline) -> Action | None:
    document = situation.document
    if seen.activity is not Activity.IDLE:
        return None
    if seen.system_identifier is None:
        return Clone(node.name, source, None, "it has no data")
    # Below the epoch it has not said under this one how far it reaches.
    if seen.system_identifier != document.system_identifier or seen.promised < document.epoch:
        return None
    if seen.postmaster.state is PostmasterState.STOPPED:
        return _stopped(node, seen, source).action
    if seen.postmaster.state is PostmasterState.STARTING:
        return _starting(situation, node, seen, source).action
    if seen.role is Role.STANDBY and (away := _why_diverged(seen, document, current)):
        return _diverged(node, seen, document, source, away).action
    return None


def _stopped(node: NodeView, observation: Observation, source: Upstream) -> Repair:
    reason = f'PostgreSQL on "{node.name}" is stopped' + _trouble(observation)
    unfinished = observation.problem is not None and observation.refused_start is None and not observation.whole
    if observation.foreign or unfinished:
        # Unfinished work left data that cannot be used; nothing but another copy helps.
        return _anew(node, observation, source, Diagnosis.REPLICA_MISSING, reason)
    was_primary = observation.promoted_epoch is not None or observation.problem is not None
    action = AskPromise(node.name) if was_primary else Follow(node.name, source)
    return _missing(node, reason, action)


def _starting(situation: Situation, node: NodeView, seen: Observation, source: Upstream) -> Repair:
    """What was rewound or copied may lack WAL of its source's to start at all: it gets there by following, or never.

    What was promoted, by whomever, has in its own WAL all that it needs, and says where it ends once it runs.
    """
    reason = f'"{node.name}" is starting' + _trouble(seen)
    if seen.promoted_epoch is not None or seen.foreign:
        return _missing(node, reason)
    if not _is_told_to_follow(seen, situation.document, source):
        return _missing(node, reason, Follow(node.name, source))
    return _starved(situation, node, seen, source) or _missing(node, reason)


def _is_told_to_follow(observation: Observation, document: Topology, source: Upstream) -> bool:
    receiver = observation.receiver
    return receiver is not None and (receiver.upstream, receiver.upstream_epoch) == (source.name, document.epoch)


def _starved(situation: Situation, node: NodeView, seen: Observation, source: Upstream) -> Repair | None:
    """Return how one that follows *source* in vain is mended, if it has done so for long enough and can be done without."""
    if node.starved_for_ms < situation.timings.lost_stream_ms or not quorum_does_without(situation, node):
        return None
    reason = f'"{node.name}" follows "{source.name}" but has got no WAL for {node.starved_for_ms / 1000:.1f} s'
    return _anew(node, seen, source, Diagnosis.REPLICA_MISSING, reason)


def _running(situation: Situation, node: NodeView, seen: Observation, source: Upstream, current: Timeline) -> Repair | None:
    document, receiver = situation.document, seen.receiver
    if seen.role is Role.PRIMARY:
        return Repair(
            node.name,
            Diagnosis.TWO_PRIMARIES,
            f'"{node.name}" runs as a primary too (epoch {seen.promoted_epoch}); '
            f'the writer of epoch {document.epoch} is "{document.writer}"',
            AskPromise(node.name),
        )
    if seen.role is Role.NONE or seen.timeline is None or seen.replayed_lsn is None:
        return _mute(situation, node, seen, source)
    if receiver is not None and receiver.streaming and receiver.upstream == source.name:
        if receiver.upstream_epoch == document.epoch:
            return None
        # It follows the same node under an order of an earlier epoch, and would never prove that it is whole.
        reason = f'"{node.name}" follows "{source.name}" by an order of epoch {receiver.upstream_epoch}'
        return _missing(node, reason, Follow(node.name, source))
    away = _why_diverged(seen, document, current)
    if away is not None:
        return _diverged(node, seen, document, source, away)
    if not _is_told_to_follow(seen, document, source):
        return _missing(node, f'"{node.name}" does not follow "{source.name}" yet', Follow(node.name, source))
    reason = f'"{node.name}" follows "{source.name}" but has not been streaming for {node.not_streaming_for_ms / 1000:.1f} s'
    return _starved(situation, node, seen, source) or _missing(node, reason)


def _mute(situation: Situation, node: NodeView, seen: Observation, source: Upstream) -> Repair:
    """Return what is to be done about one that runs and does not say how far its WAL reaches."""
    if seen.mute_ms < situation.timings.lost_stream_ms:
        return _missing(node, f'"{node.name}" does not say yet how far its WAL reaches')
    mute_s = seen.mute_ms / 1000
    reason = f'PostgreSQL on "{node.name}" runs, but has answered no question for {mute_s:.1f} s{_trouble(seen)}'
    if _has_room(seen) and quorum_does_without(situation, node):
        return _anew(node, seen, source, Diagnosis.REPLICA_MISSING, reason)
    return _missing(node, reason)


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


def quorum_does_without(situation: Situation, node: NodeView) -> bool:
    """Return whether enough other voters stream, so that making this one anew costs no acknowledgement."""
    writer, voters = situation.document.writer, situation.voters
    if writer is None:
        return False
    streaming = [
        name
        for name, seen in situation.heard.items()
        if name not in (node.name, writer)
        and voters.find(name) is not None
        and seen.receiver is not None
        and seen.receiver.streaming
    ]
    return len(streaming) >= voters.others_needed(writer)


def _is_broken(observation: Observation) -> bool:
    """Return whether the data, rather than a full disk or a setting, keeps PostgreSQL from running."""
    return observation.crashes >= CRASHES_MAX and observation.refused_start is None and _has_room(observation)


def _has_room(observation: Observation) -> bool:
    """Return whether it is not for want of room that PostgreSQL does not work; there a copy would not fit either."""
    free = observation.disk is None or observation.disk.free_bytes >= DISK_FREE_MIN
    # Another file system than that of the data may be full, of sockets or logs.
    return free and NO_ROOM not in (observation.problem or "")


def _trouble(observation: Observation) -> str:
    return f" ({observation.problem})" if observation.problem is not None else ""
