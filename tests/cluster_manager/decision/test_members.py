"""What status shows of a node."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from cluster_manager.decision.observed_members import lag_ms, node_state, reader_obstacle, refreshed
from cluster_manager.decision.situation import survey
from cluster_manager.decision.view import View
from pgtopology.node import NodeState
from tests.cluster_manager.decision.storyboard import read_view

PROMOTED = """
transition failover promoting from=n1
candidate n2 timeline=6
node n1 primary-of=4
node n2 primary-of=5 timeline=6
node n3 fenced=5 follows=n2/5
"""


@pytest.mark.parametrize(
    ("name", "state"), [("n1", NodeState.STOPPED), ("n2", NodeState.CATCHING_UP), ("n3", NodeState.CATCHING_UP)]
)
def test_a_promoted_candidate_is_shown_on_its_way_and_no_other_primary(name: str, state: NodeState) -> None:
    view = read_view(PROMOTED)
    node = view.node(name)
    assert node is not None
    assert node_state(node, view) is state


def late(shipped_ms: float | None, waiting_ms: float | None, *, limit_ms: int = 1000, was_eligible: bool = True) -> View:
    """Return a healthy cluster whose n3 gets its WAL and replays it so late."""
    view = read_view("")
    assert view.document is not None
    writer, middle, reader = view.nodes
    assert writer.observation is not None
    assert reader.observation is not None
    senders = tuple(
        msgspec.structs.replace(sender, flush_lag_ms=shipped_ms) if sender.name.startswith("n3") else sender
        for sender in writer.observation.walsenders
    )
    members = tuple(
        msgspec.structs.replace(member, reader_eligible=was_eligible) if member.name == "n3" else member
        for member in view.document.members
    )
    return replace(
        view,
        document=msgspec.structs.replace(view.document, members=members),
        nodes=(
            replace(writer, observation=msgspec.structs.replace(writer.observation, walsenders=senders)),
            middle,
            replace(reader, observation=msgspec.structs.replace(reader.observation, replay_lag_ms=waiting_ms)),
        ),
        reader_lag_max_ms=limit_ms,
    )


@pytest.mark.parametrize(
    ("shipped_ms", "waiting_ms", "known"), [(0.2, 0.0, 0.2), (3.0, 40.0, 43.0), (None, 0.0, None), (1.0, None, None)]
)
def test_lag_is_shipping_and_waiting_and_unknown_unless_both_are_known(
    shipped_ms: float | None, waiting_ms: float | None, known: float | None
) -> None:
    view = late(shipped_ms, waiting_ms)
    writer, _, reader = view.nodes
    assert lag_ms(reader, view) == known
    assert lag_ms(writer, view) == 0


def test_the_moments_of_two_observations_are_no_part_of_lag() -> None:
    view = late(0.2, 0.0)
    for age_ms in (1.0, 177.0, 290.0):
        moved = replace(view.nodes[2], age_ms=age_ms, replay_advanced_age_ms=age_ms)
        assert lag_ms(moved, view) == 0.2


def test_nobody_knows_the_lag_of_a_node_or_by_a_writer_that_is_not_heard() -> None:
    view = late(0.2, 0.0)
    writer, middle, reader = view.nodes
    assert lag_ms(replace(reader, age_ms=700), view) is None
    deaf = replace(view, nodes=(replace(writer, age_ms=700), middle, reader))
    assert lag_ms(reader, deaf) is None


@pytest.mark.parametrize(
    ("shipped_ms", "waiting_ms", "limit_ms", "was_eligible", "may"),
    [
        (1.0, 0.0, 1000, True, True),
        (1.0, 1001.0, 1000, True, False),
        (1001.0, 0.0, 1000, True, False),
        (600.0, 600.0, 1000, True, False),
        (None, 1001.0, 1000, True, False),
        (1001.0, None, 1000, True, False),
        (None, None, 1000, True, True),
        (1.0, 13_000.0, 0, True, True),
        (1.0, 13_000.0, 20_000, True, True),
        (1.0, 700.0, 1000, True, True),
        (1.0, 700.0, 1000, False, False),
        (1.0, 450.0, 1000, False, True),
    ],
)
def test_a_replica_that_shows_what_is_too_old_gets_no_new_session_until_it_is_well_within_the_limit(
    shipped_ms: float | None, waiting_ms: float | None, limit_ms: int, was_eligible: bool, may: bool
) -> None:
    view = late(shipped_ms, waiting_ms, limit_ms=limit_ms, was_eligible=was_eligible)
    assert view.document is not None
    obstacle = reader_obstacle(view.nodes[2], view)
    assert (obstacle is None) is may
    assert obstacle is None or "max_lag_ms" in obstacle
    situation = survey(view)
    assert situation is not None
    member = refreshed(situation).member("n3")
    assert member is not None
    assert member.reader_eligible is may
    assert member.state is NodeState.STREAMING, "it votes and follows as before"
