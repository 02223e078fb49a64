"""A client's way to a session: does what the conversation commands, until a relay can begin or there is nothing to relay.

It is woken by what its links hear and by what others ask of it, hands the conversation one thing after the other that has
happened, and sleeps again; nothing it does between two awaits can be interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, replace
from typing import assert_never

from daemonkit.reception import Guest
from endpointd import metrics, refusal
from endpointd.auth.gate import fresh_nonce
from endpointd.refusal import Refusal
from endpointd.relay.relaxed import Relaxed
from endpointd.routing.switchboard import Evictable
from endpointd.routing.table import Backend, Door
from endpointd.servers.upkeep import can_be_asked_for
from endpointd.servers.warm import Warm
from endpointd.servers.warmpool import ServerSession, WarmKey, Wish
from endpointd.session.cancelkeys import Cancellable
from endpointd.session.cancelling import cancel
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
    NotConnected,
    NotEncrypted,
    PlaceTaken,
    ProofFailed,
    Refused,
    Relay,
    ServerGone,
    ServerSent,
    Stopped,
    ToClient,
    ToServer,
    UpgradeTls,
)
from endpointd.session.conversation import Conversation, State
from endpointd.session.entry import Entry
from endpointd.session.identification import Identification
from endpointd.session.longkeys import SECRET_BYTES
from endpointd.session.quota import Place
from endpointd.session.replay import Repeated, Replay
from endpointd.session.shared import Shared
from endpointd.session.startupsettings import relaxed_at_startup
from endpointd.session.tickets import PACKET_BYTES_MAX
from endpointd.wire.link import Inbox, Link
from endpointd.wire.tls import Facts, Failure
from pgwire.messages import KEY_BYTES_MIN, BackendKey
from pgwire.startup import StartupMessage, negotiate

BEHIND_RETRY_S = 0.05
ROOM_S = 0.1
"""A server whose connections are being closed is tried again after this time."""
BEHIND_S = 2.0
"""A replica that does not know a role's present password yet is tried again this soon, and for so long."""


@dataclass(frozen=True, slots=True)
class Established:
    """A login that succeeded: what the relay begins with."""

    server: Link | None
    """None at a pooled endpoint, whose sessions have servers in turns."""
    backend: Backend
    cancellable: Cancellable | None
    key_told: BackendKey | None
    """By which its client cancels."""
    watch: Relaxed | None
    """See Engine.add."""
    server_rest: bytes
    client_rest: bytes
    session: ServerSession | None = None
    """What another client may have when this one has left."""


class Login:
    """One client's login, with as many servers as it takes."""

    def __init__(
        self,
        number: int,
        door: Door,
        client: Link,
        shared: Shared,
        owner: Evictable,
        *,
        unwelcome: Refusal | None,
        guest: Guest,
        replay: Replay | None = None,
    ) -> None:
        """*owner* is whom the switchboard asks to end the session; *unwelcome* the answer to whatever the client will want.

        *guest* is the client as the reception knows it: a stranger until it has said who it is.  *replay*: what it has said and
        heard on the short way, which has led nowhere.
        """
        self._identity = shared.tls.clients
        self._conversation = Conversation(
            self._take_place,
            key_told=lambda key: shared.mint.issue(key.pid, secrets.token_bytes(SECRET_BYTES)),
            short_secret=lambda: secrets.token_bytes(KEY_BYTES_MIN),
            makes_room=lambda backend: shared.warm.make_room(backend.node),
            offers_tls=self._identity is not None and not client.is_local,
            requires_tls=shared.tls.is_required and not client.is_local,
            client_host=client.host,
            tells_address=door.name in shared.gate.tell_address,
            keeps_servers=shared.warm.settings.enabled,
        )
        self.backend: Backend | None = None
        self.end = Close("the client went away", "client_left")
        """Why it ended without a session, when it has."""
        self._number = number
        self._door = door
        self._client = client
        self._shared = shared
        self._owner = owner
        self._entry = Entry(number, door, shared, guest, unwelcome)
        self._guest = guest
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._client_inbox = Inbox(client, self._heard)
        self._server: Link | None = None
        self._server_inbox: Inbox | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._is_late = False
        self._give_time(shared.board.limits.startup_timeout_s)
        self._hold_until: float | None = None
        self._is_asked_who = False
        self._identification = Identification(
            shared.gate,
            door.name,
            host=client.host,
            address=guest.address,
            is_local=client.is_local,
            replay=replay,
        )
        self._repeated = Repeated(replay.told if replay is not None else ())
        self._failed: ProofFailed | None = None
        self._behind_until: float | None = None
        self._connect: Connect | None = None
        self._connecting: asyncio.Timeout | None = None
        self._identifying: asyncio.Timeout | None = None
        self._cancel: Cancel | None = None
        self._tls_outcome: Facts | Failure | None = None
        self._evicted: Refusal | None = None
        self._stopped: Refusal | None = None
        self._place: Place | None = None
        """What came of asking for one, if that was answered later."""
        self._watch: Relaxed | None = None
        self._key: WarmKey | None = None
        """Of the session that it has at its server."""
        self._warm: Warm | None = None
        """That session, if another client has had it."""
        self._relay: Relay | None = None
        self._is_over = False
        self._is_asleep = False
        self._fault: Exception | None = None
        client.receiver = self._client_inbox
        if replay is not None:
            self._go_on_from(replay)

    def _go_on_from(self, replay: Replay) -> None:
        if replay.channel is not None:
            self._conversation.is_encrypting()
            self._client.go_on_with_tls(replay.channel, self._tls_told)
        if replay.said:
            self._client_inbox.received(memoryview(replay.said))

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._conversation.state

    @property
    def startup(self) -> StartupMessage | None:
        """What the client asked for, once it has."""
        return self._conversation.startup

    @property
    def encrypted(self) -> Facts | None:
        """What TLS has agreed on with the client."""
        return self._conversation.encrypted

    @property
    def is_bound(self) -> bool:
        """Whether it can only end with the server it has."""
        return self._conversation.is_bound

    @property
    def waits(self) -> str | None:
        """For what it is kept waiting, for people; None if it is not."""
        match self.state:
            case State.CONNECTING if self._behind_until is not None and not self._shared.connector.is_waiting(self._number):
                return "its server does not know the role's present password yet"
            case State.CONNECTING:
                return self._shared.connector.why_waiting(self._number, self._door)
            case State.IDENTIFYING:
                return self._identification.waits
            case State.DENIED:
                return "logins from its address are slowed down, since one has just failed"
            case _:
                return None

    def evict(self, why: Refusal) -> None:
        """Give up the server: begin anew if the client has heard nothing yet, else end."""
        self._evicted = why
        self._poke()

    def stop(self, why: Refusal) -> None:
        """End."""
        self._stopped = why
        self._poke()

    async def run(self) -> Established | None:
        """Lead the client to a session; None if there is none to be had, and the client knows."""
        try:
            while not self._is_over:
                if self._connect is not None:
                    await self._find_server(self._connect)
                elif self._is_asked_who:
                    await self._identify()
                elif self._failed is not None:
                    await self._deny(self._failed)
                elif self._cancel is not None:
                    await self._forward_cancel(self._cancel)
                elif (event := self._next_event()) is not None:
                    self._handle(event)
                else:
                    await self._sleep()
            return self._established()
        finally:
            self._shared.connector.login_over(self._number)
            if self._relay is None:
                self._drop_server()
            self._give_time(None)

    def _established(self) -> Established | None:
        relay, server, inbox, backend = self._relay, self._server, self._server_inbox, self.backend
        if relay is None:
            return None
        assert server is not None
        assert inbox is not None
        assert backend is not None
        server_rest, client_rest = relay.server_rest + inbox.hand_over(), relay.client_rest + self._client_inbox.hand_over()
        cancellable = Cancellable(backend.address, relay.key) if relay.key is not None else None
        key_told, session = relay.key_told or relay.key, self._session(relay)
        return Established(server, backend, cancellable, key_told, self._watch, server_rest, client_rest, session)

    def _session(self, relay: Relay) -> ServerSession | None:
        if self._warm is not None:
            self._note_ticket(self._warm.session.key.wish)
            return self._warm.session
        if self._key is None or relay.key is None:
            return None
        if relay.names is None or relay.settings is None or not can_be_asked_for(relay.names):
            metrics.WARM_DISCARDED.labels("unfit").inc()
            return None
        self._note_ticket(self._key.wish)
        return ServerSession(self._key, relay.names, relay.key, self._loop.time(), relay.settings)

    def _note_ticket(self, wish: Wish) -> None:
        """Remember a login that may be repeated on the short way."""
        startup, client = self.startup, self._client
        is_usual = not client.is_local and not wish.is_vouched and len(wish.packet) <= PACKET_BYTES_MAX
        if is_usual and startup is not None and negotiate(startup) is None:
            encrypted = self.encrypted is not None
            self._shared.tickets.note(self._door, client.host, wish.packet, startup, is_encrypted=encrypted)

    # What happens

    def _next_event(self) -> Event | None:
        conversation, server = self._conversation, self._server_inbox
        if self._stopped is not None:
            return Stopped(self._stopped)
        if self._evicted is not None:
            why, self._evicted = self._evicted, None
            return ServerGone(why)
        if self._tls_outcome is not None:
            outcome, self._tls_outcome = self._tls_outcome, None
            return NotEncrypted(outcome.reason) if isinstance(outcome, Failure) else Encrypted(outcome)
        if self._place is not None:
            assert self.startup is not None
            place, self._place = self._entry.as_refusal(self._place, self.startup), None
            return Refused(place) if isinstance(place, Refusal) else PlaceTaken()
        if conversation.wants_client and len(self._client_inbox):
            return ClientSent(self._client_inbox.take())
        if self._client_inbox.is_broken or (self._client_inbox.has_ended and (conversation.wants_client or server is None)):
            return ClientGone()
        if server is not None and len(server):
            return ServerSent(server.take())
        if server is not None and server.has_ended:
            return self._refused_certificate() or ServerGone()
        return None

    def _refused_certificate(self) -> Refused | None:
        """Return the answer if the server has ended TLS because of our certificate: another one would do so too."""
        assert self._server is not None
        assert self.backend is not None
        reason = self._server.tls_failure
        if not self._conversation.is_vouched_for or reason is None or "alert" not in reason:
            return None
        self._shared.tls.note_failure(self.backend.address, reason)
        return Refused(refusal.certificate_refused(self.backend.node))

    async def _sleep(self) -> None:
        """Wait until there is something that only this task can do; what is heard meanwhile is handled where it is heard."""
        if self._is_late:
            self._handle(Stopped(refusal.startup_timeout()))
            return
        self._is_asleep = True
        try:
            await self._wake.wait()
        finally:
            self._is_asleep = False
        self._wake.clear()
        if self._fault is not None:
            raise self._fault

    def _give_time(self, timeout_s: float | None) -> None:
        """Let client and server have so long from now on for what they have to say; None: as long as it takes."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._is_late = False
        self._alarm = self._loop.call_later(timeout_s, self._time_is_over) if timeout_s is not None else None

    def _time_is_over(self) -> None:
        self._is_late = True
        self._poke()

    def _heard(self) -> None:
        """Take note that client or server said something, or left; handle it at once if nothing else is under way.

        To wake the task for every message would cost more than the messages do.
        """
        if not self._is_asleep:
            self._poke()
            return
        self._is_asleep = False
        try:
            while not self._is_due and (event := self._next_event()) is not None:
                self._handle(event)
        except Exception as error:  # it is the session's fault, not that of whoever brought the bytes
            self._fault = error
        if self._is_due or self._fault is not None:
            self._wake.set()
        else:
            self._is_asleep = True

    @property
    def _is_due(self) -> bool:
        """Whether there is something that takes a wait, or nothing more to do."""
        waits = self._connect is not None or self._failed is not None or self._cancel is not None
        return self._is_over or self._is_asked_who or waits

    def _poke(self) -> None:
        self._wake.set()
        if self._identifying is not None and not self._identifying.expired() and self._is_left:
            self._identifying.reschedule(self._loop.time())
        connecting, inbox = self._connecting, self._client_inbox
        if connecting is None or connecting.expired():  # the end of the wait is under way already
            return
        # A client that says no more may still listen, but nobody is kept waiting for it.
        gives_up = inbox.has_ended and self._shared.connector.is_waiting(self._number)
        if inbox.is_broken or gives_up or self._stopped is not None:
            connecting.reschedule(self._loop.time())

    # What is to be done

    def _handle(self, event: Event) -> None:
        before, backend = self.state, self.backend
        for command in self._conversation.handle(event):
            self._do(command)
        after = self.state
        if before is State.ANSWERING and isinstance(event, ServerSent) and after not in (State.ANSWERING, State.CONNECTING):
            # A login that it refused counts too: it serves.
            assert backend is not None
            self._shared.connector.answered(backend)
        if after is State.AUTHENTICATING and before is not State.AUTHENTICATING:
            self._shared.connector.asks_client(self._number)

    def _do(self, command: Command) -> None:
        match command:
            case ToClient(data):
                self._client.write(self._repeated.rest_of(data))
            case ToServer(data):
                assert self._server is not None
                self._server.write(data)
            case UpgradeTls(answer, received, is_direct):
                assert self._identity is not None
                self._client.start_tls(
                    self._identity.channel(is_direct=is_direct), self._tls_told, answer=answer, received=received
                )
            case Identify():
                self._is_asked_who = not self._is_known_at_once()
            case ProofFailed():
                self._drop_server()
                self._failed = command
            case Connect():
                self._drop_server()
                self._connect = command
            case Cancel():
                self._cancel = command
            case Relay():
                self._relay = command
                self._is_over = True
            case Close():
                self.end = command
                self._is_over = True
                if command.server_is_full and self.backend is not None:
                    self._shared.connector.is_full(self.backend)
            case _:
                assert_never(command)

    def _tls_told(self, outcome: Facts | Failure) -> None:
        if not isinstance(outcome, Failure):
            metrics.TLS_HANDSHAKES.labels(self._door, outcome.version).inc()
        self._tls_outcome = outcome
        self._poke()

    # Who the client is

    def _is_known_at_once(self) -> bool:
        """Ask who the client is, if the answer does not take a wait."""
        assert self.startup is not None
        answer = self._identification.ask_at_once(self.startup, self._conversation.encrypted)
        if answer is None:
            return False
        self._give_time(self._shared.board.limits.login_timeout_s)
        self._handle(answer)
        return True

    async def _identify(self) -> None:
        self._is_asked_who = False
        assert self.startup is not None
        limits, now = self._shared.board.limits, self._loop.time()
        self._give_time(limits.login_timeout_s)
        try:
            # Brought forward when the client leaves or the daemon ends, which is the next event then.
            async with asyncio.timeout(None) as self._identifying:
                self._poke()
                answer = await self._identification.ask(self.startup, self._conversation.encrypted, now + limits.hold_s)
        except TimeoutError:
            return
        finally:
            self._identifying = None
        self._handle(answer)

    async def _deny(self, failed: ProofFailed) -> None:
        self._failed = None
        self._handle(await self._identification.deny(failed, self._wait_until))
        doom = self._identification.doom
        if doom is not None:
            self.end = replace(self.end, reason=f"{self.end.reason}: {doom}")

    @property
    def _is_left(self) -> bool:
        """Whether nobody waits for an answer any more."""
        inbox = self._client_inbox
        return inbox.is_broken or inbox.has_ended or self._stopped is not None

    async def _wait_until(self, until: float) -> None:
        """Sleep until the loop's clock shows *until*, or nobody waits for an answer any more."""
        while self._loop.time() < until and not self._is_left:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            self._wake.clear()

    async def _find_server(self, connect: Connect) -> None:
        self._connect = self._watch = None
        assert self.startup is not None
        why_not = self._entry.why_no_server(self.startup)
        if why_not is not None:
            self._handle(NotConnected(why_not))
            return
        if self._hold_until is None:
            self._hold_until = self._loop.time() + self._shared.board.limits.hold_s
        if connect.behind is not None and not await self._wait_for_password(connect.behind):
            return
        if connect.is_room_made:
            await self._wait_until(self._loop.time() + ROOM_S)
        wish = self._conversation.wish if self._shared.warm.settings.enabled else None
        lately = self._shared.gate.has_heard_roles
        try:
            # Brought forward when the client leaves or the daemon ends: then nobody waits for a server any more.
            async with asyncio.timeout(None) as self._connecting:
                self._poke()
                found = await self._shared.connector.connect(
                    self._number,
                    self._owner,
                    self._door,
                    failed=connect.failed,
                    hold_until=self._hold_until,
                    is_patient=lambda: not self._client_inbox.has_ended,
                    address=self._guest.address,
                    end=self.stop,
                    vouches=self._conversation.is_vouched_for,
                    wish=wish if lately else None,
                    is_proven=self._conversation.is_proven,
                )
        except TimeoutError:
            inbox = self._client_inbox
            if inbox.has_ended and not inbox.is_broken and self._stopped is None:
                # It still listens, and hears why it is not waited any longer.
                self._handle(NotConnected(self._shared.connector.refusal_of_nobody(self._door)))
            return
        finally:
            self._connecting = None
        if isinstance(found, Refusal):
            self._handle(NotConnected(found))
            return
        self.backend, self._server, self._warm = found.backend, found.link, found.warm
        self._key = WarmKey(wish, found.backend, self._shared.board.table.epoch) if wish is not None else None
        metrics.SERVER_CONNECTIONS.labels(found.backend.node, "dialled" if found.warm is None else "reused").inc()
        if (objection := self._identification.objection) is not None:
            self._handle(objection)
            return
        if self.backend.is_writer and not self._may_write():
            return
        self._server_inbox = Inbox(self._server, self._heard)
        self._server.receiver = self._server_inbox
        self._give_time(self._shared.board.limits.login_timeout_s)
        encrypted = self._server.encrypted
        binding = encrypted.binding if encrypted is not None else None
        if found.warm is not None:
            cancel_key = found.warm.session.cancel_key
            self._handle(Connected(self.backend, reported=found.warm.reported, cancel_key=cancel_key))
            return
        self._handle(Connected(self.backend, fresh_nonce(), binding, is_encrypted=encrypted is not None))

    async def _wait_for_password(self, behind: Backend) -> bool:
        """Give a replica a moment to hear of the role's present password; False if it has had enough of them."""
        now = self._loop.time()
        if self._behind_until is None:
            self._behind_until = now + BEHIND_S
        if now >= self._behind_until:
            self._handle(Refused(refusal.password_not_there(behind.node)))
            return False
        await self._wait_until(now + BEHIND_RETRY_S)
        if self._identification.is_outdated():
            # It was not the replica that was behind, but what the proof was checked against.
            assert self.startup is not None
            await self._deny(ProofFailed(refusal.password_failed(self.startup.user)))
            return False
        return True

    def _take_place(self, message: StartupMessage) -> Refusal | Place:
        """Count the client among those of its user and database, now that it is known to be who it says; or refuse it."""
        self._shared.connector.login_finished(self._number)
        self._identification.succeeded()
        return self._entry.take_place(message, self._told_place)

    def _told_place(self, place: Place) -> None:
        self._place = place
        self._poke()

    def _may_write(self) -> bool:
        """Have the session's statements watched, as it is the writer's; or refuse it, if it asks for relaxed commits."""
        message = self.startup
        assert message is not None
        refused = self._entry.why_no_writer(message)
        if refused is not None:
            self._handle(NotConnected(refused))
            return False
        self._watch = relaxed_at_startup(message)
        return True

    def _drop_server(self) -> None:
        self._shared.connector.login_over(self._number)
        if self._server is not None:
            self._server.abort()
        self._server = self._server_inbox = self.backend = self._key = self._warm = None
        self._evicted = None
        self._give_time(None)

    async def _forward_cancel(self, request: Cancel) -> None:
        self.end = Close("cancel request", "cancel_request")
        self._is_over = True
        await cancel(self._shared, request.key, request.packet)
