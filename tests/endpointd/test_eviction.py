"""Which sessions a new document ends."""

from __future__ import annotations

import pytest

from endpointd import refusal
from endpointd.routing.eviction import Assignment, Eviction, When, evictions
from endpointd.routing.table import Backend, make_table
from pgtopology.document import Topology, TransitionKind
from pgtopology.epoch import Epoch
from pgtopology.node import Address, NodeName, Role
from testkit.feedserver import document, member

MEMBERS = (member("n1", role=Role.PRIMARY), member("n2"), member("n3"))


def session(number: int, node: str, *, writer: bool = False, epoch: int = 4) -> Assignment:
    return Assignment(number, Backend(NodeName(node), Address("h", 1), writer), Epoch(epoch))


SESSIONS = (session(1, "n1", writer=True), session(2, "n2"), session(3, "n3"))


def ended(topology: Topology) -> tuple[Eviction, ...]:
    return evictions(make_table(topology), SESSIONS)


def test_a_document_that_changes_nothing_ends_nobody() -> None:
    assert ended(document(*MEMBERS, writer="n1", epoch=4, revision=2)) == ()


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        (TransitionKind.FAILOVER, When.NOW),
        (TransitionKind.BOOTSTRAP, When.NOW),
        (TransitionKind.SWITCHOVER, When.SAFE_POINT),
    ],
)
def test_sessions_of_a_lost_writer_end(kind: TransitionKind, when: When) -> None:
    assert ended(document(*MEMBERS, epoch=5, kind=kind)) == (Eviction(1, refusal.primary_changed(), when),)


def test_readers_of_the_candidate_and_of_the_new_writer_end() -> None:
    now = When.NOW
    assert [(e.session, e.when) for e in ended(document(*MEMBERS, candidate="n2", epoch=5))] == [(1, now), (2, now)]
    assert [(e.session, e.when) for e in ended(document(*MEMBERS, writer="n2", epoch=5))] == [(1, now), (2, now)]


def test_a_writer_that_returns_under_a_new_epoch_is_another_one() -> None:
    assert [e.session for e in ended(document(*MEMBERS, writer="n1", epoch=5))] == [1]


def test_readers_that_fell_back_to_the_writer_stay_while_it_is_the_writer() -> None:
    table = make_table(document(*MEMBERS, writer="n1", epoch=4))
    assert evictions(table, (session(1, "n1", writer=True),)) == ()


def test_readers_of_a_server_that_left_end_when_it_is_safe() -> None:
    assert ended(document(*MEMBERS[:2], writer="n1", epoch=4)) == (Eviction(3, refusal.server_removed("n3"), When.SAFE_POINT),)
