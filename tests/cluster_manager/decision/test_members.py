"""What status shows of a node."""

from __future__ import annotations

import pytest

from cluster_manager.decision.members import node_state
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
    assert node_state(node, view.document, view) is state
