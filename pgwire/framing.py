"""Where messages begin and end in a stream, without looking at what is in them.

After the startup packet both directions are a chain of messages: one byte of type, four bytes of length that count
themselves, payload (PostgreSQL documentation, "Message Formats").  A Scanner walks that chain header by header through
chunks of any size and never copies payload, except that of the few kinds it was asked to collect.  It remembers at most a
partial header and one collected payload, so its memory is bounded whatever the peer sends.

The loop in `feed` is the one piece of our Python that runs per row of a bulk result; it is written for that.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable
from typing import NamedTuple

from pgwire.errors import ProtocolError

HEADER_BYTES = 5
LENGTH_BYTES = 4
"""Counted by the length of a message, in which the byte of its kind is not."""

MESSAGE_BYTES_MAX = 0x7FFFFFFF
"""The length field is a signed 32-bit number. PostgreSQL stops a little below 1 GiB; a scanner need not be stricter."""

COLLECTED_BYTES_MAX = 1 << 16
"""Of a collected payload this much is kept: far more than a sane notice or error has."""

_unpack_header = struct.Struct(">BI").unpack_from


class Frame(NamedTuple):
    """A message that the scanner was asked to tell about."""

    kind: int
    begin: int
    """Offset of its first byte in the chunk that completed it; negative if that came in an earlier chunk."""
    end: int
    """Offset just behind it in that chunk."""
    payload: bytes
    """Empty unless the kind is a collected one; at most COLLECTED_BYTES_MAX bytes."""


@functools.cache
def _kinds(told: frozenset[int], collected: frozenset[int]) -> tuple[frozenset[int], frozenset[int]]:
    """Return what a scanner tells about, and of that what it collects: the same few sets for thousands of connections."""
    return told | collected, collected


class Scanner:
    """Follows the message boundaries of one direction of one connection."""

    __slots__ = ("_collected", "_head", "_kind", "_length", "_part", "_skip", "_told", "boundary", "last_kind")

    def __init__(self, *, told: Iterable[int] = (), collected: Iterable[int] = ()) -> None:
        """Tell about messages of the kinds *told* and *collected*, and keep the payload of the latter."""
        self._told, self._collected = _kinds(frozenset(told), frozenset(collected))
        self._head = b""
        self._skip = 0
        self._kind = 0
        self._length = 0
        self._part: bytearray | None = None
        self.boundary = 0
        """Offset in the last chunk just behind its last complete message; 0 or less if none ended in it."""
        self.last_kind = 0
        """Of the message whose header was seen last; 0 before the first."""

    def ask_for(self, *, told: Iterable[int] = (), collected: Iterable[int] = ()) -> None:
        """Tell about these kinds too, from the next message on."""
        self._told, self._collected = _kinds(self._told | frozenset(told), self._collected | frozenset(collected))

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes fed so far end with a complete message."""
        return not self._skip and not self._head

    @property
    def begun(self) -> int:
        """How many bytes there are of a header that is not complete."""
        return len(self._head)

    @property
    def missing(self) -> int:
        """How many bytes are known to be missing from the message that has begun; 0 if its header is not complete."""
        return self._skip

    def feed(self, chunk: bytes | bytearray | memoryview, size: int | None = None) -> list[Frame]:
        """Walk through the first *size* bytes of *chunk* and return the messages that ended in it, of the kinds asked for.

        Raises ProtocolError for an impossible length; the scanner is of no use afterwards.
        """
        end = len(chunk) if size is None else size
        frames: list[Frame] = []
        told = self._told
        kind = self.last_kind
        boundary = 0
        pos = 0
        if self._skip:
            pos = self._skip
            if pos > end:
                self._skip = pos - end
                if self._part is not None:
                    self._collect(chunk, 0, end)
                self.boundary = 0
                return frames
            self._skip = 0
            boundary = pos
            if kind in told:
                if self._part is not None:
                    self._collect(chunk, 0, pos)
                frames.append(self._frame(kind, pos - self._length - 1, pos))
        elif self._head:
            need = HEADER_BYTES - len(self._head)
            if end < need:
                self._head += bytes(chunk[:end])
                self.boundary = 0
                return frames
            kind, length = _unpack_header(self._head + bytes(chunk[:need]))
            begin = -len(self._head)
            self._head = b""
            pos = self._message(frames, chunk, end, begin, kind, length)
            if self._skip:
                self.last_kind = kind
                self.boundary = 0
                return frames
            boundary = pos
        last_header = end - HEADER_BYTES
        while pos <= last_header:
            kind, length = _unpack_header(chunk, pos)
            after = pos + length + 1
            if kind in told or after > end or length < 4:
                after = self._message(frames, chunk, end, pos, kind, length)
                if self._skip:
                    break
            pos = after
            boundary = after
        else:
            if pos < end:
                self._head = bytes(chunk[pos:end])
        self.last_kind = kind
        self.boundary = boundary
        return frames

    def _message(
        self, frames: list[Frame], chunk: bytes | bytearray | memoryview, end: int, begin: int, kind: int, length: int
    ) -> int:
        """Take up the message whose header is known: tell about it if it ends in this chunk, else remember what is missing."""
        if not 4 <= length <= MESSAGE_BYTES_MAX:
            raise ProtocolError(f"invalid message length {length} for message type 0x{kind:02X}")
        after = begin + length + 1
        self._length = length
        payload = begin + HEADER_BYTES
        if after > end:
            if kind in self._collected:
                self._part = bytearray()
                self._collect(chunk, payload, end)
            self._skip = after - end
            return end
        if kind in self._collected:
            frames.append(Frame(kind, begin, after, bytes(chunk[payload : min(after, payload + COLLECTED_BYTES_MAX)])))
        elif kind in self._told:
            frames.append(Frame(kind, begin, after, b""))
        return after

    def _collect(self, chunk: bytes | bytearray | memoryview, begin: int, end: int) -> None:
        part = self._part
        if part is not None:
            part += chunk[begin : min(end, begin + COLLECTED_BYTES_MAX - len(part))]

    def _frame(self, kind: int, begin: int, end: int) -> Frame:
        payload = bytes(self._part) if self._part is not None else b""
        self._part = None
        return Frame(kind, begin, end, payload)


class Message(NamedTuple):
    """One whole message, out of bytes that are few enough to be kept."""

    kind: int
    payload: bytes
    end: int
    """Offset just behind it."""


def read_message(data: bytes | bytearray, pos: int, *, bytes_max: int) -> Message | None:
    """Return the message at *pos* of *data*, or None while it is not complete.

    Raises ProtocolError if its length is impossible, or if it is longer than *bytes_max*.
    """
    if len(data) < pos + HEADER_BYTES:
        return None
    kind, length = _unpack_header(data, pos)
    if not 4 <= length < bytes_max:
        raise ProtocolError(f"invalid message length {length} for message type 0x{kind:02X}")
    end = pos + length + 1
    return Message(kind, bytes(data[pos + HEADER_BYTES : end]), end) if end <= len(data) else None
