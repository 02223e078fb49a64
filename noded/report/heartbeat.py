"""The writer's own commit through the real quorum, every 200 ms.

A transactional logical message needs no table, so no lock, bloat or user can stand in its way; it waits for the quorum as
every commit does (L6).  Acknowledged means: it returned, without a warning (a cancelled wait returns success with one), on
the epoch that is being proven, and as many other voters show it flushed as the list ordered here asks for.  The return alone
proves nothing: somebody may have emptied the list, and then a writer that is cut off acknowledges itself (S1, S14).  A
statement in flight is never cancelled by a request; its connection is cut.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from noded import metrics
from noded.law.durable_state import DurableState
from noded.postgres.sessions import LACKS_RIGHTS, Session, SessionError
from noded.report.attention import Attention
from pgtopology import observation
from pgtopology.epoch import Epoch
from pgtopology.lsn import Lsn
from pgtopology.timing import HEARTBEAT_EVERY_MS

INTERVAL_S = HEARTBEAT_EVERY_MS / 1000
RETRY_S = 0.05
ASK_TIMEOUT_S = 1.0
OPEN_TIMEOUT_S = 2.5
REMEMBERED = 600
"""Heartbeats of two minutes: what a standby has not flushed for longer is at least so old."""
POLL_S = 0.02

PREFIX = "endpointd"
EMIT = f"""
SELECT (CASE WHEN pg_is_in_recovery() OR $1::text IS NULL THEN NULL
             ELSE pg_logical_emit_message(true, '{PREFIX}', $1::text) END - '0/0')::int8 AS lsn
"""
"""On a standby, and of nothing, it makes no commit and returns NULL."""

PROOF = """
SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE (pg_current_wal_flush_lsn() - '0/0')::int8 END AS lsn,
       EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE backend_type IS NULL) AS hidden,
       (SELECT count(DISTINCT a.application_name)
          FROM pg_stat_get_wal_senders() r JOIN pg_stat_get_activity(NULL) a ON a.pid = r.pid
          JOIN pg_get_replication_slots() s ON s.active_pid = r.pid
         WHERE a.application_name = ANY($1::text[]) AND s.slot_name = a.application_name
           AND (r.flush_lsn - '0/0')::int8 >= $2::int8) AS copies
"""
"""The WAL end, and how many of the voters $1 show under their own slots that they have flushed $2. The functions are asked, not
the views made of them: those read pg_authid and pg_database, which somebody may have locked."""


STATEMENTS: list[tuple[str, tuple[object, ...]]] = [(EMIT, (None,)), (PROOF, ([], 0))]
"""What the session for heartbeats runs once at its opening; nothing of it has an effect."""


class Heartbeat:
    """Beats while this node is the writer."""

    def __init__(self, session: Session, state: DurableState, on_change: Callable[[], None], attention: Attention) -> None:
        """*on_change* is called when one had another outcome than the one before, or was waited for; not when all goes on."""
        self._session = session
        self._state = state
        self._on_change = on_change
        self._attention = attention
        self._epoch: Epoch | None = None
        self._active = asyncio.Event()
        self._acknowledged_at: float | None = None
        self._begun_at: float | None = None
        """When the last acknowledged one was begun."""
        self._pending_since: float | None = None
        """On the clock of attention: an answer that noded was too late to read did not keep anybody waiting."""
        self._lsn: Lsn | None = None
        self._error: str | None = None
        self._written: deque[tuple[int, float, float]] = deque(maxlen=REMEMBERED)
        """Where each ended in WAL, when it was begun, and when it had returned."""

    @property
    def epoch(self) -> Epoch | None:
        """The epoch that is being proven, or None."""
        return self._epoch

    @property
    def acknowledged_at(self) -> float | None:
        """When the last one was acknowledged, on the loop's clock."""
        return self._acknowledged_at

    def begin(self, epoch: Epoch) -> None:
        """Beat from now on for *epoch*."""
        if self._epoch != epoch:
            self.end()
            self._epoch = epoch
            self._active.set()

    def end(self) -> None:
        """Stop: this node is the writer no longer. A session that a standby holds ready is kept."""
        if self._epoch is not None:
            self._session.drop()
        self._epoch = None
        self._active.clear()
        self._acknowledged_at = self._begun_at = None
        self._lsn = None
        self._error = None
        self._written.clear()

    def report(self, now: float) -> observation.Heartbeat | None:
        """Return what the observation says of it at *now*, of the loop's clock."""
        if self._epoch is None:
            return None
        acknowledged, begun = self._acknowledged_at, self._begun_at
        return observation.Heartbeat(
            epoch=self._epoch,
            acknowledged_age_ms=int((now - acknowledged) * 1000) if acknowledged is not None else None,
            begun_age_ms=int((now - begun) * 1000) if begun is not None else None,
            pending_ms=int(self.pending_s() * 1000),
            lsn=self._lsn,
            error=self._error,
        )

    def pending_s(self) -> float:
        """Return for how many seconds the present one has been waiting while noded was awake; 0 if none is under way."""
        return self._attention.now() - self._pending_since if self._pending_since is not None else 0.0

    def unflushed_s(self, flush_lsn: Lsn | None, asked_at: float) -> float | None:
        """Return the age of the oldest heartbeat that *flush_lsn*, asked for at *asked_at*, does not cover; None if all are."""
        if flush_lsn is None or not self._written or self._written[-1][0] <= flush_lsn:
            return None
        return next((asked_at - begun for lsn, begun, done in self._written if lsn > flush_lsn and done < asked_at), None)

    async def run(self) -> None:
        """Beat for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._active.wait()
            begun = loop.time()
            if await self._beat(loop):
                await asyncio.sleep(max(0.0, begun + INTERVAL_S - loop.time()))
            else:
                await asyncio.sleep(RETRY_S)

    async def _beat(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Make one commit and note what became of it. Return whether it was acknowledged."""
        epoch = self._epoch
        if epoch is None:
            return False
        try:
            # A login that waits, for whoever drops our database perhaps, is no commit that waits: no evidence (L6).
            if not self._session.is_open:
                await self._session.open(timeout_s=OPEN_TIMEOUT_S)
        except SessionError as error:
            if self._epoch == epoch:
                self._error = str(error)
                metrics.HEARTBEAT_FAILURES.inc()
            return False
        was_well = self._acknowledged_at is not None and self._error is None
        began, self._pending_since = loop.time(), self._attention.now()
        try:
            written = (await self._session.row(EMIT, f"heartbeat of epoch {epoch}", timeout_s=None))["lsn"]
            took_s = loop.time() - began
            if written is None:
                raise SessionError("PostgreSQL is a standby", lost=False)
            if self._epoch == epoch:
                self._written.append((written, began, loop.time()))
            warning = next(iter(self._session.warnings), None)
            lsn = await self._copied(epoch, written) if warning is None else None
        except SessionError as error:
            if self._epoch == epoch:
                self._error = str(error)
                metrics.HEARTBEAT_FAILURES.inc()
            return False
        finally:
            self._pending_since = None
        if self._epoch != epoch:
            return False
        self._error = warning
        if lsn is None:
            metrics.HEARTBEAT_FAILURES.inc()
        else:
            metrics.HEARTBEAT_SECONDS.observe(took_s)
            self._acknowledged_at, self._begun_at = loop.time(), began
            self._lsn = lsn
        if not was_well or lsn is None or loop.time() - began >= INTERVAL_S:
            self._on_change()
        return lsn is not None

    async def _copied(self, epoch: Epoch, written: int) -> Lsn | None:
        """Return the WAL end once enough other voters have flushed *written*; None if *epoch* is not proven any more."""
        while self._epoch == epoch:
            state = self._state.value
            voters, node = state.in_force, state.node
            others = [voter.sync_name for voter in voters.members if voter.name != node] if voters is not None else []
            row = await self._session.row(PROOF, others, written, timeout_s=ASK_TIMEOUT_S)
            if row["hidden"]:
                # Another way in may have what this one lacks.
                self._session.drop()
                raise SessionError(LACKS_RIGHTS, lost=False)
            needed = voters.others_needed(node) if voters is not None else None
            if needed is not None and row["copies"] >= needed:
                return Lsn(row["lsn"])
            self._error = f"it returned, but of the other voters only {row['copies']} have flushed it"
            await asyncio.sleep(POLL_S)
        return None
