"""Orders and answers as lines of JSON on a Unix socket: the asking side, and who is at the other end.

One order per connection; answers follow until one says that it is the last, or why the order is refused.  The socket lives in
a directory private to the user, and the kernel tells the peer's user besides.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from daemonkit.exits import Failure

LINE_BYTES_MAX = 64 << 10


class AnswerLine(Protocol):
    """One line of an answer."""

    @property
    def done(self) -> bool:
        """Whether it is the last one."""
        ...

    @property
    def error(self) -> str | None:
        """Why the order is refused, or failed; then it is the last one too."""
        ...


A = TypeVar("A", bound=AnswerLine)


class PeerGone(Exception):  # noqa: N818 - a fact, not an error
    """Nobody listens on the socket."""


class PeerSilent(PeerGone):
    """Somebody listens on the socket and did not answer in time: frozen, or busy. It has not ended."""


async def order(path: Path, wanted: msgspec.Struct, kind: type[A]) -> AsyncIterator[A]:
    """Send *wanted* to whoever listens at *path* and yield the answers. Raises PeerGone, and Failure for a refusal."""
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX)
    except OSError as error:
        raise PeerGone from error
    try:
        writer.write(msgspec.json.encode(wanted) + b"\n")
        await writer.drain()
        while line := await reader.readline():
            answer = msgspec.json.decode(line, type=kind)
            if answer.error is not None:
                raise Failure(answer.error)
            yield answer
            if answer.done:
                return
        raise PeerGone
    except OSError as error:
        raise PeerGone from error
    finally:
        writer.close()


async def ask(path: Path, wanted: msgspec.Struct, kind: type[A], *, timeout_s: float = 5.0) -> A:
    """Return the last answer to *wanted*. Raises PeerGone, PeerSilent without an answer in time, Failure for a refusal."""
    try:
        async with asyncio.timeout(timeout_s):
            last: A | None = None
            async for answer in order(path, wanted, kind):
                last = answer
            assert last is not None, "answers end with one that is done"
            return last
    except TimeoutError as error:
        raise PeerSilent from error


def peer_uid(connection: int) -> int:
    """Return the user at the other end of the socket with the descriptor *connection*, as the kernel recorded it."""
    with socket.socket(fileno=os.dup(connection)) as end:
        size = struct.calcsize("3i")
        _, uid, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return uid
