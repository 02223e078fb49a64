"""How `up`, `down` and the tests talk to the supervisor: lines of JSON on its Unix socket.

One order per connection; a `stop` of the whole is answered by progress lines until it is done.  The socket lives in a
directory private to the user, and the kernel tells the peer's user besides.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import msgspec

from endpointctl.exits import Failure
from endpointctl.local.plan import PlannedNode
from endpointctl.local.program import ProgramReport

LINE_BYTES_MAX = 64 << 10


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor is told to do."""

    do: Literal["list", "start", "stop", "add", "remove", "shutdown", "hurry"]
    """start and stop are about one program, add and remove about one node; shutdown is about all, hurry makes it harsh."""
    name: str | None = None
    zone: str | None = None
    """Of a node to be added."""
    purge: bool = False
    """Whether the data of a node to be removed goes too."""
    operator: str = ""
    command: str = ""
    """Who orders it and by what, for the manager's journal."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the supervisor's answer; the last one has *done* or *error*."""

    done: bool = False
    error: str | None = None
    progress: str | None = None
    pid: int | None = None
    """The supervisor's own."""
    programs: tuple[ProgramReport, ...] = ()
    node: PlannedNode | None = None
    """The one that was added."""


class SupervisorGone(Exception):  # noqa: N818 - a fact, not an error
    """Nobody listens on the socket."""


class SupervisorSilent(SupervisorGone):
    """Somebody listens on the socket and did not answer in time: frozen, or busy. It has not ended."""


async def order(path: Path, wanted: Order) -> AsyncIterator[Answer]:
    """Send *wanted* to the supervisor at *path* and yield its answers. Raises SupervisorGone."""
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX)
    except OSError as error:
        raise SupervisorGone from error
    try:
        writer.write(msgspec.json.encode(wanted) + b"\n")
        await writer.drain()
        while line := await reader.readline():
            answer = msgspec.json.decode(line, type=Answer)
            if answer.error is not None:
                raise Failure(answer.error)
            yield answer
            if answer.done:
                return
        raise SupervisorGone
    except OSError as error:
        raise SupervisorGone from error
    finally:
        writer.close()


async def ask(path: Path, wanted: Order, *, timeout_s: float = 5.0) -> Answer:
    """Return the last answer to *wanted*. Raises SupervisorGone, or SupervisorSilent without an answer in time."""
    try:
        async with asyncio.timeout(timeout_s):
            last = Answer()
            async for answer in order(path, wanted):
                last = answer
            return last
    except TimeoutError as error:
        raise SupervisorSilent from error


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end, as the kernel recorded it."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return uid
