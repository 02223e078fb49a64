"""Which of PostgreSQL's processes run SQL for somebody, which have a transaction open, and which are ours.

Conditions on rows of pg_stat_get_activity, for the statements of others.  A client may ask for a walsender
(replication=database) and run SQL in it like any other.  Ours go by their role: a name is what its client says.
"""

from __future__ import annotations

from noded.postgres.conf import CONTROL_ROLE, PROBE_ROLE, REPLICATION_ROLE

OF_OTHERS = f"(coalesce(pg_get_userbyid(usesysid), '') NOT IN ('{CONTROL_ROLE}', '{PROBE_ROLE}', '{REPLICATION_ROLE}'))"
"""It is not of a role of ours."""

STREAMS = """
(backend_type = 'walsender'
 AND pid IN (SELECT pid FROM pg_stat_get_wal_senders() WHERE state IN ('catchup', 'streaming')))
"""
"""It sends WAL at this moment. One that sends changes has a transaction for each of them, which stands in nobody's way."""

HAS_TRANSACTION = f"""
(backend_type = 'client backend' AND xact_start IS NOT NULL
 OR (backend_type = 'client backend' AND state = 'disabled' OR backend_type = 'walsender' AND NOT {STREAMS})
    AND pid IN (SELECT pid FROM pg_lock_status() WHERE locktype = 'virtualxid' AND mode = 'ExclusiveLock' AND granted))
"""  # noqa: S608 - a condition of ours
"""It has a client's transaction open. A walsender never shows xact_start, and whose activity is not tracked (track_activities)
neither that nor a state; but every transaction holds the lock on its virtual id, from its beginning on, one that only reads
too. Locks are asked for if there is such a session, and not else."""
