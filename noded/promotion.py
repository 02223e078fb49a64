"""Makes this standby the primary of one epoch, on the timeline that was claimed for it and on no other.

The caller has made the promotion durable, so that whatever happens from here on, this data counts as promoted in that
epoch.  Synchronous names stand before the promotion, which only replaces one list by another (S1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from noded import history
from noded.conflicts import end_blockers
from noded.instance import Instance
from noded.promise import writer_configuration
from noded.sessions import SessionError
from pgtopology.timeline import Timeline

POLL_S = 0.002
ASK_TIMEOUT_S = 1.0
CONFLICT_CHECK_EVERY = 5
"""Polls between two looks for sessions that hold up replay."""

_POLL = """
SELECT pg_is_in_recovery() AS standby,
       CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4 END AS timeline
"""


class PromotionError(Exception):
    """The promotion did not happen, or not on the claimed timeline; the text says why."""


async def promote(instance: Instance, timeline: Timeline, still_wanted: Callable[[], bool]) -> None:
    """Promote and return when PostgreSQL is the primary on *timeline*.

    Waits for replay as long as it takes; *still_wanted* says whether a newer promise has ended that (L5). Raises
    PromotionError, OSError; the caller then stops PostgreSQL, for a promotion under way cannot be taken back.
    """
    control = instance.sessions.control
    instance.configure(writer_configuration(instance.state.value))
    instance.postmaster.reload()
    history.plant_placeholders(instance.layout.wal, timeline)
    try:
        await end_blockers(control, timeout_s=ASK_TIMEOUT_S)
        await control.rows("SELECT pg_promote(wait => false)", timeout_s=ASK_TIMEOUT_S)
    except SessionError as error:
        raise PromotionError(f"pg_promote failed: {error}") from error
    polls = 0
    while True:
        if not still_wanted():
            raise PromotionError("a newer promise was given")
        if not instance.running:
            raise PromotionError("PostgreSQL ended")
        try:
            row = await control.row(_POLL, timeout_s=ASK_TIMEOUT_S)
            if not row["standby"]:
                break
            polls += 1
            if polls % CONFLICT_CHECK_EVERY == 0:
                await end_blockers(control, timeout_s=ASK_TIMEOUT_S)
        except SessionError:
            pass  # asked again; the end of the server is noticed above
        await asyncio.sleep(POLL_S)
    if row["timeline"] != timeline:
        raise PromotionError(f"PostgreSQL chose timeline {row['timeline']}, not {timeline}")
