"""One TCP connection, ours at one end. The only file that touches a transport.

Bytes go up to a Receiver as a view of a buffer that all links share: whoever wants to keep them copies them before it
returns.  Writing is never refused and never waits; the transport holds what the kernel does not take, and the receiver is
told when that is too much (`writable`), so that it stops reading from where the bytes come from.  Memory per link is
therefore bounded by WRITE_BYTES_HIGH and one read.

A link that is open may begin to speak TLS (`start_tls`).  Nothing changes for its receiver: bytes are plaintext, what is unsent
is counted as it goes over the wire, and an end is an end.  One that comes without TLS's own goodbye is a broken connection:
anybody on the way could have made it.

While a login is under way nobody relays yet: then an Inbox is the receiver, which keeps a bounded number of bytes and stops
reading when it is full.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol, cast

from endpointd.wire.sockets import SERVERS_KEEPALIVE, Keepalive, name_of, tune
from endpointd.wire.tls import NETWORK_BYTES_MAX, Channel, Facts, Failure

READ_BYTES = 1 << 16
"""What one read takes at most. More gains nothing over loopback, and the copy stays in a core's cache."""

INBOX_BYTES = 1 << 13
"""The same while nobody relays yet, and what is kept then: most logins take less than 1 KiB, and a crowd that says more than it
is asked for must not have us keep it."""

WRITE_BYTES_HIGH = 1 << 17
"""Unsent bytes beyond which the other side is not read any longer."""

LINGER_S = 5.0
"""A peer that does not take our last words within this time is cut off."""

HEAR_OUT_S = 1.0
"""How long a peer that was told goodbye is heard, and ignored. A socket closed with unread bytes in it resets the connection,
and a reset can overtake the goodbye."""

UNASKED_BYTES_MAX = 4 * WRITE_BYTES_HIGH
"""Unsent bytes beyond which a peer is cut off that makes TLS itself say more (by requests for new keys) and reads nothing."""

_buffer = memoryview(bytearray(READ_BYTES))
# Shared by all links of the process: the loop fills it and hands it to `buffer_updated` in one go, and all run on one loop.


class Receiver(Protocol):
    """Who gets what a link hears."""

    def received(self, data: memoryview) -> None:
        """Take bytes; the view is valid only during the call."""
        ...

    def ended(self) -> None:
        """The peer will send no more; it may still listen. Called once."""
        ...

    def broken(self) -> None:
        """Nothing more can be said to the peer either. Called once, after `ended`."""
        ...

    def writable(self, is_writable: bool) -> None:
        """There is room for more, or too much is waiting to be sent."""
        ...


class Inbox:
    """Keeps what a peer says until somebody asks, up to a limit, and pokes its owner."""

    def __init__(self, link: Link, poke: Callable[[], None]) -> None:
        self._link = link
        link.read_bytes = INBOX_BYTES
        self._poke = poke
        self._data = bytearray()
        self.has_ended = False
        self.is_broken = False

    def __len__(self) -> int:
        return len(self._data)

    def take(self) -> bytes:
        """Return what has come, and go on reading."""
        data = bytes(self._data)
        self._data.clear()
        self._link.resume_reading()
        return data

    def hand_over(self) -> bytes:
        """Return what has come, for somebody who keeps nothing: the link reads as much as there is from now on."""
        self._link.read_bytes = READ_BYTES
        return self.take()

    def received(self, data: memoryview) -> None:
        """Keep *data*; one read more than the limit may be kept, because it has already happened."""
        self._data += data
        if len(self._data) >= INBOX_BYTES:
            self._link.pause_reading()
        self._poke()

    def ended(self) -> None:
        """Remember that nothing more will come."""
        self.has_ended = True
        self._poke()

    def broken(self) -> None:
        """Remember that nobody listens."""
        self.is_broken = True
        self._poke()

    def writable(self, is_writable: bool) -> None:
        """A login is too small to fill a buffer."""


class _Discard:
    """The receiver of a link that is being closed, or is not anybody's yet."""

    def received(self, data: memoryview) -> None:
        pass

    def ended(self) -> None:
        pass

    def broken(self) -> None:
        pass

    def writable(self, is_writable: bool) -> None:
        pass


DISCARD: Receiver = _Discard()


def _nothing() -> None:
    pass


class Link(asyncio.BufferedProtocol):
    """A connection."""

    def __init__(
        self,
        on_open: Callable[[Link], None] | None = None,
        keepalive: Keepalive = SERVERS_KEEPALIVE,
        channel: Channel | None = None,
    ) -> None:
        """*channel*: how TLS is spoken already, on a connection that somebody else has had."""
        self._on_open = on_open
        self._keepalive = keepalive
        self._speaks_for: tuple[str, int] | None = None
        self._on_closed: Callable[[], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver = DISCARD
        self._is_reading = True
        self._has_ended = False
        self._is_broken = False
        self._is_finishing = False
        self._has_said_all = False
        self._linger: asyncio.TimerHandle | None = None
        self._tls = channel
        self._on_tls: Callable[[Facts | Failure], None] | None = None
        self.is_local = False
        """Whether it is by a Unix socket, where nobody has an address."""
        self.is_writable = True
        self.read_bytes = READ_BYTES
        """What one read takes at most."""

    # What the owner does

    @property
    def receiver(self) -> Receiver:
        """Who gets what this link hears. To change it is to hand the link over; an end that has come already is told."""
        return self._receiver

    @receiver.setter
    def receiver(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._has_ended:
            receiver.ended()
        if self._is_broken:
            self._receiver.broken()

    @property
    def has_ended(self) -> bool:
        """Whether the peer will send no more."""
        return self._has_ended

    @property
    def unsent(self) -> int:
        """How many bytes wait for the kernel to take them."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def peer(self) -> str:
        """Who is at the other end, for people."""
        return "[local]" if self.is_local else name_of(self._name)

    @property
    def host(self) -> str:
        """The address at the other end, without its port; empty if there is none."""
        match self._name:
            case (str(host), int(), *_):
                return host
            case _:
                return ""

    @property
    def _name(self) -> object:
        """The peer's address and port, as a socket tells them."""
        if self._speaks_for is not None:
            return self._speaks_for
        return self._transport.get_extra_info("peername") if self._transport is not None else None

    def speaks_for(self, host: str, port: int) -> None:
        """The peer passes on what somebody else says, whose address counts from now on."""
        self._speaks_for = host, port

    @property
    def descriptor(self) -> int:
        """The number of its socket; -1 if it has none."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        return int(sock.fileno()) if sock is not None else -1

    @property
    def encrypted(self) -> Facts | None:
        """What TLS agreed on, once it has."""
        return self._tls.facts if self._tls is not None else None

    @property
    def tls_failure(self) -> str | None:
        """Why nothing that comes is understood any more, if TLS failed."""
        failure = self._tls.failure if self._tls is not None else None
        return failure.reason if failure is not None else None

    def start_tls(
        self, channel: Channel, told: Callable[[Facts | Failure], None], *, answer: bytes = b"", received: bytes = b""
    ) -> None:
        """Send *answer* and speak TLS behind it; what was *received* already belongs to it.

        *told* is called once, with what was agreed on or why nothing was.  Until then nothing can be written.  After a failure
        the peer has what TLS has to say about it, and the link is good for nothing but its end.
        """
        assert self._tls is None
        self.write(answer)
        self._tls, self._on_tls = channel, told
        self._say(channel.begin())
        for pos in range(0, len(received), NETWORK_BYTES_MAX):
            self._decrypt(channel, received[pos : pos + NETWORK_BYTES_MAX])

    def go_on_with_tls(self, channel: Channel, told: Callable[[Facts | Failure], None]) -> None:
        """Speak TLS by *channel*, which has begun already, on a link that has heard nothing yet. *told*: as in `start_tls`."""
        assert self._tls is None
        self._tls, self._on_tls = channel, told
        self._tell_tls(channel)
        if channel.failure is not None and channel.facts is not None:
            self._break_off()
        elif channel.ended:
            self._end()

    def write(self, data: bytes | memoryview) -> None:
        """Send *data*, which must not change afterwards. On a link that is broken or closing this is nothing."""
        if self._may_say:
            self._say(self._tls.send(data) if self._tls is not None else data)

    @property
    def _may_say(self) -> bool:
        transport = self._transport
        return transport is not None and not transport.is_closing() and not self._is_finishing and not self._has_said_all

    def _say(self, data: bytes | memoryview) -> None:
        """Send *data* as it stands."""
        if data and self._transport is not None and self._may_say:
            self._transport.write(data)

    def _say_goodbye(self) -> None:
        if self._tls is not None:
            self._say(self._tls.say_goodbye())

    def pause_reading(self) -> None:
        """Leave what comes in the kernel, whose window tells the peer to stop."""
        if self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take what comes."""
        if not self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()

    def end_sending(self) -> None:
        """Say that no more will come, behind what waits to be sent, and go on listening."""
        transport = self._transport
        if transport is not None and self._may_say:
            self._say_goodbye()
            self._has_said_all = True
            transport.write_eof()

    def finish(self) -> None:
        """Send what waits to be sent and say that no more will come; close when the peer does, or soon."""
        self._receiver = DISCARD
        transport = self._transport
        if transport is None or transport.is_closing() or self._is_finishing:
            return
        if self._has_ended:
            self.close()
            return
        self._say_goodbye()
        self._is_finishing = True
        if not self._has_said_all:
            transport.write_eof()
        self.resume_reading()
        self._linger = asyncio.get_running_loop().call_later(HEAR_OUT_S, self.close)

    def close(self) -> None:
        """Send what waits to be sent, for LINGER_S at most, and close. What the peer still says is not heard."""
        self._receiver = DISCARD
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._say_goodbye()
        transport.close()
        if self._linger is not None:
            self._linger.cancel()
        if self._transport is not None:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)

    def abort(self) -> None:
        """Close at once; the peer sees a reset."""
        self._receiver = DISCARD
        if self._transport is not None:
            self._transport.abort()

    @property
    def can_be_let_go(self) -> bool:
        """Whether nothing of it is anywhere but in its socket: somebody who has that could go on."""
        transport = self._transport
        is_open = transport is not None and self._may_say and not self.unsent and self.descriptor >= 0
        return is_open and (self._tls is None or self._tls.can_be_let_go)

    @property
    def channel(self) -> Channel | None:
        """How it speaks TLS, if it does."""
        return self._tls

    def let_go(self) -> Callable[[], None]:
        """Have nothing to do with the socket any more, of which somebody else has a descriptor; it is not closed by that.

        Return what that somebody has to call when nothing of the connection is left.
        """
        transport, on_closed = self._transport, self._on_closed
        assert transport is not None
        self._receiver, self._transport, self._on_closed, self._tls = DISCARD, None, None, None
        transport.abort()
        return on_closed if on_closed is not None else _nothing

    def on_closed(self, callback: Callable[[], None]) -> None:
        """Call *callback* when nothing of the connection is left."""
        self._on_closed = callback

    # What the event loop does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the connection up."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_HIGH)
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        self.is_local = sock is not None and sock.family == socket.AF_UNIX
        tune(sock, self._keepalive)
        if self._on_open is not None:
            self._on_open(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Lend the shared buffer."""
        return _buffer[: self.read_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read."""
        if self._tls is None:
            self._receiver.received(_buffer[:nbytes])
        elif not self._is_finishing:
            self._decrypt(self._tls, _buffer[:nbytes])

    def eof_received(self) -> bool:
        """Keep the other direction open: who owns the link may have last words."""
        tls = self._tls
        if tls is not None and not self._is_finishing:
            tls.cut_off()
            self._tell_tls(tls)
            if tls.failure is not None and tls.facts is not None:
                self._break_off()
                return True
        self._end()
        if self._is_finishing:
            self.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the transport."""
        self._transport = None
        if self._tls is not None:
            self._tls.cut_off()
            self._tell_tls(self._tls)
        if self._linger is not None:
            self._linger.cancel()
        self._end()
        self._is_broken = True
        self._receiver.broken()
        if self._on_closed is not None:
            self._on_closed()

    def pause_writing(self) -> None:
        """Too much waits to be sent."""
        self.is_writable = False
        self._receiver.writable(False)

    def resume_writing(self) -> None:
        """There is room again."""
        self.is_writable = True
        self._receiver.writable(True)

    def _decrypt(self, tls: Channel, data: memoryview | bytes) -> None:
        plain, answer = tls.received(data)
        self._say(answer)
        self._tell_tls(tls)
        if plain:
            self._receiver.received(plain)
        if tls.failure is not None and tls.facts is not None:
            self._break_off()
        elif tls.ended:
            self._end()
        elif answer and self.unsent > UNASKED_BYTES_MAX:
            self._break_off()

    def _tell_tls(self, tls: Channel) -> None:
        outcome = tls.facts or tls.failure
        if self._on_tls is not None and outcome is not None:
            told, self._on_tls = self._on_tls, None
            told(outcome)

    def _break_off(self) -> None:
        """Hear no more, and let the peer have what it was sent, as long as it takes that at once."""
        self._end()
        transport = self._transport
        if transport is not None and not transport.is_closing():
            if transport.get_write_buffer_size() > 0:
                transport.abort()
            else:
                transport.close()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._receiver.ended()
