"""A node's metrics as they follow from one observation: what is true now, told again by every scrape.

Sizes are bytes, ages seconds, positions bytes from the beginning of WAL.  What is not known is left out rather than zero.
Labels are words of ours and names of the cluster's members; a user's replication client is counted and not named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from daemonkit.version import VERSION
from noded.report.gatherer import Slots
from pgtopology.node import Role
from pgtopology.observation import Activity, Observation, PostmasterState


class ObservationCollector(Collector):
    """Observes when asked."""

    def __init__(self, observe: Callable[[], Observation], slots: Callable[[], Slots | None]) -> None:
        self._observe = observe
        self._slots = slots

    def collect(self) -> Iterable[Metric]:
        """Return the families; called for each GET /metrics, on the loop."""
        return families(self._observe(), self._slots())


def families(seen: Observation, slots: Slots | None) -> Iterable[Metric]:
    """Yield what *seen* and *slots* say."""

    def gauge(name: str, text: str, value: float | None) -> Iterable[Metric]:
        if value is not None:
            yield GaugeMetricFamily(f"endpointd_node_{name}", text, value=value)

    def states(name: str, text: str, label: str, now: str, words: Iterable[str]) -> Metric:
        family = GaugeMetricFamily(f"endpointd_node_{name}", text, labels=[label])
        for word in words:
            family.add_metric([word], float(word == now))
        return family

    info = GaugeMetricFamily("endpointd_node_info", "Always 1.", labels=["node", "version", "server_version"])
    info.add_metric([seen.node, VERSION, seen.server_version or ""], 1)
    yield info
    state = seen.postmaster.state
    running = state is PostmasterState.RUNNING
    yield from gauge("up", "Whether PostgreSQL accepts connections.", running)
    yield states(
        "postmaster", "What the postmaster is doing, 1 for one of them.", "state", seen.postmaster.state, PostmasterState
    )
    yield states("role", "What PostgreSQL is, 1 for one of them.", "role", seen.role, Role)
    yield states("activity", "The long work noded is busy with, 1 for one of them.", "activity", seen.activity, Activity)
    yield from gauge("problem", "Whether the last long work or start failed.", seen.problem is not None)
    yield from gauge("deaf_seconds", "How long fresh connections have gone unanswered.", seen.postmaster.deaf_ms / 1000)
    yield from gauge("pending_restart", "Whether a setting waits for a restart.", seen.pending_restart)
    yield from gauge("whole", "Whether its WAL counts in an election.", seen.whole)
    yield from gauge("promised_epoch", "The greatest epoch it has promised.", seen.promised)
    yield from gauge("seen_epoch", "The greatest epoch it has acted on.", seen.seen.epoch)
    yield from gauge("seen_revision", "The revision that belongs to it.", seen.seen.revision)
    yield from gauge("timeline", "PostgreSQL's timeline.", seen.timeline)
    yield from gauge("wal_end_bytes", "Where its WAL ends: flushed on a primary, received on a standby.", seen.wal_end)
    yield from gauge("replayed_bytes", "How far a standby has replayed.", seen.replayed_lsn)
    if seen.wal_end is not None and seen.replayed_lsn is not None:
        lag = max(0, seen.wal_end - seen.replayed_lsn)
        yield from gauge("replay_lag_bytes", "What a standby has received and not replayed.", lag)
    late_s = seen.replay_lag_ms / 1000 if seen.replay_lag_ms is not None else None
    yield from gauge(
        "replay_lag_seconds", "How long the oldest WAL waits that a standby received and has not replayed.", late_s
    )
    if seen.receiver is not None:
        yield from gauge("receiver_streaming", "Whether a standby's WAL receiver streams.", seen.receiver.streaming)
    if seen.heartbeat is not None:
        age = seen.heartbeat.acknowledged_age_ms
        text = "Since the writer's own last commit was acknowledged by the quorum."
        yield from gauge("heartbeat_age_seconds", text, age / 1000 if age is not None else None)
        pending = seen.heartbeat.pending_ms / 1000
        yield from gauge("heartbeat_pending_seconds", "How long the writer's own commit has been waiting.", pending)
    if running and seen.role is Role.PRIMARY:
        ours = [sender for sender in seen.walsenders if sender.slot is not None and sender.slot == sender.name]
        family = GaugeMetricFamily(
            "endpointd_node_standby_flush_lag_bytes",
            "WAL of the writer that a member of the cluster has not flushed yet, as the writer sees it.",
            labels=["standby"],
        )
        for sender in ours:
            if seen.wal_end is not None and sender.flush_lsn is not None:
                family.add_metric([sender.name], max(0, seen.wal_end - sender.flush_lsn))
        yield family
        strangers = len(seen.walsenders) - len(ours)
        yield from gauge("foreign_walsenders", "Replication clients that are no members of the cluster.", strangers)
    if seen.connections is not None:
        yield from gauge("connections", "Client backends, noded's own among them.", seen.connections.used)
        yield from gauge("connections_limit", "max_connections.", seen.connections.limit)
        waiting = seen.connections.waiting
        yield from gauge("connections_waiting_for_quorum", "Client backends whose commit waits for the quorum.", waiting)
    if slots is not None:
        yield from gauge("replication_slots", "Replication slots, the cluster's own and others.", slots.count.used)
        yield from gauge("slots_retained_bytes", "WAL kept for the slot that is furthest behind.", slots.retained_bytes)
    if seen.disk is not None:
        yield from gauge("disk_free_bytes", "Free space of the file system of the data.", seen.disk.free_bytes)
        yield from gauge("disk_total_bytes", "Size of the file system of the data.", seen.disk.total_bytes)
