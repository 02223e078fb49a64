"""Makes what `endpointctl status` shows out of a view and the plan for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.members import lag_bytes, node_state
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.suspicion import promisable, tell
from cluster_manager.decision.view import NodeView, View
from pgtopology.document import Durability, Topology
from pgtopology.epoch import NO_EPOCH, NO_REVISION
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, NodeState
from pgtopology.observation import Activity, Observation
from pgtopology.status import (
    EndpointsStatus,
    EndpointStatus,
    LastFailover,
    ManagerStatus,
    NodeStatus,
    ProxyStatus,
    Status,
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
    document = view.document
    able, missing = promisable(view, document) if document is not None else ((), {})
    voters = document.voters if document is not None else None
    transition = document.transition if document is not None else None
    endpoints = view.endpoints
    servers = {node.observation.server_version for node in view.nodes if node.observation and node.observation.server_version}
    return Status(
        cluster=view.cluster,
        revision=document.revision if document is not None else NO_REVISION,
        epoch=document.epoch if document is not None else NO_EPOCH,
        timeline=document.candidate.timeline if document is not None and document.candidate is not None else None,
        writer=document.writer if document is not None else None,
        state=cluster_state(view, plan),
        durability=str(document.durability) if document is not None else str(Durability.ASYNC),
        diagnosis=str(plan.diagnosis),
        reason=plan.reason,
        paused=document.paused if document is not None else False,
        at_risk=plan.reason if plan.diagnosis is Diagnosis.FAILOVER_HELD else _at_risk(document, len(able), missing),
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
        ),
        last_failover=last_failover,
        endpoints=EndpointsStatus(
            writer=EndpointStatus(host=endpoints.writer.host, port=endpoints.writer.port, dns=endpoints.writer.dns),
            reader=EndpointStatus(host=endpoints.reader.host, port=endpoints.reader.port, dns=endpoints.reader.dns),
        ),
        nodes=tuple(_node(node, document, view, since.get(node.name)) for node in view.nodes),
        proxies=proxies,
        versions={"endpointd": version, **({"postgresql": ", ".join(sorted(servers))} if servers else {})},
        relaxations=relaxations(view),
    )


def relaxations(view: View) -> tuple[str, ...]:
    """Return what the published writer says of relaxed commits."""
    writer = view.node(view.document.writer) if view.document is not None and view.document.writer is not None else None
    return writer.observation.relaxations if writer is not None and writer.observation is not None else ()


def cluster_state(view: View, plan: Plan) -> str:
    """Return the one word for the whole cluster."""
    document = view.document
    if plan.diagnosis in (Diagnosis.NO_SAFE_SET, Diagnosis.NO_CANDIDATE, Diagnosis.STORE_BEHIND):
        return "stuck"
    if document is None or plan.diagnosis in (Diagnosis.BOOTSTRAPPING, Diagnosis.NO_CLUSTER):
        return "bootstrapping"
    if document.transition is not None or plan.finding.failed:
        return "transition"
    if document.paused:
        return "paused"
    if plan.diagnosis is Diagnosis.FAILOVER_HELD:
        return "at_risk"
    able, missing = promisable(view, document)
    if document.voters is not None and not document.is_safe_set(able):
        return "at_risk"
    everybody = all(node_state(node, document, view) in (NodeState.RUNNING, NodeState.STREAMING) for node in view.nodes)
    # Whoever waits for "healthy" wants the next failure survived: so every voter must be able to promise, and count.
    return "healthy" if plan.diagnosis is Diagnosis.HEALTHY and everybody and not missing else "degraded"


def _at_risk(document: Topology | None, able: int, missing: Mapping[str, str]) -> str | None:
    if document is None or document.voters is None:
        return "there is no cluster yet"
    needed = document.voters.safe_set_size
    if able < needed:
        who = tell(missing)
        return f"failover impossible now: {able} of {needed} needed voters promisable: {who}"
    if len(document.voters.members) == 1:
        return f'failover impossible: "{document.voters.names[0]}" is the only voter (durability {document.durability})'
    return None


def _node(node: NodeView, document: Topology | None, view: View, since: str | None) -> NodeStatus:
    observation = node.observation
    state = node_state(node, document, view)
    heard = observation is not None and state is not NodeState.UNREACHABLE
    lag = lag_bytes(node, document, view) if heard else None
    postmaster = observation.postmaster if observation is not None else None
    return NodeStatus(
        name=node.name,
        zone=node.spec.zone,
        role=str(observation.role) if observation is not None and heard else "none",
        state=state,
        since=since,
        timeline=observation.timeline if observation is not None else None,
        lsn=format_lsn(observation.wal_end) if observation is not None and observation.wal_end is not None else None,
        lag_bytes=lag,
        lag_ms=_lag_ms(node, document, lag),
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
        problem=_problem(observation) if observation is not None else None,
        late_ms=observation.late_ms if observation is not None else 0,
    )


def _problem(observation: Observation) -> str | None:
    outside = (
        f"outside the data directory, so copies lack it: {', '.join(observation.outside)}" if observation.outside else None
    )
    return observation.problem or observation.storage_problem or outside


def _lag_ms(node: NodeView, document: Topology | None, lag: int | None) -> int | None:
    """A standby that has replayed everything is not late; any other is as late as its last step in replay is old."""
    if lag is None or document is None:
        return None
    if node.name == document.writer or lag == 0:
        return 0
    age = node.replay_advanced_age_ms
    return round(age) if age != float("inf") else None
