"""Puts a list of synchronous standbys in force on the writer, and proves it.

SHOW is no proof: backends skip the wait while the checkpointer has not read the first list (S1), and a walsender that has
not read the new list releases commits by the old one (S20).  Hence the order: a new backend shows the list; if there was
none before, two checkpoints (the second one begins after the checkpointer has handled every earlier reload); every
walsender's priority fits; and a commit passes under the list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from noded import heartbeat
from noded.instance import Instance
from noded.sessions import Session, SessionError
from pgtopology.lsn import Lsn
from pgtopology.quorum import Voters, synchronous_standby_names

POLL_S = 0.01
_WAL_END = "SELECT (pg_current_wal_flush_lsn() - '0/0')::int8 AS lsn"


class SynchronousError(Exception):
    """The list is not proven to be in force; the text says what is missing."""


async def prove_in_force(
    instance: Instance,
    wanted: Voters,
    *,
    was_empty: bool,
    bounce: bool,
    timeout_s: float,
    on_read: Callable[[], None],
) -> Lsn:
    """Return the WAL end after a commit under *wanted*'s list, which is written already and is being reloaded.

    *was_empty*: the list before may have been empty. *bounce*: more copies are needed than before, so walsenders must begin
    anew, because nothing shows which list they go by. *on_read* is called when the checkpointer has read the list. Raises
    SynchronousError.
    """
    names = synchronous_standby_names(wanted, instance.state.value.node)
    what = "the list was not taken up in time"
    try:
        async with asyncio.timeout(timeout_s):
            await _shown(instance, names)
            session = instance.sessions.fresh("endpointd settings")
            try:
                if was_empty and names:
                    what = "the checkpointer did not prove in time that it has read the list"
                    for _ in range(2):
                        await session.rows("CHECKPOINT", timeout_s=None)
                on_read()
                if bounce:
                    what = "the walsenders did not begin anew in time"
                    await _bounce(session)
                what = "a walsender has not read the list in time"
                await _walsenders_agree(session, wanted, instance.state.value.node)
                what = "no quorum acknowledged a commit under the list in time"
                await session.rows(heartbeat.EMIT, "barrier", timeout_s=None)
                if session.warnings:
                    raise SynchronousError(f"the commit under the list was not acknowledged: {session.warnings[0]}")
                row = await session.row(_WAL_END, timeout_s=None)
                return Lsn(row["lsn"])
            finally:
                session.drop()
    except TimeoutError as error:
        raise SynchronousError(what) from error
    except SessionError as error:
        raise SynchronousError(str(error)) from error


async def _shown(instance: Instance, names: str) -> None:
    """Return when a new backend shows *names*."""
    while True:
        session = instance.sessions.fresh("endpointd settings")
        try:
            row = await session.row("SELECT current_setting('synchronous_standby_names') AS names", timeout_s=None)
        finally:
            session.drop()
        if row["names"] == names:
            return
        await asyncio.sleep(POLL_S)


async def _bounce(session: Session) -> None:
    """End every walsender that streams now, and return when all of them are gone; their standbys come back at once."""
    rows = await session.rows(
        "SELECT pid FROM pg_stat_get_wal_senders() WHERE state IS NULL OR state IN ('streaming', 'catchup')", timeout_s=None
    )
    old = [row["pid"] for row in rows]
    # In a statement of its own: among the conditions of the other, PostgreSQL might evaluate it first, for every process.
    await session.rows("SELECT pg_terminate_backend(pid) FROM unnest($1::int4[]) AS pid", old, timeout_s=None)
    while True:
        row = await session.row("SELECT count(*) AS n FROM pg_stat_get_wal_senders() WHERE pid = ANY($1)", old, timeout_s=None)
        if row["n"] == 0:
            return
        await asyncio.sleep(POLL_S)


async def _walsenders_agree(session: Session, wanted: Voters, writer: str) -> None:
    """Return when every walsender counts exactly if its name is in the list."""
    listed = [voter.sync_name for voter in wanted.members if voter.name != writer]
    if wanted.others_needed(writer) == 0:
        listed = []
    while True:
        row = await session.row(
            "SELECT count(*) AS n FROM pg_stat_get_wal_senders() r JOIN pg_stat_get_activity(NULL) a ON a.pid = r.pid"
            " WHERE r.state IS NULL OR r.state = 'streaming' AND (r.sync_priority > 0) <> (a.application_name = ANY($1))",
            listed,
            timeout_s=None,
        )
        if row["n"] == 0:
            return
        await asyncio.sleep(POLL_S)
