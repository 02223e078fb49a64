"""What the document says of each node, kept in step with what is observed.

Only what others act on is written down: role, state, timeline, whether the reader endpoint may use the node, and the
incarnation that is accepted.  Lag is copied along but never a reason to write, or every commit would make a revision.
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision.suspicion import Health, health
from cluster_manager.decision.view import NodeView, View
from pgtopology.document import Topology
from pgtopology.node import Member, NodeState, Role
from pgtopology.observation import Activity, Observation, PostmasterState

CAUGHT_UP_BYTES = 1 << 20
"""A standby this close to the writer is streaming, not catching up."""

READER_LAG_BYTES_MAX = 16 << 20
"""A streaming standby that falls behind further than a WAL segment is taken out of the reader endpoint."""


def node_state(node: NodeView, document: Topology | None, view: View) -> NodeState:
    """Return the state that status and document show for the node."""
    observation = node.observation
    if observation is None or health(node, view.timings) in (Health.SILENT, Health.UNSEEN):
        return NodeState.UNREACHABLE
    match observation.activity:
        case Activity.CLONING:
            return NodeState.CLONING
        case Activity.REWINDING:
            return NodeState.REWINDING
        case Activity.IDLE | Activity.INITIALISING | Activity.PROMOTING:
            pass
    if observation.postmaster.state is not PostmasterState.RUNNING:
        return NodeState.STOPPED
    if observation.role is Role.PRIMARY:
        if document is not None and document.writer == node.name:
            return NodeState.RUNNING
        # A promoted candidate is on its way to be the writer; whoever else is a primary serves nobody.
        return NodeState.CATCHING_UP if _is_candidate(node, observation, document) else NodeState.STOPPED
    if observation.role is not Role.STANDBY:
        return NodeState.STOPPED
    return NodeState.STREAMING if _is_streaming(node, observation, document, view) else NodeState.CATCHING_UP


def _is_candidate(node: NodeView, observation: Observation, document: Topology | None) -> bool:
    return (
        document is not None
        and document.candidate is not None
        and document.candidate.node == node.name
        and observation.promoted_epoch == document.epoch
    )


def lag_bytes(node: NodeView, document: Topology | None, view: View) -> int | None:
    """Return how far the node's replay is behind the writer's WAL end, by the newest observations of both; None if unknown."""
    writer = view.node(document.writer) if document is not None else None
    if writer is None or writer.observation is None or node.observation is None:
        return None
    ahead, behind = writer.observation.wal_end, node.observation.replayed_lsn or node.observation.wal_end
    if node.name == writer.name:
        return 0
    return max(0, ahead - behind) if ahead is not None and behind is not None else None


def is_in_force(node: NodeView, document: Topology) -> bool:
    """Return whether the node's running PostgreSQL goes by all of the document's settings, as far as it said."""
    observation = node.observation
    version = document.desired.version
    return (
        observation is not None
        and (observation.desired_version, observation.loaded_version) == (version, version)
        and not observation.restart_for
    )


def refreshed(document: Topology, view: View) -> Topology:
    """Return *document* with its members as observed now; equal to it if nothing that others act on has changed."""
    # A voter that was taken out of the settings stays a member until it is no voter any more.
    gone = [
        msgspec.structs.replace(member, role=Role.NONE, state=NodeState.UNREACHABLE, reader_eligible=False, leaving=True)
        for member in document.members
        if view.node(member.name) is None and document.voters is not None and document.voters.find(member.name) is not None
    ]
    members = (*(_refresh(spec_node, document, view) for spec_node in view.nodes), *gone)
    if _without_lag(members) == _without_lag(document.members):
        return document
    return msgspec.structs.replace(document, members=members)


def _refresh(node: NodeView, document: Topology, view: View) -> Member:
    spec = node.spec
    before = document.member(spec.name)
    observation = node.observation
    if before is not None and observation is None and view.now_ms - view.started_at_ms < view.timings.silence_ms:
        return before  # this manager has only begun: that it has heard nothing yet says nothing
    state = node_state(node, document, view)
    role, timeline, incarnation = Role.NONE, None, before.incarnation if before is not None else None
    if observation is not None:
        running = observation.postmaster.state is PostmasterState.RUNNING
        role = observation.role if running and state is not NodeState.UNREACHABLE else Role.NONE
        timeline = observation.timeline
        if observation.system_identifier == document.system_identifier and observation.incarnation is not None:
            incarnation = observation.incarnation
    elif before is not None:
        timeline = before.timeline
    lag = lag_bytes(node, document, view)
    eligible = state is NodeState.STREAMING and (lag is None or lag <= READER_LAG_BYTES_MAX)
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
        reader_eligible=eligible,
        lag_bytes=lag,
    )


def _is_streaming(node: NodeView, observation: Observation, document: Topology | None, view: View) -> bool:
    """A standby streams if its receiver does, from the writer; once streaming it may lag further than to begin with."""
    receiver = observation.receiver
    if document is None or document.writer is None or receiver is None or not receiver.streaming:
        return False
    if receiver.upstream != document.writer or observation.system_identifier != document.system_identifier:
        return False
    before = document.member(node.name)
    was_streaming = before is not None and before.state is NodeState.STREAMING
    limit = READER_LAG_BYTES_MAX if was_streaming else CAUGHT_UP_BYTES
    lag = lag_bytes(node, document, view)
    return lag is None or lag <= limit


def _without_lag(members: tuple[Member, ...]) -> tuple[Member, ...]:
    return tuple(msgspec.structs.replace(member, lag_bytes=None) for member in members)
