"""How long WAL that has reached this standby has been waiting to be replayed: one clock, that of this host.

A standby that has replayed all it received keeps nothing waiting, whatever the time since the last commit.  One that has not
is as late as the oldest piece that waits is old.  When a piece came is told by PostgreSQL (the receipt of the last message);
the writer's heartbeat brings one every 200 ms, so the question is asked a moment after the next one is due, and again in short
steps while anything waits.  What lies between the writer's commit and the arrival here is the writer's to tell (`Walsender`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from noded.postgres.sessions import Session, SessionError
from noded.report.gatherer import Facts
from noded.report.heartbeat import INTERVAL_S
from pgtopology.node import Role

ASK_TIMEOUT_S = 1.0
AFTER_ARRIVAL_S = 0.005
"""How long after the next heartbeat is due it is looked for: what is replayed within this time has hardly waited."""
SOONEST_S = 0.005
SLOWEST_S = 0.1
"""Between two questions while something waits: the steps double."""
PIECES_MAX = 4096
"""Remembered; beyond that the newest takes the place of the one before it, so that the oldest keeps its age."""

_ASK = """
SELECT (pg_last_wal_receive_lsn() - '0/0')::int8 AS received, (pg_last_wal_replay_lsn() - '0/0')::int8 AS replayed,
       (SELECT extract(epoch FROM clock_timestamp() - last_msg_receipt_time)::float8 FROM pg_stat_wal_receiver
         WHERE status = 'streaming') AS silent_s,
       (SELECT (latest_end_lsn - '0/0')::int8 FROM pg_stat_wal_receiver WHERE status = 'streaming') AS upstream_end
"""
"""What has come is asked before what is replayed: never more seems to wait than does."""


class Backlog:
    """The pieces of WAL that wait, by when they came. Times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[float, int]] = deque()
        self._received = 0
        self._asked_at: float | None = None

    def note(self, now: float, received: int, replayed: int, silent_s: float) -> float:
        """Return for how many seconds the oldest piece that waits has waited; if none does, the last that was seen to wait.

        *silent_s* is the time since the last message: what is here came no later, and what is new not before the last time.
        """
        if received < self._received:
            self._pieces.clear()  # another history
        done: float | None = None
        while self._pieces and self._pieces[0][1] <= replayed:
            done = self._pieces.popleft()[0]
        if received > max(self._received, replayed):
            came = now - max(0.0, silent_s)
            if len(self._pieces) >= PIECES_MAX:
                self._pieces.pop()
            self._pieces.append((came if self._asked_at is None else max(self._asked_at, came), received))
        self._received, self._asked_at = received, now
        if self._pieces:
            return now - self._pieces[0][0]
        return now - done if done is not None else 0.0

    @property
    def waits(self) -> bool:
        """Whether anything waits."""
        return bool(self._pieces)


class ReplayLag:
    """Asks for as long as this node is a standby that streams."""

    def __init__(self, session: Session, facts: Callable[[], Facts]) -> None:
        self._session = session
        self._facts = facts
        self._backlog = Backlog()
        self.lag_ms: float | None = None
        """None: unknown."""
        self.silent_ms: float | None = None
        """Since the last message of the upstream, when last asked."""
        self.behind_bytes: int | None = None
        """Behind the end of the upstream's WAL, as the upstream told it last; None: unknown."""

    async def run(self) -> None:
        """Ask for ever."""
        step_s = SOONEST_S
        while True:
            facts = self._facts()
            if facts.role is not Role.STANDBY or not facts.receiver_streaming:
                self._forget()
                await asyncio.sleep(INTERVAL_S)
                continue
            due_s = await self._ask()
            step_s = min(2 * step_s, SLOWEST_S) if self._backlog.waits else SOONEST_S
            await asyncio.sleep(step_s if self._backlog.waits else due_s)

    async def _ask(self) -> float:
        """Ask once. Return in how many seconds the next heartbeat should have arrived."""
        try:
            row = await self._session.row(_ASK, timeout_s=ASK_TIMEOUT_S)
        except SessionError:
            return INTERVAL_S  # as with every fact of a server that does not answer: the last one stands
        received, replayed, silent_s = row["received"], row["replayed"], row["silent_s"]
        if received is None or replayed is None or silent_s is None:
            self._forget()
            return INTERVAL_S
        self.lag_ms = round(self._backlog.note(asyncio.get_running_loop().time(), received, replayed, silent_s) * 1000, 3)
        self.silent_ms = round(max(0.0, silent_s) * 1000, 3)
        upstream_end = row["upstream_end"]
        self.behind_bytes = max(0, upstream_end - replayed) if upstream_end is not None else None
        # A silence of several heartbeats is no reason to ask more often.
        return INTERVAL_S - (max(0.0, silent_s - AFTER_ARRIVAL_S) % INTERVAL_S)

    def _forget(self) -> None:
        self._backlog = Backlog()
        self.lag_ms = self.silent_ms = self.behind_bytes = None
