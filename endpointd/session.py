"""One client, from its first byte to its last: does what the conversation commands, then watches over the relayed pair.

A session is one task.  It is woken by what its links hear and by what the switchboard asks of it, looks at everything there
is, and sleeps again; nothing it does between two awaits can be interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import assert_never

from daemonkit.logs import get_logger
from endpointd import metrics, refusal
from endpointd.conversation import (
    Cancel,
    ClientGone,
    ClientSent,
    Close,
    Command,
    Connect,
    Connected,
    Conversation,
    Event,
    NotConnected,
    Relay,
    ServerGone,
    ServerSent,
    State,
    Stopped,
    ToClient,
    ToServer,
)
from endpointd.dial import dial
from endpointd.eviction import Eviction, When, farewell
from endpointd.link import Inbox, Link
from endpointd.refusal import Refusal
from endpointd.relay.seam import Engine, Happening, Stats
from endpointd.routing import Backend, Door
from endpointd.settings import LimitSettings
from endpointd.switchboard import Switchboard
from pgwire.errors import ProtocolError
from pgwire.messages import BackendKey

BREATH_S = 0.05
"""Between a server's last answer and our farewell. libpq takes an error that it reads together with a ReadyForQuery for a mere
notice; a moment later it is the answer to the next query, SQLSTATE and all."""

CANCEL_TIMEOUT_S = 5.0
"""PostgreSQL answers a cancel request by closing; nobody waits for it longer than this."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions share."""

    board: Switchboard
    engine: Engine
    limits: LimitSettings


class Session:
    """A client's session."""

    def __init__(self, number: int, door: Door, client: Link, around: Surroundings, *, unwelcome: Refusal | None) -> None:
        """*unwelcome*: a session that will be refused as soon as it has said what it wants."""
        self.number = number
        self.door = door
        self.conversation = Conversation()
        self.opened_at = asyncio.get_running_loop().time()
        self.reason = ""
        """Why it ended, for the log."""
        self._client = client
        self._around = around
        self._unwelcome = unwelcome
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._client_inbox = Inbox(client, self._poke)
        self._server: Link | None = None
        self._server_inbox: Inbox | None = None
        self._backend: Backend | None = None
        self._key: BackendKey | None = None
        self._deadline: float | None = self.opened_at + around.limits.startup_timeout_s
        self._hold_until: float | None = None
        self._connect: Connect | None = None
        self._connecting: asyncio.Timeout | None = None
        self._cancel: Cancel | None = None
        self._evicted: Refusal | None = None
        self._stop: Refusal | None = None
        self._is_relaying = False
        self._is_at_safe_point = False
        self._is_over = False
        client.receiver = self._client_inbox

    # What others ask of it

    @property
    def backend(self) -> Backend | None:
        """The server it has, if any."""
        return self._backend

    @property
    def stats(self) -> Stats | None:
        """What its relay has done, once there is one."""
        return self._around.engine.stats(self.number) if self._is_relaying else None

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._client.peer

    def evict(self, eviction: Eviction) -> None:
        """End: see Evictable."""
        if not self._is_relaying:
            self._evicted = eviction.refusal
            self._poke()
        elif eviction.when is When.NOW:
            self._say_farewell(eviction.refusal)
        else:
            self._end_when_safe(eviction.refusal)

    def pause(self) -> None:
        """Let the client wait: see Evictable. A login goes on; whether its session has to wait is asked when it begins."""
        if self._is_relaying:
            self._around.engine.pause(self.number)

    def resume(self) -> None:
        """Let the client go on: see Evictable."""
        if self._is_relaying and self._stop is None:
            self._is_at_safe_point = False
            self._around.engine.resume(self.number)

    def drain(self, why: Refusal) -> None:
        """End at the next safe point, and if it has no server's word yet, now."""
        if self._is_relaying:
            self._end_when_safe(why)
        else:
            self._stop = why
            self._poke()

    def end(self, why: Refusal) -> None:
        """End now."""
        self._stop = why
        if self._is_relaying:
            self._say_farewell(why)
        else:
            self._poke()

    # Its life

    async def run(self) -> None:
        """Serve the client until it or its server is gone."""
        try:
            while not self._is_over:
                if self._connect is not None:
                    await self._find_server(self._connect)
                elif self._cancel is not None:
                    await self._forward_cancel(self._cancel)
                elif not self._look():
                    await self._sleep()
        except Exception:
            # The one broad except, around one unit of work: a fault of ours ends one session and is seen.
            metrics.BUGS.inc()
            get_logger().exception("session failed", session=self.number, endpoint=self.door)
            self._client.write(refusal.internal_error().encode())
        finally:
            self._close()

    def _look(self) -> bool:
        """Hand the conversation one thing that has happened; return whether there was one."""
        if self._is_relaying:
            return False
        event = self._next_event()
        if event is None:
            return False
        self._handle(event)
        return True

    def _next_event(self) -> Event | None:
        conversation, server = self.conversation, self._server_inbox
        if self._stop is not None:
            return Stopped(self._stop)
        if self._evicted is not None:
            why, self._evicted = self._evicted, None
            return ServerGone(why)
        if conversation.wants_client and len(self._client_inbox):
            return ClientSent(self._client_inbox.take())
        if self._client_inbox.has_ended:
            return ClientGone()
        if server is not None and len(server):
            return ServerSent(server.take())
        if server is not None and server.has_ended:
            return ServerGone()
        return None

    def _handle(self, event: Event) -> None:
        before = self.conversation.state
        for command in self.conversation.handle(event):
            self._do(command)
        after = self.conversation.state
        if before is State.ANSWERING and isinstance(event, ServerSent) and after not in (State.ANSWERING, State.CONNECTING):
            # A login that it refused counts too: it serves.
            self._around.board.answered(self.number)

    def _do(self, command: Command) -> None:
        match command:
            case ToClient(data):
                self._client.write(data)
            case ToServer(data):
                assert self._server is not None
                self._server.write(data)
            case Connect():
                self._drop_server()
                self._connect = command
            case Cancel():
                self._cancel = command
            case Relay(key, server_rest):
                self._relay(key, server_rest)
            case Close(reason):
                self.reason = reason
                self._is_over = True
            case _:
                assert_never(command)

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._wake.wait()
        except TimeoutError:
            self._handle(Stopped(refusal.startup_timeout()))
        self._wake.clear()

    def _poke(self) -> None:
        self._wake.set()
        if self._connecting is not None and (self._client_inbox.has_ended or self._stop is not None):
            self._connecting.reschedule(self._loop.time())

    # A server

    async def _find_server(self, connect: Connect) -> None:
        self._connect = None
        if self._unwelcome is not None:
            self._handle(NotConnected(self._unwelcome))
            return
        if self._hold_until is None:
            self._hold_until = self._loop.time() + self._around.limits.hold_s
        found: tuple[Backend, Link] | Refusal | None = None
        try:
            # Brought forward when the client leaves or the daemon ends: then nobody waits for a server any more.
            async with asyncio.timeout(None) as self._connecting:
                self._poke()
                found = await self._around.board.connect(
                    self.number, self, self.door, failed=connect.failed, hold_until=self._hold_until
                )
        except TimeoutError:
            return
        finally:
            self._connecting = None
        if isinstance(found, Refusal):
            self._handle(NotConnected(found))
            return
        self._backend, self._server = found
        self._server_inbox = Inbox(self._server, self._poke)
        self._server.receiver = self._server_inbox
        self._deadline = self._loop.time() + self._around.limits.startup_timeout_s
        self._handle(Connected(self._backend))

    def _drop_server(self) -> None:
        if self._server is not None:
            self._server.abort()
        self._server = self._server_inbox = self._backend = None
        self._evicted = None
        self._deadline = None

    # The relay

    def _relay(self, key: BackendKey | None, server_rest: bytes) -> None:
        around, server, inbox, backend = self._around, self._server, self._server_inbox, self._backend
        assert server is not None
        assert inbox is not None
        assert backend is not None
        self._deadline = None
        if not around.board.stands(self.number):
            # The table changed in the very moment of the login's end.
            self._client.write(refusal.primary_changed().encode())
            self.reason = "evicted"
            self._is_over = True
            return
        if key is not None:
            self._key = key
            around.board.keys.add(key, self.number, backend.address)
        metrics.SESSIONS_OPENED.labels(self.door, backend.node).inc()
        self._is_relaying = True
        around.engine.add(
            self.number,
            self._client,
            server,
            self.conversation.point,
            self._told,
            server_rest=server_rest + inbox.take(),
            client_rest=self._client_inbox.take(),
        )
        if self._is_relaying and (self._stop is not None or around.board.must_wait(self.number)):
            around.engine.pause(self.number)

    def _told(self, happening: Happening) -> None:
        point = self.conversation.point
        match happening:
            case Happening.PAUSED:
                self._is_at_safe_point = True
                if self._stop is not None:
                    self._loop.call_later(BREATH_S, self._say_farewell, self._stop)
            case Happening.CLIENT_ENDED:
                self._end_relay(None, "the client went away")
            case Happening.CLIENT_NOT_UNDERSTOOD:
                why = refusal.not_understood(ProtocolError("invalid message length"))
                self._end_relay(why, why.message)
            case Happening.SERVER_ENDED:
                if point.has_left or point.server_said_goodbye:
                    self._end_relay(None, "the server ended the session")
                else:
                    self._say_farewell(self._stop)
            case Happening.COMMIT_UNCONFIRMED:
                self._end_relay(refusal.commit_unconfirmed(), "commit unconfirmed")
            case _:
                assert_never(happening)

    def _end_when_safe(self, why: Refusal) -> None:
        self._stop = why
        if self._is_at_safe_point:
            self._say_farewell(why)
        else:
            self._around.engine.pause(self.number)

    def _say_farewell(self, because: Refusal | None) -> None:
        if not self._is_relaying:
            return
        assert self._backend is not None
        doing = self.conversation.point.doing
        why = farewell(doing, is_writer=self._backend.is_writer, because=because)
        self._end_relay(why, why.message)

    def _end_relay(self, why: Refusal | None, reason: str) -> None:
        if not self._is_relaying:
            return
        self._is_relaying = False
        self.reason = reason
        self._count(why)
        self._around.engine.drop(self.number, why.encode() if why is not None else b"")
        self._around.board.release(self.number)
        self._is_over = True
        self._wake.set()

    # Cancelling

    async def _forward_cancel(self, cancel: Cancel) -> None:
        addresses = self._around.board.keys.find(cancel.key)
        metrics.CANCELS.labels("yes" if addresses else "no").inc()
        for address in addresses:
            link = await dial(address, asyncio.timeout(self._around.limits.dial_timeout_s))
            if not isinstance(link, Link):
                continue
            closed = asyncio.Event()
            link.receiver = Inbox(link, closed.set)
            link.write(cancel.packet)
            # The server closes when it has sent the signal; the client may rely on that order.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    await closed.wait()
            link.close()
        self.reason = "cancel request"
        self._is_over = True

    # The end

    def _count(self, why: Refusal | None) -> None:
        if why is not None:
            metrics.REFUSALS.labels(self.door, why.sqlstate).inc()

    def _close(self) -> None:
        board = self._around.board
        if self._is_relaying:
            self._is_relaying = False
            self._around.engine.drop(self.number)
        if self._server is not None:
            metrics.BYTES.labels(self.door, "to_server").inc(self._server.bytes_sent)
            self._server.close()
        metrics.BYTES.labels(self.door, "to_client").inc(self._client.bytes_sent)
        self._client.finish()
        if self._key is not None:
            board.keys.remove(self._key, self.number)
        board.release(self.number)
