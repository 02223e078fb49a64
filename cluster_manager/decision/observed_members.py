"""What the document says of each node, kept in step with what is observed.

Only what others act on is written down: role, state, timeline, whether the reader endpoint may use the node, and the
incarnation that is accepted.  Lag is copied along but never a reason to write, or every commit would make a revision.
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.situation import Situation
from cluster_manager.decision.view import View
from pgtopology.document import Topology
from pgtopology.node import Member, NodeState, Role, sync_name
from pgtopology.observation import Activity, Observation, PostmasterState

CAUGHT_UP_BYTES = 1 << 20
"""A standby this close to the writer is streaming, not catching up."""

READER_LAG_BYTES_MAX = 16 << 20
"""A streaming standby that falls behind further than a WAL segment is taken out of the reader endpoint."""


WORK = {Activity.CLONING: NodeState.CLONING, Activity.REWINDING: NodeState.REWINDING}
"""What a node is doing for longer than a moment, during which nothing else about it matters."""


def node_state(node: NodeView, view: View) -> NodeState:
    """Return the state that status and document show for the node."""
    return _state(node, view, lag_bytes(node, view))


def _state(node: NodeView, view: View, lag: int | None) -> NodeState:
    observation, document = node.observation, view.document
    if observation is None or not node.is_heard(view.timings):
        return NodeState.UNREACHABLE
    if (work := WORK.get(observation.activity)) is not None:
        return work
    if observation.postmaster.state is not PostmasterState.RUNNING or observation.role is Role.NONE:
        return NodeState.STOPPED
    if observation.role is Role.STANDBY:
        is_streaming = document is not None and _is_streaming(node, observation, document, lag)
        return NodeState.STREAMING if is_streaming else NodeState.CATCHING_UP
    if document is not None and document.writer == node.name:
        return NodeState.RUNNING
    # A promoted candidate is on its way to be the writer; whoever else is a primary serves nobody.
    return NodeState.CATCHING_UP if _is_candidate(node, observation, document) else NodeState.STOPPED


def _is_candidate(node: NodeView, observation: Observation, document: Topology | None) -> bool:
    return (
        document is not None
        and document.candidate is not None
        and document.candidate.node == node.name
        and observation.promoted_epoch == document.epoch
    )


def _is_streaming(node: NodeView, observation: Observation, document: Topology, lag: int | None) -> bool:
    """A standby streams if its receiver does, from the writer; once streaming it may lag further than to begin with."""
    receiver = observation.receiver
    if document.writer is None or receiver is None or not receiver.streaming:
        return False
    if receiver.upstream != document.writer or observation.system_identifier != document.system_identifier:
        return False
    before = document.member(node.name)
    was_streaming = before is not None and before.state is NodeState.STREAMING
    limit = READER_LAG_BYTES_MAX if was_streaming else CAUGHT_UP_BYTES
    return lag is None or lag <= limit


def lag_bytes(node: NodeView, view: View) -> int | None:
    """Return how far the node's replay is behind the writer's WAL end, by the newest observations of both; None if unknown."""
    writer = view.writer
    if writer is None or writer.observation is None or node.observation is None:
        return None
    ahead, behind = writer.observation.wal_end, node.observation.replayed_lsn or node.observation.wal_end
    if node.name == writer.name:
        return 0
    return max(0, ahead - behind) if ahead is not None and behind is not None else None


def lag_ms(node: NodeView, view: View) -> float | None:
    """Return the time from a commit on the writer to its visibility on the node; None if it is unknown.

    The sum of two durations, each of one clock: from the commit to the word that it is flushed there, by the writer, and the
    wait for its replay, by the node.  So it is rather too long (by the word's way back) than too short.
    """
    document = view.document
    if document is None or document.writer is None:
        return None
    if node.name == document.writer:
        return 0.0
    shipped, replayed = _lags_ms(node, view)
    return shipped + replayed if shipped is not None and replayed is not None else None


def _lags_ms(node: NodeView, view: View) -> tuple[float | None, float | None]:
    """Return how long WAL takes to get to the node, and how long it waits there for its replay; None for what is unknown."""
    observation, writer = node.observation, view.writer
    if observation is None or not node.is_heard(view.timings):
        return None, None
    if writer is None or writer.observation is None or not writer.is_heard(view.timings) or observation.incarnation is None:
        return None, observation.replay_lag_ms
    name = sync_name(node.name, observation.incarnation)
    shipped = [one.flush_lag_ms for one in writer.observation.walsenders if one.name == name and one.slot == name]
    return shipped[0] if shipped else None, observation.replay_lag_ms


def reader_obstacle(node: NodeView, view: View) -> str | None:
    """Return why the reader endpoint sends no new session to the node, or None if it may."""
    lag = lag_bytes(node, view)
    return _reader_obstacle(node, view, _state(node, view, lag), lag)


def _reader_obstacle(node: NodeView, view: View, state: NodeState, lag: int | None) -> str | None:
    """Return the same for a node in *state* that is *lag* bytes behind.

    A replica that was too late comes back when it is well within the limit.
    """
    if view.document is None:
        return "there is no cluster yet"
    if state is not NodeState.STREAMING:
        return f"it is {'the writer' if state is NodeState.RUNNING else str(state).replace('_', ' ')}"
    if lag is not None and lag > READER_LAG_BYTES_MAX:
        return f"its replay is {lag} bytes behind, more than {READER_LAG_BYTES_MAX}"
    limit_ms = view.reader_lag_max_ms
    if not limit_ms:
        return None
    before = view.document.member(node.name)
    was_late = before is not None and before.state is NodeState.STREAMING and not before.reader_eligible
    # What is known of a sum is the least that it can be.
    at_least_ms = sum(part for part in _lags_ms(node, view) if part is not None)
    if at_least_ms > limit_ms:
        return f"what it shows is {at_least_ms:.0f} ms old, more than max_lag_ms = {limit_ms}"
    if was_late and at_least_ms > limit_ms / 2:
        return f"what it shows is {at_least_ms:.0f} ms old, not yet within half of max_lag_ms = {limit_ms}"
    return None


def is_in_force(node: NodeView, document: Topology) -> bool:
    """Return whether the node's running PostgreSQL goes by all of the document's settings, as far as it said."""
    observation = node.observation
    version = document.desired.version
    return (
        observation is not None
        and (observation.desired_version, observation.loaded_version) == (version, version)
        and not observation.restart_for
    )


def refreshed(situation: Situation) -> Topology:
    """Return the document with its members as observed now; equal to it if nothing that others act on has changed."""
    document = situation.document
    # A voter that was taken out of the settings stays a member until it is no voter any more.
    gone = [
        msgspec.structs.replace(member, role=Role.NONE, state=NodeState.UNREACHABLE, reader_eligible=False, leaving=True)
        for member in document.members
        if member.name not in situation.nodes and situation.voters.find(member.name) is not None
    ]
    members = (*(_refresh(node, situation.view, document) for node in situation.view.nodes), *gone)
    if _without_lag(members) == _without_lag(document.members):
        return document
    return msgspec.structs.replace(document, members=members)


def _refresh(node: NodeView, view: View, document: Topology) -> Member:
    spec = node.spec
    before = document.member(spec.name)
    observation = node.observation
    if before is not None and observation is None and view.now_ms - view.started_at_ms < view.timings.silence_ms:
        return before  # this manager has only begun: that it has heard nothing yet says nothing
    lag = lag_bytes(node, view)
    state = _state(node, view, lag)
    role, timeline, incarnation = Role.NONE, None, before.incarnation if before is not None else None
    if observation is not None:
        running = observation.postmaster.state is PostmasterState.RUNNING
        role = observation.role if running and state is not NodeState.UNREACHABLE else Role.NONE
        timeline = observation.timeline
        if observation.system_identifier == document.system_identifier and observation.incarnation is not None:
            incarnation = observation.incarnation
    elif before is not None:
        timeline = before.timeline
    return Member(
        stopped=before.stopped if before is not None else False,
        leaving=before.leaving if before is not None else False,
        name=spec.name,
        zone=spec.zone,
        address=spec.address,
        noded=spec.noded,
        dns=spec.dns,
        incarnation=incarnation,
        role=role,
        state=state,
        timeline=timeline,
        tier=spec.tier,
        reader_eligible=_reader_obstacle(node, view, state, lag) is None,
        lag_bytes=lag,
    )


def _without_lag(members: tuple[Member, ...]) -> tuple[Member, ...]:
    return tuple(msgspec.structs.replace(member, lag_bytes=None) for member in members)
