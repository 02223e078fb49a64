"""Who vouches for the writer, and until when."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from endpointd.routing.freshness import NEVER, Freshness, heartbeat_until, lease_until
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import NodeName, Role
from pgtopology.observation import Heartbeat, Seen
from pgtopology.report import FeedFrame
from testkit.documents import observation
from testkit.feedserver import document, member

HELD = document(member("n1", role=Role.PRIMARY), writer="n1", epoch=4, revision=9)


def test_the_longer_word_counts() -> None:
    assert not Freshness().is_valid(0)
    assert Freshness(lease_until=5).is_valid(4.9)
    assert not Freshness(lease_until=5).is_valid(5)
    assert Freshness(lease_until=5, heartbeat_until=6).until == 6


def frame(**changes: Any) -> FeedFrame:
    return FeedFrame(**{"lease_ms": 600, "echo_ms": 100_000, "epoch": Epoch(4), "revision": Revision(9), **changes})


def test_a_frame_vouches_from_when_the_report_it_answers_was_sent() -> None:
    assert lease_until(frame(), HELD) == pytest.approx(100.6)


@pytest.mark.parametrize(
    "changes", [{"lease_ms": 0}, {"lease_ms": -1}, {"echo_ms": None}, {"epoch": Epoch(5)}, {"revision": Revision(10)}]
)
def test_a_frame_without_lease_or_of_another_document_vouches_for_nothing(changes: dict[str, Any]) -> None:
    assert lease_until(frame(**changes), HELD) == NEVER
    assert lease_until(frame(), None) == NEVER


SEEN = observation(
    role=Role.PRIMARY,
    promised=Epoch(4),
    seen=Seen(epoch=Epoch(4), revision=Revision(12)),
    heartbeat=Heartbeat(epoch=Epoch(4), acknowledged_age_ms=150),
)


def test_a_heartbeat_vouches_from_when_it_was_begun() -> None:
    begun = msgspec.structs.replace(SEEN, heartbeat=Heartbeat(epoch=Epoch(4), acknowledged_age_ms=150, begun_age_ms=400))
    assert heartbeat_until(begun, HELD, 100.0) == pytest.approx(100.2)


def test_a_heartbeat_of_an_older_noded_vouches_from_when_it_was_acknowledged() -> None:
    assert heartbeat_until(SEEN, HELD, 100.0) == pytest.approx(100.45)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"node": NodeName("n2")}, '"n2" is not the writer'),
        ({"role": Role.STANDBY}, '"n1" does not run as a primary'),
        ({"promised": Epoch(5)}, '"n1" knows of a newer epoch than 4'),
        ({"seen": Seen(epoch=Epoch(5))}, '"n1" knows of a newer epoch than 4'),
        ({"heartbeat": None}, '"n1" has no acknowledged heartbeat'),
        ({"heartbeat": Heartbeat(epoch=Epoch(4))}, '"n1" has no acknowledged heartbeat'),
        ({"heartbeat": Heartbeat(epoch=Epoch(3), acknowledged_age_ms=1)}, "the heartbeat is of epoch 3, not 4"),
    ],
)
def test_what_does_not_vouch_says_why(changes: dict[str, Any], reason: str) -> None:
    assert heartbeat_until(msgspec.structs.replace(SEEN, **changes), HELD, 100.0) == reason
