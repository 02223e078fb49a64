"""What a proxy says between a client's first byte and the first ReadyForQuery, as a state machine.

Events go in, commands come out, in order (commands); the shell does them.  Nothing here waits, dials or closes.

The client's first packet is read, encryption is agreed on or declined, and its startup packet is kept as it came.  Then the
endpoint's rules say how the client proves who it is:

* to us, by SCRAM.  Only when it has convinced is a server asked for; the proxy logs in there by what the proof gave away, and
  the client learns of no server before one has said that it is ready: until then another can take its place.
* to us, by a certificate or because the rule trusts it.  Then the proxy's own certificate vouches for it at a server.
* to a server, whose words are relayed unchanged.  Until the first of them has reached the client, another server can take its
  place; then the login is bound to it.

So a client never learns that the first server was starting up, stopping, gone, or no longer what the endpoint stands for.  A
client that does not wait for the login may have gone on already: what it said beyond its answers is kept for the relay.

From AuthenticationOk on the server's words are kept back until its ReadyForQuery, because one of them may tell that a
server taken for the writer is a standby, or one taken for a replica a primary.

    OPENING → IDENTIFYING → PROVING → CONNECTING → ANSWERING → LOGGING_IN → SETTLING → RELAYING      the proof is ours
                                         ↑____________|____________|___________|
    OPENING → IDENTIFYING ───────────→ CONNECTING → ANSWERING → AUTHENTICATING → SETTLING → RELAYING  the proof is the server's
                                         ↑____________|__________________________|  (while the client has heard nothing)
    OPENING ⇄ ENCRYPTING
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from endpointd import refusal
from endpointd.auth.exchange import Exchange, Proven
from endpointd.refusal import Refusal
from endpointd.routing.table import Backend
from endpointd.servers.serverlogin import LOGIN_BYTES_MAX, Limit, OtherMethod, ServerLogin, VouchedLogin, limit_of
from endpointd.servers.warmpool import Wish, fingerprint
from endpointd.session.beginning import QUESTION, Beginning
from endpointd.session.clientaddress import with_address
from endpointd.session.commands import (
    ClientGone,
    ClientSent,
    Close,
    Command,
    Connect,
    Connected,
    Encrypted,
    Event,
    LeftToServer,
    NotConnected,
    NotEncrypted,
    PlaceTaken,
    ProofFailed,
    ProofWanted,
    Refused,
    Relay,
    ServerGone,
    ServerSent,
    Stopped,
    ToClient,
    ToServer,
    Vouched,
    refuse,
)
from endpointd.session.opening import Opening
from endpointd.session.quota import Place
from endpointd.session.startupsettings import may_be_shared
from endpointd.session.state import WITHOUT_SERVER, State
from endpointd.session.welcome import IN_HOT_STANDBY, OK, Welcome, hot_standby_in, is_in_disguise
from endpointd.wire.tls import Facts
from pgwire.errors import AuthenticationError, NotAPacketError, OtherSecret, ProtocolError, ScramViolation, WireError
from pgwire.framing import read_message
from pgwire.messages import (
    Authentication,
    AuthenticationKind,
    BackendKey,
    Frontend,
    decode_authentication,
    decode_backend_key,
    decode_negotiation,
    decode_parameter_status,
    decode_report,
    message,
    negotiate_protocol_version,
    without_binding,
)
from pgwire.messages import Backend as Kind
from pgwire.sqlstate import SqlState
from pgwire.startup import StartupMessage, negotiate

ANSWER_BYTES_MAX = (1 << 16) + 4
"""Of a client's answer in a login: PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH and the header."""

SASL_BYTES_MAX = 1 << 10
"""Of a client's answer in SCRAM: PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH."""

_STARTING_OR_STOPPING = frozenset({SqlState.CANNOT_CONNECT_NOW, SqlState.ADMIN_SHUTDOWN, SqlState.CRASH_SHUTDOWN})

ROOM_TRIES_MAX = 10
"""So often a login is tried again at a server that had no connection left, once connections that nobody had are closed there:
the processes behind them take a moment to end."""


class Conversation:
    """One client's way to a session."""

    def __init__(
        self,
        admit: Callable[[StartupMessage], Refusal | Place] = lambda _: Place.TAKEN,
        *,
        key_told: Callable[[BackendKey], BackendKey | None] = lambda _: None,
        short_secret: Callable[[], bytes] = lambda: bytes(4),
        makes_room: Callable[[Backend], bool] = lambda _: False,
        offers_tls: bool = False,
        requires_tls: bool = False,
        client_host: str = "",
        tells_address: bool = False,
        keeps_servers: bool = False,
    ) -> None:
        """*admit* is asked whether there is room for a client whom a server has just found to be who it says it is: if that is
        only ASKED, PlaceTaken or Refused come later.

        *key_told* returns the cancel key that a client is told instead of the server's, if its protocol has room for one of
        ours.
        *short_secret* returns a new one for a key of four bytes; *makes_room* closes connections that nobody has at a server
        that has none left, and returns whether there were any.
        *offers_tls*: whoever asks for TLS gets it; *requires_tls*: whoever does not is refused, in the name of *client_host*.
        *tells_address*: servers are given that as part of the application_name.
        *keeps_servers*: another client may have the server's session when this one has left.
        """
        self.state = State.OPENING
        self._opening = Opening(offers_tls=offers_tls, requires_tls=requires_tls, client_host=client_host)
        self._admit = admit
        self._welcome = Welcome(key_told, short_secret)
        self._makes_room = makes_room
        self._room_tries = 0
        self._client_host = client_host
        self._tells_address = tells_address
        self._keeps_servers = keeps_servers
        self._client = bytearray()
        self._server = bytearray()
        self._asked: int | None = None
        """For what the server waits from the client."""
        self._client_has_heard = False
        self._backend: Backend | None = None
        self._server_is_encrypted = False
        self._awaits_place = False
        self._is_ready = False
        """Whether the server has said all that belongs to the login."""
        self._exchange: Exchange | None = None
        self._proven: Proven | None = None
        """If the client has convinced us; what a server asks for is then ours to answer."""
        self._vouched: Vouched | None = None
        """If our own certificate stands for the client at servers."""
        self._server_login: ServerLogin | VouchedLogin | None = None
        self._is_used = False
        """Whether the server's session has had another client."""
        self._beginning: Beginning | None = None
        """What is to be known of the server's session for the next client."""
        self._names: tuple[str, ...] | None = None
        """Of the parameters that the server has reported; None: the session is this client's alone."""

    @property
    def startup(self) -> StartupMessage | None:
        """What the client wants, once it has said so."""
        return self._opening.startup

    @property
    def encrypted(self) -> Facts | None:
        """What TLS has agreed on with the client."""
        return self._opening.encrypted

    @property
    def is_bound(self) -> bool:
        """Whether the login can only end with the server it began with: the client has heard it."""
        return self._client_has_heard

    @property
    def is_proven(self) -> bool:
        """Whether the client has proven itself to us."""
        return self._proven is not None

    @property
    def is_vouched_for(self) -> bool:
        """Whether servers are to be shown our own certificate, and who comes with it."""
        return self._vouched is not None

    @property
    def proof(self) -> Proven | None:
        """What the client has proven to us, if it has, until the login is over."""
        return self._proven

    @property
    def wish(self) -> Wish | None:
        """What a login of the client's at any server is, if another session may be one like it; None: it is its own alone."""
        startup = self.startup
        if startup is None or not (self._proven is not None or self._vouched is not None) or not may_be_shared(startup):
            return None
        proof = fingerprint(self._proven.verifier) if self._proven is not None else b""
        return Wish(self.servers_packet, proof, startup.user, startup.database)

    @property
    def servers_packet(self) -> bytes:
        """The startup packet, as servers are given it."""
        assert self.startup is not None
        packet = self._opening.packet
        return with_address(packet, self.startup, self._client_host) if self._tells_address else packet

    @property
    def wants_client(self) -> bool:
        """Whether it is the client's turn; else its bytes stay where they are."""
        return self.state in (State.OPENING, State.PROVING) or (self.state is State.AUTHENTICATING and self._asked is not None)

    def is_encrypting(self) -> None:
        """Begin where TLS has begun: Encrypted or NotEncrypted comes next."""
        self._opening.is_encrypting()
        self.state = self._opening.state

    def handle(self, event: Event) -> list[Command]:
        """Return what *event* calls for. The conversation is over after Relay or Close."""
        if self.state in (State.CLOSED, State.RELAYING):
            return []
        match event:
            case ClientSent(data):
                return self._client_sent(data)
            case ClientGone():
                return self._close("the client went away", "client_left")
            case Encrypted(facts):
                return self._opened(self._opening.encrypted_with(facts))
            case NotEncrypted(reason):
                return self._close(f"TLS failed: {reason}", "tls_failed")
            case ProofWanted():
                return self._demand_proof(event)
            case LeftToServer():
                self.state = State.CONNECTING
                return [Connect()]
            case Vouched():
                self._vouched = event
                self.state = State.CONNECTING
                return [Connect()]
            case Connected():
                return self._connected(event)
            case NotConnected(why) | Refused(why) | Stopped(why):
                return self._refuse(why)
            case ServerSent(data):
                return self._server_sent(data)
            case ServerGone(why):
                return self._server_gone(why)
            case PlaceTaken():
                return self._place_taken()
            case _:
                assert_never(event)

    # The client's side

    def _client_sent(self, data: bytes) -> list[Command]:
        assert self.wants_client, f"the client's bytes were not wanted while {self.state}"
        self._client += data
        try:
            if self.state is State.PROVING:
                return self._client_proves()
            if self.state is State.AUTHENTICATING:
                return self._client_answered()
            return self._opened(self._opening.read(self._client))
        except NotAPacketError as error:
            return self._close(str(error), "protocol_violation")
        except WireError as error:
            return self._refuse(refusal.not_understood(error))

    def _client_answered(self) -> list[Command]:
        """Pass on the one message that the server waits for, if it is there. Raises ProtocolError."""
        if self._asked is None:
            return []
        answer = read_message(self._client, 0, bytes_max=ANSWER_BYTES_MAX)
        if answer is None:
            return []
        asked, self._asked = self._asked, None
        if asked == AuthenticationKind.GSS_CONTINUE and answer.kind != Frontend.AUTHENTICATION_RESPONSE:
            return []  # the server's last token is no question
        del self._client[: answer.end]
        return [ToServer(message(answer.kind, answer.payload))]

    def _opened(self, commands: list[Command]) -> list[Command]:
        """Go where the opening has led, with what it called for."""
        self.state = self._opening.state
        if self.state is State.CLOSED:
            self._forget()
        return commands

    # The client's proof to us

    def _demand_proof(self, wanted: ProofWanted) -> list[Command]:
        assert self.startup is not None
        self.state = State.PROVING
        self._exchange = Exchange(wanted.verifier, wanted.nonce, is_doomed=wanted.is_doomed, binding=wanted.binding)
        negotiation = negotiate(self.startup)
        said = negotiate_protocol_version(negotiation.minor, negotiation.unknown_options) if negotiation is not None else b""
        return [ToClient(said + self._exchange.opening), *self._client_sent(b"")]

    def _client_proves(self) -> list[Command]:
        """Raises WireError."""
        assert self._exchange is not None
        commands: list[Command] = []
        while self.state is State.PROVING:
            said = read_message(self._client, 0, bytes_max=SASL_BYTES_MAX)
            if said is None:
                break
            del self._client[: said.end]
            try:
                answer = self._exchange.answer(said.kind, said.payload)
            except ScramViolation:
                raise
            except AuthenticationError:
                return [*commands, *self._deny()]
            if isinstance(answer, Proven):
                self._proven = answer
                self.state = State.CONNECTING
                commands.append(Connect())
            else:
                commands.append(ToClient(answer.message))
        return commands

    def _deny(self) -> list[Command]:
        assert self.startup is not None
        self.state = State.DENIED
        return [ProofFailed(refusal.password_failed(self.startup.user))]

    # The server's side

    def _connected(self, connected: Connected) -> list[Command]:
        self._backend = connected.backend
        self._server_is_encrypted = connected.is_encrypted
        if connected.reported is not None and connected.cancel_key is not None:
            return self._logged_in_already(connected.reported, connected.cancel_key)
        self.state = State.ANSWERING
        proven = self._proven
        if proven is not None:
            self._server_login = ServerLogin(proven.verifier, proven.client_key, connected.nonce, binding=connected.binding)
        elif self._vouched is not None:
            self._server_login = VouchedLogin()
        return [ToServer(self.servers_packet)]

    def _logged_in_already(self, reported: bytes, cancel_key: BackendKey) -> list[Command]:
        """The server has nothing more to say than what it *reported*: another client has had the session before."""
        assert self.startup is not None
        commands = self._settle(self._consent)
        if self.state is not State.SETTLING:
            return commands
        self._is_used = self._is_ready = True
        assert self._backend is not None
        if is_in_disguise(self._backend, hot_standby_in(reported)):
            return self._server_gone(None)
        self._welcome.keep_login(reported, cancel_key, self.startup.minor)
        return self._begin_relay()

    def _server_sent(self, data: bytes) -> list[Command]:
        self._server += data
        commands: list[Command] = []
        pos = 0
        try:
            while self._is_servers_turn:
                if self.state is State.SETTLING:
                    pos = self._welcome.skim(self._server, pos)
                found = read_message(self._server, pos, bytes_max=LOGIN_BYTES_MAX)
                if found is None:
                    break
                commands += self._server_said(found.kind, found.payload)
                pos = found.end
            if len(self._welcome) > LOGIN_BYTES_MAX and not self._awaits_place:
                commands += self._tell()
        except ProtocolError as error:
            return commands + self._refuse(refusal.not_understood(error))
        del self._server[:pos]
        return commands + self._begin_relay() if self._is_ready else commands

    @property
    def _is_servers_turn(self) -> bool:
        return not self._is_ready and self.state in (
            State.ANSWERING, State.LOGGING_IN, State.AUTHENTICATING, State.SETTLING,
        )  # fmt: skip

    def _begin_relay(self) -> list[Command]:
        """Let the session begin, if it has a place."""
        if self._awaits_place:
            return []
        self.state = State.RELAYING
        state = self._beginning.state if self._beginning is not None else None
        names, settings = (self._names, state.settings) if state is not None else (None, None)
        key, key_told = self._welcome.key, self._welcome.key_told
        commands = [*self._tell(), Relay(key, bytes(self._server), bytes(self._client), key_told, names, settings)]
        self._forget()
        return commands

    def _place_taken(self) -> list[Command]:
        if not self._awaits_place:
            return []
        self._awaits_place = False
        return self._begin_relay() if self._is_ready else []

    def _server_said(self, kind: int, payload: bytes) -> list[Command]:
        beginning = self._beginning
        if beginning is not None and beginning.takes(kind):
            beginning.heard(kind, payload)
            self._is_ready = beginning.is_over
            return []
        match kind:
            case Kind.AUTHENTICATION if self._server_login is not None:
                return self._log_in(self._server_login, decode_authentication(payload))
            case Kind.NEGOTIATE_PROTOCOL_VERSION if self._proven is not None:
                return []  # we have negotiated ourselves, before the proof
            case Kind.AUTHENTICATION:
                asked = decode_authentication(payload).kind
                if asked == AuthenticationKind.OK:
                    return self._settle(message(kind, payload))
                if self.state is not State.SETTLING:
                    self.state = State.AUTHENTICATING
                    if asked == AuthenticationKind.SASL and self._server_is_encrypted:
                        # What is bound to the server's TLS cannot be relayed to somebody who does not share it.
                        payload = without_binding(payload)
                    self._asked = asked if asked != AuthenticationKind.SASL_FINAL else None
                    self._welcome.keep_message(kind, payload)
                    return [*self._tell(), *self._client_answered()]
            case Kind.ERROR_RESPONSE:
                return self._server_refused(kind, payload)
            case Kind.PARAMETER_STATUS:
                name, value = decode_parameter_status(payload)
                assert self._backend is not None
                if name == IN_HOT_STANDBY and is_in_disguise(self._backend, value):
                    return self._server_gone(None)
            case Kind.BACKEND_KEY_DATA:
                assert self.startup is not None
                self._welcome.keep_key(decode_backend_key(payload), self.startup.minor)
                return []
            case Kind.NEGOTIATE_PROTOCOL_VERSION:
                self._welcome.servers_minor = decode_negotiation(payload)[0] & 0xFFFF
            case Kind.READY_FOR_QUERY if beginning is not None:
                beginning.is_asked = True
                self._names = self._welcome.names() if not self._client_has_heard else None
            case Kind.READY_FOR_QUERY:
                self._is_ready = True
            case _:
                pass
        self._welcome.keep_message(kind, payload)
        return self._tell() if self.state is State.AUTHENTICATING else []

    def _log_in(self, login: ServerLogin | VouchedLogin, asked: Authentication) -> list[Command]:
        """Answer a server in the client's name, by the key that the client's proof gave away, or by our certificate."""
        backend = self._backend
        assert backend is not None
        try:
            answer = login.answer(asked)
        except OtherSecret:
            # The writer's is the present one: then the client's is out of date. A replica may be the one that is.
            return self._deny() if backend.is_writer else self._look_again(Connect(behind=backend))
        except OtherMethod as error:
            return self._refuse(refusal.other_method(backend.node, error.method))
        except WireError:
            return self._refuse(refusal.server_unproven(backend.node))
        if not login.is_over:
            self.state = State.LOGGING_IN
            return [ToServer(answer)] if answer is not None else []
        commands = self._settle(self._consent)
        wish = self.wish if self._keeps_servers and self.state is State.SETTLING else None
        if wish is None:
            return commands
        self._beginning = Beginning(user=wish.user, database=wish.database, needs_valid=not wish.is_vouched)
        return [*commands, ToServer(QUESTION)]

    @property
    def _consent(self) -> bytes:
        """What the client is told when a server is content with what it has shown us."""
        return (self._proven.final if self._proven is not None else b"") + OK

    def _settle(self, consent: bytes) -> list[Command]:
        """The client is who it says: keep *consent* back for it, if there is room for one more."""
        assert self.startup is not None
        self.state = State.SETTLING
        place = self._admit(self.startup)
        if isinstance(place, Refusal):
            return self._refuse(place)
        self._awaits_place = place is Place.ASKED
        self._welcome.keep(consent)
        return []

    def _server_refused(self, kind: int, payload: bytes) -> list[Command]:
        report = decode_report(payload)
        if report.sqlstate in _STARTING_OR_STOPPING and not self._client_has_heard:
            return self._server_gone(None)
        assert self._backend is not None
        # At a limit of their own roles and databases have no connections that are kept, and those of others make no room there.
        is_full = limit_of(report) is Limit.SERVER
        is_crowded = is_full and not self._client_has_heard
        if is_crowded and self._room_tries < ROOM_TRIES_MAX and (self._makes_room(self._backend) or self._room_tries):
            self._room_tries += 1
            return self._look_again(Connect(is_room_made=True))
        reason = f"the server refused the login: {report.message}"
        if self._vouched is not None and self.state is State.ANSWERING and report.sqlstate == SqlState.INVALID_AUTHORIZATION:
            # The client has shown the server nothing, so it hears of us and not of the proxy's address and certificate.
            why = self._vouched.otherwise
            return [ToClient(why.encode()), *self._close(reason, why.kind, why.sqlstate)]
        self._welcome.keep_message(kind, payload)
        self.state = State.CLOSED
        told = self._tell()
        self._forget()
        return [*told, Close(reason, "server_refused", report.sqlstate, server_is_full=is_full)]

    def _server_gone(self, why: Refusal | None) -> list[Command]:
        if self.state in WITHOUT_SERVER:
            return []
        failed = self._backend
        assert failed is not None
        if self._client_has_heard:
            return self._refuse(why if why is not None else self._lost(failed))
        return self._look_again(Connect(failed))

    def _look_again(self, connect: Connect) -> list[Command]:
        self._backend = self._server_login = self._beginning = self._names = None
        self._awaits_place = self._is_ready = self._is_used = False
        self._server.clear()
        self._welcome.begin_anew()
        self.state = State.CONNECTING
        return [connect]

    def _lost(self, failed: Backend) -> Refusal:
        return refusal.no_primary("writer") if failed.is_writer else refusal.startup_lost(failed.node)

    # The end

    def _tell(self) -> list[Command]:
        """Give the client what was kept back."""
        self._client_has_heard = True
        return [ToClient(self._welcome.take())]

    def _refuse(self, why: Refusal) -> list[Command]:
        self._close(why.message, why.kind, why.sqlstate)
        return refuse(why)

    def _close(self, reason: str, kind: str, sqlstate: str | None = None) -> list[Command]:
        self.state = State.CLOSED
        self._forget()
        return [Close(reason, kind, sqlstate)]

    def _forget(self) -> None:
        """Keep no secret beyond the login, and none of its bytes: a session remembers its login for as long as it lives."""
        self._exchange = self._proven = self._server_login = None
        self._opening.packet = b""
        self._welcome.take()
        for each in (self._client, self._server):
            each.clear()
