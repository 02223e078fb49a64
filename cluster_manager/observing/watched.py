"""What is remembered of one node between its observations: arrival times, growth, and proofs that outlast the moment.

Pure: times are arguments, in milliseconds of the manager's monotonic clock.  `loop.nodes` keeps one for each node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster_manager.decision.nodeview import NEVER_MS, NodeSpec, NodeView, received_lsn
from cluster_manager.observing.news import is_news
from cluster_manager.observing.wal_starvation import WalStarvation
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.lsn import Lsn
from pgtopology.node import Role
from pgtopology.observation import Observation, Port, PostmasterState


@dataclass(slots=True)
class Watched:
    """One node. Owned by whoever takes its observations in."""

    spec: NodeSpec
    observation: Observation | None = None
    arrived_ms: float = -NEVER_MS
    wal_advanced_ms: float = -NEVER_MS
    wal_received_ms: float = -NEVER_MS
    port: Port = Port.UNKNOWN
    """What the manager's own connection to its PostgreSQL met since it was last heard."""
    _replay_advanced_ms: float = -NEVER_MS
    _wal_end: Lsn | None = None
    _received: Lsn | None = None
    """The furthest of what arrived and what is durable."""
    _replayed: Lsn | None = None
    _running_since_ms: float | None = None
    _streamed_ms: float = -NEVER_MS
    _stopped_under: Epoch = NO_EPOCH
    _starvation: WalStarvation = field(default_factory=WalStarvation)

    def take(self, seen: Observation, now_ms: float) -> bool:
        """Note what arrived at *now_ms*. Return whether it is news, and not only a sign that all goes on."""
        before, self.observation = self.observation, seen
        self.arrived_ms = now_ms
        self.port = Port.UNKNOWN
        # The first position seen proves no growth.
        if seen.wal_end is not None and self._wal_end is not None and seen.wal_end > self._wal_end:
            self.wal_advanced_ms = now_ms
        self._wal_end = seen.wal_end
        received = received_lsn(seen)
        if received is not None and self._received is not None and received > self._received:
            self.wal_received_ms = now_ms
        self._received = received
        if seen.replayed_lsn is not None and seen.replayed_lsn != self._replayed:
            self._replay_advanced_ms = now_ms
        self._replayed = seen.replayed_lsn
        same = before is not None and before.role is seen.role and before.postmaster.pid == seen.postmaster.pid
        if seen.postmaster.state is not PostmasterState.RUNNING or seen.role is Role.NONE:
            self._running_since_ms = None
        elif self._running_since_ms is None or not same:
            self._running_since_ms = now_ms
        if seen.postmaster.state is PostmasterState.STOPPED:
            self._stopped_under = Epoch(max(self._stopped_under, seen.promised))
        if seen.role is Role.PRIMARY or (seen.receiver is not None and seen.receiver.streaming):
            self._streamed_ms = now_ms
        self._starvation.take(seen, now_ms)
        return is_news(before, seen)

    def discount(self, lag_ms: float, now_ms: float) -> None:
        """Take off for how long this manager itself heard nothing: what was said meanwhile lies unread."""
        self.arrived_ms = min(now_ms, self.arrived_ms + lag_ms)
        self.wal_advanced_ms = min(now_ms, self.wal_advanced_ms + lag_ms)
        self.wal_received_ms = min(now_ms, self.wal_received_ms + lag_ms)

    def view(self, now_ms: float) -> NodeView:
        """Return what a decision at *now_ms* sees."""
        since_ms = self._running_since_ms
        running_for_ms = now_ms - since_ms if since_ms is not None else 0.0
        not_streaming_ms = 0.0 if since_ms is None else min(now_ms - self._streamed_ms, running_for_ms)
        return NodeView(
            spec=self.spec,
            observation=self.observation,
            age_ms=now_ms - self.arrived_ms,
            wal_advanced_age_ms=now_ms - self.wal_advanced_ms,
            wal_received_age_ms=now_ms - self.wal_received_ms,
            replay_advanced_age_ms=now_ms - self._replay_advanced_ms,
            running_for_ms=running_for_ms,
            not_streaming_for_ms=0.0 if self._streamed_ms == self.arrived_ms else not_streaming_ms,
            starved_for_ms=self._starvation.for_ms(now_ms),
            stopped_under=self._stopped_under,
            port=self.port,
        )
