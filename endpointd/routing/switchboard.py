"""Who is connected where, and who may be: the one owner of the routing table, its freshness and the sessions' assignments.

Sessions ask it for a server and tell it when they end.  The feed tells it what the managers say.  When either the table or
its freshness changes, it tells the sessions that have to go, to wait, or may go on; all of that happens between two awaits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from daemonkit.logs import get_logger
from endpointd import metrics, refusal
from endpointd.refusal import Refusal
from endpointd.routing.eviction import Assignment, Eviction, When, evictions
from endpointd.routing.freshness import Freshness
from endpointd.routing.table import EMPTY, Backend, Table, make_table
from endpointd.settings import LimitSettings
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.report import BackendHealth

LAST_WORDS_S = 2.0
"""A stream of replication may last so much longer than everybody else: a server that is stopped in good order sends its WAL
to the end and waits until that was received, which takes milliseconds. A client that takes nothing would hold the writers up;
after 5 s the stop would not be in good order any more."""


class Evictable(Protocol):
    """What the switchboard can ask of whoever holds a server."""

    def evict(self, eviction: Eviction) -> None:
        """End, in the way it says."""
        ...

    def pause(self) -> None:
        """Let the client wait at the next safe point."""
        ...

    def resume(self) -> None:
        """Let the client go on."""
        ...


class Switchboard:
    """The routing state of a running proxy."""

    def __init__(self, limits: LimitSettings) -> None:
        self.limits = limits
        """What may be exchanged while the program runs."""
        self._loop = asyncio.get_running_loop()
        self._log = get_logger()
        self._changed = asyncio.Event()
        self._answers: dict[str, bool] = {}
        self._holders: dict[int, Evictable] = {}
        self._assignments: dict[int, Assignment] = {}
        self._leaving: set[int] = set()
        self._left_to_server: dict[int, Eviction] = {}
        self._settled_epoch = NO_EPOCH
        self._is_vouched = False
        self._unvouched_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.load: dict[str, int] = {}
        """How many sessions each node has here; none is not listed."""
        self.load_elsewhere: Mapping[str, int] = {}
        """The same of the other processes of this proxy, as far as we have heard."""
        self.topology: Topology | None = None
        self.table: Table = EMPTY
        self.on_table: Callable[[Table], None] = lambda _table: None
        """Called with each new one, before anybody goes by it."""
        self.freshness = Freshness()

    # What is known

    @property
    def settled_epoch(self) -> Epoch:
        """The epoch of which no session of an earlier writer is left to wait for: what a report states."""
        if not self._leaving:
            self._settled_epoch = self.table.epoch
        return self._settled_epoch

    @property
    def is_vouched(self) -> bool:
        """Whether somebody vouches for the writer now."""
        return self.table.writer is not None and self.freshness.is_valid(self._loop.time())

    def backends(self) -> tuple[BackendHealth, ...]:
        """Return whether each server answered when it was dialled last."""
        members = self.topology.members if self.topology is not None else ()
        return tuple(
            BackendHealth(member.name, self._answers[member.name]) for member in members if member.name in self._answers
        )

    @property
    def load_everywhere(self) -> Mapping[str, int]:
        """How many sessions of this proxy each node has."""
        return Counter(self.load) + Counter(self.load_elsewhere) if self.load_elsewhere else self.load

    def record_answer(self, node: str, *, answers: bool) -> None:
        """Remember whether *node* answered, for the next report."""
        self._answers[node] = answers

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
        self._answers = {node: answers for node, answers in self._answers.items() if node in new.members}
        self.on_table(new)
        ended = evictions(new, self._assignments.values())
        if ended:
            self._log.info("sessions end", epoch=new.epoch, count=len(ended))
        for eviction in ended:
            self._evict(eviction)
        self._refresh()
        self.notify()

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
        if is_vouched != self._is_vouched and self._timer is not None:
            # It was set for the other case.
            self._timer.cancel()
            self._timer = None
        if is_vouched and self._timer is None:
            self._timer = self._loop.call_at(self.freshness.until, self._look_again)
        if is_vouched == self._is_vouched:
            return
        self._is_vouched = is_vouched
        metrics.WRITER_VOUCHED.set(is_vouched)
        if is_vouched:
            self._unvouched_since = None
            self._for_writers(lambda session: session.resume())
            self.notify()
        else:
            self._unvouched_since = now
            if self.table.writer is not None:
                self._log.warning("nobody vouches for the writer, writers wait", writer=self.table.writer.node)
            self._for_writers(lambda session: session.pause())
            self._timer = self._loop.call_at(now + self._patience_s, self._look_again)

    @property
    def _patience_s(self) -> float:
        """How long sessions may stay on a writer that nobody vouches for; an operator may have given them longer."""
        return max(self.limits.hold_s, self.table.drain_s) if self.table.is_planned else self.limits.hold_s

    def _look_again(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._refresh()
        if self._unvouched_since is None or self._timer is not None:
            return
        give_up_at = self._unvouched_since + self._patience_s
        if now < give_up_at:  # timers may come a little early
            self._timer = self._loop.call_at(give_up_at, self._look_again)
            return
        for assignment in list(self._assignments.values()):
            if assignment.backend.is_writer:
                self._evict(Eviction(assignment.session, refusal.primary_unconfirmed(), When.NOW))

    def _for_writers(self, act: Callable[[Evictable], None]) -> None:
        for assignment in list(self._assignments.values()):
            if assignment.backend.is_writer and assignment.session in self._holders:
                act(self._holders[assignment.session])

    def _evict(self, eviction: Eviction) -> None:
        number = eviction.session
        if eviction.when is When.SAFE_POINT and number not in self._leaving:
            self._loop.call_later(self.table.drain_s, self._evict_at_last, replace(eviction, when=When.NOW))
        self._leaving.add(number)
        self._holders[number].evict(eviction)

    def _evict_at_last(self, eviction: Eviction) -> None:
        if eviction.session in self._leaving:
            self._holders[eviction.session].evict(eviction)

    def _end_left(self, left: tuple[Eviction, ...]) -> None:
        for eviction in left:
            if self._left_to_server.get(eviction.session) is eviction:
                self._holders[eviction.session].evict(eviction)

    def notify(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    # What sessions ask for

    def assign(self, number: int, backend: Backend, holder: Evictable) -> None:
        """Session *number* has *backend* from now on, by the present table; *holder* is told what becomes of it."""
        self._assignments[number] = Assignment(number, backend, self.table.epoch)
        self._holders[number] = holder
        self.load[backend.node] = self.load.get(backend.node, 0) + 1

    def hand_over(self, number: int, holder: Evictable) -> None:
        """Tell *holder* from now on what becomes of the server of session *number*."""
        self._holders[number] = holder

    def stands(self, number: int) -> bool:
        """Return whether session *number* may begin to relay: its server is still what it was given as."""
        assignment = self._assignments.get(number)
        return assignment is not None and not evictions(self.table, (assignment,))

    def must_wait(self, number: int) -> bool:
        """Return whether session *number* has the writer, and nobody vouches for it now."""
        assignment = self._assignments.get(number)
        return assignment is not None and assignment.backend.is_writer and not self.is_vouched

    def leave_to_server(self, number: int, why: Refusal) -> None:
        """Session *number* ends with its server, or at last for *why*: nobody waits for it, and it is sent everything."""
        if number in self._leaving:
            self._left_to_server[number] = Eviction(number, why, When.NOW)
            self._forget(number)

    def _forget(self, number: int) -> None:
        """Wait for session *number* no longer."""
        if number in self._leaving:
            self._leaving.remove(number)
            if not self._leaving:
                self.notify()  # the managers may be waiting for it
                if self._left_to_server:
                    self._loop.call_later(LAST_WORDS_S, self._end_left, tuple(self._left_to_server.values()))

    def release(self, number: int) -> None:
        """The session *number* has no server any more."""
        assignment = self._assignments.pop(number, None)
        self._holders.pop(number, None)
        self._left_to_server.pop(number, None)
        self._forget(number)
        if assignment is not None:
            node = assignment.backend.node
            self.load[node] -= 1
            if not self.load[node]:
                del self.load[node]
