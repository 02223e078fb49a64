"""Ports for servers that tests start.

The kernel gives a port again as soon as nobody holds it, so two questions may have one answer: here none is given twice.
"""

from __future__ import annotations

import socket

_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at this moment, and that was given to nobody before in this run."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port
