"""Since when each node is as it is, as people are told: in status, and by a line in the log when it changes."""

from __future__ import annotations

from cluster_manager.decision.observed_members import node_state
from cluster_manager.decision.view import View
from daemonkit.logs import get_logger
from pgtopology.node import NodeName, NodeState


class NodeStates:
    """The state of each node, with the wall time at which it began."""

    def __init__(self) -> None:
        self._since: dict[NodeName, tuple[NodeState, str]] = {}
        self._told: dict[NodeName, NodeState] = {}
        self._log = get_logger()

    def note(self, view: View) -> None:
        """Look at the nodes, and tell of changes; those of a transition are told when it is over."""
        settled = view.document is None or view.document.transition is None
        for node in view.nodes:
            state = node_state(node, view)
            if node.name not in self._since or self._since[node.name][0] is not state:
                self._since[node.name] = state, view.wall_time
            told = self._told.setdefault(node.name, state)
            if settled and told is not state:
                self._log.info("node state changed", node=node.name, old=str(told), new=str(state))
                self._told[node.name] = state

    @property
    def since(self) -> dict[NodeName, str]:
        """The wall time at which the state of each node began."""
        return {name: wall for name, (_, wall) in self._since.items()}
