"""What Prometheus is told: the gauges follow the view, the counters the records."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry

from cluster_manager.decision.plan import Plan, decide
from cluster_manager.decision.tries import Desired, Tries
from cluster_manager.decision.view import View
from cluster_manager.provision.provisioner import Declined
from cluster_manager.report.metrics import ManagerMetrics
from cluster_manager.report.status import node_changes
from pgtopology.desired_nodes import DesiredNode, Wish
from pgtopology.epoch import Epoch
from pgtopology.flight import Flight, Phase
from pgtopology.node import NodeName
from pgtopology.status import LastFailover
from tests.cluster_manager.decision.storyboard import read_view

FLIGHT = Flight(
    epoch=Epoch(5),
    last_epoch=Epoch(5),
    kind="failover",
    cause="PRIMARY_FAILED",
    reason="",
    from_node=NodeName("n1"),
    detected_at="",
    detected_monotonic_ms=0,
    ended=True,
    outage_ms=200.0,
    phases=(Phase(name="detect", ms=150.0), Phase(name="publish", ms=50.0)),
)


@dataclass
class Decided:
    view: View | None
    plan: Plan | None


@dataclass
class Remembers:
    last_failover: LastFailover | None


def told(story: str | None, last: LastFailover | None = None) -> tuple[CollectorRegistry, ManagerMetrics]:
    view = read_view(story) if story is not None else None
    metrics = ManagerMetrics(Decided(view, decide(view) if view is not None else None), Remembers(last), lambda: True)
    registry = CollectorRegistry()
    registry.register(metrics)
    return registry, metrics


def test_a_healthy_cluster() -> None:
    registry, _ = told("")
    value = registry.get_sample_value
    assert value("endpointd_failover_possible") == 1
    assert value("endpointd_at_risk") == 0
    assert (value("endpointd_voters"), value("endpointd_voters_needed"), value("endpointd_voters_promisable")) == (3, 2, 3)
    assert (value("endpointd_cluster_epoch"), value("endpointd_cluster_revision")) == (4, 20)
    assert value("endpointd_writer", {"node": "n1", "zone": "az1"}) == 1
    assert value("endpointd_writer", {"node": "n2", "zone": "az2"}) == 0
    assert value("endpointd_node_state", {"node": "n2", "zone": "az2", "state": "streaming"}) == 1
    assert value("endpointd_node_lag_bytes", {"node": "n2", "zone": "az2"}) == 0
    assert value("endpointd_cluster_state", {"state": "healthy"}) == 1
    assert value("endpointd_diagnosis", {"diagnosis": "HEALTHY"}) == 1
    assert value("endpointd_diagnosis", {"diagnosis": "NO_SAFE_SET"}) == 0
    assert value("endpointd_last_failover_outage_seconds") is None


def test_too_few_voters_are_a_risk_and_a_pause_is_none() -> None:
    registry, _ = told("node n2 age=5000\nnode n3 age=5000")
    assert registry.get_sample_value("endpointd_at_risk") == 1
    assert registry.get_sample_value("endpointd_failover_possible") == 0
    assert registry.get_sample_value("endpointd_voters_promisable") == 1
    registry, _ = told("document paused")
    assert registry.get_sample_value("endpointd_at_risk") == 0
    assert registry.get_sample_value("endpointd_failover_possible") == 0
    assert registry.get_sample_value("endpointd_paused") == 1


def test_a_writer_alone_is_at_risk() -> None:
    registry, _ = told("document durability=async voters=n1/1")
    assert registry.get_sample_value("endpointd_at_risk") == 1


def test_failovers_are_counted_with_their_phases() -> None:
    registry, metrics = told("", LastFailover(epoch=Epoch(5), cause="PRIMARY_FAILED", outage_ms=110, at=""))
    metrics.ended(FLIGHT)
    value = registry.get_sample_value
    assert value("endpointd_failovers_total", {"kind": "failover", "cause": "PRIMARY_FAILED"}) == 1
    assert value("endpointd_failover_phase_seconds_sum", {"kind": "failover", "phase": "detect"}) == 0.15
    assert value("endpointd_failover_outage_seconds_count", {"kind": "failover"}) == 1
    assert value("endpointd_last_failover_outage_seconds") == 0.11


def test_before_anything_was_decided_there_is_little_to_tell() -> None:
    registry, _ = told(None)
    assert registry.get_sample_value("endpointd_at_risk") is None
    registry, _ = told("manager empty-store")
    assert registry.get_sample_value("endpointd_at_risk") == 1
    assert registry.get_sample_value("endpointd_cluster_epoch") is None


def test_orders_about_nodes_that_are_not_finished() -> None:
    view = read_view("")
    coming = Desired(DesiredNode(name=NodeName("n4")), Tries().answered(Declined("a port is taken"), view.now_ms))
    leaving = Desired(DesiredNode(name=NodeName("n5"), wish=Wish.LEAVING))
    view = replace(view, desired=(coming, leaving))
    registry = CollectorRegistry()
    registry.register(ManagerMetrics(Decided(view, decide(view)), Remembers(None), lambda: True))
    assert registry.get_sample_value("endpointd_node_changes", {"wish": "wanted"}) == 1
    assert registry.get_sample_value("endpointd_node_changes", {"wish": "leaving"}) == 1
    assert registry.get_sample_value("endpointd_node_changes_failing") == 1
    (failed, _) = node_changes(view)
    assert (failed.step, failed.waits_for, failed.failures) == ("provision", "a port is taken", 1)
    assert failed.next_try == "2026-01-01T00:00:01Z"
