"""The first packet of a connection: the only message without a type byte.

It is a length, a number and a rest.  The number is a protocol version (StartupMessage) or one of three codes that look like
versions 1234.x: SSLRequest, GSSENCRequest, CancelRequest.  A client that begins with TLS at once sends a handshake record
instead, whose first byte 0x16 cannot begin a packet of a permitted length.  Source: PostgreSQL documentation, "Message
Formats" and "Start-up"; limits as in PostgreSQL's backend_startup.c.
"""

from __future__ import annotations

import functools
import struct
import sys
from dataclasses import dataclass

from pgwire.errors import NotAPacketError, ProtocolError, UserMissingError, VersionError
from pgwire.messages import KEY_BYTES_MAX, BackendKey

PACKET_BYTES_MAX = 10_004
"""PostgreSQL's own limit for a startup packet, and the length in front of it."""

PROTOCOL_3_0 = 3 << 16
PROTOCOL_3_2 = (3 << 16) | 2

MINOR_KNOWN = 2
"""The newest minor version of protocol 3 that we speak ourselves. 3.1 was never published."""

NAME_BYTES_MAX = 63
"""NAMEDATALEN - 1: PostgreSQL cuts a longer name of a role or database in a startup packet, by bytes, before it looks at it."""

TLS_HANDSHAKE = 0x16

CANCEL_CODE = (1234 << 16) | 5678
SSL_CODE = (1234 << 16) | 5679
GSSENC_CODE = (1234 << 16) | 5680

_TRUE = frozenset({"on", "1"} | {"true"[:end] for end in range(1, 5)} | {"yes"[:end] for end in range(1, 4)})

_two = struct.Struct(">II")
_three = struct.Struct(">IIi")


@dataclass(frozen=True, slots=True)
class SslRequest:
    """May we speak TLS? Answered by one byte, S or N."""


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    """May we speak GSSAPI encryption? Answered by one byte, G or N."""


@dataclass(frozen=True, slots=True)
class DirectTls:
    """A TLS handshake without asking first."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Cancel what the session with this key is doing. Answered by nothing but the end of the connection."""

    key: BackendKey


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """Who wants a session, and with which parameters."""

    version: int
    parameters: tuple[tuple[str, str], ...]
    """In the client's order; a name may repeat, the last one counts."""

    @property
    def minor(self) -> int:
        """The minor protocol version asked for."""
        return self.version & 0xFFFF

    def get(self, name: str) -> str | None:
        """Return the parameter called *name*, or None."""
        return next((value for key, value in reversed(self.parameters) if key == name), None)

    @property
    def user(self) -> str:
        """The role, as PostgreSQL cuts it; never empty in a decoded message."""
        return _names(self)[0]

    @property
    def database(self) -> str:
        """The database, as PostgreSQL cuts it; it is the user's name if none was given."""
        return _names(self)[1]

    @property
    def is_physical_replication(self) -> bool:
        """Whether a walsender without a database is asked for: PostgreSQL's parse_bool, as ProcessStartupPacket asks it.

        Of repeated values the last decides whether it is a walsender, but any "database" gives it one.
        """
        asked = [value for name, value in self.parameters if name == "replication"]
        return bool(asked) and asked[-1].lower() in _TRUE and "database" not in asked

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the protocol options, those that begin with ``_pq_.``."""
        return tuple(name for name, _ in self.parameters if name.startswith("_pq_."))


@functools.lru_cache(maxsize=256)
def _names(message: StartupMessage) -> tuple[str, str]:
    """Return role and database."""
    user = _cut(message.get("user") or "")
    return user, _cut(message.get("database") or user)


FirstPacket = SslRequest | GssEncRequest | DirectTls | CancelRequest | StartupMessage


def packet_size(data: bytes | bytearray | memoryview) -> int | None:
    """Return how many bytes the packet at the start of *data* has, or None while that is not known.

    Raises NotAPacketError if no packet has that length: the peer does not speak PostgreSQL's protocol, or means harm.
    A TLS handshake is no packet; ask `is_direct_tls` first.
    """
    if len(data) < 4:
        return None
    size = int.from_bytes(data[:4], "big")
    if not 8 <= size <= PACKET_BYTES_MAX:
        raise NotAPacketError("invalid length of startup packet")
    return size


def is_direct_tls(data: bytes | bytearray | memoryview) -> bool:
    """Return whether *data* begins with a TLS handshake record."""
    return len(data) > 0 and data[0] == TLS_HANDSHAKE


def decode_first_packet(packet: bytes) -> FirstPacket:
    """Return what a whole first packet says. Raises ProtocolError, UserMissingError or VersionError."""
    if is_direct_tls(packet):
        return DirectTls()
    if packet_size(packet) != len(packet):
        raise ProtocolError("invalid length of startup packet")
    _, code = _two.unpack_from(packet)
    if code == CANCEL_CODE:
        if not 16 <= len(packet) <= 12 + KEY_BYTES_MAX:
            raise NotAPacketError("invalid length of cancel request packet")
        return CancelRequest(BackendKey(_three.unpack_from(packet)[2], packet[12:]))
    if code in (SSL_CODE, GSSENC_CODE):
        if len(packet) != 8:
            raise ProtocolError("invalid length of encryption request")
        return SslRequest() if code == SSL_CODE else GssEncRequest()
    if code >> 16 != 3:
        raise unsupported(code)
    return _decode_startup(packet, code)


@functools.lru_cache(maxsize=256)
def _decode_startup(packet: bytes, code: int) -> StartupMessage:
    """Return what a startup packet says; thousands of sessions begin with the same one. Raises ProtocolError."""
    return StartupMessage(code, _decode_parameters(packet[8:]))


def unsupported(code: int) -> VersionError:
    """Return the error for a first packet with the number *code*, which nobody speaks, or not at this moment."""
    return VersionError(f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: server supports 3.0 to 3.{MINOR_KNOWN}")


def _decode_parameters(body: bytes) -> tuple[tuple[str, str], ...]:
    if not body.endswith(b"\0"):
        raise ProtocolError("invalid startup packet layout: expected terminator as last byte")
    texts = body[:-1].split(b"\0")
    if texts.pop() or len(texts) % 2:
        raise ProtocolError("invalid startup packet layout: expected pairs of name and value")
    names, values = texts[::2], texts[1::2]
    if not all(names):
        raise ProtocolError("invalid startup packet layout: expected terminator as last byte")
    # Thousands of sessions ask for the same.
    parameters = tuple(
        (sys.intern(name.decode("utf-8", "surrogateescape")), sys.intern(value.decode("utf-8", "surrogateescape")))
        for name, value in zip(names, values, strict=True)
    )
    if not any(name == "user" and value for name, value in parameters):
        raise UserMissingError("no PostgreSQL user name specified in startup packet")
    return parameters


def encode_startup(message: StartupMessage) -> bytes:
    """Return a StartupMessage."""
    body = b"".join(_text(name) + _text(value) for name, value in message.parameters) + b"\0"
    return _two.pack(len(body) + 8, message.version) + body


def make_startup(user: str, database: str, *, version: int = PROTOCOL_3_0, **parameters: str) -> StartupMessage:
    """Return a StartupMessage of our own."""
    return StartupMessage(version, (("user", user), ("database", database), *parameters.items()))


def encode_cancel(key: BackendKey) -> bytes:
    """Return a CancelRequest."""
    return _three.pack(12 + len(key.secret), CANCEL_CODE, key.pid) + key.secret


SSL_REQUEST = _two.pack(8, SSL_CODE)
GSSENC_REQUEST = _two.pack(8, GSSENC_CODE)
ACCEPTED = b"S"
"""The answer to SSLRequest of a server that speaks TLS from then on."""
REFUSED = b"N"
"""The answer to SSLRequest and GSSENCRequest of a server that will not encrypt."""


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What a server must tell a client that asked for more than it speaks."""

    minor: int
    unknown_options: tuple[str, ...]


def negotiate(message: StartupMessage, *, options_known: frozenset[str] = frozenset()) -> Negotiation | None:
    """Return what to send as NegotiateProtocolVersion before authentication, or None if nothing is needed."""
    unknown = tuple(name for name in message.options if name not in options_known)
    if message.minor <= MINOR_KNOWN and not unknown:
        return None
    return Negotiation(min(message.minor, MINOR_KNOWN), unknown)


def _cut(name: str) -> str:
    if len(name) * 4 <= NAME_BYTES_MAX:  # no character takes more bytes than that
        return name
    return name.encode("utf-8", "surrogateescape")[:NAME_BYTES_MAX].decode("utf-8", "surrogateescape")


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError("a startup parameter contains a NUL character")
    return data + b"\0"
