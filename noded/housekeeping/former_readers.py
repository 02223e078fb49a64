"""Ends sessions from the time when this server was a replica, if they leave no room for clients of the writer that it is now.

PostgreSQL keeps its sessions through a promotion.  Those that came through an endpoint are the proxy's to move; whoever
connected to the server itself stays, and a pool that takes every connection of each replica would keep all clients out of the
next writer for as long as it likes.  It was given a replica, and that is gone.  While there is room, nobody is ended.
"""

from __future__ import annotations

import asyncio

from daemonkit.logs import get_logger
from noded.postgres.sessions import Session
from pgtopology.node import Role

TIMEOUT_S = 2.0
WATCHED_S = 300.0
"""So long after the promotion; what fills the server later came to the writer."""

_END = """
WITH clients AS (SELECT pid, backend_start, usesysid FROM pg_stat_get_activity(NULL) WHERE backend_type = 'client backend')
SELECT count(pg_terminate_backend(pid)) AS ended FROM clients
 WHERE backend_start < clock_timestamp() - $1::float8 * interval '1 second'
   AND usesysid IS DISTINCT FROM (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid()))
   AND (SELECT count(*) FROM clients) >= current_setting('max_connections')::int4
         - current_setting('superuser_reserved_connections')::int4
         - coalesce(current_setting('reserved_connections', true)::int4, 0)
"""
"""Ours are told by their role, not by a name that anybody can give. Only superusers find room beyond that count."""


class FormerReaders:
    """Watches one server, from each promotion on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._was_standby = False
        self._promoted_at: float | None = None
        self._log = get_logger()

    async def look(self, role: Role) -> None:
        """Do one round, for a server that was last seen in *role*. Raises SessionError."""
        now = asyncio.get_running_loop().time()
        if role is Role.STANDBY:
            self._was_standby, self._promoted_at = True, None
        elif role is Role.PRIMARY and self._was_standby:
            self._was_standby, self._promoted_at = False, now
        if self._promoted_at is None or now - self._promoted_at > WATCHED_S:
            return
        row = await self._session.row(_END, now - self._promoted_at, timeout_s=TIMEOUT_S)
        if row["ended"]:
            self._log.warning(
                "sessions of the former replica are ended, which left the writer's clients no room", count=row["ended"]
            )
