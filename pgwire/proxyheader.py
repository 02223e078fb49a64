"""The PROXY protocol, versions 1 and 2: what a balancer says of the connection that it passes on, in front of all else.

Source: HAProxy's "The PROXY protocol". Whoever is asked to read a header expects one: bytes that can be none are refused as
soon as that is certain. Version 2's additions (TLVs) are skipped.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from pgwire.errors import ProtocolError

HEADER_BYTES_MAX = 4096
"""Of version 2, whose additions could take 64 KiB; what balancers add (names, cloud identifiers) is a few hundred bytes."""

LINE_BYTES_MAX = 107
"""Of version 1, with its line's end: the longest that the protocol knows."""

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct("!12sBBH")

_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_PLACES = {_TCP4: struct.Struct("!4s4sHH"), _TCP6: struct.Struct("!16s16sHH")}


@dataclass(frozen=True, slots=True)
class Header:
    """A whole header."""

    size: int
    """In bytes; what is behind them is the client's."""
    client: tuple[str, int] | None
    """Address and port of whom the connection is for; None if it is the balancer's own, or from where no address tells."""


def read_header(data: bytes | bytearray) -> Header | None:
    """Return the header at the start of *data*, or None while it is not whole. Raises ProtocolError if there can be none."""
    for mark, read in ((_V1, _read_line), (_V2, _read_binary)):
        if data[: len(mark)] == mark:
            return read(data)
        if mark.startswith(data):
            return None
    raise ProtocolError("a PROXY protocol header is expected")


def _read_line(data: bytes | bytearray) -> Header | None:
    end = data.find(b"\r\n", 0, LINE_BYTES_MAX)
    if end < 0:
        if len(data) >= LINE_BYTES_MAX:
            raise _malformed()
        return None
    _, protocol, *places = bytes(data[:end]).split(b" ")
    if protocol == b"UNKNOWN":
        return Header(end + 2, None)
    kind = {b"TCP4": ipaddress.IPv4Address, b"TCP6": ipaddress.IPv6Address}.get(protocol)
    try:
        source, destination, *ports = (place.decode("ascii") for place in places)
        if kind is None or len(ports) != 2 or "%" in source + destination:
            raise _malformed()
        kind(destination)
        port, _ = (_port(each) for each in ports)
        return Header(end + 2, (_written(kind(source)), port))
    except ValueError as error:
        raise _malformed() from error


def _port(text: str) -> int:
    """Raises ValueError."""
    if not (text.isdecimal() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ValueError
    return int(text)


def _read_binary(data: bytes | bytearray) -> Header | None:
    if len(data) < _FIXED.size:
        return None
    _, command, family, length = _FIXED.unpack_from(data)
    if command not in (_LOCAL, _PROXY) or family >> 4 > 3 or family & 0xF > 2:
        raise _malformed()
    size = _FIXED.size + length
    place = _PLACES.get(family) if command == _PROXY else None
    if size > HEADER_BYTES_MAX or (place is not None and length < place.size):
        raise _malformed()
    if len(data) < size:
        return None
    if place is None:
        return Header(size, None)
    source, _, port, _ = place.unpack_from(data, _FIXED.size)
    return Header(size, (_written(ipaddress.ip_address(source)), port))


def _written(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return *address* as a socket would tell it; IPv4 inside IPv6 is IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _malformed() -> ProtocolError:
    return ProtocolError("malformed PROXY protocol header")
