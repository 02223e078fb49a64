"""The short way to a session, for a login like one that was here before: three reads on the bare socket, and no task.

Who connects anew for each request sends the same startup packet from the same address each time, proves the same password, and
gets a server's session that is kept (servers/warm).  All that lets it in is asked for as ever: the rule, the role's secret, a
place, the server.  At the first thing that is not as usual the ordinary login takes over, from the client's first byte on
(replay): whatever has to be refused, waited for or explained is done there.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable

from daemonkit.reception import Guest
from endpointd import metrics
from endpointd.auth.exchange import Asked, Exchange, Proven
from endpointd.auth.gate import fresh_nonce
from endpointd.refusal import Refusal
from endpointd.relay.engine import BareEngine
from endpointd.routing.eviction import Eviction
from endpointd.routing.table import Backend, Door
from endpointd.rules import Method, Visit
from endpointd.servers.upkeep import GOODBYE
from endpointd.servers.warm import Warm
from endpointd.servers.warmpool import Wish, fingerprint
from endpointd.session.conversation import SASL_BYTES_MAX
from endpointd.session.entry import Entry
from endpointd.session.longkeys import SECRET_BYTES
from endpointd.session.quota import Place
from endpointd.session.replay import Replay
from endpointd.session.session import Bare, Session
from endpointd.session.shared import Shared
from endpointd.session.startupsettings import relaxed_at_startup
from endpointd.session.tickets import Ticket
from endpointd.session.welcome import OK, Welcome, hot_standby_in, is_in_disguise
from endpointd.wire.link import INBOX_BYTES
from endpointd.wire.looseend import LooseEnd
from endpointd.wire.sockets import Keepalive, name_of, tune
from endpointd.wire.tls import Facts
from pgwire.errors import AuthenticationError, ScramViolation, WireError
from pgwire.framing import read_message
from pgwire.messages import KEY_BYTES_MIN
from pgwire.startup import ACCEPTED, GSSENC_REQUEST, REFUSED, SSL_REQUEST

Peer = tuple[str, int]
"""The client's address and port."""

QUICK_S = 0.2
"""Whoever needs longer for what he has to say is looked after by an ordinary login."""
PROVEN_S = 5.0
"""The same of who waits for us: a kept server that does not answer is given up after two seconds."""

Seat = Callable[[Guest, socket.socket, Peer, Replay], None]
"""Has an ordinary login go on with a connection: the socket itself may not know any more who was there."""


class Desk:
    """Where the clients of one door begin, if they may be served on the short way."""

    def __init__(
        self,
        door: Door,
        shared: Shared,
        seat: Seat,
        *,
        next_number: Callable[[], int],
        begun: Callable[[Session], None],
        over: Callable[[Session], None],
    ) -> None:
        """*begun* is called with each session that stands, *over* with each that has ended."""
        self.door = door
        self.shared = shared
        self.engine = shared.engine if isinstance(shared.engine, BareEngine) else None
        self.seat = seat
        self.next_number = next_number
        self.begun = begun
        self.over = over
        self._underway: set[QuickLogin] = set()

    def take(self, guest: Guest, sock: socket.socket, peer: Peer, keepalive: Keepalive) -> bool:
        """Serve the client at *sock*. False: nobody who was here before would be served so, and the socket is the caller's."""
        if self.engine is None or self.door.is_pooled or not len(self.shared.tickets) or not self.shared.warm.settings.enabled:
            return False
        try:
            tune(sock, keepalive)
        except OSError:
            return False  # it has ended already
        login = QuickLogin(self, self.engine, guest, sock, peer)
        self._underway.add(login)
        login.begin()
        return True

    def refuse(self, why: Refusal) -> None:
        """End all that are under way."""
        for each in list(self._underway):
            each.refuse(why)

    def ended(self, login: QuickLogin) -> None:
        """*login* is over, on this way."""
        self._underway.discard(login)


class QuickLogin:
    """One client's (Evictable)."""

    __slots__ = (
        "_alarm", "_answered", "_delay_s", "_desk", "_end", "_engine", "_entry", "_exchange", "_guest", "_is_over", "_loop",
        "_nonce", "_number", "_opened_at", "_peer", "_pos", "_proven", "_said", "_server", "_ticket", "_told", "_wish",
    )  # fmt: skip

    def __init__(self, desk: Desk, engine: BareEngine, guest: Guest, sock: socket.socket, peer: Peer) -> None:
        self._desk = desk
        self._engine = engine
        self._guest = guest
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._opened_at = self._loop.time()
        self._alarm: asyncio.TimerHandle | None = None
        self._end = LooseEnd(sock)
        self._said = b""
        self._pos = 0
        """Where in it stands what nobody has read yet."""
        self._answered: tuple[bytes, ...] = ()
        self._told: list[bytes] = []
        self._ticket: Ticket | None = None
        self._wish: Wish | None = None
        self._nonce: str | None = None
        self._exchange: Exchange | None = None
        self._proven: Proven | None = None
        self._number: int | None = None
        """Of the session, from the moment on at which it may have a server."""
        self._entry: Entry | None = None
        self._server: tuple[Backend, Warm] | None = None
        self._delay_s: float | None = None
        """See Replay."""
        self._is_over = False

    def begin(self) -> None:
        """Listen to the client, as long as it may stay."""
        self._give_time(QUICK_S)
        self._end.hear(self._heard)
        self._guest.is_shown_out_by(lambda _why: self.give_up())

    # What the switchboard asks of it

    def evict(self, eviction: Eviction) -> None:
        """The server that it has, or waits for, is none any more.

        Somebody goes through all sessions at this moment, and is not held up.
        """
        del eviction
        self._loop.call_soon(self.give_up)

    def pause(self) -> None:
        """Whether the session has to wait is asked when it begins."""

    def resume(self) -> None:
        """See pause."""

    # What the client says

    def _give_time(self, timeout_s: float | None) -> None:
        """Let it have so long from now on; None: as long as it takes."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(timeout_s, self.give_up) if timeout_s is not None else None

    def _heard(self, data: bytes | None) -> None:
        if data is None:
            self.give_up()
            return
        self._said += data
        if len(self._said) > INBOX_BYTES:
            if self._proven is None:
                self.give_up()
            else:
                self._end.hush()  # it has gone on already; the rest stays where it is until the session begins
            return
        try:
            is_usual = (self._exchange is not None or self._begins()) and self._goes_on()
        except WireError:
            is_usual = False
        if not is_usual:
            self.give_up()

    def _begins(self) -> bool:
        """Ask the client for its proof, if it was here before. False: this is for an ordinary login."""
        shared, door, host = self._desk.shared, self._desk.door, self._peer[0]
        gate = shared.gate
        if self._answers_request():
            return True
        encrypted = self._encrypted
        ticket = shared.tickets.find(door, host, self._said, is_encrypted=encrypted is not None)
        if ticket is None or (shared.tls.is_required and encrypted is None) or door.name in gate.tell_address:
            return False
        user, database = ticket.message.user, ticket.message.database
        rule = gate.rule(door.name, Visit(host, is_encrypted=encrypted is not None, database=database, user=user))
        secret = gate.secret_at_once(user, self._guest.address) if rule is not None and rule.method is Method.SCRAM else None
        if secret is None or secret.doom is not None or not gate.has_heard_roles:
            return False
        self._wish = Wish(ticket.packet, fingerprint(secret.verifier), user, database)
        if not shared.connector.expects_kept(door, self._wish):
            return False
        self._ticket, self._nonce, self._pos = ticket, fresh_nonce(), len(ticket.packet)
        binding = encrypted.binding if encrypted is not None else None
        self._exchange = Exchange(secret.verifier, self._nonce, binding=binding)
        return self._tell(self._exchange.opening)

    @property
    def _encrypted(self) -> Facts | None:
        """What TLS has agreed on with the client."""
        return self._end.channel.facts if self._end.channel is not None else None

    def _answers_request(self) -> bool:
        """Answer a client that would rather be encrypted, and forget that it has asked: once each kind of request."""
        asked, identity = self._said, self._desk.shared.tls.clients
        if asked not in (SSL_REQUEST, GSSENC_REQUEST) or asked in self._answered or self._end.channel is not None:
            return False
        if asked == SSL_REQUEST and identity is not None:
            if not self._engine.takes_tls or not self._end.start_tls(identity.channel(is_direct=False), ACCEPTED):
                return False
        elif not self._end.say(REFUSED):
            return False
        self._answered += (asked,)
        self._said = b""
        return True

    def _goes_on(self) -> bool:
        """Take the client's part of SCRAM. False: this is for an ordinary login. Raises WireError, too."""
        exchange = self._exchange
        while (
            exchange is not None
            and self._proven is None
            and (said := read_message(self._said, self._pos, bytes_max=SASL_BYTES_MAX)) is not None
        ):
            self._pos = said.end
            try:
                answer = exchange.answer(said.kind, said.payload)
            except ScramViolation:
                raise
            except AuthenticationError:
                # It counts here and now: whoever is behind it may be gone before the ordinary login has its turn.
                self._delay_s = self._desk.shared.gate.failed(self._ticket_taken.message.user, self._guest.address)
                return False
            if isinstance(answer, Asked):
                if not self._tell(answer.message):
                    return False
            else:
                self._proven = answer
                return self._asks_for_server()
        return True

    def _tell(self, words: bytes) -> bool:
        """Say *words*. False: they could not be said, and since nobody knows how many were, it is over."""
        if self._end.say(words):
            self._told.append(words)
            return True
        if self._leaves():
            self._end.close(b"")
            self._guest.leave()
        return False

    @property
    def _ticket_taken(self) -> Ticket:
        assert self._ticket is not None
        return self._ticket

    # Its server, and its place

    def _asks_for_server(self) -> bool:
        desk, ticket, wish = self._desk, self._ticket_taken, self._wish
        assert wish is not None
        self._give_time(PROVEN_S)
        self._number = desk.next_number()
        self._entry = Entry(self._number, desk.door, desk.shared, self._guest, None)
        if desk.shared.places.is_full or self._entry.why_no_server(ticket.message) is not None:
            return False
        return desk.shared.connector.take_kept(self._number, self, desk.door, wish, self._found, lambda: not self._is_over)

    def _found(self, backend: Backend, warm: Warm | None) -> None:
        shared, number = self._desk.shared, self._number
        if self._is_over:
            if warm is not None:
                shared.warm.offer(warm.end, warm.session)
            return
        if warm is None:
            self.give_up()
            return
        self._server = backend, warm
        ticket = self._ticket_taken
        assert number is not None
        assert self._entry is not None
        is_disguised = is_in_disguise(backend, hot_standby_in(warm.reported))
        is_refused = backend.is_writer and self._entry.why_no_writer(ticket.message) is not None
        if is_disguised or is_refused or not shared.board.stands(number):
            self.give_up(keeps_server=not is_disguised)
            return
        place = shared.places.take(number, ticket.message.user, ticket.message.database, self._told_place)
        if place is not Place.ASKED:
            self._placed(place)

    def _told_place(self, place: Place) -> None:
        self._loop.call_soon(self._placed, place)

    def _placed(self, place: Place) -> None:
        if self._is_over:
            return
        if place is not Place.TAKEN or not self._relays():
            self.give_up()

    def _relays(self) -> bool:
        """Let the session begin. False: it cannot, and the client has heard nothing of it."""
        desk, ticket, number, proven = self._desk, self._ticket_taken, self._number, self._proven
        shared = desk.shared
        assert self._server is not None
        assert number is not None
        assert proven is not None
        backend, warm = self._server
        welcome = Welcome(
            lambda key: shared.mint.issue(key.pid, secrets.token_bytes(SECRET_BYTES)),
            lambda: secrets.token_bytes(KEY_BYTES_MIN),
        )
        welcome.keep(proven.final + OK)
        welcome.keep_login(warm.reported, warm.session.cancel_key, ticket.message.minor)
        bare = Bare(
            client=self._end,
            gone=self._guest.leave,
            server=warm.end,
            session=warm.session,
            backend=backend,
            startup=ticket.message,
            encrypted=self._encrypted,
            key_told=welcome.key_told or warm.session.cancel_key,
            watch=relaxed_at_startup(ticket.message) if backend.is_writer else None,
            welcome=welcome.take(),
            client_rest=self._said[self._pos :],
        )
        session = Session(number, desk.door, shared, desk.over, peer=name_of(self._peer), opened_at=self._opened_at)
        if not session.begin(self._engine, bare):
            return False
        self._ends()
        desk.begun(session)
        self._guest.is_shown_out_by(session.show_out)
        shared.gate.succeeded(ticket.message.user, self._guest.address)
        metrics.QUICK_LOGINS.labels(desk.door, "begun").inc()
        if bare.encrypted is not None:
            metrics.TLS_HANDSHAKES.labels(desk.door, bare.encrypted.version).inc()
        metrics.SERVER_CONNECTIONS.labels(backend.node, "reused").inc()
        return True

    # The ordinary login's turn

    def give_up(self, *, keeps_server: bool = True) -> None:
        """Have the ordinary login look after the client; *keeps_server*: somebody else may have the server."""
        if self._leaves(keeps_server=keeps_server):
            if self._exchange is not None:
                metrics.QUICK_LOGINS.labels(self._desk.door, "given_up").inc()
            self._desk.seat(self._guest, self._end.sock, self._peer, self._replay)

    @property
    def _replay(self) -> Replay:
        return Replay(self._said, tuple(self._told), self._nonce, self._delay_s, self._end.channel)

    def refuse(self, why: Refusal) -> None:
        """End, and tell the client."""
        if self._leaves():
            self._end.finish(why.encode(), self._guest.leave)

    def _ends(self) -> None:
        """Nothing more is done here."""
        self._is_over = True
        self._desk.ended(self)
        self._give_time(None)

    def _leaves(self, *, keeps_server: bool = True) -> bool:
        """Give back everything but the client. False: the login was over already."""
        if self._is_over:
            return False
        shared, number = self._desk.shared, self._number
        self._ends()
        self._end.hush()
        if number is not None:
            shared.places.give_back(number)
            if self._server is not None:
                _, warm = self._server
                if keeps_server and shared.board.stands(number):
                    shared.warm.offer(warm.end, warm.session)
                else:
                    warm.end.close(GOODBYE)
            shared.board.release(number)
        return True
