"""Where strangers come in: the one way in which our programs listen on TCP.

Accepts a few connections a turn, so that a storm of them takes no turn from other work, and keeps each within the budget of
its listener (admission.py).  Whoever has to go is shown out by its protocol, which may have last words.  What is refused is
counted (endpointd_listener_refused_total) and logged, once in a while with a sum.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections import Counter as Tally
from collections.abc import Callable
from enum import StrEnum
from typing import cast

from prometheus_client import Counter, Gauge

from daemonkit.admission import Admission, Budget, address_group
from daemonkit.descriptors import FOR_STRANGERS_LESS, TOO_MANY, is_reserved
from daemonkit.logs import get_logger

BACKLOG = 1024
ACCEPTS_PER_TURN = 64
"""Enough that the kernel's queue does not fill, because whom it drops tries again after seconds only."""
SWEEP_S = 0.25
LOG_EVERY_S = 10.0
EXHAUSTED_S = 0.1
"""Nobody is accepted for so long after the machine gave no descriptor."""
RESOLVE_S = 5.0

REFUSED = Counter("endpointd_listener_refused", "Connections that a listener did not keep, by why.", ["listener", "reason"])
CONNECTIONS = Gauge(
    "endpointd_listener_connections", "Connections at a listener, by whether they proved who they are.", ["listener", "kind"]
)


class Why(StrEnum):
    """Why a connection is not kept."""

    CROWDED = "crowded"
    """Too many strangers, of this address or at all, and it was the oldest."""
    LATE = "late"
    """It remained a stranger for too long."""
    FULL = "full"
    """It proved itself, and too many of its kind are here."""
    DESCRIPTORS = "descriptors"
    """The program's last descriptors are its own."""


class Guest:
    """One connection, as the reception knows it. Its protocol says how it is shown out, and calls `leave` when it is gone."""

    __slots__ = ("_by", "_reception", "_why", "address", "number")

    def __init__(self, reception: Reception, number: int, address: str) -> None:
        self._reception = reception
        self.number = number
        self.address = address
        """What it is counted under."""
        self._by: Callable[[Why], None] | None = None
        self._why: Why | None = None

    def is_shown_out_by(self, act: Callable[[Why], None]) -> None:
        """Let *act* end the connection when it has to go; at once, if that was decided before it stood."""
        self._by = act
        if self._why is not None:
            act(self._why)

    def show_out(self, why: Why) -> None:
        """End the connection."""
        self._why = why
        if self._by is not None:
            self._by(why)

    def comes_from(self, host: str) -> None:
        """Who brought it has said where it is from: count it there."""
        self.address = address_group(host)
        self._reception.move(self)

    def admit(self) -> bool:
        """It has proved what it is; False if too many have, and then it should go."""
        return self._reception.admit(self)

    def renew(self) -> None:
        """It was served although it is a stranger, and has its time anew."""
        self._reception.renew(self)

    def leave(self) -> None:
        """It is gone."""
        self._reception.leave(self)


class Reception:
    """The listening sockets of one purpose, and whoever came in through them. Belongs to the loop that opens it."""

    def __init__(
        self,
        name: str,
        budget: Budget,
        welcome: Callable[[Guest], asyncio.BaseProtocol],
        counted_as: Callable[[str], str] = address_group,
        *,
        sorry: bytes = b"",
        at_first: Callable[[Guest, socket.socket, object], bool] = lambda _guest, _connection, _peer: False,
    ) -> None:
        """*name* stands in metrics and logs; *welcome* makes the protocol of a connection.

        *at_first* may have a connection before that, with its peer's address; it returns whether it does.  `receive` takes it
        back.

        *counted_as* is asked under what somebody from an address counts; *sorry* is said to whom there is no room for when the
        protocol does not stand yet.
        """
        self._name = name
        self._admission = Admission(budget)
        self._welcome = welcome
        self._counted_as = counted_as
        self._sorry = sorry
        self._at_first = at_first
        self._numbers = itertools.count(1)
        self._guests: dict[int, Guest] = {}
        self._sockets: list[socket.socket] = []
        self._is_paused = False
        self._arriving: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._unsaid: Tally[str] = Tally()
        self._said_at = float("-inf")
        self._sweep: asyncio.TimerHandle | None = None
        self._log = get_logger(listener=name)
        CONNECTIONS.labels(name, "stranger").set_function(lambda: self._admission.strangers)
        CONNECTIONS.labels(name, "known").set_function(lambda: self._admission.known)

    @property
    def port(self) -> int:
        """The port that is listened on, which differs from the one asked for if that was 0."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def strangers(self) -> int:
        """How many have not proved themselves."""
        return self._admission.strangers

    @property
    def known(self) -> int:
        """How many have."""
        return self._admission.known

    @property
    def is_occupied(self) -> bool:
        """Whether anybody is in, or on the way."""
        return bool(self._guests)

    def set_budget(self, budget: Budget) -> None:
        """Go by *budget* from now on; whoever is in stays."""
        self._admission.budget = budget

    async def open(self, host: str, port: int) -> None:
        """Listen on every address of *host*. Raises OSError, with the address and the port in its text."""
        for each in await bind(host, port):
            self.take(each)

    def take(self, listening: socket.socket) -> None:
        """Listen on a socket that is bound already."""
        listening.listen(BACKLOG)
        listening.setblocking(False)
        self._sockets.append(listening)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._look_round)
        self.resume()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Those that are listened on."""
        return tuple(self._sockets)

    def pause(self) -> None:
        """Leave whoever comes in the kernel's queue, until `resume`."""
        loop = asyncio.get_running_loop()
        self._is_paused = True
        for listening in self._sockets:
            loop.remove_reader(listening.fileno())

    def resume(self) -> None:
        """Accept."""
        loop = asyncio.get_running_loop()
        self._is_paused = False
        for listening in self._sockets:
            loop.add_reader(listening.fileno(), self._accept, listening)

    def cede(self) -> None:
        """Accept nobody any more, and let go of the sockets, which another process may have. Whoever is in is looked after."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening.fileno())
            listening.close()
        self._sockets.clear()

    def close(self) -> None:
        """Accept nobody any more. Whoever is in stays."""
        self.cede()
        for timer in (*self._timers, *((self._sweep,) if self._sweep is not None else ())):
            timer.cancel()
        self._timers.clear()
        self._sweep = None

    def show_everybody_out(self) -> None:
        """End every connection, of strangers or not."""
        for guest in list(self._guests.values()):
            guest.show_out(Why.LATE)

    # What guests ask

    def admit(self, guest: Guest) -> bool:
        """See Guest."""
        if guest.number not in self._guests:
            return False
        if self._admission.admit(guest.number):
            return True
        self._note(Why.FULL, guest.address)
        return False

    def move(self, guest: Guest) -> None:
        """See Guest.comes_from."""
        for victim in self._admission.move(guest.number, guest.address):
            self._show_out(victim, Why.CROWDED)

    def renew(self, guest: Guest) -> None:
        """See Guest."""
        self._admission.renew(guest.number, asyncio.get_running_loop().time())

    def leave(self, guest: Guest) -> None:
        """See Guest."""
        if self._guests.pop(guest.number, None) is not None:
            self._admission.leave(guest.number)

    # What happens

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, peer = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in TOO_MANY:
                    self._log.warning("a connection could not be accepted", reason=error.strerror)
                    return
                self._make_room("")
                self._rest(listening)
                return
            # Nobody has an address at a Unix socket: all who come by one are one company.
            address = self._counted_as(str(cast("tuple[object, ...]", peer)[0]) if peer else "")
            if is_reserved(connection.fileno(), FOR_STRANGERS_LESS):
                # One that is here already goes, and this one too: the next may find room.
                self._turn_away(connection)
                self._make_room(address)
                continue
            connection.setblocking(False)
            guest = Guest(self, next(self._numbers), address)
            self._guests[guest.number] = guest
            for victim in self._admission.enter(guest.number, address, loop.time()):
                self._show_out(victim, Why.CROWDED)
            if not self._at_first(guest, connection, peer):
                self.receive(guest, connection)

    def receive(
        self, guest: Guest, connection: socket.socket, welcome: Callable[[Guest], asyncio.BaseProtocol] | None = None
    ) -> None:
        """Make the protocol of *connection*, by *welcome* if it is given."""
        name = f"{self._name} connection {guest.number}"
        connect = self._connect(guest, connection, welcome or self._welcome)
        arriving = asyncio.get_running_loop().create_task(connect, name=name)
        self._arriving.add(arriving)
        arriving.add_done_callback(lambda task: self._arrived(task, guest, connection))

    def _arrived(self, task: asyncio.Task[None], guest: Guest, connection: socket.socket) -> None:
        self._arriving.discard(task)
        if task.cancelled():  # perhaps before it began
            connection.close()
            self.leave(guest)

    async def _connect(self, guest: Guest, connection: socket.socket, welcome: Callable[[Guest], asyncio.BaseProtocol]) -> None:
        if guest.number not in self._guests:  # shown out before it was in
            self._turn_away(connection)
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: welcome(guest), connection)
        except BaseException as error:
            connection.close()
            self.leave(guest)
            if not isinstance(error, OSError):
                raise

    def _turn_away(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # it may have left itself
            connection.setblocking(False)
            connection.send(self._sorry)

    def _make_room(self, address: str) -> None:
        self._note(Why.DESCRIPTORS, address)
        oldest = self._admission.oldest()
        if oldest is not None:
            self._show_out(oldest, Why.DESCRIPTORS, is_counted=False)

    def _rest(self, listening: socket.socket) -> None:
        """Leave the others in the kernel's queue for a moment."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())

        def go_on() -> None:
            self._timers.discard(timer)
            if listening.fileno() != -1 and not self._is_paused:
                loop.add_reader(listening.fileno(), self._accept, listening)

        timer = loop.call_later(EXHAUSTED_S, go_on)
        self._timers.add(timer)

    def _look_round(self) -> None:
        loop = asyncio.get_running_loop()
        for guest in self._admission.overdue(loop.time()):
            self._show_out(guest, Why.LATE)
        self._say()
        self._sweep = loop.call_later(SWEEP_S, self._look_round)

    def _show_out(self, number: int, why: Why, *, is_counted: bool = True) -> None:
        guest = self._guests.get(number)
        if guest is None:
            self._admission.leave(number)
            return
        if is_counted:
            self._note(why, guest.address)
        # It has no claim to a place from now on; the protocol tells when it is really gone.
        self.leave(guest)
        guest.show_out(why)

    def _note(self, why: Why, address: str) -> None:
        REFUSED.labels(self._name, why).inc()
        self._unsaid[why] += 1
        self._say()

    def _say(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._unsaid or now - self._said_at < LOG_EVERY_S:
            return
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(self._unsaid.items()))
        self._log.warning("connections are refused", count=self._unsaid.total(), reasons=reasons, strangers=self.strangers)
        self._unsaid.clear()
        self._said_at = now


async def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket for every address of *host*. Raises OSError, with the address and the port in its text."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(RESOLVE_S):
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            bound.append(_bound(family, address, host, port))
    except OSError:
        for each in bound:
            each.close()
        raise
    return bound


def _bound(family: int, address: tuple[object, ...], host: str, port: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former program may linger
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
    except OSError as error:
        with contextlib.suppress(OSError):
            listening.close()
        reason = os.strerror(error.errno) if error.errno is not None else str(error)
        raise OSError(error.errno, f"cannot listen on {host} port {port}: {reason}") from error
    return listening
