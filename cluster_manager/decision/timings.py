"""How patient the manager is: every duration that a decision compares with an age, beside its reason.

Docs: docs/law.md, F1 to F6.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgtopology.timing import DRAIN_MS, OLD_WRITER_VISIBLE_MS, WAL_RECEIVER_TIMEOUT_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """The manager's patience, in milliseconds. Reasons: docs/law.md, F1 to F6."""

    fresh_ms: float = 300
    """An observation older than this is no basis for touching anything (L4)."""
    silence_ms: float = 600
    """Three missed observations: a node that said nothing for so long is silent."""
    veto_ms: float = 300
    """WAL that reached enough voters this recently says that the writer works and that we are cut off (L3)."""
    deaf_ms: float = 1500
    """Fresh connections unanswered for so long: 3 probes of 500 ms."""
    stuck_ms: float = 600
    """A quorum heartbeat unacknowledged for so long."""
    slow_sync_ms: float = 300
    """A disk that takes so long for one sync: two in a row, the writer's and a standby's, are what makes a heartbeat stuck."""
    busy_sync_ms: float = 100
    """A disk that others share and that takes so long for one sync of the writer's noded: an idle one takes a tenth of that."""
    shared_stuck_ms: float = 5000
    """A heartbeat that waits for so long is not waiting for a busy disk that all share: it would have been acknowledged."""
    unflushed_ms: float = WAL_RECEIVER_TIMEOUT_MS
    """A receiver that makes WAL durable hears nobody meanwhile; after wal_receiver_timeout it would give its upstream up."""
    settled_ms: float = 1500
    """A standby that runs for less may still be connecting: no evidence that its upstream is cut off from it."""
    straggler_ms: float = 30
    """After the first safe set wait so long for better nodes."""
    reader_lease_ms: float = OLD_WRITER_VISIBLE_MS
    """Whoever served the old writer by its heartbeat has stopped by then (S14)."""
    replay_progress_ms: float = 2000
    """A candidate whose replay stands still for so long is given up (L5)."""
    helpers_ms: float = 1000
    """A promoted candidate that gets no quorum for so long is helped to one: nodes that cannot just follow are mended."""
    opening_ms: float = 10_000
    """A promoted candidate that gets no quorum for so long is given up, if others could do better."""
    drain_ms: float = DRAIN_MS
    """How long a planned handover lets sessions finish what they are doing."""
    handover_ms: float = 3000
    """How long a planned handover then waits for the old primary to stop in good order."""
    heir_ms: float = 2000
    """How long a stopped primary then waits for the promise of somebody who can take over, before it is promoted again."""
    checkpoint_ms: float = 60_000
    """How long a planned handover waits for the checkpoint that shortens the stop."""
    refused_ms: float = 2000
    """How long an operator's order that was accepted waits, once it would be refused or its checkpoint failed."""
    checkpointed_ms: float = 10_000
    """A checkpoint younger than this is good enough."""
    adopt_ms: float = 2000
    """How long a manager that has just begun waits for every node before it makes a document anew without some of them."""
    settings_ms: float = 5000
    """After so long without a writer nodes are told of changed settings all the same: they may be what keeps the next one from
    coming to be."""
    lost_stream_ms: float = 30_000
    """A follower that gets no WAL for so long is made anew, if the quorum does without it."""
