"""Tells PostgreSQL to end recovery, and sees when it has, and onto which timeline.

No login stands between the order and its effect: PostgreSQL is told as pg_ctl does, by a file and a signal, and its files tell
when it is done where no session does (decision 0012).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from noded.acts.effects import Failed
from noded.files import segments
from noded.hands.conflicts import END_BLOCKERS, end_blockers
from noded.postgres.instance import Instance
from noded.postgres.sessions import SessionError
from noded.postgres.tools import ToolError
from pgtopology.timeline import Timeline

POLL_S = 0.002
ASK_TIMEOUT_S = 1.0
CONTROL_FILE_POLL_S = 0.1
CONFLICT_CHECK_S = 0.02
"""Between two looks for sessions that hold up replay."""
IN_PRODUCTION = "in production"
"""The state in the control file of a server that has ended recovery."""

_POLL = """
SELECT pg_is_in_recovery() AS standby,
       CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4 END AS timeline
"""

STATEMENTS: list[tuple[str, tuple[object, ...]]] = [(_POLL, ()), (END_BLOCKERS, (False,))]
"""What a session for promotions runs once at its opening; nothing of it has an effect."""


def trigger(instance: Instance) -> None:
    """Tell PostgreSQL. It cannot be taken back. Raises OSError."""
    instance.layout.promote_signal.touch(mode=0o600)
    instance.postmaster.signal(signal.SIGUSR1)


async def await_primary(instance: Instance, still_wanted: Callable[[], bool]) -> Timeline:
    """Return the timeline on which PostgreSQL has become a primary, when it has; end sessions that hold up replay.

    Raises Failed if it ended, or as soon as it is wanted no longer (L5).
    """
    loop = asyncio.get_running_loop()
    asking: asyncio.Task[Timeline | None] | None = None
    ask_at = read_at = 0.0
    try:
        while True:
            if not still_wanted():
                raise Failed("a newer promise was given")
            if not instance.running:
                raise Failed("PostgreSQL ended")
            # The file goes when the new timeline's first segment is there, and before PostgreSQL is a primary.
            ending = not instance.layout.standby_signal.exists()
            if ending:
                read_at = read_at or loop.time() + CONTROL_FILE_POLL_S
            if asking is not None and asking.done():
                if (found := asking.result()) is not None:
                    return found
                asking = None
            if asking is None and (ending or loop.time() >= ask_at):
                ask_at = loop.time() + CONFLICT_CHECK_S
                # One statement at a time, none of them cut off: the session is needed afterwards.
                asking = asyncio.create_task(_ask(instance) if ending else _unblock(instance))
            if ending and loop.time() >= read_at:
                if (found := await _read(instance)) is not None:
                    return found
                read_at = loop.time() + CONTROL_FILE_POLL_S
            await asyncio.sleep(POLL_S)
    finally:
        if asking is not None:
            asking.cancel()


async def _ask(instance: Instance) -> Timeline | None:
    """Return the timeline that a session says PostgreSQL is the primary of; None if it is none yet, or nobody answers."""
    try:
        row = await instance.sessions.control.row(_POLL, timeout_s=ASK_TIMEOUT_S)
    except SessionError:
        return None
    return None if row["standby"] else Timeline(row["timeline"])


async def _read(instance: Instance) -> Timeline | None:
    """Return the timeline that the files say PostgreSQL is the primary of, or None."""
    try:
        control = await instance.control_data(timeout_s=ASK_TIMEOUT_S)
    except (ToolError, ValueError):
        return None
    # No checkpoint may have been made on it yet; its first segment was.
    return segments.newest_timeline(instance.layout.wal) if control.state == IN_PRODUCTION else None


async def _unblock(instance: Instance) -> None:
    """End sessions that hold up replay."""
    with contextlib.suppress(SessionError):
        await end_blockers(instance.sessions.control, timeout_s=ASK_TIMEOUT_S)
