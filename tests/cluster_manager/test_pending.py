"""What is told of an operator's request that was accepted and has not begun."""

from __future__ import annotations

from dataclasses import replace

from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.report.status import pending
from pgtopology.node import NodeName
from tests.cluster_manager.decision.storyboard import NOW_MS, read_view


def test_nothing_is_told_when_nothing_waits() -> None:
    assert pending(read_view("")) is None


def test_a_request_is_told_with_its_age_and_whatever_it_waits_for() -> None:
    request = Request(kind=RequestKind.SWITCHOVER, to=NodeName("n2"), asked_at_ms=NOW_MS - 1500)
    told = pending(replace(read_view(""), request=request))
    assert told == 'switchover to "n2", accepted 1.5 s ago'
    hindered = pending(replace(read_view("node n2 age=9000"), request=request))
    assert hindered is not None
    assert hindered.startswith(f"{told}, waits: ")
    assert '"n2" is' in hindered
