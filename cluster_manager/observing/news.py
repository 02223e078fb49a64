"""Whether an observation says anything that the one before it did not.

A node of a cluster at rest says the same five times a second, with other counts, ages and positions.  Those matter while
something is under way, and otherwise only when they pass a threshold, for which a plan has its alarm.  A field that is not
named here is news by its change alone.
"""

from __future__ import annotations

from msgspec.structs import replace

from pgtopology.observation import Heartbeat, Observation

PENDING_MS = 200
"""A heartbeat that waits for longer than the time between two is news each time it is told of."""


def is_news(before: Observation | None, seen: Observation) -> bool:
    """Return whether *seen* says more than that *before* goes on."""
    return before is None or _at_rest(before) != _at_rest(seen)


def _at_rest(seen: Observation) -> Observation:
    """Return *seen* without what changes while nothing happens."""
    return replace(
        seen,
        sequence=0,
        wal_end=None,
        replayed_lsn=None,
        left_age_ms=0 if seen.left_age_ms is not None else None,
        replay_lag_ms=None,
        upstream_silent_ms=None,
        behind_bytes=None,
        disk=None,
        late_ms=0,
        connections=None,
        receiver=replace(seen.receiver, written_lsn=None) if seen.receiver is not None else None,
        heartbeat=_beating(seen.heartbeat) if seen.heartbeat is not None else None,
        user_slots=tuple(replace(slot, restart_lsn=None) for slot in seen.user_slots),
        horizon=None,
        walsenders=tuple(
            replace(walsender, flush_lsn=None, replay_lsn=None, flush_lag_ms=None) for walsender in seen.walsenders
        ),
    )


def _beating(heartbeat: Heartbeat) -> Heartbeat:
    return replace(
        heartbeat,
        acknowledged_age_ms=0 if heartbeat.acknowledged_age_ms is not None else None,
        begun_age_ms=0 if heartbeat.begun_age_ms is not None else None,
        pending_ms=heartbeat.pending_ms if heartbeat.pending_ms > PENDING_MS else 0,
        lsn=None,
    )
