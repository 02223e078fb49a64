"""Asks the writer what proves that a list of synchronous standbys is in force, and has walsenders begin anew.

What is asked in which sequence is `noded.acts.synchronous`'s business.  Everything here raises SessionError.
"""

from __future__ import annotations

import asyncio

from noded.postgres.instance import Instance
from noded.postgres.sessions import Session, SessionError
from noded.report import heartbeat
from pgtopology.lsn import Lsn

POLL_S = 0.01
_WAL_END = "SELECT (pg_current_wal_flush_lsn() - '0/0')::int8 AS lsn"


async def await_shown(instance: Instance, names: str) -> None:
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


async def await_read(session: Session) -> None:
    """Return when the checkpointer has handled every earlier reload: it does between two checkpoints."""
    for _ in range(2):
        await session.rows("CHECKPOINT", timeout_s=None)


async def end_walsenders(session: Session) -> None:
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


async def await_agreement(session: Session, listed: tuple[str, ...]) -> None:
    """Return when every walsender counts exactly if its name is among *listed*."""
    while True:
        row = await session.row(
            "SELECT count(*) AS n FROM pg_stat_get_wal_senders() r JOIN pg_stat_get_activity(NULL) a ON a.pid = r.pid"
            " WHERE r.state IS NULL OR r.state = 'streaming' AND (r.sync_priority > 0) <> (a.application_name = ANY($1))",
            list(listed),
            timeout_s=None,
        )
        if row["n"] == 0:
            return
        await asyncio.sleep(POLL_S)


async def commit_barrier(session: Session) -> Lsn:
    """Make a commit, and return the WAL end when it was acknowledged; SessionError also if it only seems to have been."""
    await session.rows(heartbeat.EMIT, "barrier", timeout_s=None)
    if session.warnings:
        raise SessionError(f"the commit under the list was not acknowledged: {session.warnings[0]}", lost=False)
    row = await session.row(_WAL_END, timeout_s=None)
    return Lsn(row["lsn"])
