"""Who may be taken out of a cluster: never the writer, and never so many that fewer than three voters stay."""

from __future__ import annotations

import msgspec
import pytest

from cluster_manager.api.control import NodeOrderDone
from cluster_manager.decision.leaving import why_needed
from pgtopology.document import Durability, Topology
from pgtopology.node import NodeName
from testkit.documents import document, member, voters


def _document(members: str, voting: str, w: int) -> Topology:
    """Return a document; a member that leaves is written with a minus behind its name. The first one is the writer."""
    return document(
        durability=Durability.QUORUM if w > 1 else Durability.ASYNC,
        voters=voters(voting, w),
        writer=NodeName("n1"),
        members=tuple(member(text.removesuffix("-"), leaving=text.endswith("-")) for text in members.split()),
    )


@pytest.mark.parametrize(
    ("members", "voters", "w", "name"),
    [
        ("n1 n2 n3 n4", "n1 n2 n3 n4", 3, "n2"),
        ("n1 n2 n3 n4 n5-", "n1 n2 n3 n4 n5", 3, "n4"),
        ("n1 n2 n3 n4-", "n1 n2 n3 n4", 3, "n4"),
        ("n1 n2 n3 n4-", "n1 n2 n3", 2, "n4"),
        ("n1 n2 n3 n4", "n1 n2 n3", 2, "n4"),
        ("n1 n2", "n1", 1, "n2"),
    ],
)
def test_a_node_the_others_can_do_without_may_leave_and_be_told_so_twice(members: str, voters: str, w: int, name: str) -> None:
    assert why_needed(_document(members, voters, w), name) is None


@pytest.mark.parametrize(
    ("members", "voters", "w", "name", "reason"),
    [
        ("n1 n2 n3 n4", "n1 n2 n3 n4", 3, "n1", "is the writer"),
        ("n1 n2 n3", "n1 n2 n3", 2, "n3", "fewer than 3"),
        ("n1 n2 n3 n4- n5-", "n1 n2 n3 n4 n5", 3, "n3", "fewer than 3"),
        ("n1 n2 n3 n4", "n1 n2 n3", 2, "n3", "fewer than 3"),
        ("n1 n2 n3", "n1 n2", 2, "n3", "fewer than 3"),
    ],
)
def test_a_node_the_others_need_stays(members: str, voters: str, w: int, name: str, reason: str) -> None:
    refused = why_needed(_document(members, voters, w), name)
    assert refused is not None
    assert reason in refused


def test_the_answer_to_an_order_is_words_and_numbers_as_older_commands_read_it() -> None:
    answer = msgspec.json.encode(NodeOrderDone('"n2" was restarted'))
    assert msgspec.json.decode(answer, type=dict[str, str | int])["detail"] == '"n2" was restarted'
