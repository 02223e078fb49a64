"""Finding a server for a client, and waiting for one.

A client takes what the doors lead to: a replica, or the writer.  A server that does not answer is left alone for a moment,
and then one of those who wait for it tries for all.  As long as there is nobody to connect to, or too many are logging in there
already (loginslots.py), a client is held, up to a limit of time and of clients; then it is refused.  When too many are held,
the address that has most of them gives way.  A dial to a server that is no longer wanted is given up in the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from daemonkit.admission import Admission, Budget
from endpointd import metrics, refusal
from endpointd.refusal import Refusal
from endpointd.routing.balance import choose
from endpointd.routing.eviction import Eviction
from endpointd.routing.switchboard import Evictable, Switchboard
from endpointd.routing.table import Backend, Door, eligible
from endpointd.servers.loginslots import LoginSlots
from endpointd.servers.warm import Warm, WarmServers
from endpointd.servers.warmpool import WarmKey, Wish
from endpointd.wire.dial import DialFailure, dial
from endpointd.wire.keeper import TlsKeeper
from endpointd.wire.link import Link

WRITER_RETRY_S = 0.05
"""A writer that does not answer is asked again this soon, by one of the waiting clients for all."""

READER_RETRY_S = 1.0
"""A replica that does not answer is left alone for this long: there are others."""

HURRY_EVERY_S = 0.01
"""How often slow logins are looked for while others wait."""

Ender = Callable[[Refusal], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A server, and a connection to it."""

    backend: Backend
    link: Link
    warm: Warm | None = None
    """If it is logged in already: as whom, and what it reports."""


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
        if not self.deadline.expired():  # its end is under way already
            self.deadline.reschedule(asyncio.get_running_loop().time())

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Connector:
    """The way from the doors to the servers."""

    def __init__(
        self,
        board: Switchboard,
        *,
        fallback_to_writer: bool,
        draw: Callable[[int], int],
        tls: TlsKeeper | None = None,
        warm: WarmServers | None = None,
    ) -> None:
        """*draw(n)* returns a random number from 0 to n - 1; *tls* says how servers are spoken to, None: in plaintext.

        *warm* has connections that are logged in already.
        """
        self._board = board
        self.fallback_to_writer = fallback_to_writer
        self._draw = draw
        self._tls = tls
        self._warm = warm
        self.unix_socket: str | None = None
        """See [servers] of the settings."""
        self._loop = asyncio.get_running_loop()
        self._failing: dict[str, _Failing] = {}
        self._held = Admission(_hold_budget(board))
        self._slots = LoginSlots()
        self._turns: dict[int, asyncio.Future[None]] = {}
        self._enders: dict[int, Ender] = {}
        """How to end each login that has a place or waits for one."""
        self._hurry: asyncio.TimerHandle | None = None
        self._waiting: set[int] = set()

    def is_waiting(self, number: int) -> bool:
        """Return whether session *number* waits until there is somebody to connect to, or for its turn."""
        return number in self._waiting

    def why_waiting(self, number: int, door: Door) -> str | None:
        """Return for what session *number* of *door* waits here, for people; None if it does not."""
        if number in self._turns:
            return "too many logins are under way at its server: it waits for its turn"
        return self.refusal_of_nobody(door).message if number in self._waiting else None

    async def connect(
        self,
        number: int,
        holder: Evictable,
        door: Door,
        *,
        failed: Backend | None,
        hold_until: float,
        is_patient: Callable[[], bool] = lambda: True,
        address: str = "",
        end: Ender = lambda _why: None,
        vouches: bool = False,
        wish: Wish | None = None,
        is_proven: bool = False,
    ) -> Found | Refusal:
        """Return a server for the session *number* and a connection to it, or why there is none.

        Waits until *hold_until* for somebody to connect to, and for a turn to log in there, but only while its client
        *is_patient*.  The session holds what it got until `release`, and its place among the logins until `login_over`;
        *failed* is a server that it got before and gives back, because it does not serve.  *address* is the client's; *end*
        ends the session if others need its place.  *vouches*: our own certificate is to stand for the client.  *wish*: a
        connection will do that was logged in as it says.  *is_proven*: we log in by what its proof gave away.
        """
        self._enders[number] = end
        has_server = False
        try:
            found = await self._connect(
                number,
                holder,
                door,
                failed=failed,
                hold_until=hold_until,
                is_patient=is_patient,
                address=address,
                vouches=vouches,
                wish=wish,
                is_proven=is_proven,
            )
            has_server = isinstance(found, Found)
            return found
        finally:
            if not has_server:
                self.login_over(number)

    async def _connect(
        self,
        number: int,
        holder: Evictable,
        door: Door,
        *,
        failed: Backend | None,
        hold_until: float,
        is_patient: Callable[[], bool],
        address: str,
        vouches: bool,
        wish: Wish | None,
        is_proven: bool,
    ) -> Found | Refusal:
        self._board.release(number)
        if failed is not None:
            self._fail(failed, refusal.no_primary(door.name) if failed.is_writer else refusal.unreachable(failed.node))
        held_since: float | None = None
        waited_for: Backend | None = None
        try:
            while True:
                backend = self._choose(door, waited_for)
                if backend is not None and wish is not None and (kept := await self._take_warm(number, holder, backend, wish)):
                    return kept
                is_crowded = backend is not None and not self._may_log_in(number, backend, address)
                if backend is not None and not is_crowded:
                    link = await self._dial(number, holder, backend, vouches=vouches, is_proven=is_proven)
                    if isinstance(link, Link):
                        return Found(backend, link)
                    self._give_place_back(number)
                    if link is not None:
                        is_ours = link is DialFailure.EXHAUSTED
                        return refusal.too_many_clients() if is_ours else refusal.unreachable(backend.node)
                    if self._choose(door) is not None:
                        continue
                now = self._loop.time()
                if now >= hold_until or not is_patient():
                    return refusal.too_many_clients() if is_crowded else self.refusal_of_nobody(door)
                if held_since is None:
                    if not self._may_wait(number, address):
                        return refusal.too_many_clients() if is_crowded else refusal.too_many_waiting(door.name)
                    held_since = now
                    metrics.HELD.labels(door).inc()
                self._waiting.add(number)
                if backend is not None and is_crowded:
                    await self._wait_for_turn(number, door, backend, hold_until)
                    waited_for = backend
                else:
                    await self._board.wait_for_change(min(hold_until, self._retry_at(door)) - now)
                self._waiting.discard(number)
        finally:
            self._waiting.discard(number)
            if held_since is not None:
                self._held.leave(number)
                metrics.HELD.labels(door).dec()
                metrics.HOLD_SECONDS.labels(door).observe(self._loop.time() - held_since)

    def expects_kept(self, door: Door, wish: Wish) -> bool:
        """Return whether a connection is kept for *wish* at whoever *door* leads to, or will be in a moment."""
        warm, epoch = self._warm, self._board.table.epoch
        found = eligible(self._board.table, door, fallback_to_writer=self.fallback_to_writer)
        return warm is not None and any(warm.expects(WarmKey(wish, backend, epoch)) for backend in found)

    def take_kept(
        self,
        number: int,
        holder: Evictable,
        door: Door,
        wish: Wish,
        told: Callable[[Backend, Warm | None], None],
        is_wanted: Callable[[], bool],
    ) -> bool:
        """Give the session *number* a connection that is kept; False: there is none.

        Else *told* is called with the outcome, perhaps at once; with None the session has no server.  See `take_soon`.
        """
        backend = self._choose(door)
        key = WarmKey(wish, backend, self._board.table.epoch) if backend is not None else None
        if self._warm is None or backend is None or key is None or not self._warm.has(key):
            return False
        self._board.assign(number, backend, holder)

        def answered(warm: Warm | None) -> None:
            if warm is None:
                self._board.release(number)
            else:
                self.answered(backend)
            told(backend, warm)

        self._warm.take_soon(key, answered, is_wanted)
        return True

    def answered(self, backend: Backend) -> None:
        """*backend* serves: it answered a startup packet. Whoever waits for it may try now."""
        self._board.record_answer(backend.node, answers=True)
        if self._failing.pop(backend.node, None) is not None:
            self._board.notify()

    # Whose turn it is

    def asks_client(self, number: int) -> None:
        """The server of session *number* waits for its client's part of the login."""
        self._slots.asked(number, self._loop.time())

    def is_full(self, backend: Backend) -> None:
        """*backend* refused a login because it has no connection left: few may try at once, so that some are left for whom it
        keeps them.
        """
        self._slots.full(backend.node, self._loop.time())

    def login_finished(self, number: int) -> None:
        """Session *number* has logged in."""
        self._slots.finished(number, self._loop.time())
        self.login_over(number)

    def login_over(self, number: int) -> None:
        """Session *number* has logged in, or will not."""
        self._enders.pop(number, None)
        self._give_place_back(number)

    def _give_place_back(self, number: int) -> None:
        if self._slots.leave(number):
            self._call_next()

    def _call_next(self) -> None:
        limits = self._board.limits
        for session in self._slots.turns(self._loop.time(), most=limits.logins_max, per_address=limits.logins_per_address_max):
            turn = self._turns.get(session)
            if turn is not None and not turn.done():
                turn.set_result(None)

    def _may_log_in(self, number: int, backend: Backend, address: str) -> bool:
        """Return whether session *number* may log in at *backend* now; else it has begun to wait for its turn."""
        limits = self._board.limits
        if self._slots.has_place(number, backend.node):
            return True
        self._give_place_back(number)
        return self._slots.ask(
            number, backend.node, address, self._loop.time(), most=limits.logins_max, per_address=limits.logins_per_address_max
        )

    async def _wait_for_turn(self, number: int, door: Door, backend: Backend, until: float) -> None:
        """Wait until session *number* may log in at *backend*, or has lost the wish or the time."""
        turn = self._turns[number] = self._loop.create_future()
        if self._hurry is None:
            self._hurry = self._loop.call_later(HURRY_EVERY_S, self._end_the_slow)
        try:
            while not turn.done() and self._loop.time() < until and self._leads_to(door, backend):
                change = asyncio.ensure_future(self._board.wait_for_change(until - self._loop.time()))
                try:
                    await asyncio.wait((turn, change), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()
        finally:
            del self._turns[number]
            if not turn.done():
                self._give_place_back(number)

    def _leads_to(self, door: Door, backend: Backend) -> bool:
        return backend in eligible(self._board.table, door, fallback_to_writer=self.fallback_to_writer)

    def _end_the_slow(self) -> None:
        """Let whoever keeps a login open while others wait for its place make room."""
        self._hurry = None
        now = self._loop.time()
        limits = self._board.limits
        for session in self._slots.slow(now, most=limits.logins_max, per_address=limits.logins_per_address_max):
            self._enders[session](refusal.startup_timeout())
        for session in self._slots.tired(now):
            self._enders[session](refusal.too_many_clients())
        self._call_next()
        if self._slots.waiting:
            self._hurry = self._loop.call_later(HURRY_EVERY_S, self._end_the_slow)

    def _may_wait(self, number: int, address: str) -> bool:
        """Let session *number* wait; if too many do, one of the address that has most of them gives way, perhaps it."""
        self._held.budget = _hold_budget(self._board)
        for victim in self._held.enter(number, address, self._loop.time()):
            if self._held.address_of(victim) == address:
                self._held.leave(number)
                return False
            self._held.leave(victim)
            self._enders[victim](refusal.too_many_clients())
        return True

    # How a server is chosen

    def _choose(self, door: Door, waited_for: Backend | None = None) -> Backend | None:
        """Return whom to try now, or None if there is nobody who may be tried; whom one has waited for comes first."""
        table, now = self._board.table, self._loop.time()
        avoid = {node for node, state in self._failing.items() if now < state.retry_at}
        if waited_for is not None and waited_for.node not in avoid and self._leads_to(door, waited_for):
            return waited_for if not waited_for.is_writer or self._board.is_vouched else None
        backend = choose(eligible(table, door, fallback_to_writer=False), self._board.load_everywhere, self._draw, avoid=avoid)
        if backend is None and door == Door.READER and self.fallback_to_writer and table.writer is not None:
            backend = choose((table.writer,), self._board.load_everywhere, self._draw, avoid=avoid)
        if backend is not None and backend.is_writer and not self._board.is_vouched:
            return None
        return backend

    async def _take_warm(self, number: int, holder: Evictable, backend: Backend, wish: Wish) -> Found | None:
        """Assign *backend* to the session, if there is a connection to it that is logged in already and still right."""
        board = self._board
        key = WarmKey(wish, backend, board.table.epoch)
        if self._warm is None or not self._warm.has(key):
            return None
        deadline = asyncio.timeout(board.limits.dial_timeout_s)
        attempt = _Attempt(deadline)
        board.assign(number, backend, attempt)
        found: Found | None = None
        try:
            async with deadline:
                warm = await self._warm.take(key)
                found = Found(backend, await warm.end.link(), warm) if warm is not None else None
        except (TimeoutError, OSError):
            pass
        finally:
            if found is None or attempt.is_evicted:
                board.release(number)
        if found is None:
            return None
        if attempt.is_evicted:
            found.link.abort()
            return None
        board.hand_over(number, holder)
        self.answered(backend)
        return found

    async def _dial(
        self, number: int, holder: Evictable, backend: Backend, *, vouches: bool, is_proven: bool
    ) -> Link | DialFailure | None:
        """Assign *backend* to the session and connect to it; None if that failed or has become wrong meanwhile.

        EXHAUSTED and SOURCE are returned: they are not the server's failure.
        """
        board, failing = self._board, self._failing.get(backend.node)
        if failing is not None:
            # One tries for all; the others look again when it has the answer.
            failing.retry_at = self._loop.time() + self._board.limits.dial_timeout_s
        attempt = _Attempt(asyncio.timeout(self._board.limits.dial_timeout_s))
        board.assign(number, backend, attempt)
        outcome: Link | DialFailure | None = None
        try:
            with metrics.DIAL_SECONDS.labels(backend.node).time():
                path = self._unix_socket_of(backend) if is_proven else None
                outcome = await dial(backend.address, attempt.deadline, self._tls, vouches=vouches, unix_socket=path)
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
        elif outcome in (DialFailure.EXHAUSTED, DialFailure.SOURCE):
            metrics.DIAL_FAILURES.labels(backend.node, outcome).inc()
            return outcome
        elif not attempt.is_evicted:
            metrics.DIAL_FAILURES.labels(backend.node, outcome).inc()
            board.record_answer(backend.node, answers=False)
            self._fail(backend, refusal.unreachable(backend.node))
        return None

    def _unix_socket_of(self, backend: Backend) -> str | None:
        """Return where *backend* would listen on this machine."""
        if self.unix_socket is None:
            return None
        return f"{self.unix_socket.replace('{node}', backend.node)}/.s.PGSQL.{backend.address.port}"

    def _fail(self, backend: Backend, why: Refusal) -> None:
        self._failing[backend.node] = _Failing(self._loop.time() + _retry_s(backend), why)

    def _retry_at(self, door: Door) -> float:
        """Return when a server that does not answer is to be tried again."""
        found = eligible(self._board.table, door, fallback_to_writer=self.fallback_to_writer)
        times = [self._failing[backend.node].retry_at for backend in found if backend.node in self._failing]
        return max(min(times, default=float("inf")), self._loop.time() + WRITER_RETRY_S / 10)

    def refusal_of_nobody(self, door: Door) -> Refusal:
        """Return what a client of *door* is told that gets no server now."""
        found = eligible(self._board.table, door, fallback_to_writer=self.fallback_to_writer)
        failing = next((self._failing[backend.node] for backend in found if backend.node in self._failing), None)
        writer_only = all(backend.is_writer for backend in found)
        if failing is not None and (self._board.is_vouched or not writer_only):
            return failing.why
        if door.node is not None and not found:
            return refusal.not_available(door.name)
        if door == Door.READER and not self.fallback_to_writer:
            return refusal.no_replica(door.name)
        return refusal.no_primary(door.name)


def _hold_budget(board: Switchboard) -> Budget:
    return Budget(strangers_max=board.limits.hold_max, known_max=0, stranger_s=float("inf"), hurried_s=float("inf"))


def _retry_s(backend: Backend) -> float:
    return WRITER_RETRY_S if backend.is_writer else READER_RETRY_S
