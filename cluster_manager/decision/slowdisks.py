"""Would another writer's commits wait for the same slow disks? Then a failover would mend nothing (docs/decisions/0016)."""

from __future__ import annotations

from cluster_manager.decision.nodeview import NodeView, is_flushing
from cluster_manager.decision.situation import Situation
from cluster_manager.decision.suspicion import tell_names
from cluster_manager.decision.timings import Timings


def why_disks_are_slow(situation: Situation, writer: NodeView, voters: list[NodeView]) -> str | None:
    """Return why another writer's commits would wait for the same slow disks, or may for all that is known; None if not.

    Whoever leads, w voters must make each commit durable.  Where fewer than w are heard and have a disk of which nothing bad is
    known, a failover would cost an outage and mend nothing: then it is not the writer that is stuck.
    """
    timings, w = situation.timings, situation.voters.w
    others = [node for node in voters if node.name in situation.fresh]
    sharing = [node for node in others if _is_on_busy_disk_of(writer, node, timings)]
    slow = [node for node in others if node in sharing or _is_slow(node, timings)]
    untried = [node for node in others if node not in slow and _is_being_tried(node)]
    with_the_writer = 1 + len(others) - len(slow)
    if with_the_writer - len(untried) >= w:
        return None
    if with_the_writer >= w:
        return f"it is not known yet how slow the disks of {tell_names(untried)} are"
    if sharing:
        return f"its disk is busy and {tell_names(sharing)} share it: another writer would wait for it as well"
    return f"the disks of {tell_names(slow)} are too slow: another writer would wait for them as well"


def _is_slow(node: NodeView, timings: Timings) -> bool:
    """Return whether the node has WAL in hand that its disk does not make durable, or was too slow when that was tried."""
    sync = node.observation.sync if node.observation is not None else None
    return is_flushing(node) or (sync is not None and max(sync.last_ms or 0, sync.pending_ms) >= timings.slow_sync_ms)


def _is_on_busy_disk_of(writer: NodeView, node: NodeView, timings: Timings) -> bool:
    """Return whether the node shares the writer's disk, and that is slow for the writer's noded too, so that its heartbeat may
    just be waiting for it. One sync of the node's own that was quick proves little then."""
    seen, other = writer.observation, node.observation
    if seen is None or other is None or seen.disk is None or other.disk is None or seen.sync is None:
        return False
    shared = seen.disk.device is not None and seen.disk.device == other.disk.device
    waits_ms = seen.heartbeat.pending_ms if seen.heartbeat is not None else 0
    return (
        shared
        and max(seen.sync.slowest_ms, seen.sync.pending_ms) >= timings.busy_sync_ms
        and waits_ms < timings.shared_stuck_ms
    )


def _is_being_tried(node: NodeView) -> bool:
    sync = node.observation.sync if node.observation is not None else None
    return sync is not None and sync.last_ms is None
