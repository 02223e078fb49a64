"""Asks where WAL ends: this node's own PostgreSQL, and the writer that it follows."""

from __future__ import annotations

from noded.acts.effects import Sample, Unanswered, WriterEnd
from noded.postgres.instance import Instance
from noded.postgres.sessions import LACKS_RIGHTS, SessionError
from noded.postgres.source import source_walsender
from noded.postgres.walsender import WalsenderError
from pgtopology.lsn import Lsn
from pgtopology.orders import Upstream

ASK_WRITER_TIMEOUT_S = 2.0

AT_END_OF_WAL = "RecoveryRetrieveRetryInterval"
"""What the startup process waits for when it has read all local WAL and has nobody to stream from. PostgreSQL,
"Wait Events of Type Timeout"."""

REPLAY_PAUSED = "RecoveryPause"
"""Somebody called pg_wal_replay_pause(); an election is no time for that."""

SAMPLE = """
SELECT pg_is_in_recovery() AS standby,
       (pg_last_wal_receive_lsn() - '0/0')::int8 AS received,
       (pg_last_wal_replay_lsn() - '0/0')::int8 AS replayed,
       EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE backend_type IS NULL) AS hidden,
       (SELECT wait_event FROM pg_stat_get_activity(NULL) WHERE backend_type = 'startup' LIMIT 1) AS waits_for
"""

STATEMENTS: list[tuple[str, tuple[object, ...]]] = [(SAMPLE, ())]
"""What the session that is asked runs once at its opening."""


async def ask_end(instance: Instance, *, timeout_s: float) -> Sample | Unanswered:
    """Return what PostgreSQL says of the end of its WAL, and of its replay."""
    control = instance.sessions.control
    try:
        row = await control.row(SAMPLE, timeout_s=timeout_s)
        if row["hidden"]:
            # Another way in may have what this one lacks.
            control.drop()
            raise SessionError(LACKS_RIGHTS, lost=False)
        end = await instance.sessions.walsender.identify(timeout_s=timeout_s)
    except (SessionError, WalsenderError) as error:
        return Unanswered(str(error), refuses=isinstance(error, SessionError) and error.sqlstate is not None)
    waits_for = row["waits_for"]
    return Sample(
        standby=row["standby"] and instance.layout.standby_signal.exists(),
        timeline=end.timeline,
        lsn=end.lsn,
        received=row["received"] or 0,
        replayed=Lsn(row["replayed"] or 0),
        at_end=waits_for == AT_END_OF_WAL,
        paused=waits_for == REPLAY_PAUSED,
        waits_for=waits_for,
    )


async def resume_replay(instance: Instance, *, timeout_s: float) -> None:
    """Let a replay that somebody paused go on. Raises SessionError."""
    await instance.sessions.control.rows("SELECT pg_wal_replay_resume()", timeout_s=timeout_s)


async def ask_writer(instance: Instance, upstream: Upstream) -> WriterEnd | None:
    """Return how far the WAL of *upstream* is flushed, if it is a primary of our system."""
    walsender = source_walsender(instance, upstream)
    try:
        if await walsender.in_recovery(timeout_s=ASK_WRITER_TIMEOUT_S):
            return None
        end = await walsender.identify(timeout_s=ASK_WRITER_TIMEOUT_S)
    except WalsenderError:
        return None
    finally:
        walsender.close()
    if end.system_identifier != instance.state.value.system_identifier:
        return None
    return WriterEnd(timeline=end.timeline, lsn=end.lsn)
