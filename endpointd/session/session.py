"""One client, from its first byte to its last: a login, then a relay that is watched over.

The login is a task.  A relay is none, since it mostly waits: it goes on by what the engine tells and what others ask, and keeps
of its login no more than it needs, because there are thousands that say nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from daemonkit.logs import get_logger
from daemonkit.reception import Guest, Why
from endpointd import metrics, refusal
from endpointd.refusal import Refusal, shown
from endpointd.relay.engine import BareEngine, Happening, SessionEngine
from endpointd.relay.facts import Doing, Facts
from endpointd.relay.relaxed import CLIENT_MIN_MESSAGES, SYNCHRONOUS_COMMIT, Relaxed
from endpointd.routing.eviction import Eviction, When
from endpointd.routing.table import Backend, Door
from endpointd.servers.warmpool import ServerSession
from endpointd.session.cancelkeys import Cancellable
from endpointd.session.disconnections import Disconnection
from endpointd.session.farewell import farewell, last_words
from endpointd.session.login import Established, Login
from endpointd.session.replay import Replay
from endpointd.session.shared import Shared
from endpointd.session.state import State
from endpointd.wire.link import Link
from endpointd.wire.looseend import LooseEnd
from endpointd.wire.tls import Facts as Encryption
from pgwire.errors import ProtocolError
from pgwire.messages import BackendKey
from pgwire.startup import StartupMessage

BEFORE_FAREWELL_S = 0.05
"""Between a server's last answer and our farewell. libpq takes an error that it reads together with a ReadyForQuery for a mere
notice; a moment later it is the answer to the next query, SQLSTATE and all."""

LOGIN_S = 0.5
"""A login that is under way when a planned handover begins has so long to end. It takes milliseconds; a stranger who says
nothing must not hold the handover up for as long as a transaction may."""

NEW_SESSION_S = 0.1
"""A planned handover leaves a session alone for so long after its login: who connects to ask one thing gets the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """A login that succeeded on bare sockets, with a server's session that was kept."""

    client: LooseEnd
    gone: Callable[[], None]
    """To be called when nothing of its connection is left."""
    server: LooseEnd
    session: ServerSession
    backend: Backend
    startup: StartupMessage
    encrypted: Encryption | None
    """What TLS has agreed on with the client."""
    key_told: BackendKey
    """By which the client cancels."""
    watch: Relaxed | None
    """See Engine.add."""
    welcome: bytes
    """What the client is told before the relay begins."""
    client_rest: bytes


class Session:
    """A client's session."""

    __slots__ = (
        "_backend",
        "_cancellable",
        "_client",
        "_encrypted",
        "_end",
        "_engine",
        "_facts",
        "_had_relay",
        "_is_at_safe_point",
        "_is_over",
        "_is_relaying",
        "_is_shown_out",
        "_key_told",
        "_leaves",
        "_leaves_work",
        "_login",
        "_loop",
        "_on_over",
        "_peer",
        "_relaxed",
        "_relaying_since",
        "_server_session",
        "_shared",
        "_startup",
        "_stop",
        "_why",
        "door",
        "number",
        "opened_at",
    )

    def __init__(
        self,
        number: int,
        door: Door,
        shared: Shared,
        on_over: Callable[[Session], None],
        *,
        peer: str,
        opened_at: float | None = None,
    ) -> None:
        """*on_over* is called once, when nothing is left of it; *peer* is the client, for people.

        Somebody calls `attend` and `run`, or `begin`, before anything else.
        """
        self.number = number
        self.door = door
        self._login: Login | None = None
        """Until there is a relay: a session that lives for days does not keep what it took to begin."""
        self._startup: StartupMessage | None = None
        self._encrypted: Encryption | None = None
        self._backend: Backend | None = None
        self._client: Link | None = None
        """Until the engine has it."""
        self._shared = shared
        self._engine: SessionEngine = shared.engine
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self.opened_at = opened_at if opened_at is not None else self._loop.time()
        self._is_relaying = False
        self._cancellable: Cancellable | None = None
        self._key_told: BackendKey | None = None
        self._server_session: ServerSession | None = None
        """What of its server another client may have."""
        self._facts: Facts | None = None
        """Of the relay, when it is over."""
        self._relaxed = Relaxed.NONE
        self._why: Refusal | None = None
        """What the client was told at the end of the relay."""
        self._end = ("the client went away", "client_left")
        """In words and in one word why the relay ended."""
        self._is_over = False
        self._relaying_since = self.opened_at
        self._leaves: Refusal | None = None
        """Why it will end at a safe point, once its login and a new session's moment are over."""
        self._stop: Refusal | None = None
        """Why it ends at the next safe point."""
        self._is_at_safe_point = False
        self._had_relay = False
        self._is_shown_out = False
        self._leaves_work = False
        """Whether its server is left with something that nobody waits for any more."""

    def attend(self, client: Link, guest: Guest, *, unwelcome: Refusal | None, replay: Replay | None = None) -> None:
        """Have *client* log in.

        *unwelcome*: a session that will be refused as soon as it has said what it wants.  *replay*: what was said before.
        """
        self._client = client
        self._login = self._new_login(client, guest, unwelcome, replay)

    def _new_login(self, client: Link, guest: Guest, unwelcome: Refusal | None, replay: Replay | None) -> Login:
        return Login(self.number, self.door, client, self._shared, self, unwelcome=unwelcome, guest=guest, replay=replay)

    # What others ask

    @property
    def backend(self) -> Backend | None:
        """The server it has, if any."""
        return self._login.backend if self._login is not None else self._backend

    @property
    def state(self) -> str:
        """Where its login stands, or that it is over."""
        return self._login.state if self._login is not None else State.RELAYING

    @property
    def startup(self) -> StartupMessage | None:
        """What the client asked for, once it has."""
        return self._login.startup if self._login is not None else self._startup

    @property
    def tls_version(self) -> str | None:
        """The version of TLS that the client speaks; None if it speaks in plaintext."""
        encrypted = self._login.encrypted if self._login is not None else self._encrypted
        return encrypted.version if encrypted is not None else None

    @property
    def facts(self) -> Facts | None:
        """What is known of its relay, once there is one."""
        return self._engine.facts(self.number) if self._is_relaying else self._facts

    @property
    def backend_pid(self) -> int | None:
        """The process of its server, while there is a relay to it."""
        at = self._cancellable if self._is_relaying else None
        return at.key.pid if at is not None else None

    @property
    def is_reused(self) -> bool | None:
        """Whether its server's session has had another client before; None while there is no relay to it."""
        if not self._is_relaying:
            return None
        return self._server_session is not None and self._server_session.began_at < self.opened_at

    @property
    def waits(self) -> str | None:
        """Why it is held, paused or about to be ended, for people; None if it is not."""
        if not self._is_relaying:
            return self._login.waits if self._login is not None else None
        if self._leaves is not None or self._stop is not None:
            why = self._stop or self._leaves
            assert why is not None
            return f"it ends as soon as it is idle: {why.message}"
        if not self._shared.board.must_wait(self.number):
            return None
        return "paused while nobody vouches for the writer" if self._is_at_safe_point else "it pauses as soon as it is idle"

    def bytes_moved(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Return each direction and how many bytes its relay moved there."""
        facts = self.facts
        to_server, to_client = (facts.to_server_bytes, facts.to_client_bytes) if facts is not None else (0, 0)
        return ("to_server", to_server), ("to_client", to_client)

    @property
    def is_relaxed(self) -> bool:
        """Whether it commits at a writer, and has relaxed what its commits promise."""
        return self._relaxed is not Relaxed.NONE

    @property
    def ended_as(self) -> str:
        """In one word how it ended, when it has."""
        return self._end[1]

    @property
    def had_relay(self) -> bool:
        """Whether its client has had a server."""
        return self._had_relay

    @property
    def disconnection(self) -> Disconnection:
        """How it ended, when it has."""
        startup, backend, login = self.startup, self.backend, self._login
        reason, kind = self._end
        sqlstate = self._why.sqlstate if self._why is not None else None
        if login is not None and self._why is None:
            reason, kind, sqlstate = login.end.reason, login.end.kind, login.end.sqlstate
        return Disconnection(
            endpoint=self.door.name,
            session=self.number,
            client=self._peer,
            kind=kind,
            reason=reason,
            sqlstate=sqlstate,
            is_ours=kind != "server_refused",
            had_session=self._had_relay,
            age_s=self._loop.time() - self.opened_at,
            node=backend.node if backend is not None else None,
            user=shown(startup.user) if startup is not None else None,
            database=shown(startup.database) if startup is not None else None,
            application_name=shown(startup.get("application_name") or "") if startup is not None else None,
        )

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._peer

    def evict(self, eviction: Eviction) -> None:
        """End: see Evictable. A login that can begin anew does; one that is bound to its server may end first."""
        why = eviction.refusal
        login = self._login
        if login is not None:
            if eviction.when is When.SAFE_POINT and login.is_bound:
                self._leaves = why
                self._loop.call_later(LOGIN_S, self._give_login_up, why)
            else:
                login.evict(why)
        elif eviction.when is When.NOW:
            self._say_farewell(why)
        else:
            self._leave(why)

    def pause(self) -> None:
        """Let the client wait: see Evictable. A login goes on; whether its session has to wait is asked when it begins."""
        if self._is_relaying and self._leaves is None:
            self._engine.pause(self.number)

    def resume(self) -> None:
        """Let the client go on: see Evictable."""
        if self._is_relaying and self._stop is None:
            self._is_at_safe_point = False
            self._engine.resume(self.number)

    def drain(self, why: Refusal) -> None:
        """End at the next safe point; a login ends now, and so does a stream, which has none and is taken up elsewhere."""
        if self._login is not None:
            self._login.stop(why)
        elif self._is_relaying and self._engine.facts(self.number).is_streaming:
            self._say_farewell(why)
        else:
            self._end_when_safe(why)

    def show_out(self, why: Why) -> None:
        """End a login now, and do not wait until the client has taken in why: its descriptor is wanted."""
        if self._login is not None:
            self._is_shown_out = True
            self._login.stop(refusal.startup_timeout() if why is Why.LATE else refusal.too_many_clients())

    def end(self, why: Refusal) -> None:
        """End now."""
        if self._login is not None:
            self._login.stop(why)
        else:
            self._say_farewell(why)

    @property
    def left_work(self) -> Cancellable | None:
        """Where its server is at something that nobody waits for any more, when it is over; None if that is nowhere."""
        return self._cancellable if self._leaves_work else None

    def terminate(self, why: Refusal) -> bool:
        """End now, and have the server stop what it is busy with. Return False for a session that is over."""
        if self._is_over or self.state == "closed":
            return False
        self._leaves_work = self._is_relaying and self._engine.facts(self.number).doing is Doing.BUSY
        self.end(why)
        return True

    # Its life

    async def run(self) -> None:
        """Serve the client's login: until its relay goes on by itself, or it is over."""
        established: Established | None = None
        try:
            assert self._login is not None
            established = await self._login.run()
            if established is not None:
                self._relay(established)
        except Exception:
            # The one broad except, around one unit of work: a fault of ours ends one session and is seen.
            metrics.BUGS.inc()
            get_logger().exception("session failed", session=self.number, endpoint=self.door)
            self._why = refusal.internal_error()
            self._end = (self._why.message, self._why.kind)
            if self._is_relaying:
                self._is_relaying = False
                self._engine.drop(self.number, self._why.encode())
        finally:
            if self._client is not None:
                self._close_ends(self._client, established)
            if not self._is_relaying:
                self._leave_everything()

    def _relay(self, established: Established) -> None:
        board, engine = self._shared.board, self._shared.engine
        if self._leaves is None and not board.stands(self.number):
            # The table changed in the very moment of the login's end.
            self._why = refusal.primary_changed()
            self._end = (self._why.message, self._why.kind)
            return
        if established.cancellable is not None and established.key_told is not None:
            self._cancellable, self._key_told = established.cancellable, established.key_told
            self._shared.keys.add(established.key_told, self.number, established.cancellable)
        self._begins(established)
        assert self._client is not None
        assert established.server is not None
        engine.add(
            self.number,
            self._client,
            established.server,
            self._told,
            watch=established.watch,
            server_rest=established.server_rest,
            client_rest=established.client_rest,
            keeps_server=established.session is not None,
        )
        self._client = None
        if not self._is_relaying:
            return
        if self._leaves is not None:
            self._leave(self._leaves)
        elif board.must_wait(self.number):
            engine.pause(self.number)

    def begin(self, engine: BareEngine, bare: Bare) -> bool:
        """Begin with the relay: *bare* has logged in already. False: it cannot, and the client has heard nothing of it."""
        board, shared = self._shared.board, self._shared
        if not board.stands(self.number) or not engine.add_bare(
            self.number,
            bare.client,
            bare.server,
            self._told,
            bare.gone,
            welcome=bare.welcome,
            watch=bare.watch,
            client_rest=bare.client_rest,
        ):
            return False
        board.hand_over(self.number, self)
        self._cancellable, self._key_told = Cancellable(bare.backend.address, bare.session.cancel_key), bare.key_told
        shared.keys.add(bare.key_told, self.number, self._cancellable)
        self._startup, self._encrypted = bare.startup, bare.encrypted
        self._stands(bare.backend, bare.session, bare.watch)
        if board.must_wait(self.number):
            engine.pause(self.number)
        return True

    def _begins(self, established: Established) -> None:
        """The login is over."""
        login = self._login
        assert login is not None
        self._startup, self._encrypted, self._login = login.startup, login.encrypted, None
        self._stands(established.backend, established.session, established.watch)

    def _stands(self, backend: Backend, session: ServerSession | None, watch: Relaxed | None) -> None:
        now = self._loop.time()
        metrics.SESSIONS_OPENED.labels(self.door, backend.node).inc()
        metrics.LOGIN_SECONDS.labels(self.door).observe(now - self.opened_at)
        self._backend, self._server_session = backend, session
        self._is_relaying = self._had_relay = True
        self._relaying_since = now
        if watch is not None:
            self._note_relaxed(watch)

    def _told(self, happening: Happening) -> None:
        match happening:
            case Happening.PAUSED:
                self._is_at_safe_point = True
                if self._stop is not None:
                    # The server is given back before the client is told: a handover waits for nothing else.
                    self._engine.close_server(self.number)
                    self._shared.board.release(self.number)
                    self._loop.call_later(BEFORE_FAREWELL_S, self._say_farewell, self._stop)
            case Happening.STREAMING:
                if self._stop is not None:
                    self._shared.board.leave_to_server(self.number, self._stop)
            case Happening.CLIENT_ENDED:
                self._end_relay(None, happening)
            case Happening.CLIENT_NOT_UNDERSTOOD:
                self._end_relay(refusal.not_understood(ProtocolError("invalid message length")))
            case Happening.SERVER_ENDED:
                facts = self._engine.facts(self.number)
                if facts.client_terminated or facts.server_said_goodbye:
                    self._end = ("the server ended the session", "server_ended")
                    self._end_relay(None)
                elif facts.client_has_ended and not facts.is_awaited:
                    self._end_relay(None)  # it was told that no more comes, and has answered everything
                else:
                    self._say_farewell(self._stop)
            case Happening.COMMIT_UNCONFIRMED:
                self._end_relay(refusal.commit_unconfirmed())
            case Happening.COMMIT_IN_DOUBT:
                self._end_relay(refusal.commit_doubtful())
            case Happening.COMMITS_RELAXED:
                self._note_relaxed(Relaxed.COMMITS)
            case Happening.WARNINGS_HIDDEN:
                self._note_relaxed(Relaxed.WARNINGS)
            case _:
                assert_never(happening)

    # The end

    def _give_login_up(self, why: Refusal) -> None:
        if self._login is not None:
            self._login.evict(why)

    def _leave(self, why: Refusal) -> None:
        """End at the next safe point; a new session, at the next one after its moment."""
        self._leaves = why
        left_s = self._relaying_since + NEW_SESSION_S - self._loop.time()
        if left_s > 0:
            self._loop.call_later(left_s, self._end_when_safe, why)
        else:
            self._end_when_safe(why)

    def _end_when_safe(self, why: Refusal) -> None:
        if not self._is_relaying or self._stop is not None:
            return
        self._stop = why
        if self._is_at_safe_point:
            self._say_farewell(why)
        else:
            self._engine.pause(self.number)

    def _say_farewell(self, because: Refusal | None) -> None:
        if not self._is_relaying:
            return
        facts = self._engine.halt(self.number)
        is_writer = self._backend is not None and self._backend.is_writer
        self._end_relay(farewell(facts, is_writer=is_writer, because=because))

    def _end_relay(self, why: Refusal | None, happening: Happening | None = None) -> None:
        if not self._is_relaying:
            return
        self._why = why
        if why is not None:
            self._end = (why.message, why.kind)
        self._drop(keeps_server=happening is Happening.CLIENT_ENDED)
        self._leave_everything()

    def _drop(self, *, keeps_server: bool = False) -> None:
        shared = self._shared
        self._is_relaying, self._facts = False, self._engine.halt(self.number)
        server = self._server_for_others() if keeps_server else None
        self._engine.drop(self.number, last_words(self._why, self._facts) if self._why is not None else b"")
        if server is not None and self._server_session is not None:
            shared.warm.offer(server, self._server_session)

    def _server_for_others(self) -> LooseEnd | None:
        """Return the server's end if another client may have it; nobody can cancel what runs there any more."""
        shared = self._shared
        if self._server_session is None or shared.keeper is None or not shared.board.stands(self.number):
            return None
        was_cancelled = shared.keys.was_cancelled(self.number)
        self._forget_key()
        if was_cancelled or self._stop is not None or self._leaves is not None:
            return None
        return shared.keeper.take_server(self.number)

    def _forget_key(self) -> None:
        if self._key_told is not None:
            self._shared.keys.remove(self._key_told, self.number)
            self._key_told = None

    def _leave_everything(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._forget_key()
        self._shared.board.release(self.number)
        self._shared.places.give_back(self.number)
        self._on_over(self)

    def _close_ends(self, client: Link, established: Established | None) -> None:
        """Close what no engine was given."""
        if established is not None and established.server is not None:
            established.server.close()
        if self._why is not None:
            client.write(self._why.encode())
        if self._is_shown_out:
            client.close()
        else:
            client.finish()

    def _note_relaxed(self, relaxed: Relaxed) -> None:
        """Count and log, once a session and setting, that it speaks of what weakens its commits."""
        self._relaxed |= relaxed
        startup, topology = self.startup, self._shared.board.topology
        if topology is None or not topology.waits_for_copies or startup is None:
            return
        say = get_logger().warning if topology.promises_commits else get_logger().info
        for each, setting in ((Relaxed.COMMITS, SYNCHRONOUS_COMMIT), (Relaxed.WARNINGS, CLIENT_MIN_MESSAGES)):
            if each not in relaxed:
                continue
            metrics.RELAXED.labels(setting).inc()
            say(
                "a session on the writer may weaken what its commits promise",
                setting=setting,
                session=self.number,
                endpoint=self.door.name,
                client=self.peer,
                user=shown(startup.user),
                database=shown(startup.database),
                application_name=shown(startup.get("application_name") or ""),
            )
