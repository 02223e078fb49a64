"""Ends whoever stands in for a member on the writer: acknowledges under its name, or holds its slot (S16).

A member is known by three things that only it has together: its name, its slot, and the role of nodeds.  Anybody with
REPLICATION can take the name or the slot while the member is away.  Whoever takes a name again after it was ended loses that
right, because each attempt counts for commits until it is seen: a superuser alone cannot be stopped so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from daemonkit.logs import get_logger
from noded.housekeeping.told import Told
from noded.postgres.sessions import Session, shown

TIMEOUT_S = 2.0
AGAIN_S = 60.0
"""A role whose second attempt comes so soon after the first has not done it by mistake."""

_END = """
SELECT a.pid, a.usesysid::int8 AS role, pg_terminate_backend(a.pid)
  FROM pg_catalog.pg_stat_get_activity(NULL) a
  LEFT JOIN pg_catalog.pg_stat_get_wal_senders() w ON w.pid = a.pid
  LEFT JOIN pg_catalog.pg_get_replication_slots() s ON s.active_pid = a.pid
 WHERE w.sync_priority > 0
       AND ($1::int8 IS NOT NULL AND a.usesysid <> $1::int8::oid OR s.slot_name IS DISTINCT FROM a.application_name)
    OR s.slot_name::text = ANY($2::text[]) AND $1::int8 IS NOT NULL AND a.usesysid <> $1::int8::oid
       AND a.usesysid <> (SELECT usesysid FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()))
"""
"""Whoever counts for commits takes its slot before it counts: walsender.c, StartReplication. noded itself holds the slot of a
member that is away for a moment. Functions alone, because catalogs can be locked."""

_WHO = "SELECT textsend(rolname::text) AS name, rolsuper AS superuser FROM pg_authid WHERE oid = $1::int8::oid"

_DISARM = """
DO $$ BEGIN
    PERFORM set_config('synchronous_commit', 'local', true);
    EXECUTE format('ALTER ROLE %I NOREPLICATION', (SELECT rolname FROM pg_authid WHERE oid = {role}));
END $$
"""
"""It waits for no quorum: while there is none is when it matters."""


class Impostors:
    """Those of one writer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen_at: dict[int, float] = {}
        """When a role was ended last, by its number."""
        self._told = Told()
        self._log = get_logger()

    @property
    def texts(self) -> tuple[str, ...]:
        """Which rights were taken lately, for people."""
        return self._told.texts

    def forget(self) -> None:
        """This node is not the writer."""
        self._seen_at.clear()
        self._told.clear()

    async def end(self, role: int | None, members: Collection[str]) -> None:
        """End those that are there. Raises SessionError.

        *role*: the number of the nodeds' role, None if it is not known yet; *members*: the names of all others.
        """
        now = asyncio.get_running_loop().time()
        self._seen_at = {one: at for one, at in self._seen_at.items() if now - at < AGAIN_S}
        self._told.expire(now)
        ended = await self._session.rows(_END, role, sorted(members), timeout_s=TIMEOUT_S)
        for row in ended:
            self._log.error("a client that stands in for a member is ended", pid=row["pid"], role=row["role"])
        for stranger in {row["role"] for row in ended if row["role"] is not None} - {role}:
            if stranger in self._seen_at:
                await self._disarm(stranger, now)
            self._seen_at[stranger] = now

    async def _disarm(self, role: int, now: float) -> None:
        for who in await self._session.rows(_WHO, role, timeout_s=TIMEOUT_S):
            if who["superuser"]:
                continue
            await self._session.rows(_DISARM.format(role=role), timeout_s=TIMEOUT_S)
            text = f'role "{shown(who["name"])}" stood in for a node over and over, and has lost REPLICATION'
            self._log.error("a role loses the right to replicate", what=text)
            self._told.say(text, now)
