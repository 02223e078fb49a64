"""The nodes of the settings as they were heard: one `Watched` for each, under the name it has."""

from __future__ import annotations

from collections.abc import Sequence

from cluster_manager.decision.nodeview import NEVER_MS, NodeSpec, NodeView
from cluster_manager.observing.watched import Watched
from pgtopology.node import NodeName
from pgtopology.observation import Observation, Port

PROBE_AFTER_MS = 250.0
"""A published writer whose noded is silent for so long has its PostgreSQL's port tried: five words of four were missed."""


class Nodes:
    """The newest word of every node."""

    def __init__(self, specs: Sequence[NodeSpec]) -> None:
        self._watched = {spec.name: Watched(spec) for spec in specs}

    def __contains__(self, name: object) -> bool:
        return name in self._watched

    def set_specs(self, specs: Sequence[NodeSpec]) -> None:
        """Go on with another set of nodes; what is known of those that stay as they are is kept."""
        known = self._watched
        self._watched = {
            spec.name: known[spec.name] if spec.name in known and known[spec.name].spec == spec else Watched(spec)
            for spec in specs
        }

    def take(self, observation: Observation, now_ms: float) -> bool:
        """Note what a node says. Return whether it is news; what a node says that is gone from the settings is none."""
        watched = self._watched.get(observation.node)
        return watched is not None and watched.take(observation, now_ms)

    def discount(self, lag_ms: float, now_ms: float) -> None:
        """Take off what this process itself was too late to hear."""
        for watched in self._watched.values():
            watched.discount(lag_ms, now_ms)

    def is_silent(self, name: NodeName | None, now_ms: float) -> bool:
        """Return whether the node was not heard for so long that its port is worth trying."""
        watched = self._watched.get(name) if name is not None else None
        return watched is not None and now_ms - watched.arrived_ms >= PROBE_AFTER_MS

    def port_tried(self, name: NodeName, port: Port, now_ms: float) -> bool:
        """Note what a connection to the node's PostgreSQL met. Return whether it counts: not if it was heard meanwhile."""
        if not self.is_silent(name, now_ms):
            return False
        self._watched[name].port = port
        return True

    def wal_advanced_at_ms(self, name: NodeName) -> float:
        """Return when the WAL of *name* was last seen to grow."""
        watched = self._watched.get(name)
        return watched.wal_advanced_ms if watched is not None else -NEVER_MS

    def views(self, now_ms: float) -> tuple[NodeView, ...]:
        """Return every node as known at *now_ms*, in the order of the settings."""
        return tuple(watched.view(now_ms) for watched in self._watched.values())
