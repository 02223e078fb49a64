"""What the doors lead to, by document."""

from __future__ import annotations

import pytest

from endpointd.routing.table import EMPTY, Backend, Door, eligible, make_table
from pgtopology.document import Topology, TransitionKind
from pgtopology.node import NodeState, Role
from testkit.feedserver import document, member


def names(topology: Topology, door: Door, *, fallback_to_writer: bool = True) -> list[str]:
    return [backend.node for backend in eligible(make_table(topology), door, fallback_to_writer=fallback_to_writer)]


def test_the_writers_door_leads_to_the_writer_and_the_readers_to_the_replicas() -> None:
    topology = document(member("n3"), member("n1", role=Role.PRIMARY), member("n2"), writer="n1")
    assert names(topology, Door.WRITER) == ["n1"]
    assert names(topology, Door.READER) == ["n2", "n3"]
    table = make_table(topology)
    assert table.writer == Backend(topology.members[1].name, topology.members[1].address, True)
    assert not any(backend.is_writer for backend in table.readers)
    assert table.members == {"n1", "n2", "n3"}


@pytest.mark.parametrize(
    "changes",
    [{"reader_eligible": False}, {"state": NodeState.CATCHING_UP}, {"state": NodeState.UNREACHABLE}, {"role": Role.NONE}],
)
def test_only_healthy_replicas_are_read(changes: dict[str, object]) -> None:
    role = changes.pop("role", Role.STANDBY)
    assert isinstance(role, Role)
    topology = document(
        member("n1", role=Role.PRIMARY),
        member("n2", role=role, **{"reader_eligible": True, **changes}),
        member("n3"),
        writer="n1",
    )
    assert names(topology, Door.READER) == ["n3"]


def test_with_no_replica_left_readers_fall_back_to_the_writer_if_they_may() -> None:
    topology = document(member("n1", role=Role.PRIMARY), writer="n1")
    assert names(topology, Door.READER) == ["n1"]
    assert names(topology, Door.READER, fallback_to_writer=False) == []


def test_without_a_writer_the_writers_door_leads_nowhere() -> None:
    topology = document(member("n1"), member("n2"))
    assert names(topology, Door.WRITER) == []
    assert names(topology, Door.READER) == ["n1", "n2"]


def test_the_node_that_is_being_promoted_is_no_reader() -> None:
    topology = document(member("n1"), member("n2"), candidate="n2")
    assert names(topology, Door.READER) == ["n1"]
    assert make_table(topology).promoted == "n2"


def test_a_writer_that_still_looks_like_a_standby_is_no_reader() -> None:
    """The document names the writer before its member says so."""
    assert names(document(member("n1"), member("n2"), writer="n2"), Door.READER) == ["n1"]


def test_only_a_switchover_is_planned() -> None:
    assert make_table(document(member("n1"), kind=TransitionKind.SWITCHOVER)).is_planned
    assert not make_table(document(member("n1"), kind=TransitionKind.FAILOVER)).is_planned
    assert not make_table(document(member("n1"), writer="n1")).is_planned


def test_before_the_first_document_both_doors_lead_nowhere() -> None:
    doors = (Door.WRITER, Door.READER, Door.of("n1"))
    assert [eligible(EMPTY, door, fallback_to_writer=True) for door in doors] == [(), (), ()]


def test_an_instances_door_leads_to_its_node_whatever_that_is() -> None:
    members = (
        member("n1", 1, role=Role.PRIMARY),
        member("n2", 2, reader_eligible=False, state=NodeState.CATCHING_UP),
        member("n3", 3, role=Role.NONE, state=NodeState.STOPPED, reader_eligible=False),
    )
    table = make_table(document(*members, writer="n1"))

    def leads(name: str) -> list[tuple[str, bool]]:
        found = eligible(table, Door.of(name), fallback_to_writer=True)
        return [(backend.node, backend.is_writer) for backend in found]

    assert leads("n1") == [("n1", True)]
    assert leads("n2") == [("n2", False)]
    assert leads("n3") == [("n3", False)]
    assert leads("n9") == []


def test_an_instances_door_is_shut_while_its_node_is_being_promoted_or_is_a_primary_nobody_named() -> None:
    members = (member("n1", 1, role=Role.PRIMARY), member("n2", 2))
    table = make_table(document(*members, candidate="n2", epoch=2))
    for name in ("n1", "n2"):
        assert eligible(table, Door.of(name), fallback_to_writer=True) == ()
