"""What every TCP connection of the proxy is set to, and how its ends are called."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keepalive:
    """When a silent peer is asked whether it is still there, as PostgreSQL's tcp_keepalives_*. 0: as the system has it."""

    idle_s: int = 0
    interval_s: int = 0
    count: int = 0


_OPTIONS = tuple(getattr(socket, name, None) for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"))
"""macOS calls the first one otherwise."""

SERVERS_KEEPALIVE = Keepalive(idle_s=10, interval_s=3, count=3)
"""A silent server is given up after about 20 s. There is deliberately no TCP_USER_TIMEOUT: Linux applies it to a peer that is
alive and merely does not read, and would cut off every client that pauses in the middle of a result, and every COPY that
waits for a lock. A dead server is noticed by the manager long before."""


def tune(sock: socket.socket | None, keepalive: Keepalive) -> None:
    """Send small messages at once, and notice a peer that vanished."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip(_OPTIONS, (keepalive.idle_s, keepalive.interval_s, keepalive.count), strict=True):
        if value and option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def name_of(name: object) -> str:
    """Return the address *name*, as a socket tells it, for people."""
    match name:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return "unknown"
