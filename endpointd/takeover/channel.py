"""One end of a Unix stream socket: lines of JSON, and descriptors beside them (SCM_RIGHTS, unix(7)).

Messages are few and small, and each is read before the next one is sent; so one that does not fit into the socket's buffer is
an error, not something to wait for.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from daemonkit.linesocket import LINE_BYTES_MAX, peer_uid

DESCRIPTORS_MAX = 250
"""In one message; the kernel's limit is 253 (SCM_MAX_FD)."""

M = TypeVar("M", bound=msgspec.Struct)


class ChannelError(Exception):
    """The other side has gone, or what it says cannot be understood; the text says which."""


class Channel:
    """Close it, or use it as a context manager; descriptors that nobody took are closed with it."""

    def __init__(self, end: socket.socket) -> None:
        """*end* is connected and does not block."""
        self._end = end
        self._rest = b""
        self._received: list[int] = []

    @classmethod
    async def connect(cls, path: Path) -> Channel:
        """Return a channel to whoever listens at *path*. Raises OSError."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await asyncio.get_running_loop().sock_connect(end, str(path))
        except BaseException:
            end.close()
            raise
        return cls(end)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_of_our_user(self) -> bool:
        """Whether the process at the other end is our user's, or root's."""
        return peer_uid(self._end.fileno()) in (os.getuid(), 0)

    def send(self, said: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
        """Send *said*, and *descriptors* with it. Raises ChannelError."""
        line = msgspec.json.encode(said) + b"\n"
        try:
            sent = socket.send_fds(self._end, [line], list(descriptors)) if descriptors else self._end.send(line)
        except OSError as error:
            raise ChannelError(error.strerror or str(error)) from error
        if sent < len(line):
            raise ChannelError("the other side does not read")

    async def receive(self, kind: type[M]) -> M:
        """Return what is said next. Raises ChannelError."""
        while b"\n" not in self._rest:
            if len(self._rest) > LINE_BYTES_MAX:
                raise ChannelError("a line is too long")
            data = self._take()
            if data is None:
                await self._readable()
            elif not data:
                raise ChannelError("the other side has gone")
            else:
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            return msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ChannelError(f"what the other side says cannot be understood: {error}") from error

    def take_descriptors(self) -> list[int]:
        """Return the descriptors that came so far; the caller closes them."""
        taken, self._received = self._received, []
        return taken

    def close(self) -> None:
        """End it."""
        self._end.close()
        for descriptor in self.take_descriptors():
            os.close(descriptor)

    def _take(self) -> bytes | None:
        """Return what has arrived, empty at the end, None if nothing has."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._end, LINE_BYTES_MAX, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""
        self._received += descriptors
        return data

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()

        def note() -> None:
            if not readable.done():
                readable.set_result(None)

        loop.add_reader(self._end.fileno(), note)
        try:
            await readable
        finally:
            loop.remove_reader(self._end.fileno())
