"""Ports for servers that tests start.

Below those that the kernel gives to clients: a port of theirs is free when it is asked for, and the next moment somebody's who
connects to another.  Each process of a run has ports of its own, and gives one again only when all had their turn.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import socket

PORTS = range(7000, 10000)
"""Above a developer's own cluster, below what `testkit.cluster` takes."""
PROCESSES_MAX = 4


def _own() -> list[int]:
    number = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % PROCESSES_MAX
    ports = list(PORTS[number::PROCESSES_MAX])
    begin = random.SystemRandom().randrange(len(ports))  # another run may be under way on this machine
    return ports[begin:] + ports[:begin]


_OWN = _own()
_next = itertools.cycle(_OWN)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at this moment, and that was given to nobody lately in this run."""
    for port in itertools.islice(_next, len(_OWN)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no port is left of {PORTS.start} to {PORTS.stop - 1}")
