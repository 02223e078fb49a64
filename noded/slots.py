"""Replication slots: one for every other member on every node, so that whoever becomes the writer already holds WAL for all.

They reserve WAL at once and are bounded by max_slot_wal_keep_size; on standbys they are advanced, and those of members that
are gone are dropped after a while, so that a dead node cannot fill a living one's disk (L9).
"""

from __future__ import annotations

from collections.abc import Iterable

from noded.sessions import Session, SessionError

TIMEOUT_S = 2.0
UNLISTED_KEPT_S = 60.0
"""A copy that is being made has its slot before the cluster knows its name."""


async def ensure_slots(session: Session, names: Iterable[str]) -> None:
    """Make a slot for each of *names* that has none, and anew for one that lost its WAL. Raises SessionError."""
    rows = await session.rows(
        "SELECT slot_name::text AS name, coalesce(wal_status = 'lost', false) AS lost FROM pg_replication_slots",
        timeout_s=TIMEOUT_S,
    )
    lost = {row["name"] for row in rows if row["lost"]}
    existing = {row["name"] for row in rows} - lost
    for name in sorted(set(names) - existing):
        if name in lost:
            await session.rows("SELECT pg_drop_replication_slot($1)", name, timeout_s=TIMEOUT_S)
        try:
            await session.rows("SELECT pg_create_physical_replication_slot($1, true)", name, timeout_s=TIMEOUT_S)
        except SessionError as error:
            if not str(error).startswith("42710"):  # duplicate_object: its owner made it at this moment
                raise


async def advance_slots(session: Session) -> None:
    """On a standby, let idle slots hold only what is not replayed yet. Raises SessionError."""
    await session.rows(
        """
        SELECT pg_replication_slot_advance(slot_name, pg_last_wal_replay_lsn()) FROM pg_replication_slots
         WHERE pg_is_in_recovery() AND NOT active AND slot_type = 'physical'
           AND restart_lsn < pg_last_wal_replay_lsn() AND wal_status <> 'lost'
        """,
        timeout_s=TIMEOUT_S,
    )


class UnlistedSlots:
    """Drops physical slots that belong to no member for longer than UNLISTED_KEPT_S."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    async def drop(self, session: Session, listed: Iterable[str], now: float) -> list[str]:
        """Drop those that are due and return their names. Raises SessionError."""
        rows = await session.rows(
            "SELECT slot_name::text AS name FROM pg_replication_slots"
            " WHERE slot_type = 'physical' AND NOT active AND NOT temporary",
            timeout_s=TIMEOUT_S,
        )
        unlisted = {row["name"] for row in rows} - set(listed)
        self._since = {name: self._since.get(name, now) for name in unlisted}
        due = [name for name, since in self._since.items() if now - since >= UNLISTED_KEPT_S]
        for name in due:
            await session.rows("SELECT pg_drop_replication_slot($1)", name, timeout_s=TIMEOUT_S)
        return due
