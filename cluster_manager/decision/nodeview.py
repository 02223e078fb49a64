"""One node as the manager sees it: where it is, what it said last, and how long ago each thing last moved.

All ages are milliseconds on the manager's one monotonic clock.  What the ages mean is `suspicion`'s business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster_manager.decision.timings import Timings
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.lsn import Lsn
from pgtopology.node import Address, NodeName, Role
from pgtopology.observation import Observation, Port
from pgtopology.quorum import Voter

NEVER_MS = math.inf
"""An age: it has not happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A node as the manager's settings name it."""

    name: NodeName
    zone: str
    address: Address
    noded: Address
    dns: str
    tier: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What the manager knows of one node."""

    spec: NodeSpec
    observation: Observation | None = None
    age_ms: float = NEVER_MS
    """Since the newest observation arrived; what the manager's own lag made it miss is already taken off."""
    wal_advanced_age_ms: float = NEVER_MS
    """Since its WAL end was last seen to grow."""
    wal_received_age_ms: float = NEVER_MS
    """Since the same, or what has arrived and is not durable yet, was last seen to grow."""
    replay_advanced_age_ms: float = NEVER_MS
    running_for_ms: float = 0
    """How long its PostgreSQL has been observed to run in its present role without a break."""
    not_streaming_for_ms: float = 0
    """How long its receiver has not been streaming; 0 while it is, or on a primary."""
    starved_for_ms: float = 0
    """How long its upstream has given it no WAL, although it has read all of its own; 0 on whoever follows nobody."""
    stopped_under: Epoch = NO_EPOCH
    """The greatest epoch it had promised when no process of its data directory was left. No node starts as a primary (S18) and
    none is promoted below its promise (S8): whatever it ran as a primary of an earlier epoch is over, also while it starts."""
    port: Port = Port.UNKNOWN
    """What the manager's own connection to its PostgreSQL met; tried while its noded is silent."""

    @property
    def name(self) -> NodeName:
        """The node's name."""
        return self.spec.name

    def is_heard(self, timings: Timings) -> bool:
        """Return whether it was heard so recently that what it said describes it."""
        return self.observation is not None and self.age_ms < timings.silence_ms

    def has_stopped(self, epoch: Epoch, timings: Timings) -> bool:
        """Return whether what it ran as a primary before *epoch* is over: by its promise it was stopped, or is a standby."""
        if self.stopped_under >= epoch:
            return True
        observation = self.observation
        fenced = observation is not None and observation.role is Role.STANDBY and observation.promised >= epoch
        return fenced and is_fresh(self, timings)

    def voter(self) -> Voter | None:
        """Return who this node votes as with the data it has now, or None without data."""
        if self.observation is None or self.observation.incarnation is None:
            return None
        return Voter(self.spec.name, self.observation.incarnation)


def is_fresh(node: NodeView, timings: Timings) -> bool:
    """Return whether the node was heard so recently that one may act on what it said."""
    return node.observation is not None and node.age_ms < timings.fresh_ms


def received_lsn(seen: Observation) -> Lsn | None:
    """Return how far WAL has arrived at the node, be it durable yet or not; None if that is not known."""
    written = seen.receiver.written_lsn if seen.receiver is not None else None
    return max((lsn for lsn in (written, seen.wal_end) if lsn is not None), default=None)


def is_flushing(node: NodeView) -> bool:
    """Return whether the node holds WAL of its upstream's that its disk has not made durable yet."""
    seen = node.observation
    written = seen.receiver.written_lsn if seen is not None and seen.receiver is not None else None
    return seen is not None and written is not None and seen.wal_end is not None and written > seen.wal_end
