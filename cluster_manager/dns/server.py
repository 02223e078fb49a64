"""An authoritative DNS server for one zone, over UDP and TCP, at sockets that are bound already.

What it says is decided in answer.py; the zone is one immutable value that is exchanged as a whole.  TCP connections are few and
short (reception.py); each has a few questions answered a turn and so many a second, and is cut off when it idles or does not
take its answers.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

from cluster_manager.dns.answer import Answers, answer, prepare
from cluster_manager.dns.records import Zone
from daemonkit.admission import Budget
from daemonkit.logs import get_logger
from daemonkit.reception import Guest, Reception

LISTENER = "dns"
"""In metrics and logs."""
TCP_CONNECTIONS_MAX = 64
TCP_IDLE_S = 10.0
TCP_HURRIED_S = 2.0
"""The same while there are many connections."""
QUESTIONS_PER_TURN = 4
QUESTIONS_BURST = 64
QUESTIONS_PER_S = 50.0
"""Of one TCP connection, when its burst is used up. 64 connections then take half a processor."""
TCP_UNSENT_BYTES_MAX = 1 << 18
"""Of answers that a client asked for and does not read."""
RECEIVED_BYTES_HIGH = 1 << 17
"""Of questions that wait for their turn; more than the longest question."""
SEND_BUFFER_BYTES = 1 << 16
"""In the kernel, so that who does not read is noticed."""

Respond = Callable[[bytes, bool], bytes | None]


class DnsServer:
    """Answers at the sockets *tcp* and *udp* while its ``async with`` block runs, and closes them after it."""

    def __init__(self, tcp: socket.socket, udp: socket.socket) -> None:
        self._tcp = tcp
        self._udp = udp
        self._answers: Answers | None = None
        budget = Budget(strangers_max=TCP_CONNECTIONS_MAX, known_max=0, stranger_s=TCP_IDLE_S, hurried_s=TCP_HURRIED_S)
        self._reception = Reception(LISTENER, budget, lambda guest: _Tcp(guest, self._respond))
        self._transport: asyncio.DatagramTransport | None = None
        self._log = get_logger()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self._respond), sock=self._udp)
        self._reception.take(self._tcp)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reception.close()
        self._reception.show_everybody_out()
        if self._transport is not None:
            self._transport.close()

    @property
    def strangers(self) -> int:
        """How many TCP connections there are."""
        return self._reception.strangers

    def exchange(self, zone: Zone) -> None:
        """Answer from *zone* from now on. Raises ValueError if a record of it cannot be written as one."""
        self._answers = prepare(zone)

    def _respond(self, wire: bytes, is_udp: bool) -> bytes | None:
        try:
            return answer(wire, self._answers, turn=secrets.randbits(16), is_udp=is_udp)
        except Exception:
            # The broad except around one unit of work: one strange packet must not end the server.
            self._log.exception("a DNS question could not be answered", question=wire[:512].hex())
            return None


class _Udp(asyncio.DatagramProtocol):
    """One packet, one answer."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        response = self._respond(data, True)
        if response is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(response, addr)


class _Tcp(asyncio.Protocol):
    """Messages with their length before them, any number on one connection. RFC 7766."""

    def __init__(self, guest: Guest, respond: Respond) -> None:
        self._guest = guest
        self._respond = respond
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._turn: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._may_ask = float(QUESTIONS_BURST)
        """How many questions it may ask now."""
        self._counted_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._guest.is_shown_out_by(lambda _why: self.abort())

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._guest.leave()
        if self._turn is not None:
            self._turn.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > RECEIVED_BYTES_HIGH and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        if self._turn is None:
            self._take_turn()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _take_turn(self) -> None:
        """Answer some whole messages; only these renew the guest's time, so that a trickle does not keep a connection."""
        self._turn = None
        now = self._loop.time()
        self._may_ask = min(QUESTIONS_BURST, self._may_ask + (now - self._counted_at) * QUESTIONS_PER_S)
        self._counted_at = now
        for _ in range(QUESTIONS_PER_TURN):
            message = self._next_message()
            if message is None:
                self._read_on()
                return
            if self._may_ask < 1.0:
                break
            self._may_ask -= 1.0
            del self._received[: 2 + len(message)]
            response = self._respond(message, False)
            if self._transport is None:
                return
            if response is None or self._transport.get_write_buffer_size() > TCP_UNSENT_BYTES_MAX:
                self.abort()
                return
            self._transport.write(struct.pack("!H", len(response)) + response)
            self._guest.renew()
        wait_s = 0.0 if self._may_ask >= 1.0 else QUESTIONS_PER_TURN / QUESTIONS_PER_S
        self._turn = self._loop.call_later(wait_s, self._take_turn)

    def _next_message(self) -> bytes | None:
        if len(self._received) < 2:
            return None
        (length,) = struct.unpack_from("!H", self._received)
        return bytes(self._received[2 : 2 + length]) if len(self._received) >= 2 + length else None

    def _read_on(self) -> None:
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
