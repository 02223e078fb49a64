"""The two sockets of a name server, bound to one port."""

from __future__ import annotations

import asyncio
import socket

BACKLOG = 1024
RESOLVE_S = 5.0
"""To find the address of a host given by name, at the start."""
PORT_ATTEMPTS = 20
"""To find one free port for both UDP and TCP, when the kernel may choose it."""


async def bind(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Return sockets for TCP, which listens, and UDP at *port* of *host*, or at any that is free for both if it is 0.

    Questions that come before anybody reads them wait in the kernel.  Raises OSError, with address and port in its text.
    """
    for left in reversed(range(1 if port else PORT_ATTEMPTS)):
        tcp = await _bound(host, port, socket.SOCK_STREAM)
        try:
            tcp.listen(BACKLOG)
            return tcp, await _bound(host, int(tcp.getsockname()[1]), socket.SOCK_DGRAM)
        except OSError:
            tcp.close()
            if not left:
                raise
    raise AssertionError("unreachable")


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
