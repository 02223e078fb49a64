"""Makes what `endpointctl status` shows out of a view and the plan for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from cluster_manager.decision.carrying import slots_status, vacuum_horizon
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.observed_members import lag_bytes, lag_ms, node_state, reader_obstacle
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.prospects import NO_CLUSTER, obstacle_after, prospects, stuck, without_room
from cluster_manager.decision.provisioning import steps
from cluster_manager.decision.refusal import hindrance
from cluster_manager.decision.situation import login_problems, survey
from cluster_manager.decision.suspicion import tell
from cluster_manager.decision.view import View
from pgtopology.document import Durability
from pgtopology.epoch import NO_EPOCH, NO_REVISION
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, NodeState
from pgtopology.observation import Activity, Observation
from pgtopology.status import (
    EndpointsStatus,
    EndpointStatus,
    LastFailover,
    ManagerStatus,
    NodeChangeStatus,
    NodeStatus,
    ProxyStatus,
    Status,
    Survives,
    SurvivesBecause,
    TransitionStatus,
    VotersStatus,
)


def make_status(
    view: View,
    plan: Plan,
    *,
    manager: ManagerStatus,
    last_failover: LastFailover | None,
    proxies: tuple[ProxyStatus, ...],
    since: Mapping[NodeName, str],
    version: str,
) -> Status:
    """Return the status of the cluster. *since* holds the wall time at which each node's state began."""
    document, situation = view.document, survey(view)
    able = situation.promisable if situation is not None else ()
    ahead = prospects(view, plan.finding)
    voters = document.voters if document is not None else None
    transition = document.transition if document is not None else None
    writer = document.writer if document is not None else None
    endpoints = view.endpoints
    servers = {node.observation.server_version for node in view.nodes if node.observation and node.observation.server_version}
    return Status(
        cluster=view.cluster,
        revision=document.revision if document is not None else NO_REVISION,
        epoch=document.epoch if document is not None else NO_EPOCH,
        timeline=document.candidate.timeline if document is not None and document.candidate is not None else None,
        writer=document.writer if document is not None else None,
        state=cluster_state(view, plan, is_served=any(not proxy.draining for proxy in proxies)),
        durability=str(document.durability) if document is not None else str(Durability.ASYNC),
        diagnosis=str(plan.diagnosis),
        reason=plan.reason,
        paused=document.paused if document is not None else False,
        at_risk=at_risk(view, plan),
        transition=TransitionStatus(
            kind=str(transition.kind),
            step=str(transition.step),
            cause=transition.cause,
            candidate=document.candidate.node if document.candidate is not None else None,
        )
        if transition is not None and document is not None
        else None,
        manager=manager,
        voters=VotersStatus(
            names=voters.names if voters is not None else (),
            w=voters.w if voters is not None else 0,
            needed=voters.safe_set_size if voters is not None else 0,
            promisable=len(able),
            promisable_without_writer=sum(voter.name != writer for voter in able),
        ),
        last_failover=last_failover,
        endpoints=EndpointsStatus(
            writer=EndpointStatus(host=endpoints.writer.host, port=endpoints.writer.port, dns=endpoints.writer.dns),
            reader=EndpointStatus(host=endpoints.reader.host, port=endpoints.reader.port, dns=endpoints.reader.dns),
        ),
        nodes=tuple(_node(node, view, since.get(node.name)) for node in view.nodes),
        proxies=proxies,
        versions={"endpointd": version, **({"postgresql": ", ".join(sorted(servers))} if servers else {})},
        vacuum_horizon=vacuum_horizon(view),
        slots=slots_status(view),
        order_pending=pending(view),
        node_changes=node_changes(view),
        relaxations=relaxations(view),
        repairs=repairs(view),
        role_notes=role_notes(view),
        survives=Survives(
            server_crash=ahead.server_crash.survived,
            host_loss=ahead.host_loss.survived,
            zone_loss=ahead.zone_loss.survived,
        ),
        survives_because=SurvivesBecause(
            server_crash=ahead.server_crash.because,
            host_loss=ahead.host_loss.because,
            zone_loss=ahead.zone_loss.because,
        ),
    )


def pending(view: View) -> str | None:
    """Return what an operator has asked for that has not begun, and what it waits for; None if that is nothing."""
    request = view.request
    if request is None:
        return None
    to = f' to "{request.to}"' if request.to is not None else ""
    asked = f"{request.kind}{to}, accepted {(view.now_ms - request.asked_at_ms) / 1000:.1f} s ago"
    why_not = hindrance(view, request)
    return asked if why_not is None else f"{asked}, waits: {why_not}"


def node_changes(view: View) -> tuple[NodeChangeStatus, ...]:
    """Return the unfinished orders that nodes come or go."""
    return tuple(
        NodeChangeStatus(
            name=step.node.name,
            zone=step.node.zone,
            wish=str(step.node.wish),
            step=str(step.kind),
            waits_for=step.waits_for,
            failures=step.tries.failures,
            next_try=_wall_time(view, step.tries.next_at_ms) if step.tries.reason is not None else None,
        )
        for step in steps(view)
        if step.node.is_unfinished
    )


def _wall_time(view: View, at_ms: float) -> str:
    """Return the wall time at which the manager's clock will show *at_ms*, to the second."""
    at = datetime.fromisoformat(view.wall_time) + timedelta(milliseconds=at_ms - view.now_ms)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def repairs(view: View) -> tuple[str, ...]:
    """Return what the published writer says it has put right."""
    return view.writer.observation.repairs if view.writer is not None and view.writer.observation is not None else ()


def role_notes(view: View) -> tuple[str, ...]:
    """Return what the published writer says of roles that cannot log in through an endpoint."""
    return view.writer.observation.role_notes if view.writer is not None and view.writer.observation is not None else ()


def relaxations(view: View) -> tuple[str, ...]:
    """Return what the published writer says of relaxed commits."""
    return view.writer.observation.relaxations if view.writer is not None and view.writer.observation is not None else ()


def cluster_state(view: View, plan: Plan, *, is_served: bool) -> str:
    """Return the one word for the whole cluster. *is_served* says whether any proxy reports: else no endpoint answers."""
    document = view.document
    if stuck(view, plan.finding) is not None:
        return "stuck"
    if document is None or plan.diagnosis in (Diagnosis.BOOTSTRAPPING, Diagnosis.NO_CLUSTER):
        return "bootstrapping"
    if document.transition is not None or plan.finding.failed:
        return "transition"
    if document.paused:
        return "paused"
    is_alone = document.voters is None or len(document.voters.members) == 1
    if plan.diagnosis is Diagnosis.FAILOVER_HELD or (not is_alone and at_risk(view, plan) is not None):
        return "at_risk"
    situation = survey(view)
    missing = situation.missing if situation is not None else {}
    everybody = all(node_state(node, view) in (NodeState.RUNNING, NodeState.STREAMING) for node in view.nodes)
    # Whoever waits for "healthy" wants the next failure survived: so every voter must be able to promise, and count.
    is_well = plan.diagnosis is Diagnosis.HEALTHY and everybody and not missing and not without_room(view)
    return "healthy" if is_well and is_served and _is_read_from_replicas(view) else "degraded"


def _is_read_from_replicas(view: View) -> bool:
    """Return whether the reader endpoint has a replica to send new sessions to, or has none to expect.

    One that is late is out until it is well within its limit, so that this does not come and go with every heartbeat.
    """
    replicas = [node for node in view.nodes if view.writer is None or node.name != view.writer.name]
    return not replicas or any(reader_obstacle(node, view) is None for node in replicas)


def at_risk(view: View, plan: Plan) -> str | None:
    """Return why no commit is acknowledged, or the loss of the writer would not be survived, or a server cannot go on for long.

    That an operator has paused failovers is his wish, and said elsewhere.
    """
    situation = survey(view)
    if situation is None:
        return NO_CLUSTER
    why, writer = stuck(view, plan.finding), situation.document.writer
    if why is not None or writer is None:
        return why
    if plan.diagnosis is Diagnosis.FAILOVER_HELD:
        return plan.reason
    why = obstacle_after(situation, (writer,), though_paused=True)
    found = (
        why and f'without "{writer}" {why}',
        (logins := tell(login_problems(situation))) and f"a login fails that a failover may need: {logins}",
        (full := tell(without_room(view))) and f"no room: {full}",
    )
    return "; ".join(filter(None, found)) or None


def _node(node: NodeView, view: View, since: str | None) -> NodeStatus:
    observation, document = node.observation, view.document
    state = node_state(node, view)
    heard = observation is not None and state is not NodeState.UNREACHABLE
    lag = lag_bytes(node, view) if heard else None
    late_ms = lag_ms(node, view) if heard else None
    obstacle = reader_obstacle(node, view)
    postmaster = observation.postmaster if observation is not None else None
    connections = observation.connections if observation is not None and heard else None
    slots = observation.slots if observation is not None and heard else None
    return NodeStatus(
        name=node.name,
        zone=node.spec.zone,
        role=str(observation.role) if observation is not None and heard else "none",
        state=state,
        since=since,
        timeline=observation.timeline if observation is not None else None,
        lsn=format_lsn(observation.wal_end) if observation is not None and observation.wal_end is not None else None,
        lag_bytes=lag,
        lag_ms=round(late_ms) if late_ms is not None else None,
        reader_eligible=obstacle is None,
        reader_obstacle=obstacle,
        host=node.spec.address.host,
        port=node.spec.address.port,
        pid=postmaster.pid if postmaster is not None else None,
        data_dir=observation.data_dir if observation is not None else None,
        voter=document is not None and document.voters is not None and document.voters.find(node.name) is not None,
        whole=observation.whole if observation is not None else False,
        tier=node.spec.tier,
        server_version=observation.server_version if observation is not None else None,
        pending_restart=observation.pending_restart if observation is not None else False,
        activity=str(observation.activity) if observation is not None and observation.activity is not Activity.IDLE else None,
        progress_percent=observation.progress_percent if observation is not None else None,
        connections=connections.used if connections is not None else None,
        connections_limit=connections.limit if connections is not None else None,
        replication_slots=slots.used if slots is not None else None,
        replication_slots_limit=slots.limit if slots is not None else None,
        connections_waiting=connections.waiting if connections is not None else None,
        problem=_problem(observation) if observation is not None else None,
        late_ms=observation.late_ms if observation is not None else 0,
    )


def _problem(observation: Observation) -> str | None:
    outside = (
        f"outside the data directory, so copies lack it: {', '.join(observation.outside)}" if observation.outside else None
    )
    own = observation.problem or observation.storage_problem or observation.login_problem
    return own or observation.locked_elsewhere or outside
