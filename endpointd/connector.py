"""Finding a server for a client, and waiting for one.

A client takes what the doors lead to: a replica, or the writer.  A server that does not answer is left alone for a moment,
and then one of those who wait for it tries for all.  As long as there is nobody to connect to a client is held, up to a limit
of time and of clients; then it is refused.  A dial to a server that is no longer wanted is given up in the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from endpointd import metrics, refusal
from endpointd.balance import choose
from endpointd.dial import DialFailure, dial
from endpointd.eviction import Eviction
from endpointd.link import Link
from endpointd.refusal import Refusal
from endpointd.routing import Backend, Door, candidates
from endpointd.switchboard import Evictable, Switchboard

WRITER_RETRY_S = 0.05
"""A writer that does not answer is asked again this soon, by one of the waiting clients for all."""

READER_RETRY_S = 1.0
"""A replica that does not answer is left alone for this long: there are others."""


@dataclass(slots=True)
class _Failing:
    """A server that did not answer when it was tried last."""

    retry_at: float
    why: Refusal


class _Attempt:
    """Holds a server while it is being dialled."""

    def __init__(self, deadline: asyncio.Timeout) -> None:
        self.deadline = deadline
        self.is_evicted = False

    def evict(self, eviction: Eviction) -> None:
        self.is_evicted = True
        self.deadline.reschedule(asyncio.get_running_loop().time())

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Connector:
    """The way from the doors to the servers."""

    def __init__(self, board: Switchboard, *, fallback_to_writer: bool, draw: Callable[[int], int]) -> None:
        """*draw(n)* returns a random number from 0 to n - 1."""
        self._board = board
        self.fallback_to_writer = fallback_to_writer
        self._draw = draw
        self._loop = asyncio.get_running_loop()
        self._failing: dict[str, _Failing] = {}
        self._held = 0

    async def connect(
        self, number: int, holder: Evictable, door: Door, *, failed: Backend | None, hold_until: float
    ) -> tuple[Backend, Link] | Refusal:
        """Return a server for the session *number* and a connection to it, or why there is none.

        Waits until *hold_until* for somebody to connect to.  The session holds what it got until `release`; *failed* is a
        server that it got before and gives back, because it does not serve.
        """
        self._board.release(number)
        if failed is not None:
            self._fail(failed, refusal.no_primary(door.name) if failed.is_writer else refusal.unreachable(failed.node))
        held_since: float | None = None
        try:
            while True:
                backend = self._choose(door)
                if backend is not None:
                    link = await self._dial(number, holder, backend)
                    if link is not None:
                        return backend, link
                    if self._choose(door) is not None:
                        continue
                now = self._loop.time()
                if now >= hold_until:
                    return self._why_nobody(door)
                if held_since is None:
                    if self._held >= self._board.limits.hold_max:
                        return refusal.too_many_waiting(door.name)
                    held_since = now
                    self._held += 1
                    metrics.HELD.labels(door).inc()
                await self._board.wait_for_change(min(hold_until, self._retry_at(door)) - now)
        finally:
            if held_since is not None:
                self._held -= 1
                metrics.HELD.labels(door).dec()
                metrics.HOLD_SECONDS.labels(door).observe(self._loop.time() - held_since)

    def answered(self, backend: Backend) -> None:
        """*backend* serves: it answered a startup packet. Whoever waits for it may try now."""
        self._board.record_answer(backend.node, answers=True)
        if self._failing.pop(backend.node, None) is not None:
            self._board.notify()

    # How a server is chosen

    def _choose(self, door: Door) -> Backend | None:
        """Return whom to try now, or None if there is nobody who may be tried."""
        table, now = self._board.table, self._loop.time()
        avoid = {node for node, state in self._failing.items() if now < state.retry_at}
        backend = choose(candidates(table, door, fallback_to_writer=False), self._board.load, self._draw, avoid=avoid)
        if backend is None and door == Door.READER and self.fallback_to_writer and table.writer is not None:
            backend = choose((table.writer,), self._board.load, self._draw, avoid=avoid)
        if backend is not None and backend.is_writer and not self._board.is_vouched:
            return None
        return backend

    async def _dial(self, number: int, holder: Evictable, backend: Backend) -> Link | None:
        """Assign *backend* to the session and connect to it; None if that failed or has become wrong meanwhile."""
        board, failing = self._board, self._failing.get(backend.node)
        if failing is not None:
            # One tries for all; the others look again when it has the answer.
            failing.retry_at = self._loop.time() + self._board.limits.dial_timeout_s
        attempt = _Attempt(asyncio.timeout(self._board.limits.dial_timeout_s))
        board.assign(number, backend, attempt)
        outcome: Link | DialFailure | None = None
        try:
            with metrics.DIAL_SECONDS.labels(backend.node).time():
                outcome = await dial(backend.address, attempt.deadline)
        finally:
            if not isinstance(outcome, Link):
                board.release(number)
            if failing is not None and (outcome is None or attempt.is_evicted):
                # The client went away in the middle, or the table changed; another one tries.
                failing.retry_at = self._loop.time()
                board.notify()
        if isinstance(outcome, Link):
            if not attempt.is_evicted:
                if failing is not None:
                    failing.retry_at = self._loop.time() + _retry_s(backend)
                board.hand_over(number, holder)
                return outcome
            outcome.abort()
            board.release(number)
        elif not attempt.is_evicted:
            metrics.DIAL_FAILURES.labels(backend.node, outcome).inc()
            board.record_answer(backend.node, answers=False)
            self._fail(backend, refusal.unreachable(backend.node))
        return None

    def _fail(self, backend: Backend, why: Refusal) -> None:
        self._failing[backend.node] = _Failing(self._loop.time() + _retry_s(backend), why)

    def _retry_at(self, door: Door) -> float:
        """Return when a server that does not answer is to be tried again."""
        found = candidates(self._board.table, door, fallback_to_writer=self.fallback_to_writer)
        times = [self._failing[backend.node].retry_at for backend in found if backend.node in self._failing]
        return max(min(times, default=float("inf")), self._loop.time() + WRITER_RETRY_S / 10)

    def _why_nobody(self, door: Door) -> Refusal:
        found = candidates(self._board.table, door, fallback_to_writer=self.fallback_to_writer)
        failing = next((self._failing[backend.node] for backend in found if backend.node in self._failing), None)
        writer_only = all(backend.is_writer for backend in found)
        if failing is not None and (self._board.is_vouched or not writer_only):
            return failing.why
        if door.node is not None and not found:
            return refusal.not_available(door.name)
        if door == Door.READER and not self.fallback_to_writer:
            return refusal.no_replica(door.name)
        return refusal.no_primary(door.name)


def _retry_s(backend: Backend) -> float:
    return WRITER_RETRY_S if backend.is_writer else READER_RETRY_S
