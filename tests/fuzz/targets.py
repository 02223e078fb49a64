"""What is fuzzed, and what must hold whatever comes. Each target takes bytes and raises AssertionError, or what it should not.

Inputs of both sides of a conversation begin with a byte that says how they are cut to pieces; the network may cut anywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from endpointd.auth.exchange import Exchange, Proven
from endpointd.relay.relaxed import Relaxed
from endpointd.relay.safepoint import SafePoint
from endpointd.routing.table import Backend
from endpointd.rules import RuleError, Visit, decide, read_rules
from endpointd.servers.serverlogin import LOGIN_BYTES_MAX
from endpointd.session.commands import (
    Cancel,
    ClientSent,
    Close,
    Command,
    Connect,
    Connected,
    Identify,
    LeftToServer,
    ProofFailed,
    ProofWanted,
    Refused,
    Relay,
    ServerSent,
    ToClient,
    ToServer,
    UpgradeTls,
)
from endpointd.session.conversation import ANSWER_BYTES_MAX, Conversation
from endpointd.wire.tls import Channel, Failure, Role, client_context
from pgtopology.node import Address, NodeName
from pgwire import messages as m
from pgwire import startup
from pgwire.errors import AuthenticationError, ProtocolError, WireError
from pgwire.framing import read_message
from pgwire.proxyheader import HEADER_BYTES_MAX, read_header
from pgwire.scram import MECHANISM, MECHANISM_PLUS, ScramClient, ScramServer, keys_of_password, make_verifier, parse_verifier
from tests.endpointd.twins import Twins, native

PASSWORD = "secret"
VERIFIER = make_verifier(PASSWORD, b"sixteen bytes of", 1)
WRITER = Backend(NodeName("n1"), Address("h", 1), True)
OK = m.encode_authentication(m.Authentication(m.AuthenticationKind.OK))
KEY = m.backend_key_data(m.BackendKey(77, b"four"))
HELLO = startup.encode_startup(startup.make_startup("u", "d", application_name="a"))
PIECE_BYTES = (1 << 16, 1, 3, 7, 64)


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that reads the wire."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = ()


def _pieces(data: bytes) -> Iterator[bytes]:
    size = PIECE_BYTES[data[0] % len(PIECE_BYTES)] if data else 1
    for at in range(1, len(data), size):
        yield data[at : at + size]


class _Stage:
    """A conversation, and a shell that answers as a cluster would; it counts what reaches a server."""

    def __init__(self, *, is_relayed: bool) -> None:
        self.conversation = Conversation()
        self.is_relayed = is_relayed
        self.is_proven = is_relayed
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.is_over = False

    def take(self, commands: Sequence[Command]) -> None:
        """Do what is commanded, as the shell does."""
        for command in commands:
            match command:
                case ToClient(data):
                    self.to_client += data
                case ToServer(data):
                    assert self.is_proven, "a byte reached a server before the proof"
                    self.to_server += data
                case Identify():
                    answer = LeftToServer() if self.is_relayed else ProofWanted(VERIFIER, "proxy-nonce")
                    self.take(self.conversation.handle(answer))
                case ProofFailed(why):
                    self.take(self.conversation.handle(Refused(why)))
                case Connect(failed):
                    # Nobody is asked for a server who has not proven itself; and no more than one server in a row fails here.
                    assert self.is_relayed or self.is_proven
                    if failed is None:
                        self.take(self.conversation.handle(Connected(WRITER, "proxy-s-nonce")))
                    else:
                        self.is_over = True
                case Cancel() | Close() | Relay() | UpgradeTls():
                    self.is_over = True

    def client(self, data: bytes) -> None:
        """Let the client say *data*, as far as it is its turn."""
        if self.conversation.wants_client and not self.is_over:
            self.take(self.conversation.handle(ClientSent(data)))
        kept = _kept(self.conversation)
        assert kept <= 2 * LOGIN_BYTES_MAX + 2 * ANSWER_BYTES_MAX, f"{kept} bytes are kept"


def _kept(conversation: Conversation) -> int:
    """Return how many bytes a conversation holds."""
    return sum(len(value) for value in vars(conversation).values() if isinstance(value, bytearray))


def _whole_messages(data: bytes | bytearray) -> None:
    """What a client is told is messages, whole ones; answers to requests for encryption stand before them."""
    data = bytes(data).lstrip(b"NS") if data[:1] in (b"N", b"S") and len(data) < 5 else bytes(data)
    at = 0
    while data[at : at + 1] == startup.REFUSED and (len(data) == at + 1 or data[at + 1 : at + 3] != b"\0\0"):
        at += 1
    while at < len(data):
        found = read_message(data, at, bytes_max=1 << 20)
        assert found is not None, "a client was told half a message"
        at = found.end


def first_packets(data: bytes) -> None:
    """A client that has proven nothing, to a proxy that checks proofs."""
    stage = _Stage(is_relayed=False)
    for piece in _pieces(data):
        stage.client(piece)
    _whole_messages(stage.to_client)


def relayed_client(data: bytes) -> None:
    """A client whose proof is the server's business, and a server that asks for one."""
    stage = _Stage(is_relayed=True)
    stage.client(HELLO)
    stage.take(stage.conversation.handle(ServerSent(m.sasl_offer(MECHANISM))))
    for piece in _pieces(data):
        stage.client(piece)
    assert bytes(stage.to_server[: len(HELLO)]) == HELLO


@cache
def _proof() -> tuple[bytes, bytes]:
    client = ScramClient(keys_of_password(PASSWORD), "client-nonce")
    server = ScramServer(VERIFIER, "proxy-nonce")
    first = m.sasl_initial_response(MECHANISM, client.first)
    return first, m.sasl_response(client.respond(server.challenge(client.first)))


def server_in_login(data: bytes) -> None:
    """A server that is logged in to in a proven client's name."""
    stage = _Stage(is_relayed=False)
    stage.client(HELLO)
    first, final = _proof()
    stage.client(first)
    stage.is_proven = True
    stage.client(final)
    assert stage.to_server == HELLO
    stage.to_client.clear()
    for piece in _pieces(data):
        if stage.is_over:
            break
        stage.take(stage.conversation.handle(ServerSent(piece)))
        assert _kept(stage.conversation) <= 4 * LOGIN_BYTES_MAX
    _whole_messages(stage.to_client)


def proof(data: bytes) -> None:
    """A client's answers to our SCRAM; whoever convinces knows the password."""
    at, answers = 0, list[bytes]()
    with contextlib.suppress(ProtocolError):
        while (found := read_message(data, at, bytes_max=1 << 16)) is not None:
            answers.append(found.payload)
            at = found.end
    for binding in (None, bytes(32)):
        exchange = Exchange(VERIFIER, "proxy-nonce", binding=binding)
        try:
            for answer in answers:
                result = exchange.answer(m.Frontend.AUTHENTICATION_RESPONSE, answer)
                if isinstance(result, Proven):
                    assert result.client_key == keys_of_password(PASSWORD)(VERIFIER.salt, VERIFIER.iterations).client_key
                    break
        except (ProtocolError, AuthenticationError):
            continue


def scram_client(data: bytes) -> None:
    """What a server says to our own SCRAM."""
    challenge, _, outcome = data.partition(b"|")
    client = ScramClient(lambda _salt, _count: keys_of_password(PASSWORD)(b"s", 1), "client-nonce")
    with contextlib.suppress(AuthenticationError):
        client.respond(challenge)
        client.finish(outcome)


def relay(data: bytes) -> None:
    """Both directions of a relay: nothing but ProtocolError, and the same result however the bytes are cut."""
    middle = 1 + (len(data) // 2 if not data or data[0] & 0x80 == 0 else 0)
    seen: list[object] = []
    for size in (1 << 16, 5):
        point = SafePoint(Relaxed.NONE)
        error = ""
        try:
            for at in range(1, middle, size):
                point.client_sent(data[at : min(at + size, middle)])
            unconfirmed = None
            for at in range(middle, len(data), size):
                unconfirmed = point.server_sent(data[at : at + size])
                if unconfirmed is not None:
                    break
            seen.append((point.doing, point.is_streaming, point.client_terminated, unconfirmed is None))
        except ProtocolError as caught:
            error = str(caught)
            seen.append(error)
    assert isinstance(seen[0], str) == isinstance(seen[1], str), seen
    if not isinstance(seen[0], str):
        assert seen[0] == seen[1], seen


def twins(data: bytes) -> None:
    """Both directions in turns, parted by bars, with cancel requests: both safe points believe the same at every moment."""
    if native is None or len(data) < 2:
        return
    pair = Twins(None if data[1] & 4 else Relaxed(data[1] & 3))
    cancels = 0
    for number, part in enumerate(data[2:].split(b"||")):
        if part == b"!" or (part == b"." and cancels):
            cancels += 1 if part == b"!" else -1
            pair.cancel(begins=part == b"!")
            continue
        feed = pair.server_sent if number % 2 else pair.client_sent
        for piece in _pieces(data[:1] + part):
            feed(piece)
            if pair.is_over:
                return


def decoders(data: bytes) -> None:
    """Everything that takes a payload apart."""
    for decode in (
        startup.decode_first_packet, m.decode_report, m.decode_authentication, m.decode_parameter_status, m.decode_backend_key,
        m.decode_negotiation, m.decode_sasl_initial_response,
    ):  # fmt: skip
        with contextlib.suppress(WireError):
            decode(data)
    with contextlib.suppress(ValueError):
        parse_verifier(data.decode("latin-1"))


def rules(data: bytes) -> None:
    """Rules of an endpoint."""
    with contextlib.suppress(RuleError):
        found = read_rules(data.decode("utf-8", "replace").split("\n"))
        decide(found, Visit("10.0.0.1", True, "d", "u"))


@cache
def _client_hello() -> bytes:
    return Channel(client_context(), Role.CLIENT, server_name="h").begin()


def tls_client(data: bytes) -> None:
    """What a server says to our TLS as a client: it fails, and says why, or waits for more."""
    channel = Channel(client_context(), Role.CLIENT, server_name="h")
    channel.begin()
    for piece in _pieces(data):
        channel.received(piece)
        if channel.failure is not None:
            assert isinstance(channel.failure, Failure)
            break


_FIRST, _FINAL = _proof()
_SASL = m.sasl_offer(MECHANISM)
_ANY = b"\0"
_GREASE = startup.encode_startup(startup.make_startup("u", "d", version=(3 << 16) | 9999, options="-c=", **{"_pq_.x": "1"}))


def proxy_header(data: bytes) -> None:
    """What a balancer says first: waited for no longer than it may be, and the same however it is cut."""
    try:
        found = read_header(data)
    except ProtocolError:
        return
    assert len(data) < HEADER_BYTES_MAX if found is None else found.size <= len(data)
    for cut in range(found.size if found is not None else len(data)):
        assert read_header(data[:cut]) is None


_TARGETS = (
    Target(
        "first packets and proof",
        first_packets,
        (
            _ANY + HELLO + _FIRST + _FINAL[:40],
            _ANY + startup.SSL_REQUEST + startup.GSSENC_REQUEST + HELLO,
            _ANY + startup.GSSENC_REQUEST + HELLO,
            _ANY + startup.encode_cancel(m.BackendKey(1, b"four")),
            _ANY + _GREASE + _FIRST,
            _ANY + HELLO + HELLO,
            _ANY + b"GET / HTTP/1.1\r\n\r\n",
            _ANY + b"\x16\x03\x01\x02\x00",
            _ANY + b"\xff\xff\xff\xff\0\3\0\0",
            _ANY + b"\x80\0\0\x10\0\3\0\0user\0",
        ),
        (b"user\0", b"options\0", b"-c=", b"replication\0", b"_pq_.x\0", b"\0\3\0\0", b"\0\3\0\2", b"p\0\0\0", b"database\0"),
    ),
    Target(
        "relayed login, client",
        relayed_client,
        (_ANY + _FIRST, _ANY + m.TERMINATE, _ANY + m.query("select 1"), _ANY + _FIRST + m.query("x")),
        (b"p\0\0\0", b"Q\0\0\0", b"X\0\0\0\4"),
    ),
    Target(
        "login at a server",
        server_in_login,
        (
            _ANY + _SASL + m.encode_authentication(m.Authentication(m.AuthenticationKind.SASL_CONTINUE, b"r=x,s=QQ==,i=1")),
            _ANY + OK + m.parameter_status("in_hot_standby", "off") + KEY + m.ready_for_query("I"),
            _ANY + OK + m.parameter_status("in_hot_standby", "on"),
            _ANY + m.error_response("FATAL", "57P03", "starting"),
            _ANY + m.error_response("FATAL", "53300", "full"),
            _ANY + m.negotiate_protocol_version(0, ("_pq_.x",)) + _SASL,
            _ANY + OK + m.message(m.Backend.NOTICE_RESPONSE, bytes(900)) + m.ready_for_query("I"),
        ),
        (b"R\0\0\0", b"E\0\0\0", b"Z\0\0\0\5I", b"K\0\0\0\x0c", b"S\0\0\0", b"in_hot_standby\0on\0", b"SCRAM-SHA-256-PLUS\0"),
    ),
    Target(
        "SCRAM, client's answers",
        proof,
        (_FIRST + _FINAL, m.sasl_initial_response(MECHANISM_PLUS, b"p=tls-server-end-point,,n=,r=abc"), _FIRST + _FIRST),
        (b"n,,", b"y,,", b"p=tls-server-end-point,,", b"c=biws", b",r=", b",p=", b"m=", b"SCRAM-SHA-256-PLUS\0"),
    ),
    Target(
        "SCRAM, server's answers",
        scram_client,
        (b"r=client-noncex,s=QQ==,i=1|v=QUJD", b"r=client-noncex,s=QQ==,i=4096|e=other-error"),
        (b"r=", b",s=", b",i=", b"v=", b"e=", b"999999999"),
    ),
    Target(
        "relay, both directions",
        relay,
        (
            _ANY + m.query("begin") + m.message(m.Backend.COMMAND_COMPLETE, b"BEGIN\0") + m.ready_for_query("T"),
            _ANY + m.query("set synchronous_commit=off") + m.message(m.Frontend.SYNC) + m.ready_for_query("I"),
            _ANY + m.message(m.Frontend.PARSE, b"\0commit\0\0\0") + m.SYNC + m.error_response("ERROR", "40001", "x"),
            _ANY + m.message(m.Backend.COPY_BOTH_RESPONSE, b"\0\0\0") + m.message(m.Frontend.COPY_DATA, b"w"),
            _ANY + m.query("x") + m.message(m.Backend.NOTICE_RESPONSE, b"SWARNING\0RSyncRepWaitForLSN\0\0"),
        ),
        (
            b"Q\0\0\0",
            b"Z\0\0\0\5I",
            b"Z\0\0\0\5T",
            b"commit",
            b"RSyncRepWaitForLSN\0",
            b"C\0\0\0",
            b"N\0\0\0",
            b"G\0\0\0",
            b"c\0\0\0\4",
        ),
    ),
    Target(
        "relay, native beside Python",
        twins,
        (
            b"\0\0" + m.query("begin") + b"||" + m.message(m.Backend.COMMAND_COMPLETE, b"BEGIN\0") + m.ready_for_query("T"),
            b"\1\0"
            + m.message(m.Frontend.PARSE, b"a\0commit\0\0\0")
            + m.message(m.Frontend.BIND, b"\0a\0")
            + m.SYNC
            + b"||"
            + m.ready_for_query("T")
            + b"||"
            + m.message(m.Frontend.EXECUTE, b"\0\0\0\0\0")
            + m.SYNC,
            b"\0\2"
            + m.query("set client_min_messages=error; commit")
            + b"||"
            + m.ready_for_query("I")
            + b"||!||"
            + m.message(m.Backend.COMMAND_COMPLETE, b"COMMIT\0")
            + b"||.||"
            + m.error_response("ERROR", "57014", "x"),
            b"\0\4"
            + m.query("copy")
            + m.SYNC
            + b"||"
            + m.message(m.Backend.COPY_IN_RESPONSE, b"\0\0\0")
            + b"||"
            + m.message(m.Frontend.COPY_DATA, b"w")
            + m.message(m.Frontend.COPY_DONE)
            + b"||"
            + m.error_response("FATAL", "57P01", "x"),
            b"\0\0"
            + m.query("x")
            + b"||"
            + m.message(m.Backend.COPY_BOTH_RESPONSE)
            + m.message(m.Backend.COMMAND_COMPLETE, b"")
            + m.message(m.Backend.NOTICE_RESPONSE, b"SWARNING\0RSyncRepWaitForLSN\0\0"),
        ),
        (
            b"||",
            b"||!||",
            b"||.||",
            b"Q\0\0\0",
            b"P\0\0\0",
            b"B\0\0\0",
            b"E\0\0\0",
            b"S\0\0\0\4",
            b"Z\0\0\0\5I",
            b"Z\0\0\0\5T",
            b"commit",
            b"rollback",
            b"synchronous_commit",
            b"client_min_messages",
            b"RSyncRepWaitForLSN\0",
            b"C57014\0",
            b"VFATAL\0",
            b"C\0\0\0",
            b"N\0\0\0",
            b"G\0\0\0\4",
            b"W\0\0\0\4",
            b"c\0\0\0\4",
            b"X\0\0\0\4",
        ),
    ),
    Target(
        "decoders",
        decoders,
        (
            HELLO,
            _GREASE,
            startup.encode_cancel(m.BackendKey(1, bytes(32))),
            b"SCRAM-SHA-256$1:QQ==$QQ==:QQ==",
            b"SFATAL\0C57P01\0\0",
        ),
        (b"\0", b"$", b":", b"SCRAM-SHA-256$", b"\0\3\0\0"),
    ),
    Target(
        "PROXY protocol",
        proxy_header,
        (
            b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 5432\r\n" + HELLO,
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11" + bytes(17) + HELLO,
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        ),
        (b"PROXY TCP6 ::1 ::1 1 1\r\n", b"\r\n\r\n\0\r\nQUIT\n", b"\x21\x21\0\x24", b"\x10\0", b"\xff\xff"),
    ),
    Target(
        "rules",
        rules,
        (b"host all all all scram-sha-256", b"hostssl db,/x u 10.0.0.0/8 relay\nhost all all ::1 ffff:: reject"),
        (b"host", b'"', b",", b" all", b"/", b"::", b"replication", b"\n", b"255.255.255.0"),
    ),
    Target(
        "TLS, a server's answers",
        tls_client,
        (_ANY + b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", _ANY + b"\x15\x03\x03\x00\x02\x02\x28", _ANY + _client_hello()),
        (b"\x16\x03\x03", b"\x15\x03\x03", b"\x17\x03\x03", b"\x14\x03\x03\x00\x01\x01"),
    ),
)

TARGETS = tuple(target for target in _TARGETS if native is not None or target.run is not twins)
