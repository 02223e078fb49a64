"""Has this node stopped answering?

Pure arithmetic over the ages of one node's observations.  It knows nothing of roles or remedies; `diagnose` does.  One missed
observation proves nothing; three in a row (600 ms) are silence.  A noded whose port refuses is silent like any other: that
its PostgreSQL is gone does not follow (the port probe says that).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from cluster_manager.decision.nodeview import NodeView, is_flushing, is_fresh
from cluster_manager.decision.timings import Timings
from pgtopology.observation import PostmasterState


class Health(StrEnum):
    """What the ages of a node's observations say."""

    ALIVE = "alive"
    LATE = "late"
    """Older than what may be acted upon, not yet silence."""
    SILENT = "silent"
    UNSEEN = "unseen"
    """Never heard since this manager began."""


def health(node: NodeView, timings: Timings) -> Health:
    """Return what the age of the node's newest observation says."""
    if node.observation is None:
        return Health.UNSEEN
    if node.age_ms < timings.fresh_ms:
        return Health.ALIVE
    return Health.LATE if node.age_ms < timings.silence_ms else Health.SILENT


def tell(reasons: Mapping[str, str]) -> str:
    """Return, for people, each node of *reasons* with what is said of it."""
    return "; ".join(f'"{name}" {why}' for name, why in reasons.items())


def tell_names(nodes: Iterable[NodeView]) -> str:
    """Return, for people, who the nodes are."""
    return ", ".join(f'"{node.name}"' for node in nodes) or "nobody"


def has_lost_writer(node: NodeView, timings: Timings) -> bool:
    """Return whether a standby, itself heard, gets nothing from its upstream: no receiver, or no WAL for the time of silence.

    The writer's heartbeat makes WAL flow at least every 200 ms, so its absence means something; but not while a receiver waits
    for its own disk, for it reads nothing meanwhile.
    """
    if not is_fresh(node, timings) or node.observation is None:
        return False
    receiver = node.observation.receiver
    connected = receiver is not None and receiver.running and receiver.streaming
    if connected and is_flushing(node) and node.wal_received_age_ms < timings.unflushed_ms:
        return False
    return not connected or node.wal_advanced_age_ms >= timings.silence_ms


def is_running(node: NodeView) -> bool:
    """Return whether the newest observation says that PostgreSQL runs."""
    return node.observation is not None and node.observation.postmaster.state is PostmasterState.RUNNING
