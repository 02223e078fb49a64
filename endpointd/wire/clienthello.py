"""What a TLS client says first, as far as we must know it before OpenSSL answers: whom it means, and which protocols it speaks.

Python's ssl cannot refuse a protocol, and prints a traceback for a name that is not ASCII; so the two are read here.  Nothing
is verified: what is no ClientHello is left to OpenSSL.  Source: RFC 8446, 4.1.2 and 5.1; RFC 6066, 3; RFC 7301, 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

_HANDSHAKE, _CLIENT_HELLO = 0x16, 1
_SERVER_NAME, _PROTOCOLS = 0, 16
_HOST_NAME = 0
_RECORD_BYTES_MAX = 1 << 14


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The part that we read."""

    server_name: str | None
    """None if it names none, or none that can be one."""
    protocols: tuple[bytes, ...]
    """Which it offers by ALPN."""


class _Reader:
    """Takes fields off a text; every one that is not there in full is a ValueError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    def __bool__(self) -> bool:
        return self._pos < len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        taken = self._data[self._pos : self._pos + size]
        if len(taken) < size:
            raise ValueError("a field is cut off")
        self._pos += size
        return taken

    def number(self, size: int) -> int:
        """Return a number of *size* bytes."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Return what stands behind its own length, a number of *size* bytes."""
        return self.take(self.number(size))


def read_client_hello(data: bytes) -> ClientHello | None:
    """Return the ClientHello at the start of *data*, the records of a client; None while it is not whole.

    Raises ValueError if there is none.
    """
    message = b""
    pos = 0
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        header = data[pos : pos + 5]
        size = int.from_bytes(header[3:5], "big")
        if header[:1] not in (b"", bytes((_HANDSHAKE,))) or header[1:2] not in (b"", b"\3") or size > _RECORD_BYTES_MAX:
            raise ValueError("not a handshake record")
        if len(header) < 5 or len(data) < pos + 5 + size:
            return None
        if size == 0:
            raise ValueError("an empty handshake record")
        message += data[pos + 5 : pos + 5 + size]
        if message[0] != _CLIENT_HELLO:
            raise ValueError("not a ClientHello")
        pos += 5 + size
    return _read(_Reader(message[4 : 4 + int.from_bytes(message[1:4], "big")]))


def _read(hello: _Reader) -> ClientHello:
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression
    extensions = _Reader(hello.vector(2) if hello else b"")
    name: str | None = None
    protocols: list[bytes] = []
    while extensions:
        kind, content = extensions.number(2), _Reader(extensions.vector(2))
        if kind == _SERVER_NAME and content:
            names = _Reader(content.vector(2))
            while names:
                if names.number(1) == _HOST_NAME:
                    name = _host_name(names.vector(2))
                else:
                    names.vector(2)
        elif kind == _PROTOCOLS:
            offered = _Reader(content.vector(2))
            while offered:
                protocols.append(offered.vector(1))
    return ClientHello(name, tuple(protocols))


def _host_name(data: bytes) -> str | None:
    return data.decode("ascii") if data.isascii() and data.decode("ascii").isprintable() else None
