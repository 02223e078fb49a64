"""An authoritative DNS server for the cluster's names, over UDP and TCP on one port.

It answers from the last document it was given, whether or not its manager leads; what it says is decided in answer.py.  Each
question is answered within the call that brought it, so there are no tasks, no queues and nothing to wait for.  TCP
connections are few, short, and cut off when they idle or do not take their answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import struct
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, cast

from cluster_manager.dns.answer import Answers, answer, prepare
from cluster_manager.dns.records import Zone, desired_records
from daemonkit.logs import get_logger
from pgtopology.document import Topology

TCP_CONNECTIONS_MAX = 64
TCP_IDLE_S = 10.0
TCP_UNSENT_BYTES_MAX = 1 << 18
"""Of answers that a client asked for and does not read."""
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
        self._stack = AsyncExitStack()
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
                self._port = await self._listen(self._port if attempts == 1 else 0)
            except OSError:
                if left == 0:
                    raise
            else:
                break
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

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

    async def _listen(self, port: int) -> int:
        """Listen on *port*, or on any if it is 0, and return which it is."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            connections: set[_Tcp] = set()
            tcp_socket = await _bound(self._host, port, socket.SOCK_STREAM)
            stack.callback(tcp_socket.close)
            port = int(tcp_socket.getsockname()[1])
            udp_socket = await _bound(self._host, port, socket.SOCK_DGRAM)
            stack.callback(udp_socket.close)
            server = await loop.create_server(lambda: _Tcp(self._respond, connections), sock=tcp_socket)
            stack.callback(_close_all, server, connections)
            udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self._respond), sock=udp_socket)
            stack.callback(udp.close)
            self._stack = stack.pop_all()
        return port


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


def _close_all(server: asyncio.Server, connections: set[_Tcp]) -> None:
    server.close()
    for connection in list(connections):
        connection.abort()


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

    def __init__(self, respond: Respond, connections: set[_Tcp]) -> None:
        self._respond = respond
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._connections) >= TCP_CONNECTIONS_MAX:
            self.abort()
            return
        self._connections.add(self)
        self._restart_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer every whole message; only a whole one moves the deadline, so that a trickle does not keep a connection."""
        self._received += data
        while len(self._received) >= 2 and self._transport is not None:
            (length,) = struct.unpack_from("!H", self._received)
            if len(self._received) < 2 + length:
                return
            message = bytes(self._received[2 : 2 + length])
            del self._received[: 2 + length]
            response = self._respond(message, False)
            if response is None or self._transport.get_write_buffer_size() > TCP_UNSENT_BYTES_MAX:
                self.abort()
                return
            self._transport.write(struct.pack("!H", len(response)) + response)
            self._restart_deadline()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _restart_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(TCP_IDLE_S, self.abort)
