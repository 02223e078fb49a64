"""What the manager tells operators beside its status: the writers of the past, and what a switchover would do."""

from __future__ import annotations

from cluster_manager.decision.view import Request, RequestKind
from cluster_manager.handover import rehearse_switchover
from cluster_manager.pastwriters import past_writers
from pgtopology.event import Event
from pgtopology.node import NodeName
from tests.cluster_manager.decision.storyboard import read_view

SWITCHOVER = Request(kind=RequestKind.SWITCHOVER, to=None)


def opened(epoch: int, kind: str, took_ms: int | None, **fields: object) -> Event:
    return Event(sequence=epoch, at="T", monotonic_ms=0, epoch=epoch, kind=kind, elapsed_ms=took_ms, message="m", fields=fields)


def test_a_first_writer_has_no_outage_and_a_forgotten_one_no_cause() -> None:
    document = read_view("").document
    assert document is not None
    claimed = document.timelines[-1]
    (forgotten,) = past_writers(document, ())[-1:]
    assert (forgotten.epoch, forgotten.node, forgotten.cause, forgotten.at) == (claimed.epoch, claimed.node, None, None)
    (first,) = past_writers(document, [opened(claimed.epoch, "bootstrap.opened", 900)])[-1:]
    assert first.outage_ms is None
    fields = {"transition": "failover", "cause": "PRIMARY_FAILED"}
    failover = opened(claimed.epoch, "failover.opened", 300, **fields, outage_ms=450, outage_kind="failover")
    (told,) = past_writers(document, [failover])[-1:]
    assert (told.outage_ms, told.since_detection_ms) == (450, 300)
    assert (told.kind, told.outage_kind, told.cause) == ("failover", "failover", "PRIMARY_FAILED")
    (old,) = past_writers(document, [opened(claimed.epoch, "failover.opened", 300, **fields)])[-1:]
    assert (old.outage_ms, old.since_detection_ms) == (None, 300), "an event of an earlier version did not tell it"
    assert past_writers(None, [failover]) == ()


def test_a_switchover_is_measured_by_switchovers_and_else_by_failovers() -> None:
    view = read_view("")
    failovers = [opened(epoch, "failover.opened", 100 * epoch, transition="failover") for epoch in (2, 3, 4)]
    assert rehearse_switchover(view, SWITCHOVER, []).expected_ms is None
    assert rehearse_switchover(view, SWITCHOVER, failovers).expected_ms == 300
    planned = opened(5, "failover.opened", 50, transition="switchover")
    assert rehearse_switchover(view, SWITCHOVER, [*failovers, planned]).expected_ms == 50


def test_a_switchover_names_heir_and_obstacle() -> None:
    view = read_view("")
    told = rehearse_switchover(view, SWITCHOVER, [])
    assert told.possible
    assert (told.from_node, told.obstacle) == ("n1", None)
    assert told.to in ("n2", "n3")
    refused = rehearse_switchover(view, Request(kind=RequestKind.SWITCHOVER, to=NodeName("n9")), [])
    assert not refused.possible
    assert "n9" in str(refused.obstacle)
