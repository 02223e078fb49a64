"""The header in which a balancer says whose connection it passes on."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire.errors import ProtocolError
from pgwire.proxyheader import HEADER_BYTES_MAX, LINE_BYTES_MAX, Header, read_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def binary(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def place(source: str, port: int) -> bytes:
    """Return the addresses of version 2, from *source* to somewhere of its kind."""
    packed = ipaddress.ip_address(source).packed
    return packed + bytes(len(packed)) + struct.pack("!HH", port, 5432)


WHOLE = {
    b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 5432\r\n": ("192.0.2.7", 56324),
    b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n": ("2001:db8::1", 65535),
    b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 1 1\r\n": ("192.0.2.7", 1),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff::1 whatever it says\r\n": None,
    binary(0x21, 0x11, place("192.0.2.7", 56324)): ("192.0.2.7", 56324),
    binary(0x21, 0x11, place("192.0.2.7", 56324) + b"\x04\0\3abc" + bytes(500)): ("192.0.2.7", 56324),
    binary(0x21, 0x21, place("2001:db8::1", 1)): ("2001:db8::1", 1),
    binary(0x21, 0x21, place("::ffff:192.0.2.7", 1)): ("192.0.2.7", 1),
    binary(0x21, 0x00, b""): None,
    binary(0x21, 0x31, bytes(216)): None,
    binary(0x21, 0x12, place("192.0.2.7", 1)): None,
    binary(0x20, 0x00, b""): None,
    binary(0x20, 0x11, place("192.0.2.7", 1)): None,
    binary(0x20, 0x00, bytes(HEADER_BYTES_MAX - 16)): None,
}

NONE = [
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01",
    b"PROXY\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 1 1\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 65536\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 1\r\n",
    b"PROXY TCP4 192.0.2.7  10.0.0.1 1 1\r\n",
    b"PROXY TCP4 ::1 ::1 1 1\r\n",
    b"PROXY TCP6 10.0.0.1 10.0.0.1 1 1\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n",
    b"PROXY TCP4 192.0.2.\xb2 10.0.0.1 1 1\r\n",
    b"PROXY UDP4 192.0.2.7 10.0.0.1 1 1\r\n",
    b"proxy TCP4 192.0.2.7 10.0.0.1 1 1\r\n",
    b"PROXY UNKNOWN " + bytes(LINE_BYTES_MAX),
    binary(0x11, 0x11, place("192.0.2.7", 1)),
    binary(0x22, 0x11, place("192.0.2.7", 1)),
    binary(0x21, 0x41, bytes(12)),
    binary(0x21, 0x13, bytes(12)),
    binary(0x21, 0x11, bytes(11)),
    binary(0x21, 0x21, bytes(12)),
    binary(0x20, 0x00, bytes(HEADER_BYTES_MAX - 15)),
]


@pytest.mark.parametrize(("header", "client"), WHOLE.items())
def test_a_header_tells_whose_the_connection_is_and_where_it_ends(header: bytes, client: tuple[str, int] | None) -> None:
    assert read_header(header + b"the client's own") == Header(len(header), client)
    for cut in range(len(header)):
        assert read_header(header[:cut]) is None


@pytest.mark.parametrize("data", NONE)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_header(data)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=120).map(lambda rest: b"PROXY " + rest + b"\r\n"),
        st.binary(max_size=200).map(lambda rest: SIGNATURE + rest),
    )
)
def test_whatever_comes_is_read_refused_or_waited_for_and_no_longer_than_a_header_may_be(data: bytes) -> None:
    try:
        found = read_header(data)
    except ProtocolError:
        return
    if found is None:
        assert len(data) < HEADER_BYTES_MAX
    else:
        assert found.size <= len(data)
        assert all(read_header(data[:cut]) is None for cut in range(found.size))
        if found.client is not None:
            ipaddress.ip_address(found.client[0])


@given(st.ip_addresses(), st.integers(0, 0xFFFF), st.binary(max_size=300))
def test_both_versions_say_the_same(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, more: bytes) -> None:
    line = f"PROXY TCP{address.version} {address} {address} {port} 5432\r\n".encode()
    packed = binary(0x21, 0x11 if address.version == 4 else 0x21, place(str(address), port) + more)
    first, second = read_header(line), read_header(packed)
    assert first is not None
    assert second is not None
    assert first.client == second.client
