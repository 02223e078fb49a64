"""Tells what stands between this node and a quick promotion: asked for by rehearsals, never on the way of a failover.

It has a session of its own, so that a slow answer delays nothing that matters.
"""

from __future__ import annotations

from collections.abc import Collection

from noded.postgres.clients import HAS_TRANSACTION, OF_OTHERS
from noded.postgres.conf import SYNCHRONISES
from noded.postgres.instance import Instance
from noded.postgres.sessions import SessionError, shown
from noded.postgres.waits import REPLAY_IS_HELD_UP
from pgtopology.drill import LongSession, Readiness

ASK_TIMEOUT_S = 1.0
LONG_MS = 5_000
"""A transaction that is open for longer is worth a line."""
LONG_SESSIONS_MAX = 20
OPEN_SESSIONS_MAX = 50

_ASK = f"""
SELECT pg_is_in_recovery() AND pg_is_wal_replay_paused() AS replay_paused,
       current_setting('restore_command') <> '' AS restore_command,
       EXISTS (SELECT FROM pg_stat_get_activity(NULL)
                WHERE backend_type = 'startup' AND {REPLAY_IS_HELD_UP}) AS replay_blocked,
       (SELECT count(*) FROM pg_stat_get_activity(NULL)
         WHERE backend_type = 'client backend' AND {OF_OTHERS}) AS clients,
       (SELECT count(*) FROM pg_stat_get_activity(NULL)
         WHERE backend_type = 'walsender' AND {OF_OTHERS}) AS streams,
       (SELECT count(*) FROM pg_prepared_xact()) AS prepared,
       (SELECT (extract(epoch FROM clock_timestamp() - min(prepared)) * 1000)::int8 FROM pg_prepared_xact()) AS oldest_ms,
       (SELECT coalesce(array_agg(slot_name::text ORDER BY slot_name), '{{}}') FROM pg_get_replication_slots()
         WHERE slot_type = 'physical' AND NOT temporary AND wal_status IS DISTINCT FROM 'lost') AS slots,
       (SELECT coalesce(array_agg(slot_name::text ORDER BY slot_name), '{{}}') FROM pg_get_replication_slots()
         WHERE slot_type = 'physical' AND wal_status = 'lost') AS lost_slots
"""  # noqa: S608 - a condition of ours

_ARCHIVE = """
SELECT count(*) AS files, (extract(epoch FROM clock_timestamp() - min(modification)) * 1000)::int8 AS oldest_ms
  FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready' AND current_setting('archive_mode') <> 'off'
"""

_OPEN = f"""
SELECT pid, textsend(coalesce(pg_get_userbyid(usesysid), '')::text) AS "user", application_name AS application,
       coalesce(state, '') AS state,
       CASE WHEN state = 'disabled' THEN 0
            ELSE coalesce((extract(epoch FROM clock_timestamp() - coalesce(xact_start, query_start)) * 1000)::int8, 0)
       END AS age_ms,
       state IS DISTINCT FROM 'disabled' AS tracked, backend_xmin IS NOT NULL AS snapshot,
       count(*) OVER () AS count
  FROM pg_stat_get_activity(NULL)
 WHERE {HAS_TRANSACTION} AND {OF_OTHERS}
 ORDER BY coalesce(xact_start, query_start) LIMIT $1
"""  # noqa: S608 - a condition of ours

_SLOTS = """
SELECT slot_name::text AS name, slot_type = 'physical' AS physical FROM pg_get_replication_slots()
 WHERE NOT temporary AND wal_status IS DISTINCT FROM 'lost'
"""


async def ask_readiness(instance: Instance, known_slots: Collection[str]) -> Readiness:
    """Return what PostgreSQL tells; slots beyond *known_slots* are new. Raises SessionError if it cannot be asked."""
    node = instance.state.value.node
    if not instance.running:
        raise SessionError("PostgreSQL does not run", lost=True)
    session = instance.sessions.fresh("endpointd readiness")
    try:
        row = await session.row(_ASK, timeout_s=ASK_TIMEOUT_S)
        archive = await session.row(_ARCHIVE, timeout_s=ASK_TIMEOUT_S)
        slots = await session.rows(_SLOTS, timeout_s=ASK_TIMEOUT_S)
        rows = await session.rows(_OPEN, OPEN_SESSIONS_MAX, timeout_s=ASK_TIMEOUT_S)
    finally:
        session.drop()
    sessions = tuple(
        LongSession(
            pid=one["pid"],
            user=shown(one["user"]),
            application=one["application"],
            state=one["state"],
            age_ms=one["age_ms"],
            holds_snapshot=one["snapshot"],
            tracked=one["tracked"],
        )
        for one in rows
    )
    return Readiness(
        node=node,
        long_sessions=tuple(one for one in sessions if one.age_ms > LONG_MS or not one.tracked)[:LONG_SESSIONS_MAX],
        open_sessions=sessions,
        open_count=rows[0]["count"] if rows else 0,
        client_sessions=row["clients"],
        replication_sessions=row["streams"],
        archive_files=archive["files"],
        archive_ms=archive["oldest_ms"] or 0,
        prepared_transactions=row["prepared"],
        oldest_prepared_ms=row["oldest_ms"],
        replay_paused=row["replay_paused"],
        replay_blocked=row["replay_blocked"],
        restore_command=row["restore_command"],
        slots=tuple(row["slots"]),
        new_slots=tuple(
            one["name"]
            for one in slots
            if known_slots and one["name"] not in known_slots
            if one["physical"] or instance.binaries.major >= SYNCHRONISES
        ),
        lost_slots=tuple(row["lost_slots"]),
    )
