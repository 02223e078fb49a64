"""Ends the sessions that hold up replay, when a failover has no time for them.

How long replay waits for a reader is the operator's to set (max_standby_streaming_delay, max_standby_archive_delay: 30 s if
nobody does).  An election waits for the end of replay, and so does a promotion: there, who is in the way goes at once.
"""

from __future__ import annotations

from noded.postgres.clients import HAS_TRANSACTION
from noded.postgres.sessions import Session
from noded.postgres.waits import REPLAY_IS_HELD_UP

END_BLOCKERS = f"""
SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_get_activity(NULL)
 WHERE $1 AND ({HAS_TRANSACTION})
   AND usesysid IS DISTINCT FROM (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid()))
   AND EXISTS (SELECT FROM pg_stat_get_activity(NULL)
                WHERE backend_type = 'startup' AND {REPLAY_IS_HELD_UP})
"""  # noqa: S608 - a condition of ours
"""Without $1 nobody is ended: run so once, it needs nothing to be looked up later. Ours are told by their role, not by
a name that anybody can give."""


async def end_blockers(session: Session, *, timeout_s: float) -> None:
    """End every client's transaction if replay waits for one at this moment. Raises SessionError."""
    await session.rows(END_BLOCKERS, True, timeout_s=timeout_s)
