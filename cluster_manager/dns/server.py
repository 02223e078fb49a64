"""An authoritative DNS server for the cluster's names, over UDP and TCP on one port.

It answers from the last document it was given, whether or not its manager leads; what it says is decided in answer.py.  It
has a thread and a loop of its own, so that no crowd of questions takes a turn of the loop that decides; between the two goes
one immutable value, the prepared zone, which is exchanged as a whole.  TCP connections are few and short (reception.py); each
has a few questions answered a turn and so many a second, and is cut off when it idles or does not take its answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

from cluster_manager.dns.answer import Answers, answer, prepare
from cluster_manager.dns.records import Zone, desired_records
from daemonkit.admission import Budget
from daemonkit.lifecycle import loop_factory
from daemonkit.logs import get_logger
from daemonkit.reception import Guest, Reception
from pgtopology.document import Topology

TCP_CONNECTIONS_MAX = 64
TCP_IDLE_S = 10.0
TCP_HURRIED_S = 2.0
"""The same while there are many connections."""
QUESTIONS_PER_TURN = 4
QUESTIONS_BURST = 64
QUESTIONS_PER_S = 50.0
"""Of one TCP connection, when its burst is used up. 64 connections then take half a processor, of this thread alone."""
START_S = 10.0
"""For the thread to begin, and to end."""
AGAIN_S = 0.5
"""Between a fault of ours that ended the server and its next start."""
TCP_UNSENT_BYTES_MAX = 1 << 18
"""Of answers that a client asked for and does not read."""
RECEIVED_BYTES_HIGH = 1 << 17
"""Of questions that wait for their turn; more than the longest question."""
SEND_BUFFER_BYTES = 1 << 16
"""In the kernel, so that who does not read is noticed."""
RESOLVE_S = 5.0
"""To find the address of a host given by name, at the start."""
PORT_ATTEMPTS = 20
"""To find one free port for both UDP and TCP, when the kernel may choose it."""

Respond = Callable[[bytes, bool], bytes | None]


class DnsServer:
    """The embedded name backend, listening while its ``async with`` block runs. Raises OSError on entry if it cannot."""

    def __init__(self, *, host: str, port: int, ttl_s: int) -> None:
        self._host = host
        self._port = port
        self._ttl_s = ttl_s
        self._newest: tuple[int, int] | None = None
        self._zone: Zone | None = None
        self._answers: Answers | None = None
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self._tell: Callable[[], object] = lambda: None
        """Wakes the thread, so that it sees that it is to stop."""
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._log = get_logger()

    @property
    def port(self) -> int:
        """The port that is listened on, which differs from the one asked for if that was 0."""
        return self._port

    @property
    def zone(self) -> Zone | None:
        """What is answered now; None before the first document."""
        return self._zone

    async def __aenter__(self) -> Self:
        attempts = PORT_ATTEMPTS if self._port == 0 else 1
        for left in reversed(range(attempts)):
            try:
                self._sockets = await self._bind(self._port if attempts == 1 else 0)
            except OSError:
                if left == 0:
                    raise
            else:
                break
        assert self._sockets is not None
        self._port = int(self._sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._live, name="dns", daemon=True)
        self._thread.start()
        await asyncio.to_thread(self._started.wait, START_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        with contextlib.suppress(RuntimeError):  # its loop has just been closed
            self._tell()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, START_S)
        for each in self._sockets or ():
            each.close()

    def begin_with(self, topology: Topology) -> None:
        """Answer from *topology*, which was kept from an earlier life, until `update` is told any document."""
        if self._newest is None:
            self._exchange(topology)

    def update(self, topology: Topology) -> None:
        """Answer from *topology* from now on, unless a newer one was given before."""
        newest = (topology.epoch, topology.revision)
        if (self._newest is None or newest > self._newest) and self._exchange(topology):
            self._newest = newest

    def _exchange(self, topology: Topology) -> bool:
        try:
            zone = desired_records(topology, self._ttl_s, name_server=self._own_address())
            answers = prepare(zone)
        except ValueError as error:
            # Names that cannot be served are no reason to stop a failover; the former answers stay.
            self._log.error("the names of this document cannot be served", revision=topology.revision, reason=str(error))
            return False
        self._zone, self._answers = zone, answers
        return True

    def _own_address(self) -> str | None:
        """Return the address to give as name server, or None if it listens on all of them, or on one given by name."""
        try:
            return None if ipaddress.ip_address(self._host).is_unspecified else self._host
        except ValueError:
            return None

    def _respond(self, wire: bytes, is_udp: bool) -> bytes | None:
        try:
            return answer(wire, self._answers, turn=secrets.randbits(16), is_udp=is_udp)
        except Exception:
            # The broad except around one unit of work: one strange packet must not end the manager.
            self._log.exception("a DNS question could not be answered", question=wire[:512].hex())
            return None

    async def _bind(self, port: int) -> tuple[socket.socket, socket.socket]:
        """Return sockets for TCP and UDP on *port*, or on any that is free for both if it is 0."""
        tcp = await _bound(self._host, port, socket.SOCK_STREAM)
        try:
            return tcp, await _bound(self._host, int(tcp.getsockname()[1]), socket.SOCK_DGRAM)
        except OSError:
            tcp.close()
            raise

    # The thread

    def _live(self) -> None:
        """Serve until told to stop; a fault of ours costs a moment, not the names."""
        while not self._stopping.is_set():
            try:
                with asyncio.Runner(loop_factory=loop_factory()) as runner:
                    runner.run(self._serve())
            except Exception:
                self._log.exception("the name server failed and is started again")
                self._stopping.wait(AGAIN_S)

    async def _serve(self) -> None:
        assert self._sockets is not None
        tcp, udp = (each.dup() for each in self._sockets)
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        self._tell = lambda: loop.call_soon_threadsafe(stopped.set)
        budget = Budget(strangers_max=TCP_CONNECTIONS_MAX, known_max=0, stranger_s=TCP_IDLE_S, hurried_s=TCP_HURRIED_S)
        reception = Reception("dns", budget, lambda guest: _Tcp(guest, self._respond))
        transport: asyncio.DatagramTransport | None = None
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self._respond), sock=udp)
            reception.take(tcp)
            self._started.set()
            if not self._stopping.is_set():
                await stopped.wait()
        finally:
            reception.close()
            reception.show_everybody_out()
            if transport is not None:
                transport.close()


async def _bound(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Return a socket bound to *host* and *port*. The loops' own functions name the port in some of their errors only."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(RESOLVE_S):
        found = await loop.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    bound = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former server may linger
        bound.bind(address)
    except OSError as error:
        bound.close()
        protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
        raise OSError(error.errno, f"cannot listen on {host} port {port} ({protocol}): {error.strerror}") from error
    return bound


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
