"""Keeps a promise: nobody's WAL but the elected one's comes in any more, and says how far local WAL reaches.

The order of the steps is the law (docs/law.md, F3): the promise is durable before this file is called; then the password goes,
then the configuration, then the receiver, and the process table has the last word.  A primary, and whatever cannot be
proven a standby, is stopped and started as a standby.  Every request runs all of it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass

from noded import history, lastrecord, processes
from noded.conflicts import end_blockers
from noded.instance import Instance
from noded.postmaster import FAST_STOP_S
from noded.promise import standby_configuration
from noded.sessions import LACKS_RIGHTS, SessionError
from noded.walend import read_wal_end
from noded.walsender import WalsenderError
from pgtopology.lsn import Lsn
from pgtopology.node import Position, Role
from pgtopology.orders import StopMode

RECEIVER_GONE_S = 0.2
RECEIVER_POLL_S = 0.001
POSITION_POLL_S = 0.003
CONFLICT_CHECK_EVERY = 10
"""Polls between two looks for sessions that hold up replay."""
ASK_TIMEOUT_S = 0.5
REFUSED_S = 0.6
"""A server that has refused our sessions for so long is asked no longer: its files are."""
SILENT_S = 1.5
"""The same for one that says nothing, which may only be busy."""
MUTE_STOP_S = 2.0
RESCANNED_S = 0.15
"""Longer than wal_retrieve_retry_interval: a startup process that sleeps between attempts has looked at pg_wal again."""

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


@dataclass(frozen=True, slots=True)
class Unknown:
    """The position cannot be told yet; the node is fenced all the same."""

    reason: str
    mute: bool = False
    """PostgreSQL runs, and answers no session of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The node is fenced."""

    was_primary: bool = False
    position: Position | None = None
    """Where its WAL ends, if its files said so before it was started again: a primary that ended in good order."""


async def cut(instance: Instance, *, promoting: bool, stop_mode: StopMode, fast_s: float = FAST_STOP_S) -> Cut:
    """Cut this node off from every upstream, and end it as a primary.

    Raises PostmasterError or OSError if that cannot be done: then nothing was promised to anybody.
    """
    if not instance.running:
        await instance.stop(StopMode.IMMEDIATE)
        return Cut(position=await _start(instance))
    if promoting or await instance.role() is not Role.STANDBY:
        was_primary = not instance.layout.standby_signal.exists()
        await instance.stop(StopMode.IMMEDIATE if promoting else stop_mode, fast_s=fast_s)
        return Cut(was_primary=was_primary, position=await _start(instance))
    instance.configure(standby_configuration(instance.state.value))
    instance.postmaster.reload()
    if await _receiver_is_gone(instance):
        # One that was cut off between two history files leaves the number below a claim taken and the claimed one free, and
        # whoever promotes this node by hand would get that (decision 0010). A start removes them too.
        history.remove_placeholders(instance.layout.wal)
    else:
        await instance.stop(StopMode.IMMEDIATE)
        await instance.start()
    return Cut()


async def _start(instance: Instance) -> Position | None:
    """Start a standby without upstream, and return where the WAL ends that it starts with, if its files tell."""
    control = await instance.start()
    return lastrecord.position_of(instance.layout.wal, control) if control is not None else None


async def read_position(instance: Instance, *, timeout_s: float) -> Position | Unknown:
    """Return the end of local WAL, once it was reached (S6)."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    quiet_since: tuple[Lsn, float] | None = None
    mute_since: float | None = None
    reason = "PostgreSQL is starting"
    replaying = 0
    while loop.time() < deadline:
        if not instance.running:
            return Unknown("PostgreSQL ended")
        if not instance.note_readiness():
            await asyncio.sleep(POSITION_POLL_S)
            continue
        try:
            row = await instance.sessions.control.row(SAMPLE, timeout_s=ASK_TIMEOUT_S)
            if row["hidden"]:
                # Another way in may have what this one lacks.
                instance.sessions.control.drop()
                raise SessionError(LACKS_RIGHTS, lost=False)
            end = await instance.sessions.walsender.identify(timeout_s=ASK_TIMEOUT_S)
        except (SessionError, WalsenderError) as error:
            reason = f"PostgreSQL does not answer: {error}"
            mute_since = mute_since or loop.time()
            refuses = isinstance(error, SessionError) and error.sqlstate is not None
            if loop.time() - mute_since >= (REFUSED_S if refuses else SILENT_S):
                return Unknown(reason, mute=True)
            await asyncio.sleep(POSITION_POLL_S)
            continue
        mute_since = None
        # A promotion that ended between the two answers gave the second one its timeline.
        if not row["standby"] or not instance.layout.standby_signal.exists():
            return Unknown("PostgreSQL is not a standby")
        replayed = Lsn(row["replayed"] or 0)
        position = Position(timeline=end.timeline, lsn=end.lsn, replayed_lsn=replayed)
        if row["waits_for"] != AT_END_OF_WAL:
            quiet_since = None
            reason = f"local WAL is being replayed ({row['waits_for'] or 'working'})"
            if replaying % CONFLICT_CHECK_EVERY == 0:
                with contextlib.suppress(SessionError):
                    await end_blockers(instance.sessions.control, timeout_s=ASK_TIMEOUT_S)
            replaying += 1
            if row["waits_for"] == REPLAY_PAUSED:
                with contextlib.suppress(SessionError):
                    await instance.sessions.control.rows("SELECT pg_wal_replay_resume()", timeout_s=ASK_TIMEOUT_S)
        elif replayed and (row["received"] or 0) <= replayed:
            return position
        elif quiet_since is None or quiet_since[0] != replayed:
            quiet_since = (replayed, loop.time())
            reason = "received WAL is not replayed yet"
        elif loop.time() - quiet_since[1] >= RESCANNED_S:
            # What was received behind the replayed position is the beginning of a record that never came whole.
            return position
        await asyncio.sleep(POSITION_POLL_S)
    return Unknown(reason)


async def read_position_by_files(instance: Instance) -> Position | Unknown:
    """Return the end of local WAL of a fenced standby that answers nobody: stopped, read, started again (decision 0012).

    Raises PostmasterError, OSError.
    """
    await instance.stop(StopMode.FAST, fast_s=MUTE_STOP_S)
    if not instance.layout.standby_signal.exists():
        return Unknown("PostgreSQL was promoted meanwhile")
    found = await read_wal_end(instance.layout.pgdata, instance.binaries)
    await instance.start()
    return Unknown(found) if isinstance(found, str) else found


async def _receiver_is_gone(instance: Instance) -> bool:
    """Signal the receiver and return whether none is seen within the time allowed."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RECEIVER_GONE_S
    signalled: set[int] = set()
    if instance.postmaster.pid is not None:
        # It brings no WAL, but would wait for an upstream that hangs, and a promotion for it.
        for pid in processes.slot_synchronisers(instance.postmaster.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    while (postmaster := instance.postmaster.pid) is not None:
        try:
            left = processes.possible_receivers(postmaster)
        except OSError:
            left = [postmaster]  # who cannot look has not seen that it is gone
        if not left:
            return True
        if loop.time() >= deadline:
            return False
        # A child that has not named itself yet may be anybody's backend and is only waited for.
        with contextlib.suppress(OSError):
            for pid in set(processes.receivers(postmaster)) - signalled:
                signalled.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(RECEIVER_POLL_S)
    return False
