"""One end of the line between a main process and a worker: a socket pair that the worker inherits.

Messages have a length before them; msgpack, because metrics may be infinite, which JSON cannot say.  When one side ends the
kernel closes the line, so the other knows.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

import msgspec

MESSAGE_BYTES_MAX = 64 << 20
UNSENT_BYTES_MAX = 64 << 20
"""Somebody who takes nothing for so long stands still, and is ended for that."""
_LENGTH_BYTES = 4

M = TypeVar("M", bound=msgspec.Struct)


class LineLost(Exception):  # noqa: N818 - the name says what happened
    """The other side has gone, or stands still."""


class Line(Generic[M]):
    """An end at which *M* is heard."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Any) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(heard)
        self._encoder = msgspec.msgpack.Encoder()

    @classmethod
    async def over(cls, end: socket.socket, heard: Any) -> Line[M]:
        """Return the line over *end*, which it owns from now on; *heard* is the union of what the other side says."""
        end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=end)
        return cls(reader, writer, heard)

    def say(self, said: msgspec.Struct) -> None:
        """Say it; what the other side does not live to hear is lost. Raises LineLost."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            raise LineLost("the other side takes nothing")
        data = self._encoder.encode(said)
        self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)

    async def hear(self) -> AsyncIterator[M]:
        """Yield what the other side says, until it has gone. Raises LineLost for what cannot be understood."""
        while True:
            try:
                size = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
                if size > MESSAGE_BYTES_MAX:
                    raise LineLost(f"a message of {size} bytes")
                data = await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, OSError):
                return
            try:
                yield self._decoder.decode(data)
            except msgspec.DecodeError as error:
                raise LineLost(f"a message that cannot be understood: {error}") from error

    def close(self) -> None:
        """End it."""
        self._writer.close()
