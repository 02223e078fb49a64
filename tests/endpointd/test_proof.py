"""A client's proof to the proxy, and the proxy's login at a server by it: as plays, with a real client's side of SCRAM."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpointd import refusal
from endpointd.routing.table import Backend
from endpointd.session.beginning import QUESTION
from endpointd.session.commands import (
    ClientSent,
    Close,
    Command,
    Connect,
    Connected,
    Event,
    Identify,
    LeftToServer,
    PlaceTaken,
    ProofFailed,
    ProofWanted,
    Refused,
    Relay,
    ServerGone,
    ServerSent,
    ToClient,
    ToServer,
)
from endpointd.session.conversation import ROOM_TRIES_MAX, Conversation
from endpointd.session.quota import Place
from endpointd.session.state import State
from pgtopology.node import Address, NodeName
from pgwire import messages as m
from pgwire import startup
from pgwire.framing import read_message
from pgwire.scram import MECHANISM, MECHANISM_PLUS, ScramClient, ScramServer, Verifier, keys_of_password, make_verifier

PASSWORD = "secret"
VERIFIER = make_verifier(PASSWORD, b"a salt of sixteen", 2)
OTHER = make_verifier(PASSWORD, b"another salt of it", 2)
WRITER = Backend(NodeName("n1"), Address("h", 1), True)
READER = Backend(NodeName("n2"), Address("h", 2), False)
OK = m.encode_authentication(m.Authentication(m.AuthenticationKind.OK))
KEY = m.BackendKey(77, b"four")
READY = m.parameter_status("in_hot_standby", "off") + m.backend_key_data(KEY) + m.ready_for_query("I")
FAILED = refusal.password_failed("u")


def answered(*fields: bytes | None) -> bytes:
    """Return what a server answers to the question behind a login."""
    columns = b"".join((-1).to_bytes(4, signed=True) if each is None else len(each).to_bytes(4) + each for each in fields)
    row = m.message(m.Backend.DATA_ROW, len(fields).to_bytes(2) + columns)
    return row + m.message(m.Backend.COMMAND_COMPLETE, b"SELECT 1\0") + m.ready_for_query("I")


ANSWER = answered(b"t", b"t", b"75", b"64", b"{work_mem=7MB}")
BEGUN = b"{work_mem=7MB}"
END_POINT = bytes(range(32))


def hello(version: int = startup.PROTOCOL_3_0, **parameters: str) -> bytes:
    return startup.encode_startup(startup.make_startup("u", "d", version=version, **parameters))


def scram(kind: int, data: bytes) -> bytes:
    return m.encode_authentication(m.Authentication(kind, data))


class Login:
    """A conversation, and both its sides."""

    def __init__(
        self,
        *,
        password: str = PASSWORD,
        is_doomed: bool = False,
        binding: bytes | None = None,
        client_binding: bytes | None = None,
        admit: Callable[[startup.StartupMessage], refusal.Refusal | Place] = lambda _: Place.TAKEN,
        first: bytes | None = None,
        keeps_servers: bool = True,
    ) -> None:
        self.conversation = Conversation(admit, keeps_servers=keeps_servers)
        self.is_doomed = is_doomed
        self.binding = binding
        self.client = ScramClient(keys_of_password(password), "client-nonce", binding=client_binding)
        self.mechanism = MECHANISM if client_binding is None else MECHANISM_PLUS
        self.hello = first if first is not None else hello()
        self.server: ScramServer | None = None

    def on(self, event: Event) -> list[Command]:
        return self.conversation.handle(event)

    def offered(self) -> bytes:
        """Come to the point where the client is asked; return what it was told."""
        assert self.on(ClientSent(self.hello)) == [Identify()]
        wanted = ProofWanted(VERIFIER, "proxy-nonce", is_doomed=self.is_doomed, binding=self.binding)
        (told,) = self.on(wanted)
        assert isinstance(told, ToClient)
        return told.data

    def proven(self) -> list[Command]:
        """Let the client prove itself; return what that leads to."""
        self.offered()
        first = m.sasl_initial_response(self.mechanism, self.client.first)
        (told,) = self.on(ClientSent(first))
        assert isinstance(told, ToClient)
        return self.on(ClientSent(m.sasl_response(self.client.respond(told.data[9:]))))

    def logged_in(
        self, backend: Backend = WRITER, *, verifier: Verifier = VERIFIER, rest: bytes = READY, answer: bytes = ANSWER
    ) -> list[Command]:
        """Let a server with *verifier* be logged in to; return what follows from its last words.

        *answer*: to what it is asked behind the login, if that is over.
        """
        assert self.on(Connected(backend, "proxy-client-nonce")) == [ToServer(self.hello)]
        server = ScramServer(verifier, "server-nonce")
        commands = self.on(ServerSent(m.sasl_offer(MECHANISM)))
        while len(commands) == 1 and isinstance(commands[0], ToServer):
            found = read_message(commands[0].data, 0, bytes_max=1 << 16)
            assert found is not None
            assert found.kind == m.Frontend.AUTHENTICATION_RESPONSE
            if self.server is not server:
                self.server = server
                _, said = m.decode_sasl_initial_response(found.payload)
                commands = self.on(ServerSent(scram(m.AuthenticationKind.SASL_CONTINUE, server.challenge(said))))
            else:
                final, _ = server.verify(found.payload)
                commands = self.on(ServerSent(scram(m.AuthenticationKind.SASL_FINAL, final) + OK + rest))
                if commands and commands[0] == ToServer(QUESTION):
                    return commands[1:] + (self.on(ServerSent(answer)) if answer else [])
        return commands


def test_no_server_is_asked_for_before_the_proof_and_the_client_hears_all_at_once() -> None:
    login = Login()
    assert login.proven() == [Connect()]
    told, relay = login.logged_in()
    assert isinstance(told, ToClient)
    final = read_message(told.data, 0, bytes_max=1 << 16)
    assert final is not None
    login.client.finish(final.payload[4:])
    assert told.data[final.end :] == OK + READY
    assert relay == Relay(KEY, b"", names=("in_hot_standby",), settings=BEGUN)


def kept(root: object) -> Iterator[bytes]:
    """Yield all bytes that *root* holds on to."""
    seen: set[int] = set()
    found = [root]
    while found:
        one = found.pop()
        if id(one) in seen or isinstance(one, type | ModuleType):
            continue
        seen.add(id(one))
        if isinstance(one, bytes | bytearray):
            yield bytes(one)
        else:
            found += gc.get_referents(one) if not isinstance(one, FunctionType) else one.__closure__ or ()


@pytest.mark.parametrize("is_refused", [False, True])
def test_nothing_secret_is_kept_beyond_the_login(is_refused: bool) -> None:
    """A session remembers its conversation for as long as it lives."""
    login = Login()
    assert login.proven() == [Connect()]
    secret = keys_of_password(PASSWORD)(VERIFIER.salt, VERIFIER.iterations).client_key
    assert secret in kept(login.conversation)
    end = login.on(Refused(FAILED)) if is_refused else login.logged_in()
    assert isinstance(end[-1], Close if is_refused else Relay)
    assert secret not in kept(login.conversation)


@pytest.mark.parametrize("size", [500, 60_000])
def test_nothing_that_a_refused_client_said_is_kept(size: int) -> None:
    login = Login()
    login.offered()
    assert isinstance(login.on(ClientSent(m.query("x" * 400) + bytes(size)))[-1], Close)
    assert max(map(len, kept(login.conversation))) < 100


def test_what_the_client_says_on_its_own_is_kept_for_the_relay() -> None:
    login = Login()
    login.offered()
    (told,) = login.on(ClientSent(m.sasl_initial_response(MECHANISM, login.client.first)))
    assert isinstance(told, ToClient)
    eager = m.query("select 1")
    assert login.on(ClientSent(m.sasl_response(login.client.respond(told.data[9:])) + eager)) == [Connect()]
    assert login.logged_in()[-1] == Relay(KEY, b"", eager, names=("in_hot_standby",), settings=BEGUN)


@pytest.mark.parametrize("login", [Login(password="wrong"), Login(is_doomed=True), Login(password="wrong", is_doomed=True)])
def test_a_proof_that_fails_leads_to_no_server_and_says_nothing_of_the_reason(login: Login) -> None:
    assert login.proven() == [ProofFailed(FAILED)]
    assert login.on(Refused(FAILED)) == [ToClient(FAILED.encode()), Close(FAILED.message, FAILED.kind, FAILED.sqlstate)]
    assert 'password authentication failed for user "u"' in FAILED.message


def test_a_second_startup_packet_in_a_login_is_a_violation() -> None:
    login = Login()
    login.offered()
    (told, closed) = login.on(ClientSent(startup.encode_startup(startup.make_startup("u", "other"))))
    assert isinstance(closed, Close)
    assert closed.sqlstate == "08P01"
    assert isinstance(told, ToClient)
    assert login.conversation.startup is not None
    assert login.conversation.startup.database == "d"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (m.query("select 1"), "expected SASL response"),
        (m.TERMINATE, "expected SASL response"),
        (m.sasl_initial_response("SCRAM-SHA-1", b"n,,n=,r=x"), "invalid SASL authentication mechanism"),
        (m.sasl_initial_response(MECHANISM_PLUS, b"p=tls-server-end-point,,n=,r=x"), "invalid SASL"),
        (m.sasl_initial_response(MECHANISM, b"n,,garbage"), "malformed SCRAM message"),
        (m.message(m.Frontend.AUTHENTICATION_RESPONSE, bytes(2000)), "invalid message length"),
    ],
)
def test_what_is_no_proof_is_refused_in_words(said: bytes, text: str) -> None:
    login = Login()
    login.offered()
    closed = login.on(ClientSent(said))[-1]
    assert isinstance(closed, Close)
    assert text in closed.reason
    assert closed.sqlstate == "08P01"


def test_binding_is_offered_where_there_is_something_to_bind_to() -> None:
    assert Login().offered() == m.sasl_offer(MECHANISM)
    assert Login(binding=END_POINT).offered() == m.sasl_offer(MECHANISM_PLUS, MECHANISM)
    assert Login(binding=END_POINT, client_binding=END_POINT).proven() == [Connect()]
    assert Login(binding=END_POINT).proven() == [Connect()]
    closed = Login(binding=END_POINT, client_binding=bytes(32)).proven()[-1]
    assert isinstance(closed, Close)
    assert closed.reason == "SCRAM channel binding check failed"


@pytest.mark.parametrize(
    ("version", "options", "offer"),
    [
        (startup.PROTOCOL_3_0, {}, b""),
        (startup.PROTOCOL_3_2, {}, b""),
        ((3 << 16) | 9999, {"_pq_.grease": "x"}, m.negotiate_protocol_version(2, ("_pq_.grease",))),
        (startup.PROTOCOL_3_0, {"_pq_.one": "x"}, m.negotiate_protocol_version(0, ("_pq_.one",))),
    ],
)
def test_the_version_is_negotiated_once_before_the_proof(version: int, options: dict[str, str], offer: bytes) -> None:
    login = Login(first=hello(version, **options))
    wanted = login.offered()
    assert wanted == offer + m.sasl_offer(MECHANISM)
    login = Login(first=hello(version, **options))
    login.proven()
    assert login.on(Connected(WRITER, "n")) == [ToServer(login.hello)]
    assert login.on(ServerSent(m.negotiate_protocol_version(0, tuple(options)))) == []


REPORTED = m.parameter_status("in_hot_standby", "off") + m.parameter_status("TimeZone", "UTC")


@pytest.mark.parametrize("version", [startup.PROTOCOL_3_0, startup.PROTOCOL_3_2])
def test_a_session_that_another_client_has_had_is_greeted_like_a_login_and_has_a_key_of_its_own(version: int) -> None:
    def told(key: m.BackendKey) -> m.BackendKey:
        return m.BackendKey(key.pid, b"a long one")

    login = Login(first=hello(version))
    login.conversation = Conversation(key_told=told, short_secret=lambda: b"ours")
    assert login.proven() == [Connect()]
    said, relay = login.on(Connected(WRITER, reported=REPORTED, cancel_key=KEY))
    assert isinstance(said, ToClient)
    final = read_message(said.data, 0, bytes_max=1 << 16)
    assert final is not None
    login.client.finish(final.payload[4:])
    key = m.BackendKey(KEY.pid, b"ours" if version == startup.PROTOCOL_3_0 else b"a long one")
    assert said.data[final.end :] == OK + REPORTED + m.backend_key_data(key) + m.ready_for_query("I")
    assert relay == Relay(KEY, b"", key_told=key)


def test_a_session_that_another_client_has_had_waits_for_a_place_and_is_checked_like_any_other() -> None:
    login = Login(admit=lambda _: Place.ASKED)
    login.proven()
    assert login.on(Connected(WRITER, reported=REPORTED, cancel_key=KEY)) == []
    assert isinstance(login.on(PlaceTaken())[-1], Relay)
    login = Login(admit=lambda _: refusal.too_many_for_user("u"))
    login.proven()
    assert isinstance(login.on(Connected(WRITER, reported=REPORTED, cancel_key=KEY))[-1], Close)
    login = Login()
    login.proven()
    assert login.on(Connected(READER, reported=REPORTED, cancel_key=KEY)) == [Connect(READER)], "it is no replica any more"
    assert login.logged_in()[-1] == Relay(KEY, b"", names=("in_hot_standby",), settings=BEGUN)


def test_only_who_proves_itself_to_us_may_have_another_clients_session() -> None:
    login = Login()
    assert login.conversation.wish is None
    login.proven()
    wish = login.conversation.wish
    assert wish is not None
    assert (wish.user, wish.database, wish.packet) == ("u", "d", login.hello)
    relayed = Conversation()
    relayed.handle(ClientSent(hello()))
    relayed.handle(LeftToServer())
    assert relayed.wish is None
    for unlike in (hello(replication="database"), hello(options="-c role=x")):
        login = Login(first=unlike)
        login.proven()
        assert login.conversation.wish is None


@pytest.mark.parametrize(("rooms", "tries"), [([], 0), ([True], ROOM_TRIES_MAX), ([True, False, True], ROOM_TRIES_MAX)])
def test_a_full_server_is_tried_again_while_connections_end_there_that_nobody_had(rooms: list[bool], tries: int) -> None:
    full = m.error_response("FATAL", "53300", "sorry, too many clients already")
    login = Login()
    login.conversation = Conversation(makes_room=lambda _backend: bool(rooms and rooms.pop(0)))
    login.proven()
    for _ in range(tries):
        login.on(Connected(WRITER, "proxy-client-nonce"))
        assert login.on(ServerSent(full)) == [Connect(is_room_made=True)]
    login.on(Connected(WRITER, "proxy-client-nonce"))
    told, close = login.on(ServerSent(full))
    assert isinstance(told, ToClient)
    assert told.data == full
    assert isinstance(close, Close)
    assert close.server_is_full


@pytest.mark.parametrize("routine", ["InitializeSessionUserId", "CheckMyDatabase"])
def test_a_limit_of_its_own_costs_others_no_connections_and_is_told_at_once(routine: str) -> None:
    fields = (*m.make_report("FATAL", "53300", "too many connections").fields, ("R", routine))
    full = m.encode_report(m.Backend.ERROR_RESPONSE, m.Report(fields))
    login = Login()
    asked: list[Backend] = []
    login.conversation = Conversation(makes_room=lambda backend: bool(asked.append(backend)) or True)
    login.proven()
    login.on(Connected(WRITER, "proxy-client-nonce"))
    told, close = login.on(ServerSent(full))
    assert isinstance(told, ToClient)
    assert told.data == full
    assert isinstance(close, Close)
    assert not close.server_is_full
    assert asked == []


def test_another_server_takes_the_place_of_one_that_is_lost_at_any_moment_of_its_login() -> None:
    login = Login()
    login.proven()
    for said in (b"", m.sasl_offer(MECHANISM)):
        login.on(Connected(WRITER, "n"))
        login.on(ServerSent(said))
        assert login.on(ServerGone()) == [Connect(WRITER)]
    assert not login.conversation.is_bound
    assert login.logged_in(rest=b"") == []
    assert login.on(ServerGone()) == [Connect(WRITER)]
    assert isinstance(login.logged_in()[-1], Relay)


def test_a_server_taken_for_the_writer_that_says_it_is_a_standby_is_left_unheard() -> None:
    login = Login()
    login.proven()
    assert login.logged_in(rest=m.parameter_status("in_hot_standby", "on")) == [Connect(WRITER)]


def test_a_replica_that_does_not_know_the_new_password_yet_is_tried_again() -> None:
    login = Login()
    login.proven()
    assert login.logged_in(READER, verifier=OTHER) == [Connect(behind=READER)]


def test_a_password_that_the_writer_does_not_know_any_more_is_a_wrong_one() -> None:
    login = Login()
    login.proven()
    assert login.logged_in(WRITER, verifier=OTHER) == [ProofFailed(FAILED)]


@pytest.mark.parametrize("state", ["28000", "3D000", "53300", "28P01"])
def test_what_a_server_refuses_is_passed_on_word_by_word(state: str) -> None:
    login = Login()
    login.proven()
    login.on(Connected(WRITER, "n"))
    words = m.error_response("FATAL", state, "no")
    told, closed = login.on(ServerSent(words))
    assert told == ToClient(words)
    assert isinstance(closed, Close)
    assert (closed.kind, closed.sqlstate) == ("server_refused", state)


def test_a_refusal_behind_the_servers_consent_comes_behind_ours() -> None:
    login = Login()
    login.proven()
    words = m.error_response("FATAL", "3D000", 'database "d" does not exist')
    told, _ = login.logged_in(rest=words)
    assert isinstance(told, ToClient)
    final = read_message(told.data, 0, bytes_max=1 << 16)
    assert final is not None
    assert told.data[final.end :] == OK + words


def test_a_server_that_lets_the_proxy_in_without_a_proof_serves() -> None:
    login = Login()
    login.proven()
    login.on(Connected(WRITER, "n"))
    assert login.on(ServerSent(OK + READY)) == [ToServer(QUESTION)]
    assert isinstance(login.on(ServerSent(ANSWER))[-1], Relay)


# What the server's session begins with


@pytest.mark.parametrize(
    ("answer", "names", "settings"),
    [
        (ANSWER, ("in_hot_standby",), BEGUN),
        (answered(b"t", b"t", b"75", b"64", b"{}"), ("in_hot_standby",), b"{}"),
        (answered(b"f", b"t", b"75", b"64", b"{}"), None, None),
        (answered(b"t", b"t", b"75", b"64", b"{role=other}"), None, None),
        (m.error_response("ERROR", "42501", "permission denied") + m.ready_for_query("I"), None, None),
        (m.ready_for_query("I"), None, None),
    ],
)
def test_who_may_have_the_session_next_is_asked_behind_the_login(
    answer: bytes, names: tuple[str, ...] | None, settings: bytes | None
) -> None:
    whole, piecemeal = Login(), Login()
    for login in (whole, piecemeal):
        login.proven()
    told, relay = whole.logged_in(answer=answer)
    assert relay == Relay(KEY, b"", names=names, settings=settings)
    assert isinstance(told, ToClient)
    assert told.data.endswith(OK + READY), "the client hears nothing of it"
    assert piecemeal.logged_in(answer=b"") == []
    commands = [command for byte in answer for command in piecemeal.on(ServerSent(bytes([byte])))]
    assert commands == [told, relay]


def test_what_a_server_says_of_itself_meanwhile_is_the_clients() -> None:
    login = Login()
    login.proven()
    word = m.parameter_status("TimeZone", "UTC")
    told, relay = login.logged_in(answer=word + ANSWER)
    assert isinstance(told, ToClient)
    assert told.data.endswith(OK + READY + word)
    assert relay == Relay(KEY, b"", names=("in_hot_standby",), settings=BEGUN)


def test_a_server_that_ends_before_it_has_answered_is_left_for_another_one() -> None:
    login = Login()
    login.proven()
    assert login.logged_in(answer=m.error_response("FATAL", "57P01", "terminating connection")) == []
    assert login.on(ServerGone()) == [Connect(WRITER)]
    assert login.logged_in()[-1] == Relay(KEY, b"", names=("in_hot_standby",), settings=BEGUN)


def test_nobody_is_asked_where_no_session_is_kept() -> None:
    login = Login(keeps_servers=False)
    login.proven()
    assert login.logged_in()[-1] == Relay(KEY, b"")


@pytest.mark.parametrize(
    ("asked", "method"), [(m.AuthenticationKind.CLEARTEXT_PASSWORD, "password"), (m.AuthenticationKind.GSS, "gss")]
)
def test_a_server_that_asks_for_what_only_the_client_knows_is_told_of(asked: int, method: str) -> None:
    login = Login()
    login.proven()
    login.on(Connected(WRITER, "n"))
    why = refusal.other_method("n1", method)
    assert login.on(ServerSent(scram(asked, b""))) == [ToClient(why.encode()), Close(why.message, why.kind, why.sqlstate)]
    assert '"relay"' in (why.hint or "")


def test_a_server_that_only_pretends_to_know_the_role_is_not_served() -> None:
    login = Login()
    login.proven()
    login.on(Connected(WRITER, "n"))
    (first,) = login.on(ServerSent(m.sasl_offer(MECHANISM)))
    assert isinstance(first, ToServer)
    server = ScramServer(VERIFIER, "server-nonce")
    found = read_message(first.data, 0, bytes_max=1 << 16)
    assert found is not None
    said = m.decode_sasl_initial_response(found.payload)[1]
    login.on(ServerSent(scram(m.AuthenticationKind.SASL_CONTINUE, server.challenge(said))))
    why = refusal.server_unproven("n1")
    for words in (scram(m.AuthenticationKind.SASL_FINAL, b"v=AAAA"), OK):
        fresh = Login()
        fresh.proven()
        fresh.on(Connected(WRITER, "n"))
        fresh.on(ServerSent(m.sasl_offer(MECHANISM)))
        assert fresh.on(ServerSent(words))[-1] == Close(why.message, why.kind, why.sqlstate)


@given(st.binary(max_size=120), st.lists(st.integers(1, 9), max_size=30))
def test_no_bytes_of_a_client_that_has_not_proven_itself_reach_a_server(data: bytes, cuts: list[int]) -> None:
    login = Login()
    login.offered()
    pos = 0
    for cut in [*cuts, len(data)]:
        if login.conversation.wants_client and pos < len(data):
            for command in login.on(ClientSent(data[pos : pos + cut])):
                assert isinstance(command, ToClient | Close | ProofFailed)
            pos += cut
    assert login.conversation.state in (State.PROVING, State.DENIED, State.CLOSED)
