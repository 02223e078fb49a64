"""A session of a pooled endpoint: has a server only while a transaction is open, unless it is pinned to one."""

from __future__ import annotations

from typing import assert_never

from daemonkit.reception import Guest
from endpointd import metrics, refusal
from endpointd.pooling.pins import Pin
from endpointd.pooling.poolengine import PoolHappening, Standing
from endpointd.pooling.pools import Pools
from endpointd.pooling.serverpool import ServerPool
from endpointd.refusal import Refusal
from endpointd.relay.engine import Happening
from endpointd.routing.table import Backend
from endpointd.session.cancelkeys import Cancellable
from endpointd.session.farewell import farewell, last_words
from endpointd.session.login import Established, Login
from endpointd.session.pooledlogin import PooledLogin
from endpointd.session.replay import Replay
from endpointd.session.session import Session
from endpointd.session.state import State
from endpointd.wire.link import Link
from pgwire.messages import BackendKey


class PooledSession(Session):
    """What differs from other sessions (Teller, Client)."""

    pool: ServerPool | None = None
    _key: BackendKey | None = None
    _left_at: Cancellable | None = None

    def _new_login(self, client: Link, guest: Guest, unwelcome: Refusal | None, replay: Replay | None) -> Login:
        shared = self._shared
        login = PooledLogin(self.number, self.door, client, shared, self, unwelcome=unwelcome, guest=guest, replay=replay)
        login.pools = self._pools
        return login

    @property
    def _pools(self) -> Pools:
        assert self._shared.pools is not None
        return self._shared.pools

    @property
    def _standing(self) -> Standing | None:
        return self._pools.engine.standing(self.number) if self._is_relaying else None

    # What others ask

    @property
    def backend(self) -> Backend | None:
        """The server that it has at this moment, if any."""
        server = self._pools.server_of(self.number) if self._is_relaying else None
        return server.backend if server is not None else None

    @property
    def backend_pid(self) -> int | None:
        """The process of the server that it has at this moment."""
        server = self._pools.server_of(self.number) if self._is_relaying else None
        return server.key.pid if server is not None and server.key is not None else None

    @property
    def state(self) -> str:
        """Where its login stands, or whether it has a server, waits for one or needs none."""
        standing = self._standing
        if standing is None:
            return super().state
        if standing.waited_s is not None:
            return State.WAITING
        return State.RELAYING if standing.server else State.POOLED

    @property
    def waits(self) -> str | None:
        """Why it waits, or why it keeps its server, for people."""
        standing = self._standing
        if standing is None or self._leaves is not None or self._stop is not None:
            return super().waits
        if standing.waited_s is not None:
            return f"it has waited for a server of its pool for {standing.waited_s:.1f} s"
        return f"it keeps its server: {standing.pin}" if standing.pin is not None else None

    def terminate(self, why: Refusal) -> bool:
        """End now, and have the server stop what it is busy with. Return False for a session that is over."""
        server = self._pools.server_of(self.number) if self._is_relaying else None
        if server is not None and server.address is not None and server.key is not None:
            self._left_at = Cancellable(server.address, server.key)
        return super().terminate(why)

    # Its life

    @property
    def left_work(self) -> Cancellable | None:
        """Where its server is at something that nobody waits for any more, when it is over; None if that is nowhere."""
        return self._left_at if self._leaves_work else None

    def _relay(self, established: Established) -> None:
        login = self._login
        assert isinstance(login, PooledLogin)
        client, pool = self._client, login.pool
        assert client is not None
        assert pool is not None
        self.pool, self._key, self._engine = pool, established.key_told, self._pools.engine
        why = pool.why_closed  # perhaps between the client's login and now
        if why is None:
            try:
                self._pools.engine.add(
                    self.number, pool.handle, client, self, watch=established.watch, client_rest=established.client_rest
                )
            except OSError:
                why = refusal.too_many_clients()
        if why is not None:
            self._why, self._end = why, (why.message, why.kind)
            return
        self._client = None
        self._begins(established)
        self._pools.enter(self.number, self, self._key)
        if self._leaves is not None:
            self._leave(self._leaves)

    def happened(self, happening: Happening | PoolHappening) -> None:
        """See Teller."""
        match happening:
            case Happening():
                self._told(happening)
            case PoolHappening.WAITED_TOO_LONG:
                self._end_relay(self._why_no_server())
            case PoolHappening.LIMIT:
                self._end_relay(refusal.more_than_one_may_have(self.door.name))
            case _:
                assert_never(happening)

    def _why_no_server(self) -> Refusal:
        assert self.pool is not None
        if not self.pool.servers:
            return self._shared.connector.refusal_of_nobody(self.pool.key.door)
        return refusal.waited_too_long(self.door.name, self._pools.settings[self.door.name].query_wait_timeout_s)

    def pinned(self, pin: Pin) -> None:
        """See Teller."""
        metrics.POOL_PINS.labels(self.door, pin).inc()
        server = self._pools.server_of(self.number)
        if server is not None and server.why is not None:
            self._leave(server.why)

    # The end

    def _say_farewell(self, because: Refusal | None) -> None:
        if not self._is_relaying:
            return
        server = self._pools.server_of(self.number)
        facts = self._engine.halt(self.number)
        is_writer = server is not None and server.backend is not None and server.backend.is_writer
        why = because if because is not None or server is None else server.why
        self._end_relay(farewell(facts, is_writer=is_writer, because=why))

    def _drop(self, *, keeps_server: bool = False) -> None:
        del keeps_server  # the engine knows whether another client may have it
        self._is_relaying, self._facts = False, self._engine.halt(self.number)
        self._engine.drop(self.number, last_words(self._why, self._facts) if self._why is not None else b"")

    def _leave_everything(self) -> None:
        if not self._is_over:
            self._pools.leave(self.number, self._key)
        super()._leave_everything()
