"""Who is connected where, and who may be: the one owner of the routing table, its freshness and the sessions' assignments.

Sessions ask it for a server and tell it when they end.  The feed tells it what the managers say.  When either the table or
its freshness changes, it tells the sessions that have to go, to wait, or may go on; all of that happens between two awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from daemonkit.logs import get_logger
from endpointd import metrics, refusal
from endpointd.balance import choose
from endpointd.cancel import CancelKeys
from endpointd.dial import DialFailure, dial
from endpointd.eviction import Assignment, Eviction, When, evictions
from endpointd.freshness import Freshness
from endpointd.link import Link
from endpointd.refusal import Refusal
from endpointd.routing import EMPTY, Backend, Door, Table, candidates, make_table
from endpointd.settings import LimitSettings
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.report import BackendHealth

WRITER_RETRY_S = 0.05
"""A writer that does not answer is asked again this soon, by one of the waiting clients for all."""

READER_RETRY_S = 1.0
"""A replica that does not answer is left alone for this long: there are others."""

DRAIN_S = 2.0
"""How long a session may go on until its safe point when it has to end."""


class Evictable(Protocol):
    """What the switchboard can ask of a session."""

    def evict(self, eviction: Eviction) -> None:
        """End, in the way it says."""
        ...

    def pause(self) -> None:
        """Let the client wait at the next safe point."""
        ...

    def resume(self) -> None:
        """Let the client go on."""
        ...


@dataclass(slots=True)
class _Failing:
    """A server that did not answer when it was tried last."""

    retry_at: float
    why: Refusal


class Switchboard:
    """The routing state of a running proxy."""

    def __init__(self, limits: LimitSettings, *, fallback_to_writer: bool, draw: Callable[[int], int]) -> None:
        """*draw(n)* returns a random number from 0 to n - 1."""
        self._limits = limits
        self._fallback_to_writer = fallback_to_writer
        self._draw = draw
        self._loop = asyncio.get_running_loop()
        self._log = get_logger()
        self._changed = asyncio.Event()
        self._failing: dict[str, _Failing] = {}
        self._answers: dict[str, bool] = {}
        self._sessions: dict[int, Evictable] = {}
        self._assignments: dict[int, Assignment] = {}
        self._dialling: dict[int, asyncio.Timeout] = {}
        self._leaving: set[int] = set()
        self._load: dict[str, int] = {}
        self._held = 0
        self._settled_epoch = NO_EPOCH
        self._is_vouched = False
        self._unvouched_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.keys = CancelKeys()
        self.topology: Topology | None = None
        self.table: Table = EMPTY
        self.freshness = Freshness()

    # What is known

    @property
    def settled_epoch(self) -> Epoch:
        """The epoch of which no session of an earlier writer is left: what a report states."""
        if not self._leaving:
            self._settled_epoch = self.table.epoch
        return self._settled_epoch

    @property
    def is_vouched(self) -> bool:
        """Whether somebody vouches for the writer now."""
        return self.table.writer is not None and self.freshness.is_valid(self._loop.time())

    @property
    def sessions_total(self) -> int:
        """Sessions that have a server, or are being given one."""
        return len(self._assignments)

    def backends(self) -> tuple[BackendHealth, ...]:
        """Return whether each server answered when it was dialled last."""
        members = self.topology.members if self.topology is not None else ()
        return tuple(
            BackendHealth(member.name, self._answers[member.name]) for member in members if member.name in self._answers
        )

    def assignment(self, session: int) -> Assignment | None:
        """Return which server *session* has."""
        return self._assignments.get(session)

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait until table or freshness change, or the time is over."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            pass

    # What changes

    def set_topology(self, topology: Topology) -> None:
        """Route by *topology* from now on. The caller has checked that it may replace the present one."""
        old, self.topology = self.table, topology
        _ = self.settled_epoch  # what is settled so far is remembered before the epoch moves on
        new = self.table = make_table(topology)
        metrics.EPOCH.set(new.epoch)
        metrics.REVISION.set(new.revision)
        if new.writer != old.writer or new.epoch != old.epoch:
            self._log.info(
                "writer changed",
                epoch=new.epoch,
                revision=new.revision,
                old=old.writer.node if old.writer else None,
                new=new.writer.node if new.writer else None,
                candidate=new.promoted if new.writer is None else None,
            )
            # Nobody has vouched for this one yet; the caller does so next, if it can.
            self.freshness = Freshness()
        if new.readers != old.readers:
            self._log.info("readers changed", epoch=new.epoch, revision=new.revision, nodes=[b.node for b in new.readers])
        self._failing = {node: state for node, state in self._failing.items() if node in new.members}
        self._answers = {node: answers for node, answers in self._answers.items() if node in new.members}
        ended = evictions(new, self._assignments.values())
        if ended:
            self._log.info("sessions end", epoch=new.epoch, count=len(ended))
        for eviction in ended:
            self._evict(eviction)
        self._refresh()
        self._notify()

    def vouch(self, *, lease_until: float | None = None, heartbeat_until: float | None = None) -> None:
        """Take a word for the writer. A word never makes an earlier, longer one of the same kind shorter."""
        before = self.freshness
        self.freshness = replace(
            before,
            lease_until=max(before.lease_until, lease_until) if lease_until is not None else before.lease_until,
            heartbeat_until=(
                max(before.heartbeat_until, heartbeat_until) if heartbeat_until is not None else before.heartbeat_until
            ),
        )
        self._refresh()

    def _refresh(self) -> None:
        """Act on the writer's being vouched for, or not any longer; arm the one timer that looks again."""
        now = self._loop.time()
        is_vouched = self.is_vouched
        if is_vouched and self._timer is None:
            self._timer = self._loop.call_at(self.freshness.until, self._look_again)
        if is_vouched == self._is_vouched:
            return
        self._is_vouched = is_vouched
        metrics.WRITER_VOUCHED.set(is_vouched)
        if is_vouched:
            self._unvouched_since = None
            self._for_writers(lambda session: session.resume())
            self._notify()
        else:
            self._unvouched_since = now
            if self.table.writer is not None:
                self._log.warning("nobody vouches for the writer, writers wait", writer=self.table.writer.node)
            self._for_writers(lambda session: session.pause())
            if self._timer is None:
                self._timer = self._loop.call_at(now + self._limits.hold_s, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._refresh()
        if self._is_vouched or self._unvouched_since is None or self._timer is not None:
            return
        give_up_at = self._unvouched_since + self._limits.hold_s
        if now < give_up_at:
            self._timer = self._loop.call_at(give_up_at, self._look_again)
            return
        for assignment in list(self._assignments.values()):
            if assignment.backend.is_writer:
                self._evict(Eviction(assignment.session, refusal.primary_unconfirmed(), When.NOW))

    def _for_writers(self, act: Callable[[Evictable], None]) -> None:
        for assignment in list(self._assignments.values()):
            session = self._sessions.get(assignment.session)
            if assignment.backend.is_writer and session is not None:
                act(session)

    def _evict(self, eviction: Eviction) -> None:
        number = eviction.session
        deadline = self._dialling.get(number)
        if deadline is not None:
            deadline.reschedule(self._loop.time())
            return
        session = self._sessions.get(number)
        if session is None:
            return
        if eviction.when is When.SAFE_POINT and number not in self._leaving:
            self._loop.call_later(DRAIN_S, self._evict_at_last, replace(eviction, when=When.NOW))
        self._leaving.add(number)
        session.evict(eviction)

    def _evict_at_last(self, eviction: Eviction) -> None:
        session = self._sessions.get(eviction.session)
        if session is not None and eviction.session in self._leaving:
            session.evict(eviction)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # What sessions ask for

    async def connect(
        self, number: int, session: Evictable, door: Door, *, failed: Backend | None, hold_until: float
    ) -> tuple[Backend, Link] | Refusal:
        """Return a server for the session *number* and a connection to it, or why there is none.

        Waits until *hold_until* for somebody to connect to.  The session holds what it got until `release`; *failed* is a
        server that it got before and gives back, because it does not serve.
        """
        self.release(number)
        if failed is not None:
            self._fail(failed, refusal.no_primary(door) if failed.is_writer else refusal.unreachable(failed.node))
        is_held = False
        try:
            while True:
                backend = self._choose(door)
                if backend is not None:
                    link = await self._dial(number, session, backend)
                    if link is not None:
                        return backend, link
                    if self._choose(door) is not None:
                        continue
                now = self._loop.time()
                if now >= hold_until:
                    return self._why_nobody(door)
                if not is_held:
                    if self._held >= self._limits.hold_max:
                        return refusal.too_many_waiting(door)
                    is_held = True
                    self._held += 1
                    metrics.HELD.labels(door).inc()
                await self.wait_for_change(min(hold_until, self._retry_at(door)) - now)
        finally:
            if is_held:
                self._held -= 1
                metrics.HELD.labels(door).dec()

    def answered(self, number: int) -> None:
        """The server of session *number* serves: it answered the startup packet."""
        assignment = self._assignments.get(number)
        if assignment is not None:
            self._answers[assignment.backend.node] = True
            if self._failing.pop(assignment.backend.node, None) is not None:
                self._notify()

    def stands(self, number: int) -> bool:
        """Return whether session *number* may begin to relay: its server is still what it was given as."""
        assignment = self._assignments.get(number)
        return assignment is not None and not evictions(self.table, (assignment,))

    def must_wait(self, number: int) -> bool:
        """Return whether session *number* has the writer, and nobody vouches for it now."""
        assignment = self._assignments.get(number)
        return assignment is not None and assignment.backend.is_writer and not self.is_vouched

    def release(self, number: int) -> None:
        """The session *number* has no server any more."""
        assignment = self._assignments.pop(number, None)
        self._sessions.pop(number, None)
        if number in self._leaving:
            self._leaving.remove(number)
            if not self._leaving:
                self._notify()  # the managers may be waiting for it
        if assignment is not None:
            node = assignment.backend.node
            self._load[node] -= 1
            if not self._load[node]:
                del self._load[node]

    # How a server is chosen

    def _choose(self, door: Door) -> Backend | None:
        now = self._loop.time()
        avoid = {node for node, state in self._failing.items() if now < state.retry_at}
        found = candidates(self.table, door, fallback_to_writer=False)
        backend = choose(found, self._load, self._draw, avoid=avoid)
        if backend is None and door is Door.READER and self._fallback_to_writer:
            backend = choose(candidates(self.table, Door.WRITER, fallback_to_writer=True), self._load, self._draw, avoid=avoid)
        if backend is not None and backend.is_writer and not self.is_vouched:
            return None
        return backend

    async def _dial(self, number: int, session: Evictable, backend: Backend) -> Link | None:
        """Assign *backend* to the session and connect to it; None if that failed or has become wrong meanwhile."""
        state = self._failing.get(backend.node)
        if state is not None:
            # One tries for all; the others look again when it has the answer.
            state.retry_at = self._loop.time() + self._limits.dial_timeout_s
        self._assignments[number] = Assignment(number, backend, self.table.epoch)
        self._sessions[number] = session
        self._load[backend.node] = self._load.get(backend.node, 0) + 1
        deadline = self._dialling[number] = asyncio.timeout(self._limits.dial_timeout_s)
        outcome: Link | DialFailure | None = None
        try:
            outcome = await dial(backend.address, deadline)
        finally:
            del self._dialling[number]
            if not isinstance(outcome, Link):
                self.release(number)
            if outcome is None and state is not None:
                # The client went away in the middle; another one tries.
                state.retry_at = self._loop.time()
                self._notify()
        if isinstance(outcome, Link):
            if not evictions(self.table, (self._assignments[number],)):
                if state is not None:
                    state.retry_at = self._loop.time() + self._retry_s(backend)
                return outcome
            outcome.abort()
            self.release(number)
            return None
        metrics.DIAL_FAILURES.labels(backend.node, outcome).inc()
        self._answers[backend.node] = False
        self._fail(backend, refusal.unreachable(backend.node))
        return None

    def _fail(self, backend: Backend, why: Refusal) -> None:
        self._failing[backend.node] = _Failing(self._loop.time() + self._retry_s(backend), why)

    def _retry_s(self, backend: Backend) -> float:
        return WRITER_RETRY_S if backend.is_writer else READER_RETRY_S

    def _retry_at(self, door: Door) -> float:
        """Return when a server that does not answer is to be tried again."""
        found = candidates(self.table, door, fallback_to_writer=self._fallback_to_writer)
        times = [self._failing[backend.node].retry_at for backend in found if backend.node in self._failing]
        return max(min(times, default=float("inf")), self._loop.time() + WRITER_RETRY_S / 10)

    def _why_nobody(self, door: Door) -> Refusal:
        found = candidates(self.table, door, fallback_to_writer=self._fallback_to_writer)
        failing = next((self._failing[backend.node] for backend in found if backend.node in self._failing), None)
        if failing is not None and (self.is_vouched or door is Door.READER):
            return failing.why
        if door is Door.READER and not self._fallback_to_writer:
            return refusal.no_replica(door)
        return refusal.no_primary(door)
