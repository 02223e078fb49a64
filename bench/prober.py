"""Opens a new connection every few milliseconds and counts those that fail: what an application without a pool would see."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from testkit.clients.crew import CONNECTION_LOST, connected, value

EVERY_S = 0.02
PROBE_TIMEOUT_S = 15.0
OPEN_MAX = 400
"""Connections that wait at the same time; beyond that a turn is left out."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One new connection, with one statement on it."""

    at: float
    """On the monotonic clock."""
    took_s: float
    error: str | None


class Prober:
    """Probes *dsn* from `__enter__` to `__exit__`, in a thread of its own."""

    def __init__(self, dsn: str, *, every_s: float = EVERY_S) -> None:
        self._dsn = dsn
        self._every_s = every_s
        self._probes: list[Probe] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="prober", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(PROBE_TIMEOUT_S * 2)

    def since(self, at: float) -> list[Probe]:
        """Return the probes that were begun after *at* and have ended."""
        return [probe for probe in list(self._probes) if probe.at >= at]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            running: set[asyncio.Task[None]] = set()
            while not self._stop.is_set():
                if len(running) < OPEN_MAX:
                    task = group.create_task(self._probe())
                    running.add(task)
                    task.add_done_callback(running.discard)
                await asyncio.sleep(self._every_s)

    async def _probe(self) -> None:
        begun = time.monotonic()
        error = None
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S), connected(self._dsn) as connection:
                await value(connection, "SELECT 1")
        except CONNECTION_LOST as lost:
            error = f"{type(lost).__name__}: {lost}"
        self._probes.append(Probe(begun, time.monotonic() - begun, error))
