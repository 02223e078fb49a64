"""What a simulated manager remembers of one node: as the real observer takes observations in and hands them to a decision."""

from __future__ import annotations

from cluster_manager.decision.view import (
    NEVER_MS,
    NodeSpec,
    NodeView,
)
from cluster_manager.starvation import Starvation
from pgtopology.lsn import Lsn
from pgtopology.node import Role
from pgtopology.observation import Observation, Port, PostmasterState


class Watched:
    """What is remembered of one node; `take` and `view` are the observer's."""

    __slots__ = (
        "arrived_ms",
        "observation",
        "port",
        "replay_advanced_ms",
        "replayed",
        "running_since_ms",
        "spec",
        "starvation",
        "streamed_ms",
        "wal_advanced_ms",
        "wal_end",
    )

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.observation: Observation | None = None
        self.arrived_ms = -NEVER_MS
        self.wal_end: Lsn | None = None
        self.wal_advanced_ms = -NEVER_MS
        self.replayed: Lsn | None = None
        self.replay_advanced_ms = -NEVER_MS
        self.running_since_ms: float | None = None
        self.streamed_ms = -NEVER_MS
        self.starvation = Starvation()
        self.port = Port.UNKNOWN

    def take(self, seen: Observation, now: float) -> None:
        """Note what arrived."""
        before, self.observation = self.observation, seen
        self.arrived_ms = now
        self.port = Port.UNKNOWN
        if seen.wal_end is not None and self.wal_end is not None and seen.wal_end > self.wal_end:
            self.wal_advanced_ms = now
        self.wal_end = seen.wal_end
        if seen.replayed_lsn is not None and seen.replayed_lsn != self.replayed:
            self.replay_advanced_ms = now
        self.replayed = seen.replayed_lsn
        same = before is not None and before.role is seen.role and before.postmaster.pid == seen.postmaster.pid
        if seen.postmaster.state is not PostmasterState.RUNNING or seen.role is Role.NONE:
            self.running_since_ms = None
        elif self.running_since_ms is None or not same:
            self.running_since_ms = now
        if seen.role is Role.PRIMARY or (seen.receiver is not None and seen.receiver.streaming):
            self.streamed_ms = now
        self.starvation.take(seen, now)

    def view(self, now: float) -> NodeView:
        """Return what a decision sees."""
        since = self.running_since_ms
        running_for_ms = now - since if since is not None else 0.0
        not_streaming_ms = 0.0 if since is None else min(now - self.streamed_ms, running_for_ms)
        return NodeView(
            spec=self.spec,
            observation=self.observation,
            age_ms=now - self.arrived_ms,
            wal_advanced_age_ms=now - self.wal_advanced_ms,
            replay_advanced_age_ms=now - self.replay_advanced_ms,
            running_for_ms=running_for_ms,
            not_streaming_for_ms=0.0 if self.streamed_ms == self.arrived_ms else not_streaming_ms,
            starved_for_ms=self.starvation.for_ms(now),
            port=self.port,
        )
