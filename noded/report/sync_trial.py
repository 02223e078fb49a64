"""Tries how long this node's disk takes to make a write durable, while nothing arrives from the upstream.

A standby that gets no WAL cannot tell whether the writer's disk is slow or every disk is, as on a machine that all of them
share; only in the first case another writer would do better.  WAL that arrives is proof enough, so nothing is tried then.
The writer tries while its heartbeat waits: on a disk that others share its slowness is theirs too, however lucky they are.  A
sync cannot be interrupted and may never return: it is made in a thread of its own, which holds up nobody's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from noded.postgres.instance import Instance
from noded.report.attention import Attention
from noded.report.gatherer import Gatherer
from noded.report.heartbeat import Heartbeat
from pgtopology.lsn import Lsn
from pgtopology.node import Role
from pgtopology.observation import DiskSync

STARVED_S = 0.25
"""Without new WAL for so long: a heartbeat is due every 200 ms."""
RECENT_S = 10.0
"""A trial that ended longer ago says nothing of the disk now."""
ROUND_S = 0.1
"""Between two looks at a heartbeat that may be waiting: a PostgreSQL that stands still ends no round of questions."""
ONE_PAGE = b"\0" * 4096


class SyncTrial:
    """Looks at each round of gathering, and tries while it is called for."""

    def __init__(self, instance: Instance, gatherer: Gatherer, heartbeat: Heartbeat, attention: Attention) -> None:
        self._instance = instance
        self._gatherer = gatherer
        self._heartbeat = heartbeat
        self._attention = attention
        self._wal_end: Lsn | None = None
        self._grew_at = attention.now()
        self._trying_since: float | None = None
        self._last_ms: int | None = None
        self._ended: deque[tuple[float, int]] = deque(maxlen=256)
        """When each trial ended on the clock of attention, and what it took in milliseconds."""

    def report(self) -> DiskSync:
        """Return what is known."""
        since, now = self._trying_since, self._attention.now()
        pending_ms = int((now - since) * 1000) if since is not None else 0
        slowest_ms = max((took_ms for ended, took_ms in self._ended if now - ended < RECENT_S), default=0)
        return DiskSync(last_ms=self._last_ms, pending_ms=pending_ms, slowest_ms=slowest_ms)

    async def run(self, on_change: Callable[[], None]) -> None:
        """Try for ever, whenever it is called for; *on_change* is called when the first trial since WAL came is over."""
        while True:
            if self._heartbeat.epoch is not None:
                await asyncio.sleep(ROUND_S)
                if self._heartbeat.pending_s() >= STARVED_S:
                    await self._try()
                else:
                    self._last_ms = None
                continue
            await self._gatherer.next_round()
            facts, now = self._gatherer.facts, self._attention.now()
            if facts.role is Role.PRIMARY or facts.wal_end != self._wal_end:
                self._wal_end, self._grew_at, self._last_ms = facts.wal_end, now, None
            elif now - self._grew_at >= STARVED_S:
                is_first = self._last_ms is None
                await self._try()
                if is_first:
                    on_change()

    async def _try(self) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def end() -> None:
            if not done.done():
                done.set_result(None)

        def sync() -> None:
            with contextlib.suppress(OSError):  # a disk that refuses says so elsewhere
                _write_through(self._instance.layout.sync_trial)
            with contextlib.suppress(RuntimeError):  # the loop may be over by now
                loop.call_soon_threadsafe(end)

        self._trying_since = begun = self._attention.now()
        threading.Thread(target=sync, name="sync trial", daemon=True).start()
        try:
            await done
            ended = self._attention.now()
            self._last_ms = int((ended - begun) * 1000)
            self._ended.append((ended, self._last_ms))
        finally:
            self._trying_since = None


def _write_through(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, ONE_PAGE, 0)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
