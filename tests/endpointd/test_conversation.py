"""Conversations as plays: what happens goes in, what is to be done must come out, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpointd import refusal
from endpointd.routing.table import Backend
from endpointd.session.commands import (
    Cancel,
    ClientGone,
    ClientSent,
    Close,
    Command,
    Connect,
    Connected,
    Encrypted,
    Event,
    Identify,
    LeftToServer,
    NotConnected,
    NotEncrypted,
    PlaceTaken,
    Refused,
    Relay,
    ServerGone,
    ServerSent,
    Stopped,
    ToClient,
    ToServer,
    UpgradeTls,
)
from endpointd.session.conversation import LOGIN_BYTES_MAX, Conversation
from endpointd.session.quota import Place
from endpointd.session.state import State
from endpointd.wire.tls import Facts
from pgtopology.node import Address, NodeName
from pgwire import messages as m
from pgwire import startup

HELLO = startup.encode_startup(startup.make_startup("u", "d", application_name="a"))
WRITER = Backend(NodeName("n1"), Address("h", 1), True)
READER = Backend(NodeName("n2"), Address("h", 2), False)
KEY = m.BackendKey(77, b"secret-of-32-bytes-or-of-four")
OK = m.encode_authentication(m.Authentication(m.AuthenticationKind.OK))
SASL = m.sasl_offer("SCRAM-SHA-256")
CHALLENGE = m.encode_authentication(m.Authentication(m.AuthenticationKind.SASL_CONTINUE, b"r=1"))
FINAL = m.encode_authentication(m.Authentication(m.AuthenticationKind.SASL_FINAL, b"v=1"))
ABOUT = m.parameter_status("in_hot_standby", "off") + m.backend_key_data(KEY)
STANDBY = m.parameter_status("in_hot_standby", "on")
FACTS = Facts("TLSv1.3", "TLS_AES_256_GCM_SHA384", "localhost", "postgresql", None, b"binding")
READY = m.ready_for_query("I")
STARTING = m.error_response("FATAL", "57P03", "the database system is starting up")
PASSWORD = m.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x")


class Play:
    """A conversation and the script it is held against."""

    def __init__(
        self, admit: Callable[[startup.StartupMessage], refusal.Refusal | Place] = lambda _: Place.TAKEN, **how: Any
    ) -> None:
        self.conversation = Conversation(admit, **how)

    def on(self, event: Event, *expected: Command) -> Play:
        """Let *event* happen; exactly *expected* must be commanded."""
        assert self.conversation.handle(event) == list(expected)
        return self

    def sent(self, *data: bytes) -> Play:
        """Bring the conversation to a server that has the startup packet."""
        return self.on(ClientSent(HELLO), Identify()).on(LeftToServer(), Connect()).on(Connected(WRITER), ToServer(HELLO))


def refused(why: refusal.Refusal) -> tuple[Command, ...]:
    return ToClient(why.encode()), Close(why.message, why.kind, why.sqlstate)


def test_a_login_without_password() -> None:
    play = Play().sent().on(ServerSent(OK + ABOUT + READY), ToClient(OK + ABOUT + READY), Relay(KEY, b""))
    assert play.conversation.state is State.RELAYING
    assert play.conversation.startup is not None
    assert play.conversation.startup.user == "u"


def test_a_login_by_scram_is_relayed_word_by_word() -> None:
    play = Play().sent()
    assert not play.conversation.wants_client
    play.on(ServerSent(SASL), ToClient(SASL))
    assert play.conversation.wants_client
    play.on(ClientSent(PASSWORD), ToServer(PASSWORD)).on(ServerSent(CHALLENGE), ToClient(CHALLENGE))
    play.on(ClientSent(m.sasl_response(b"p=1")), ToServer(m.sasl_response(b"p=1"))).on(ServerSent(FINAL), ToClient(FINAL))
    play.on(ServerSent(OK)).on(ServerSent(ABOUT)).on(ServerSent(READY), ToClient(OK + ABOUT + READY), Relay(KEY, b""))


HELLO_3_2 = startup.encode_startup(startup.make_startup("u", "d", version=3 << 16 | 2))
OURS = m.BackendKey(77, b"a key of ours, as long as we like")


@pytest.mark.parametrize("is_ready_first", [True, False])
def test_a_place_that_others_count_is_waited_for_with_all_that_the_server_says(is_ready_first: bool) -> None:
    play = Play(lambda _: Place.ASKED).sent()
    if is_ready_first:
        play.on(ServerSent(OK + ABOUT + READY)).on(PlaceTaken(), ToClient(OK + ABOUT + READY), Relay(KEY, b""))
    else:
        play.on(ServerSent(OK + ABOUT)).on(PlaceTaken()).on(ServerSent(READY), ToClient(OK + ABOUT + READY), Relay(KEY, b""))
    assert play.conversation.state is State.RELAYING
    assert play.conversation.handle(PlaceTaken()) == []


def test_who_waits_for_a_place_and_gets_none_hears_nothing_of_the_server() -> None:
    full = refusal.too_many_for_user("u")
    Play(lambda _: Place.ASKED).sent().on(ServerSent(OK + ABOUT + READY + b"rest")).on(Refused(full), *refused(full))


def test_who_waits_for_a_place_while_its_server_goes_away_looks_for_another() -> None:
    play = Play(lambda _: Place.ASKED).sent().on(ServerSent(OK + ABOUT + READY)).on(ServerGone(), Connect(WRITER))
    # The answer was about the client, not about the server.
    play.on(PlaceTaken()).on(Connected(WRITER), ToServer(HELLO)).on(ServerSent(OK + ABOUT + READY))
    play.on(PlaceTaken(), ToClient(OK + ABOUT + READY), Relay(KEY, b""))


def test_much_that_a_server_says_waits_for_the_place_too() -> None:
    notice = m.message(ord("N"), b"x" * 1000)
    play = Play(lambda _: Place.ASKED).sent()
    for _ in range(LOGIN_BYTES_MAX // 1000 + 2):
        play.on(ServerSent(notice if play.conversation.state is State.SETTLING else OK))
    assert not play.conversation.is_bound


def at_server(hello: bytes) -> Play:
    """Return a conversation whose client has said *hello* and whose server has it."""
    play = Play(key_told=lambda key: OURS if key == KEY else None)
    return play.on(ClientSent(hello), Identify()).on(LeftToServer(), Connect()).on(Connected(WRITER), ToServer(hello))


def test_a_client_with_room_for_our_key_gets_it_and_the_servers_stays_with_us() -> None:
    told = m.backend_key_data(OURS) + READY
    at_server(HELLO_3_2).on(ServerSent(OK + m.backend_key_data(KEY) + READY), ToClient(OK + told), Relay(KEY, b"", b"", OURS))


def test_a_client_without_room_for_it_gets_the_servers() -> None:
    told = OK + m.backend_key_data(KEY) + READY
    at_server(HELLO).on(ServerSent(told), ToClient(told), Relay(KEY, b""))
    offer = m.negotiate_protocol_version(0)
    at_server(HELLO_3_2).on(ServerSent(offer + told), ToClient(offer + told), Relay(KEY, b""))


def test_who_was_authenticated_and_finds_no_room_is_refused_and_a_stranger_takes_none() -> None:
    full = refusal.too_many_for_user("u")
    asked: list[str] = []

    def admit(message: startup.StartupMessage) -> refusal.Refusal | Place:
        asked.append(message.user)
        return full

    play = Play(admit).sent().on(ServerSent(SASL), ToClient(SASL))
    assert asked == []
    play.on(ClientSent(PASSWORD), ToServer(PASSWORD))
    play.on(ServerSent(FINAL + OK + ABOUT + READY), ToClient(FINAL), *refused(full))
    assert asked == ["u"]


def test_a_binding_to_the_servers_tls_is_not_offered_to_a_client_who_does_not_share_it() -> None:
    both = m.sasl_offer("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")
    play = (
        Play()
        .on(ClientSent(HELLO), Identify())
        .on(LeftToServer(), Connect())
        .on(Connected(WRITER, is_encrypted=True), ToServer(HELLO))
    )
    play.on(ServerSent(both), ToClient(SASL))
    Play().sent().on(ServerSent(both), ToClient(both))


def test_a_login_is_bound_once_the_client_has_heard_its_server() -> None:
    play = Play().sent().on(ServerSent(SASL[:-1]))
    assert not play.conversation.is_bound
    play.on(ServerSent(SASL[-1:]), ToClient(SASL))
    assert play.conversation.is_bound
    # Without a password nothing is told before the very end.
    play = Play().sent().on(ServerSent(OK + ABOUT))
    assert not play.conversation.is_bound


def test_what_follows_ready_for_query_is_handed_to_the_relay() -> None:
    rest = m.parameter_status("TimeZone", "UTC")[:-3]
    Play().sent().on(ServerSent(OK + READY + rest), ToClient(OK + READY), Relay(None, rest))


def test_encryption_is_declined_and_the_client_goes_on() -> None:
    play = Play().on(ClientSent(startup.GSSENC_REQUEST), ToClient(b"N")).on(ClientSent(startup.SSL_REQUEST), ToClient(b"N"))
    play.on(ClientSent(HELLO), Identify()).on(LeftToServer(), Connect())


@pytest.mark.parametrize(("asks", "name"), [(startup.SSL_REQUEST, "SSL"), (startup.GSSENC_REQUEST, "GSSAPI encryption")])
def test_what_was_said_before_the_answer_to_a_request_for_encryption_is_refused(asks: bytes, name: str) -> None:
    Play().on(ClientSent(asks + HELLO), ToClient(b"N"), *refused(refusal.unencrypted_data(name)))


def test_encryption_asked_for_twice_is_a_version_that_nobody_speaks() -> None:
    play = Play().on(ClientSent(startup.SSL_REQUEST), ToClient(b"N"))
    commands = play.conversation.handle(ClientSent(startup.SSL_REQUEST))
    assert commands[-1] == Close(
        "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2", "unsupported_version", "0A000"
    )


def test_whoever_asks_for_tls_gets_it_and_begins_anew() -> None:
    play = Play(offers_tls=True).on(ClientSent(startup.GSSENC_REQUEST), ToClient(b"N"))
    play.on(ClientSent(startup.SSL_REQUEST), UpgradeTls(b"S"))
    assert not play.conversation.wants_client
    play.on(Encrypted(FACTS)).on(ClientSent(HELLO), Identify())
    assert play.conversation.encrypted == FACTS


def test_direct_tls_is_begun_with_what_has_come() -> None:
    play = Play(offers_tls=True).on(ClientSent(b"\x16\x03"), UpgradeTls(b"", b"\x16\x03", is_direct=True))
    play.on(Encrypted(FACTS)).on(ClientSent(HELLO), Identify())


def test_direct_tls_is_no_packet_where_something_else_was_said_before() -> None:
    for said in (startup.SSL_REQUEST, startup.GSSENC_REQUEST):
        play = Play().on(ClientSent(said), ToClient(b"N"))
        play.on(ClientSent(b"\x16\x03\x01\x00\x80"), Close("invalid length of startup packet", "protocol_violation"))


def test_plaintext_before_tls_is_refused_inside_tls() -> None:
    play = Play(offers_tls=True).on(ClientSent(startup.SSL_REQUEST + HELLO), UpgradeTls(b"S"))
    play.on(Encrypted(FACTS), *refused(refusal.unencrypted_data("SSL")))


def test_tls_may_begin_before_the_answer() -> None:
    play = Play(offers_tls=True).on(ClientSent(startup.SSL_REQUEST + b"\x16\3\1"), UpgradeTls(b"S", b"\x16\3\1"))
    play.on(Encrypted(FACTS)).on(ClientSent(HELLO), Identify())


@pytest.mark.parametrize("asks", [startup.SSL_REQUEST, startup.GSSENC_REQUEST])
def test_encryption_inside_tls_is_a_version_that_nobody_speaks(asks: bytes) -> None:
    play = Play(offers_tls=True).on(ClientSent(startup.SSL_REQUEST), UpgradeTls(b"S")).on(Encrypted(FACTS))
    close = play.conversation.handle(ClientSent(asks))[-1]
    assert isinstance(close, Close)
    assert close.kind == "unsupported_version"


def test_tls_that_fails_is_the_end() -> None:
    play = Play(offers_tls=True).on(ClientSent(startup.SSL_REQUEST), UpgradeTls(b"S"))
    play.on(NotEncrypted("unknown ca"), Close("TLS failed: unknown ca", "tls_failed"))


def test_who_must_speak_tls_and_does_not_is_refused_in_pg_hbas_words_and_may_cancel() -> None:
    play = Play(offers_tls=True, requires_tls=True, client_host="10.0.0.1")
    play.on(ClientSent(HELLO), *refused(refusal.no_encryption("10.0.0.1", "u", "d")))
    assert play.conversation.startup is not None
    packet = startup.encode_cancel(KEY)
    Play(offers_tls=True, requires_tls=True).on(ClientSent(packet), Cancel(KEY, packet))
    play = Play(offers_tls=True, requires_tls=True).on(ClientSent(startup.SSL_REQUEST), UpgradeTls(b"S"))
    play.on(Encrypted(FACTS)).on(ClientSent(HELLO), Identify())


SILENTLY_CLOSED = {
    "a goodbye": b"X\0\0\0\4",
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "shorter than its own header": b"\0\0\0\7",
    "too long": (10_005).to_bytes(4, "big"),
    "a cancel request without a key": b"\0\0\0\x0c\x04\xd2\x16\x2eabcd",
}


@pytest.mark.parametrize("said", SILENTLY_CLOSED.values(), ids=SILENTLY_CLOSED)
def test_what_is_no_first_packet_is_closed_without_a_word(said: bytes) -> None:
    [close] = Play().conversation.handle(ClientSent(said))
    assert isinstance(close, Close)
    assert (close.kind, close.sqlstate) == ("protocol_violation", None)


def test_no_user_is_no_authorization() -> None:
    commands = Play().conversation.handle(ClientSent(b"\0\0\0\x09\0\3\0\0\0"))
    assert commands[-1] == Close("no PostgreSQL user name specified in startup packet", "protocol_violation", "28000")


def test_direct_tls_is_closed_at_its_first_byte() -> None:
    Play().on(ClientSent(b"\x16"), Close("direct TLS is not spoken here", "direct_tls"))


def test_a_cancel_request_is_carried_on() -> None:
    packet = startup.encode_cancel(KEY)
    play = Play().on(ClientSent(packet), Cancel(KEY, packet))
    assert not play.conversation.wants_client
    play.on(ServerGone()).on(ClientGone(), Close("the client went away", "client_left"))


def test_a_client_that_does_not_wait_is_taken_as_it_is() -> None:
    eager = m.query("select 1")
    play = Play().on(ClientSent(HELLO + eager), Identify()).on(LeftToServer(), Connect()).on(Connected(WRITER), ToServer(HELLO))
    play.on(ServerSent(OK + READY), ToClient(OK + READY), Relay(None, b"", eager))
    # It has said all its part of the login too, and what it wants then.
    answers = m.sasl_response(b"p=1") + m.sasl_response(b"p=2")
    play = (
        Play()
        .on(ClientSent(HELLO + PASSWORD + answers + eager), Identify())
        .on(LeftToServer(), Connect())
        .on(Connected(WRITER), ToServer(HELLO))
    )
    play.on(ServerSent(SASL), ToClient(SASL), ToServer(PASSWORD))
    play.on(ServerSent(CHALLENGE), ToClient(CHALLENGE), ToServer(m.sasl_response(b"p=1")))
    play.on(ServerSent(FINAL), ToClient(FINAL))
    play.on(ServerSent(OK + READY), ToClient(OK + READY), Relay(None, b"", m.sasl_response(b"p=2") + eager))


def test_the_server_gets_one_answer_to_each_question_and_judges_it() -> None:
    eager = m.query("select 1")
    play = Play().sent().on(ServerSent(SASL), ToClient(SASL)).on(ClientSent(PASSWORD[:7]))
    play.on(ClientSent(PASSWORD[7:] + eager[:3]), ToServer(PASSWORD))
    assert not play.conversation.wants_client
    play.on(ServerSent(FINAL + OK + READY), ToClient(FINAL), ToClient(OK + READY), Relay(None, b"", eager[:3]))
    # It may be no answer at all.
    Play().sent().on(ServerSent(SASL), ToClient(SASL)).on(ClientSent(eager), ToServer(eager))


def test_the_last_token_of_gss_waits_for_no_answer() -> None:
    token = m.encode_authentication(m.Authentication(m.AuthenticationKind.GSS_CONTINUE, b"token"))
    eager = m.query("select 1")
    play = Play().sent().on(ServerSent(token), ToClient(token)).on(ClientSent(PASSWORD), ToServer(PASSWORD))
    play.on(ServerSent(token), ToClient(token)).on(ClientSent(eager))
    play.on(ServerSent(OK + READY), ToClient(OK + READY), Relay(None, b"", eager))


def test_what_is_no_packet_is_refused() -> None:
    commands = Conversation().handle(ClientSent(packet_without_terminator := b"\0\0\0\x0d\0\3\0\0user\1"))
    assert len(packet_without_terminator) == 13
    assert commands[-1] == Close(
        "invalid startup packet layout: expected terminator as last byte", "protocol_violation", "08P01"
    )


def test_nobody_to_connect_to() -> None:
    why = refusal.no_primary("writer")
    Play().on(ClientSent(HELLO), Identify()).on(LeftToServer(), Connect()).on(NotConnected(why), *refused(why)).on(
        ClientSent(b"x")
    )


@pytest.mark.parametrize("state", ["57P03", "57P01", "57P02"])
def test_a_server_that_starts_or_stops_is_replaced_unseen(state: str) -> None:
    words = m.error_response("FATAL", state, "not now")
    play = Play().sent().on(ServerSent(words), Connect(WRITER)).on(Connected(READER), ToServer(HELLO))
    play.on(ServerSent(OK + READY), ToClient(OK + READY), Relay(None, b""))


def test_a_server_that_goes_away_before_its_first_word_is_replaced() -> None:
    play = Play().sent().on(ServerSent(OK[:3])).on(ServerGone(), Connect(WRITER)).on(Connected(WRITER), ToServer(HELLO))
    play.on(ServerSent(SASL), ToClient(SASL))


def test_a_negotiation_is_not_heard_twice() -> None:
    offer = m.negotiate_protocol_version(0)
    play = Play().sent().on(ServerSent(offer)).on(ServerSent(STARTING), Connect(WRITER)).on(Connected(WRITER), ToServer(HELLO))
    play.on(ServerSent(offer + SASL), ToClient(offer + SASL))


PROBE = startup.encode_startup(startup.make_startup("u", "d", version=3 << 16 | 9999, **{"_pq_.test_protocol_negotiation": ""}))
"""What a libpq that wants to know whether servers negotiate sends: a version and an option that nobody has."""
OFFER = m.negotiate_protocol_version(2, ("_pq_.test_protocol_negotiation",))


def test_a_probe_for_negotiation_is_answered_once_by_the_server_however_long_the_writer_is_awaited() -> None:
    play = Play().on(ClientSent(PROBE), Identify()).on(LeftToServer(), Connect())
    # Held; then a server that is not ready after all; then the writer.
    play.on(Connected(WRITER), ToServer(PROBE)).on(ServerSent(OFFER + STARTING), Connect(WRITER))
    play.on(Connected(WRITER), ToServer(PROBE)).on(ServerSent(OFFER)).on(ServerSent(SASL), ToClient(OFFER + SASL))
    play.on(ClientSent(PASSWORD), ToServer(PASSWORD)).on(ServerSent(FINAL), ToClient(FINAL))
    play.on(ServerSent(OK + ABOUT + READY), ToClient(OK + ABOUT + READY), Relay(KEY, b""))


def test_a_probe_for_negotiation_that_finds_no_server_is_refused_without_an_offer() -> None:
    why = refusal.no_primary("writer")
    Play().on(ClientSent(PROBE), Identify()).on(LeftToServer(), Connect()).on(NotConnected(why), *refused(why))


@pytest.mark.parametrize("where", ["after the server is content", "before it is ready"])
def test_a_notice_within_the_login_is_relayed_in_its_place(where: str) -> None:
    """PostgreSQL 19 warns there of a password that is kept by MD5, or is about to expire."""
    notice = m.encode_report(m.Backend.NOTICE_RESPONSE, m.make_report("WARNING", "01000", "role password will expire soon"))
    told = OK + notice + ABOUT + READY if where == "after the server is content" else OK + ABOUT + notice + READY
    Play().sent().on(ServerSent(told), ToClient(told), Relay(KEY, b""))
    play = Play().sent().on(ServerSent(SASL), ToClient(SASL)).on(ClientSent(PASSWORD), ToServer(PASSWORD))
    play.on(ServerSent(FINAL + told), ToClient(FINAL), ToClient(told), Relay(KEY, b""))


def test_a_standby_taken_for_the_writer_is_replaced_while_the_client_has_heard_nothing() -> None:
    Play().sent().on(ServerSent(OK)).on(ServerSent(STANDBY), Connect(WRITER))


def test_a_standby_taken_for_the_writer_is_refused_after_a_login() -> None:
    play = Play().sent().on(ServerSent(SASL), ToClient(SASL)).on(ClientSent(PASSWORD), ToServer(PASSWORD))
    play.on(ServerSent(OK)).on(ServerSent(STANDBY), *refused(refusal.no_primary("writer")))


def test_a_primary_that_nobody_named_is_no_replica() -> None:
    play = Play().on(ClientSent(HELLO), Identify()).on(LeftToServer(), Connect()).on(Connected(READER), ToServer(HELLO))
    play.on(ServerSent(OK + ABOUT + READY), Connect(READER))


def test_a_standby_is_what_the_readers_door_wants() -> None:
    play = Play().on(ClientSent(HELLO), Identify()).on(LeftToServer(), Connect()).on(Connected(READER), ToServer(HELLO))
    play.on(ServerSent(OK + STANDBY + READY), ToClient(OK + STANDBY + READY), Relay(None, b""))


@pytest.mark.parametrize("state", ["28P01", "3D000", "53300"])
@pytest.mark.parametrize("before", [b"", OK])
def test_a_servers_refusal_is_passed_on(state: str, before: bytes) -> None:
    words = m.error_response("FATAL", state, "no")
    end = Close("the server refused the login: no", "server_refused", state, server_is_full=state == "53300")
    Play().sent().on(ServerSent(before + words), ToClient(before + words), end)


@pytest.mark.parametrize("routine", ["InitializeSessionUserId", "CheckMyDatabase"])
def test_a_limit_of_a_role_or_a_database_says_nothing_of_the_server(routine: str) -> None:
    fields = (*m.make_report("FATAL", "53300", "no").fields, ("R", routine))
    words = m.encode_report(m.Backend.ERROR_RESPONSE, m.Report(fields))
    end = Close("the server refused the login: no", "server_refused", "53300")
    Play().sent().on(ServerSent(OK + words), ToClient(OK + words), end)


@pytest.mark.parametrize(("backend", "why"), [(WRITER, refusal.no_primary("writer")), (READER, refusal.startup_lost("n2"))])
def test_a_server_lost_during_the_login_is_told(backend: Backend, why: refusal.Refusal) -> None:
    play = Play().on(ClientSent(HELLO), Identify()).on(LeftToServer(), Connect()).on(Connected(backend), ToServer(HELLO))
    play.on(ServerSent(SASL), ToClient(SASL)).on(ServerGone(), *refused(why))


def test_a_session_evicted_during_the_login_is_told_why() -> None:
    play = Play().sent().on(ServerSent(SASL), ToClient(SASL))
    play.on(ServerGone(refusal.primary_changed()), *refused(refusal.primary_changed()))


def test_a_login_evicted_before_the_servers_first_word_begins_anew() -> None:
    Play().sent().on(ServerGone(refusal.primary_changed()), Connect(WRITER))


@pytest.mark.parametrize("words", [[], [ClientSent(HELLO)], [ClientSent(HELLO), Connected(WRITER)]])
def test_time_is_over(words: list[Event]) -> None:
    play = Play()
    for event in words:
        play.conversation.handle(event)
    play.on(Stopped(refusal.startup_timeout()), *refused(refusal.startup_timeout()))
    for event in (ClientSent(b"x"), ServerSent(b"x"), ServerGone(), ClientGone(), Stopped(refusal.internal_error())):
        play.on(event)


def test_a_client_that_leaves_is_not_mourned() -> None:
    Play().on(ClientGone(), Close("the client went away", "client_left"))
    Play().sent().on(ClientGone(), Close("the client went away", "client_left"))


def test_a_client_that_breaks_the_protocol_in_the_login_is_told() -> None:
    play = Play().sent().on(ServerSent(SASL), ToClient(SASL))
    assert play.conversation.handle(ClientSent(b"p\0\0\0\1"))[-1] == Close(
        "invalid message length 1 for message type 0x70", "protocol_violation", "08P01"
    )


def test_a_server_that_breaks_the_protocol_or_says_too_much_is_left() -> None:
    play = Play().sent()
    assert isinstance(play.conversation.handle(ServerSent(b"R\xff\xff\xff\xff"))[-1], Close)


def test_a_server_that_says_more_than_can_be_kept_back_is_heard_and_the_login_bound_to_it() -> None:
    """As with a login trigger that raises a thousand notices."""
    play = Play().sent().on(ServerSent(OK))
    notice = m.message(m.Backend.NOTICE_RESPONSE, bytes(30_000))
    play.on(ServerSent(notice)).on(ServerSent(notice)).on(ServerSent(notice), ToClient(OK + notice * 3))
    assert len(notice) * 3 > LOGIN_BYTES_MAX
    assert play.conversation.is_bound
    play.on(ServerSent(ABOUT + READY), ToClient(ABOUT + READY), Relay(KEY, b""))


@given(st.data())
def test_any_chunking_gives_the_same_words(data: st.DataObject) -> None:
    """Whatever the network does to the chunks, both sides are told the same bytes in the same order."""
    script: list[tuple[Any, bytes]] = [
        (ClientSent, startup.SSL_REQUEST),
        (ClientSent, HELLO),
        (ServerSent, SASL),
        (ClientSent, PASSWORD),
        (ServerSent, CHALLENGE + FINAL + OK + ABOUT + READY),
    ]
    conversation = Conversation()
    to_client, to_server, others = b"", b"", list[Command]()

    def take(commands: list[Command]) -> None:
        nonlocal to_client, to_server
        for command in commands:
            match command:
                case ToClient(words):
                    to_client += words
                case ToServer(words):
                    to_server += words
                case Identify():
                    take(conversation.handle(LeftToServer()))
                case Connect():
                    others.append(command)
                    take(conversation.handle(Connected(WRITER)))
                case _:
                    others.append(command)

    for kind, words in script:
        while words:
            size = data.draw(st.integers(1, len(words)))
            take(conversation.handle(kind(words[:size])))
            words = words[size:]
    assert to_client == b"N" + SASL + CHALLENGE + FINAL + OK + ABOUT + READY
    assert to_server == HELLO + PASSWORD
    assert others == [Connect(), Relay(KEY, b"")]
