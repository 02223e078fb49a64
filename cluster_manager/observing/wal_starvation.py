"""How long a standby has been given nothing by its upstream, as far as its noded's observations tell.

WAL that grows is what counts, and a stream that lasts: where the upstream has removed the WAL that is asked for, each attempt
streams for a moment before it is refused.  A server that still reads its own WAL before its first connection starves of
nothing.  Pure; `watched` keeps one for each node.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgtopology.epoch import Epoch
from pgtopology.lsn import Lsn
from pgtopology.node import NodeName, Role
from pgtopology.observation import Observation, PostmasterState

LASTING_MS = 2000.0
"""A stream unbroken for so long is one, although its upstream may have nothing to say."""


@dataclass(slots=True)
class WalStarvation:
    """What is remembered of one standby."""

    _of: tuple[int | None, NodeName, Epoch] | None = None
    """Which server follows whom, by the order of which epoch: each begins anew."""
    _wal_end: Lsn | None = None
    _has_read_all: bool = False
    _streaming_since_ms: float | None = None
    _since_ms: float | None = None
    """None while it is fed."""

    def for_ms(self, now_ms: float) -> float:
        """Return how long it has gone without WAL; 0 if it lacks none, or is to follow nobody."""
        return now_ms - self._since_ms if self._since_ms is not None else 0.0

    def take(self, seen: Observation, now_ms: float) -> None:
        """Note what arrived at *now_ms*."""
        receiver = seen.receiver
        if receiver is None or receiver.upstream is None or seen.role is Role.PRIMARY:
            self._begin(None)
            return
        of = (seen.postmaster.pid, receiver.upstream, receiver.upstream_epoch)
        if of != self._of:
            self._begin(of)
        grew = self._wal_end is not None and seen.wal_end is not None and seen.wal_end > self._wal_end
        self._wal_end = seen.wal_end
        self._has_read_all = self._has_read_all or receiver.running or seen.postmaster.state is PostmasterState.RUNNING
        if not receiver.streaming:
            self._streaming_since_ms = None
        elif self._streaming_since_ms is None:
            self._streaming_since_ms = now_ms
        lasts = self._streaming_since_ms is not None and now_ms - self._streaming_since_ms >= LASTING_MS
        if grew or lasts or not self._has_read_all:
            self._since_ms = None
        elif self._since_ms is None:
            self._since_ms = now_ms

    def _begin(self, of: tuple[int | None, NodeName, Epoch] | None) -> None:
        self._of = of
        self._wal_end = None
        self._has_read_all = False
        self._streaming_since_ms = self._since_ms = None
