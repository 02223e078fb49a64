"""What is encoded is decoded again, and what is not a message is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire import messages as m
from pgwire import startup
from pgwire.errors import ProtocolError

text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))


def payload_of(message: bytes, kind: int) -> bytes:
    assert message[0] == kind
    assert int.from_bytes(message[1:5], "big") == len(message) - 1
    return message[5:]


@given(st.lists(st.tuples(st.sampled_from("SVCMDHPRFL"), text)))
def test_reports_survive_encoding(fields: list[tuple[str, str]]) -> None:
    report = m.Report(tuple(fields))
    encoded = m.encode_report(m.Backend.NOTICE_RESPONSE, report)
    assert m.decode_report(payload_of(encoded, m.Backend.NOTICE_RESPONSE)) == report


def test_a_report_answers_what_programs_ask() -> None:
    encoded = m.error_response("FATAL", "57P01", "no\0 more", detail="d", hint="h")
    report = m.decode_report(payload_of(encoded, m.Backend.ERROR_RESPONSE))
    assert (report.severity, report.sqlstate, report.message) == ("FATAL", "57P01", "no more")
    assert (report.get("D"), report.get("H"), report.routine) == ("d", "h", None)
    assert report.is_fatal
    assert not m.make_report("ERROR", "57014", "x").is_fatal
    assert m.Report((("S", "FEHLER"),)).severity == "FEHLER"
    assert m.Report().severity == m.Report().sqlstate == m.Report().message == ""


@pytest.mark.parametrize("payload", [b"", b"Mno end", b"Mtext\0", b"Mtext\0\0more", b"\0\0"])
def test_malformed_reports_are_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        m.decode_report(payload)


def test_bytes_in_another_encoding_are_kept_readable() -> None:
    assert m.decode_report(b"M\xe4\0\0").message == "\\xe4"


@given(st.integers(-(2**31), 2**31 - 1), st.binary(min_size=4, max_size=256))
def test_keys_survive_encoding(pid: int, secret: bytes) -> None:
    key = m.BackendKey(pid, secret)
    assert m.decode_backend_key(payload_of(m.backend_key_data(key), m.Backend.BACKEND_KEY_DATA)) == key
    assert repr(secret) not in repr(key)


@pytest.mark.parametrize("payload", [b"", b"123", bytes(7), bytes(4 + 257)])
def test_keys_have_a_size(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        m.decode_backend_key(payload)


@given(text, text)
def test_parameter_status_survives_encoding(name: str, value: str) -> None:
    encoded = m.parameter_status(name, value)
    assert m.decode_parameter_status(payload_of(encoded, m.Backend.PARAMETER_STATUS)) == (name, value)


@pytest.mark.parametrize("payload", [b"", b"a\0", b"a\0b", b"a\0b\0c", b"a\0b\0c\0"])
def test_malformed_parameter_status_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        m.decode_parameter_status(payload)


@given(st.integers(0, 100), st.lists(text.filter(bool)))
def test_negotiation_survives_encoding(minor: int, options: list[str]) -> None:
    encoded = m.negotiate_protocol_version(minor, tuple(options))
    payload = payload_of(encoded, m.Backend.NEGOTIATE_PROTOCOL_VERSION)
    assert m.decode_negotiation(payload) == ((3 << 16) | minor, tuple(options))


def test_an_option_that_is_not_utf_8_is_named_as_it_was_said() -> None:
    packet = startup.encode_startup(startup.StartupMessage(startup.PROTOCOL_3_0, (("user", "u"), ("_pq_.\udc96", "x"))))
    message = startup.decode_first_packet(packet)
    assert isinstance(message, startup.StartupMessage)
    negotiation = startup.negotiate(message)
    assert negotiation is not None
    assert b"_pq_.\x96\0" in m.negotiate_protocol_version(negotiation.minor, negotiation.unknown_options)


@pytest.mark.parametrize("payload", [b"", bytes(7), bytes(8) + b"a\0", b"\0\3\0\2\0\0\0\1a"])
def test_malformed_negotiation_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        m.decode_negotiation(payload)


@given(st.binary())
def test_sasl_initial_response_survives_encoding(response: bytes) -> None:
    encoded = m.sasl_initial_response("SCRAM-SHA-256", response)
    payload = payload_of(encoded, m.Frontend.AUTHENTICATION_RESPONSE)
    assert m.decode_sasl_initial_response(payload) == ("SCRAM-SHA-256", response)


@pytest.mark.parametrize("payload", [b"", b"SCRAM", b"SCRAM\0", b"SCRAM\0\0\0\0\5abc"])
def test_malformed_sasl_initial_response_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        m.decode_sasl_initial_response(payload)


def test_an_absent_initial_response_is_empty() -> None:
    assert m.decode_sasl_initial_response(b"X\0\xff\xff\xff\xff") == ("X", b"")


def test_authentication_messages() -> None:
    offer = m.decode_authentication(payload_of(m.sasl_offer("A", "B"), m.Backend.AUTHENTICATION))
    assert offer.kind == m.AuthenticationKind.SASL
    assert offer.mechanisms == ("A", "B")
    with pytest.raises(ProtocolError):
        m.decode_authentication(b"\0")


def test_small_messages_have_the_bytes_of_the_specification() -> None:
    assert m.ready_for_query("I") == b"Z\0\0\0\5I"
    assert m.TERMINATE == b"X\0\0\0\4"
    assert m.query("select 1") == b"Q\0\0\0\rselect 1\0"
    assert m.sasl_response(b"x") == b"p\0\0\0\5x"
