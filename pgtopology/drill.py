"""A rehearsal without effect: what a node says of its readiness, and what would happen if one were lost now.

Readiness crosses from noded to the manager (GET /candidacy), the drill from the manager to the operator (GET /v1/drill).
"""

from __future__ import annotations

import msgspec

from pgtopology.document import FORMAT_VERSION
from pgtopology.epoch import Epoch
from pgtopology.flight import Measured, VoteTold
from pgtopology.node import NodeName


class LongSession(msgspec.Struct, frozen=True, kw_only=True):
    """A client's transaction that has been open for a while."""

    pid: int
    user: str
    application: str
    state: str
    age_ms: int
    holds_snapshot: bool
    """It keeps rows alive that WAL to be replayed may want to remove."""
    tracked: bool = True
    """False: track_activities is off for it, so neither its state nor for how long is known, and *age_ms* is 0."""

    @property
    def open_for(self) -> str:
        """How long its transaction has been open, for people."""
        return f"{self.age_ms / 1000:.1f} s" if self.tracked else "a time that is not known, because track_activities is off"


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between a node and a quick promotion, as its PostgreSQL tells."""

    format_version: int = FORMAT_VERSION
    node: NodeName
    long_sessions: tuple[LongSession, ...] = ()
    open_sessions: tuple[LongSession, ...] = ()
    """Those with a transaction open, the oldest first, up to a number."""
    open_count: int | None = None
    """How many there are; None from a noded that does not say."""
    client_sessions: int = 0
    replication_sessions: int = 0
    """Others' connections for replication: archives, subscribers, base backups."""
    archive_files: int = 0
    """Of WAL that wait for archive_command or archive_library."""
    archive_ms: int = 0
    """For how long the oldest of them has."""
    prepared_transactions: int = 0
    """Of two-phase commits, on the writer only: they survive a failover together with their locks."""
    oldest_prepared_ms: int | None = None
    replay_paused: bool = False
    replay_blocked: bool = False
    """The startup process waits for a session at this moment."""
    restore_command: bool = False
    """One is set: a promotion would wait for it."""
    slots: tuple[str, ...] = ()
    new_slots: tuple[str, ...] = ()
    """Users' slots that were made a moment ago and are in no observation yet, as far as PostgreSQL carries them over."""
    lost_slots: tuple[str, ...] = ()
    """Of these the WAL that was reserved is gone."""


class CandidateReadiness(msgspec.Struct, frozen=True, kw_only=True):
    """One node in the rehearsal."""

    node: NodeName
    zone: str
    counts: bool
    """Its promise would count for the safe set."""
    wal_end: str | None
    replay_bytes: int | None
    """WAL it has and has not replayed."""
    ready: bool
    """It could be promoted at once."""
    obstacles: tuple[str, ...]
    """What would keep it from being promoted at once."""
    notes: tuple[str, ...]
    """What would not, and is worth knowing."""


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """What the loss of *lose* would do now."""

    format_version: int = FORMAT_VERSION
    lose: NodeName
    is_writer: bool
    possible: bool
    """The cluster would go on by itself: with another writer, or, if *lose* is not the writer, with this one."""
    verdict: str
    epoch: Epoch
    """The epoch a failover would take."""
    n: int
    w: int
    needed: int
    promisable: int
    """How many voters could promise without the one that is lost."""
    votes: tuple[VoteTold, ...]
    recruited: tuple[NodeName, ...]
    """Who would be asked for a promise."""
    winner: NodeName | None
    because: str
    passed_over: dict[str, str]
    survives_another: bool
    """After that, one more loss could be survived without anybody's help."""
    expected: Measured | None
    """What failovers took so far; None before the first."""
    in_the_way: tuple[str, ...]
    """Of the whole cluster; what concerns one node stands there."""
    nodes: tuple[CandidateReadiness, ...]
