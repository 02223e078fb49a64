"""TLS without a network: two channels, or a channel and OpenSSL, and whoever stands between them."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endpointd.wire.clienthello import ClientHello, read_client_hello
from endpointd.wire.tls import ALPN, NETWORK_BYTES_MAX, Channel, Failure, Role, client_context
from tests.certificates import NAME, authority, channels, load, server, serving, shake_hands, trusting
from tests.certificates import client as certified


def standing(server_side: ssl.SSLContext | None = None, client_side: ssl.SSLContext | None = None) -> tuple[Channel, Channel]:
    client, served = channels(server_side, client_side)
    shake_hands(client, served)
    assert client.facts is not None
    assert served.facts is not None
    return client, served


def carry(to: Channel, data: bytes) -> bytes:
    """Return the plaintext of *data*."""
    heard = bytearray()
    for pos in range(0, len(data), NETWORK_BYTES_MAX):
        plain, answer = to.received(data[pos : pos + NETWORK_BYTES_MAX])
        heard += plain
        assert not answer
    return bytes(heard)


def test_a_handshake_tells_what_was_agreed_on() -> None:
    client, served = standing()
    assert served.facts is not None
    assert client.facts is not None
    assert (served.facts.version, served.facts.sni, served.facts.alpn) == ("TLSv1.3", NAME, ALPN)
    assert served.facts.cipher == client.facts.cipher
    assert served.facts.certificate is None
    assert served.facts.binding == server().certificate.binding
    assert client.facts.certificate == server().certificate.der


def test_a_clients_certificate_is_verified_and_told() -> None:
    context = serving()
    context.load_verify_locations(cadata=authority().certificate_pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    _, served = standing(context)
    assert served.facts is not None
    assert served.facts.certificate is None
    _, served = standing(context, load(trusting(), certified("app")))
    assert served.facts is not None
    assert served.facts.certificate == certified("app").certificate.der
    stranger = load(trusting(), server(of="another"))
    client, served = channels(context, stranger)
    shake_hands(client, served)
    assert served.failure is not None
    assert served.failure.reason.startswith("certificate verify failed: ")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.integers(0, 70_000), max_size=5),
    cuts=st.lists(st.sampled_from((1, 2, 5, 21, 22, 1000, 8191, 8192, 8193, 16_384, 65_536)), min_size=1, max_size=20),
)
def test_any_split_of_the_bytes_gives_the_same(version: ssl.TLSVersion, parts: list[int], cuts: list[int]) -> None:
    context = trusting()
    context.maximum_version = version
    client, served = channels(None, context)
    plain = b"".join(bytes([number % 251]) * size for number, size in enumerate(parts, 1))
    heard = bytearray()

    def in_pieces(to: Channel, data: bytes) -> bytes:
        said = b""
        pos = turn = 0
        while pos < len(data):
            size = cuts[turn % len(cuts)]
            if turn > 200:  # single bytes of everything take long and show nothing more
                size = NETWORK_BYTES_MAX
            text, answer = to.received(data[pos : pos + size])
            heard.extend(text)
            said += answer
            pos += size
            turn += 1
        return said

    to_server = client.begin()
    while to_server:
        to_server = in_pieces(client, in_pieces(served, to_server))
    assert not heard
    in_pieces(served, b"".join(client.send(plain[pos : pos + 30_000]) for pos in range(0, len(plain), 30_000)))
    assert bytes(heard) == plain
    assert not served.ended
    in_pieces(served, client.say_goodbye())
    assert served.ended
    served.cut_off()
    assert served.failure is None


def test_a_goodbye_ends_one_direction_alone() -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting()
        context.maximum_version = version
        client, served = standing(None, context)
        assert carry(served, client.send(b"the last question") + client.say_goodbye()) == b"the last question"
        assert served.ended
        assert client.send(b"more") == b""
        answer = b"y" * 200_000
        assert carry(client, served.send(answer)) == answer
        assert not client.ended
        carry(client, served.say_goodbye())
        assert client.ended
        assert client.failure is None
        assert served.failure is None
        assert client.say_goodbye() == b""


def test_an_end_without_goodbye_is_a_failure() -> None:
    client, served = standing()
    sent = client.send(b"half a record")
    assert carry(served, sent[:-1]) == b""
    served.cut_off()
    assert served.failure == Failure("the connection was cut off in a TLS session, without close_notify")
    client, served = channels()
    served.received(client.begin()[:100])
    served.cut_off()
    assert served.failure == Failure("the connection was cut off in the TLS handshake")


def test_a_changed_byte_is_an_alert_and_the_end() -> None:
    client, served = standing()
    sent = bytearray(client.send(b"x" * 100))
    sent[50] ^= 1
    plain, alert = served.received(bytes(sent))
    assert bytes(plain) == b""
    assert served.failure == Failure("decryption failed or bad record mac")
    client.received(alert)
    assert client.failure is not None
    assert client.failure.reason.endswith("alert bad record mac")
    assert served.received(client.send(b"again")) == (b"", b"")
    assert served.send(b"more") == b""


def test_records_that_are_gone_or_come_again_are_noticed() -> None:
    for change in ("lost", "again", "swapped"):
        client, served = standing()
        one, two = client.send(b"1"), client.send(b"2")
        wire = {"lost": two, "again": one + one, "swapped": two + one}[change]
        heard, _ = served.received(wire)
        assert bytes(heard) == (b"1" if change == "again" else b"")
        assert served.failure is not None, change


@settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=1, max_size=300), is_record=st.booleans())
def test_garbage_is_refused_or_waited_for(data: bytes, is_record: bool) -> None:
    _, served = channels()
    wire = b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data if is_record else data
    plain, _ = served.received(wire)
    served.cut_off()
    assert len(plain) == 0
    assert served.facts is None
    assert served.failure is not None
    assert served.failure.reason.isascii()
    assert "_ssl.c" not in served.failure.reason


def test_plaintext_in_the_middle_of_a_session_is_refused() -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting()
        context.maximum_version = version
        _, served = standing(None, context)
        plain, _ = served.received(b"Q\0\0\0\x0dselect 1\0")
        assert len(plain) == 0
        assert served.failure is not None


def test_old_versions_are_refused() -> None:
    context = trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    client, served = channels(None, context)
    shake_hands(client, served)
    assert served.failure == Failure("unsupported protocol")
    strict = serving()
    strict.minimum_version = ssl.TLSVersion.TLSv1_3
    context = trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client, served = channels(strict, context)
    shake_hands(client, served)
    assert served.failure == Failure("unsupported protocol")
    assert client.failure == Failure("tlsv1 alert protocol version")


def test_a_session_is_not_taken_up_again_nor_brings_early_data() -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context, kept = serving(), trusting()
        kept.maximum_version = version
        inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
        connection = kept.wrap_bio(inside, outside, server_hostname=NAME)
        served = Channel(context, Role.SERVER)
        while served.facts is None:
            with contextlib.suppress(ssl.SSLWantReadError):
                connection.do_handshake()
            inside.write(served.received(outside.read())[1])
        assert connection.session is None or not connection.session.has_ticket


def test_renegotiation_is_refused() -> None:
    assert serving().options & ssl.OP_NO_RENEGOTIATION
    assert client_context().options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("protocols", [(), ("h2",), ("postgresql2", "http/1.1")])
@pytest.mark.parametrize("again", [False, True], ids=["", "after a hello retry request"])
def test_whoever_must_name_the_protocol_is_refused_without_it(protocols: tuple[str, ...], again: bool) -> None:
    context, named = serving(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    named.load_verify_locations(cadata=authority().certificate_pem)
    if protocols:
        named.set_alpn_protocols(list(protocols))
    if again:
        context.set_ecdh_curve("secp384r1")
    client, served = Channel(named, Role.CLIENT, server_name=NAME), Channel(context, Role.SERVER, must_name_protocol=True)
    shake_hands(client, served)
    assert served.failure == Failure(
        "no application protocol in common" if protocols else "direct TLS without ALPN protocol negotiation"
    )
    assert served.facts is None
    assert client.failure == Failure("tlsv1 alert no application protocol")


def test_whoever_names_other_protocols_is_refused_where_none_need_be_named() -> None:
    for protocols, is_served in (([], True), (["h2"], False), (["h2", ALPN], True)):
        named = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        named.load_verify_locations(cadata=authority().certificate_pem)
        if protocols:
            named.set_alpn_protocols(protocols)
        client, served = Channel(named, Role.CLIENT, server_name=NAME), Channel(serving(), Role.SERVER)
        shake_hands(client, served)
        assert (served.facts is not None) is is_served


def hello(context: ssl.SSLContext, name: str) -> bytes:
    return Channel(context, Role.CLIENT, server_name=name).begin()


def test_a_clients_first_message_is_read() -> None:
    said = hello(trusting(), NAME)
    assert read_client_hello(said) == ClientHello(NAME, (ALPN.encode(),))
    assert read_client_hello(said + b"more") == ClientHello(NAME, (ALPN.encode(),))
    assert all(read_client_hello(said[:size]) is None for size in range(len(said)))
    in_two = said[:3] + (100).to_bytes(2, "big") + said[5:105] + said[:3] + (len(said) - 105).to_bytes(2, "big") + said[105:]
    assert read_client_hello(in_two) == ClientHello(NAME, (ALPN.encode(),))
    strange = said.replace(NAME.encode(), b"\xfc" * len(NAME))
    assert read_client_hello(strange) == ClientHello(None, (ALPN.encode(),))


@settings(max_examples=500, deadline=None)
@given(pos=st.integers(0, 600), byte=st.integers(0, 255), rest=st.binary(max_size=40))
def test_a_damaged_first_message_is_no_exception(pos: int, byte: int, rest: bytes) -> None:
    said = bytearray(hello(trusting(), NAME))
    said[pos % len(said)] = byte
    for data in (bytes(said), bytes(said[: pos % len(said)]) + rest):
        with contextlib.suppress(ValueError):
            read_client_hello(data)
        _, served = channels()
        served.received(data)


def test_a_strange_name_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    _, served = channels()
    served.received(hello(trusting(), NAME).replace(NAME.encode(), b"\xfc" * len(NAME)))
    assert capfd.readouterr() == ("", "")


def test_a_first_message_without_end_is_given_up() -> None:
    _, served = channels()
    size, record = 1 << 20, b"\x16\3\1\x40\0"
    said = record + b"\1" + size.to_bytes(3, "big") + bytes((1 << 14) - 4)
    served.received(said + record + bytes(1 << 14))
    assert served.failure == Failure("the first message is too long")


def test_whoever_names_the_protocol_among_others_is_served() -> None:
    for again in (False, True):
        context, named = serving(), trusting()
        named.set_alpn_protocols(["h2", ALPN])
        if again:
            context.set_ecdh_curve("secp384r1")
        client, served = channels(context, named, must_name_protocol=True)
        shake_hands(client, served)
        assert served.facts is not None
        assert served.facts.alpn == ALPN


def test_a_client_verifies_the_chain_and_the_name() -> None:
    client, served = channels(None, trusting("another"))
    shake_hands(client, served)
    assert client.failure == Failure("certificate verify failed: unable to get local issuer certificate")
    assert served.failure == Failure("tlsv1 alert unknown ca")
    client = Channel(trusting(), Role.CLIENT, server_name="10.0.0.1")
    _, served = channels()
    shake_hands(client, served)
    assert client.failure is not None
    assert "IP address mismatch" in client.failure.reason


def test_nothing_grows() -> None:
    """What a channel keeps between two calls is bounded, however much went through it."""
    client, served = standing()
    for _ in range(50):
        assert len(carry(served, client.send(bytes(200_000)))) == 200_000
    for channel in (client, served):
        assert not channel._in.pending  # pyright: ignore[reportPrivateUsage]
        assert not channel._out.pending  # pyright: ignore[reportPrivateUsage]
