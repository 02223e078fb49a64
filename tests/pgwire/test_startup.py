"""First packets, and what is not one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire import startup as s
from pgwire.errors import ProtocolError, VersionError, WireError
from pgwire.messages import BackendKey

names = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=20)
values = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)


@given(names, values, st.lists(st.tuples(names, values), max_size=5), st.integers(0, 0xFFFF))
def test_startup_survives_encoding(user: str, database: str, more: list[tuple[str, str]], minor: int) -> None:
    message = s.StartupMessage((3 << 16) | minor, (*more, ("user", user), ("database", database)))
    packet = s.encode_startup(message)
    assert s.packet_size(packet) == len(packet)
    assert s.decode_first_packet(packet) == message
    assert (message.user, message.database, message.minor) == (user, database or user, minor)


@given(st.integers(-(2**31), 2**31 - 1), st.binary(min_size=4, max_size=256))
def test_cancel_survives_encoding(pid: int, secret: bytes) -> None:
    key = BackendKey(pid, secret)
    assert s.decode_first_packet(s.encode_cancel(key)) == s.CancelRequest(key)


def test_encryption_requests_and_tls_are_told_apart() -> None:
    assert s.decode_first_packet(s.SSL_REQUEST) == s.SslRequest()
    assert s.decode_first_packet(s.GSSENC_REQUEST) == s.GssEncRequest()
    assert s.decode_first_packet(b"\x16\x03\x01\x02\x00") == s.DirectTls()
    assert not s.is_direct_tls(b"")


def test_the_last_of_repeated_parameters_counts_and_the_database_defaults_to_the_user() -> None:
    message = s.StartupMessage(s.PROTOCOL_3_0, (("user", "a"), ("user", "b"), ("_pq_.x", "1")))
    assert message.user == message.database == "b"
    assert message.options == ("_pq_.x",)
    made = s.make_startup("u", "d", application_name="x")
    assert (made.user, made.database, made.get("application_name"), made.get("none")) == ("u", "d", "x", None)


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (b"u" * 63, b"u" * 63),
        (b"u" * 64, b"u" * 63),
        (b"u" * 62 + "é".encode(), b"u" * 62 + b"\xc3"),
        (b"\xff" * 70, b"\xff" * 63),
    ],
)
def test_longer_names_are_cut_by_bytes_as_the_server_does(sent: bytes, seen: bytes) -> None:
    """Else somebody with a name of 63 bytes would pass every rule and limit for it by one byte more."""
    packet = s.decode_first_packet(
        (len(sent) * 2 + 25).to_bytes(4, "big") + b"\0\3\0\0user\0" + sent + b"\0database\0" + sent + b"\0\0"
    )
    assert isinstance(packet, s.StartupMessage)
    assert packet.user.encode("utf-8", "surrogateescape") == seen
    assert packet.database.encode("utf-8", "surrogateescape") == seen


@pytest.mark.parametrize(
    ("values", "is_physical"),
    [
        (("true",), True),
        (("database",), False),
        (("false",), False),
        (("on", "off"), False),
        (("off", "YES"), True),
        (("true", "database"), False),
        (("database", "true"), False),
        (("database", "off", "on"), False),
    ],
)
def test_a_walsender_that_was_given_a_database_once_keeps_it(values: tuple[str, ...], is_physical: bool) -> None:
    """ProcessStartupPacket never takes am_db_walsender back."""
    message = s.StartupMessage(s.PROTOCOL_3_0, (("user", "a"), *(("replication", value) for value in values)))
    assert message.is_physical_replication is is_physical


def test_the_size_is_unknown_until_four_bytes_are_there() -> None:
    assert s.packet_size(b"\0\0\0") is None


@pytest.mark.parametrize("head", [b"\0\0\0\0", b"\0\0\0\7", b"\0\0\x27\x15", b"GET ", b"\xff\xff\xff\xff"])
def test_an_impossible_size_is_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError, match="invalid length of startup packet"):
        s.packet_size(head)


def packet(code: int, body: bytes = b"") -> bytes:
    return (len(body) + 8).to_bytes(4, "big") + code.to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "data",
    [
        packet(s.PROTOCOL_3_0),
        packet(s.PROTOCOL_3_0, b"\0"),
        packet(s.PROTOCOL_3_0, b"user\0\0\0"),
        packet(s.PROTOCOL_3_0, b"user\0a\0database\0\0")[:-1],
        packet(s.PROTOCOL_3_0, b"user\0a\0database\0\0"),
        packet(s.PROTOCOL_3_0, b"user\0a\0"),
        packet(s.PROTOCOL_3_0, b"\0a\0user\0a\0\0"),
        packet((1234 << 16) | 5679, b"x"),
        packet((1234 << 16) | 5678, bytes(7)),
        packet((1234 << 16) | 5678, bytes(4 + 257)),
    ],
)
def test_malformed_packets_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        s.decode_first_packet(data)


@pytest.mark.parametrize("code", [2 << 16, 4 << 16, (1234 << 16) | 5681])
def test_other_protocols_are_refused_by_name(code: int) -> None:
    with pytest.raises(VersionError, match="unsupported frontend protocol"):
        s.decode_first_packet(packet(code, b"user\0a\0\0"))


@given(st.binary(max_size=64))
def test_no_packet_raises_anything_but_our_errors(body: bytes) -> None:
    for code in (s.PROTOCOL_3_0, (1234 << 16) | 5678, (1234 << 16) | 5679, int.from_bytes(body[:4].ljust(4, b"x"), "big")):
        with contextlib.suppress(WireError):
            s.decode_first_packet(packet(code, body))


def test_only_what_nobody_here_knows_is_negotiated() -> None:
    def ask(minor: int, *options: str) -> s.StartupMessage:
        return s.StartupMessage((3 << 16) | minor, (("user", "a"), *((option, "1") for option in options)))

    assert s.negotiate(ask(0)) is None
    assert s.negotiate(ask(2)) is None
    assert s.negotiate(ask(9999)) == s.Negotiation(2, ())
    assert s.negotiate(ask(0, "_pq_.a", "_pq_.b"), options_known=frozenset({"_pq_.b"})) == s.Negotiation(0, ("_pq_.a",))


def test_a_parameter_with_nul_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="NUL"):
        s.encode_startup(s.make_startup("a\0b", "c"))
