"""What the manager tells Prometheus (GET /metrics): the cluster as status shows it, and what failovers took.

Gauges are made at each scrape from the newest view and plan, so that they say what was decided upon and cost nothing between
scrapes.  Counters and histograms count from the manager's start.  Durations are seconds, sizes bytes, as is the custom there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cluster_manager.decision.carrying import slots_status, vacuum_horizon
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.observed_members import lag_bytes, lag_ms, node_state, reader_obstacle
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.prospects import prospects, stuck
from cluster_manager.decision.situation import login_problems, survey
from cluster_manager.decision.view import View
from cluster_manager.report.status import at_risk, cluster_state, node_changes
from pgtopology.desired_nodes import Wish
from pgtopology.document import Durability
from pgtopology.flight import PHASES, Flight, kind_of
from pgtopology.node import NodeState
from pgtopology.status import LastFailover

CLUSTER_STATES = ("healthy", "degraded", "at_risk", "transition", "stuck", "paused", "bootstrapping")
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Decided(Protocol):
    """Who holds the newest view and the plan made from it."""

    view: View | None
    plan: Plan | None


class Remembers(Protocol):
    """Who knows the newest failover."""

    last_failover: LastFailover | None


class ManagerMetrics(Collector):
    """The collector. Register it with the registry that /metrics shows."""

    def __init__(self, decided: Decided, remembers: Remembers, is_served: Callable[[], bool]) -> None:
        """*is_served* says whether any proxy reports."""
        self._is_served = is_served
        self._decided = decided
        self._remembers = remembers
        self._failovers = Counter(
            "endpointd_failovers",
            "Outages that ended with a writer; of kind failover are those that nobody had wished.",
            ["kind", "cause"],
            registry=None,
        )
        self._phases = Histogram(
            "endpointd_failover_phase_seconds",
            "Time of each phase of failovers and switchovers; the phases add up to the outage.",
            ["kind", "phase"],
            buckets=BUCKETS_S,
            registry=None,
        )
        self._outages = Histogram(
            "endpointd_failover_outage_seconds",
            "From the last acknowledged commit to the next published writer.",
            ["kind"],
            buckets=BUCKETS_S,
            registry=None,
        )

    def ended(self, flight: Flight) -> None:
        """Count a failover or switchover that ended."""
        kind = kind_of(flight)
        self._failovers.labels(kind, flight.cause).inc()
        if flight.outage_ms is not None:
            self._outages.labels(kind).observe(flight.outage_ms / 1000)
        for phase in flight.phases:
            if phase.name in PHASES:
                self._phases.labels(kind, phase.name).observe(phase.ms / 1000)

    def collect(self) -> Iterator[Metric]:
        """Yield everything, as the registry asks for it."""
        for counted in (self._failovers, self._phases, self._outages):
            yield from counted.collect()
        last = self._remembers.last_failover
        if last is not None and last.outage_ms is not None:
            yield _gauge(
                "endpointd_last_failover_outage_seconds",
                "From the last acknowledged commit to the published writer, of the newest outage of any kind.",
                last.outage_ms / 1000,
            )
        view, plan = self._decided.view, self._decided.plan
        if view is not None and plan is not None:
            yield from _cluster(view, plan, is_served=self._is_served())


def _cluster(view: View, plan: Plan, *, is_served: bool) -> Iterator[Metric]:
    document = view.document
    state = cluster_state(view, plan, is_served=is_served)
    yield _one_of("endpointd_cluster_state", "The state that status shows.", "state", CLUSTER_STATES, state)
    yield _one_of("endpointd_diagnosis", "What the manager finds.", "diagnosis", Diagnosis, str(plan.diagnosis))
    yield from _quorum(view, plan)
    yield from _node_changes(view)
    if document is None:
        return
    yield _gauge("endpointd_cluster_epoch", "The document's epoch.", document.epoch)
    yield _gauge("endpointd_cluster_revision", "The document's revision.", document.revision)
    yield _gauge("endpointd_paused", "Whether an operator has paused automatic failover.", document.paused)
    yield _one_of("endpointd_durability", "What a commit survives.", "durability", Durability, str(document.durability))
    yield _by_node(
        "endpointd_writer",
        "Whether the node is the published writer.",
        ((node, node.name == document.writer) for node in view.nodes),
    )
    states = GaugeMetricFamily("endpointd_node_state", "Whether the node is in the state.", labels=["node", "zone", "state"])
    for node in view.nodes:
        seen = node_state(node, view)
        for one in NodeState:
            states.add_metric([node.name, node.spec.zone, str(one)], one is seen)
    yield states
    lags = ((node, lag_bytes(node, view)) for node in view.nodes)
    yield _by_node("endpointd_node_lag_bytes", "Distance to the writer's WAL end.", lags)
    late = ((node, lag_ms(node, view)) for node in view.nodes)
    yield _by_node(
        "endpointd_node_lag_seconds",
        "From a commit on the writer to its visibility on the node; absent if unknown.",
        ((node, ms / 1000 if ms is not None else None) for node, ms in late),
    )
    yield _by_node(
        "endpointd_node_reader_eligible",
        "Whether the reader endpoint sends new sessions to the node.",
        ((node, reader_obstacle(node, view) is None) for node in view.nodes),
    )
    ages = ((node, round(node.age_ms / 1000, 3) if node.observation is not None else None) for node in view.nodes)
    yield _by_node("endpointd_node_observation_age_seconds", "Since the node was last heard.", ages)
    disks = (
        (node, node.observation.disk.free_bytes if node.observation is not None and node.observation.disk else None)
        for node in view.nodes
    )
    clients = tuple((node, node.observation.connections) for node in view.nodes if node.observation is not None)
    counted = tuple((node, of) for node, of in clients if of is not None)
    yield _by_node("endpointd_node_connections", "Client backends of the node.", ((node, of.used) for node, of in counted))
    yield _by_node("endpointd_node_connections_limit", "max_connections.", ((node, of.limit) for node, of in counted))
    yield _by_node(
        "endpointd_node_connections_waiting_for_quorum",
        "Client backends whose commit waits for the quorum.",
        ((node, of.waiting) for node, of in counted),
    )
    kept = tuple((node, node.observation.slots) for node in view.nodes if node.observation is not None)
    had = tuple((node, of) for node, of in kept if of is not None)
    yield _by_node("endpointd_node_replication_slots", "Replication slots of the node.", ((node, of.used) for node, of in had))
    yield _by_node("endpointd_node_replication_slots_limit", "max_replication_slots.", ((node, of.limit) for node, of in had))
    yield _by_node("endpointd_node_disk_free_bytes", "Free on the file system of the data.", disks)
    horizon = vacuum_horizon(view)
    if horizon is not None:
        text = "Transactions begun since the oldest one whose rows VACUUM must keep on the writer."
        yield _gauge("endpointd_vacuum_horizon_age_xids", text, horizon.age_xids)
        yield _gauge("endpointd_vacuum_horizon_held_seconds", "How long those rows have been kept at least.", horizon.held_s)
        yield _gauge("endpointd_vacuum_horizon_alarm", "Whether that has gone on for too long.", horizon.alarm)
    slots = slots_status(view)
    yield _gauge("endpointd_user_slots", "Replication slots on the writer that are not the cluster's own.", len(slots))
    lost = sum(bool(slot.lost_with) for slot in slots)
    yield _gauge("endpointd_user_slots_at_risk", "Of these, those that some handover would lose.", lost)


def _node_changes(view: View) -> Iterator[Metric]:
    """Yield how many orders that nodes come or go are unfinished."""
    changes = node_changes(view)
    unfinished = GaugeMetricFamily(
        "endpointd_node_changes", "Orders that a node comes (wanted) or goes (leaving) which are not finished.", labels=["wish"]
    )
    for wish in Wish:
        unfinished.add_metric([wish], sum(change.wish == wish for change in changes))
    yield unfinished
    failing = sum(change.failures > 0 for change in changes)
    yield _gauge("endpointd_node_changes_failing", "Of these, those whose last try failed.", failing)


def _quorum(view: View, plan: Plan) -> Iterator[Metric]:
    situation = survey(view)
    voters = situation.voters if situation is not None else None
    able = situation.promisable if situation is not None else ()
    needed = voters.safe_set_size if voters is not None else 0
    yield _gauge("endpointd_voters", "Recorded voters.", len(voters.members) if voters is not None else 0)
    yield _gauge("endpointd_voters_needed", "Voters that must promise before a failover.", needed)
    yield _gauge("endpointd_voters_promisable", "Voters that could promise now, the writer among them.", len(able))
    logins = login_problems(situation) if situation is not None else {}
    yield _gauge("endpointd_login_problems", "Voters on which a login fails that a failover may need.", len(logins))
    is_at_risk = at_risk(view, plan) is not None
    yield _gauge("endpointd_at_risk", "Whether the writer's loss would stop the cluster, or commits wait already.", is_at_risk)
    is_stuck = stuck(view, plan.finding) is not None
    yield _gauge("endpointd_stuck", "Whether no commit is acknowledged, and nothing mends that.", is_stuck)
    ahead = prospects(view, plan.finding)
    possible = ahead.server_crash.survived
    yield _gauge("endpointd_failover_possible", "Whether another would lead by itself if the writer were lost now.", possible)
    survives = GaugeMetricFamily("endpointd_survives", "Whether the cluster goes on by itself after a loss.", labels=["loss"])
    survives.add_metric(["server_crash"], possible)
    survives.add_metric(["host_loss"], ahead.host_loss.survived)
    survives.add_metric(["zone_loss"], ahead.zone_loss.survived)
    yield survives


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _one_of(name: str, text: str, label: str, choices: Iterable[str], chosen: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for choice in choices:
        family.add_metric([str(choice)], float(str(choice) == chosen))
    return family


def _by_node(name: str, text: str, values: Iterable[tuple[NodeView, float | None]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["node", "zone"])
    for node, value in values:
        if value is not None:
            family.add_metric([node.name, node.spec.zone], float(value))
    return family
