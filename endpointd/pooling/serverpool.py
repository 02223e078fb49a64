"""One pool: the servers that the clients of one login share, and who logs them in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from daemonkit.logs import get_logger
from endpointd import metrics, refusal
from endpointd.pooling.bridge import give_away
from endpointd.pooling.poolengine import PoolEngine, PoolFacts
from endpointd.pooling.rest import Rest
from endpointd.pooling.serverlogin import Admitted, Denied, Secret, log_in
from endpointd.refusal import Refusal
from endpointd.routing.eviction import Eviction, When
from endpointd.routing.switchboard import Switchboard
from endpointd.routing.table import Backend, Door
from endpointd.servers.connector import Connector
from endpointd.servers.serverlogin import Limit, limit_of
from endpointd.servers.warmpool import Wish
from endpointd.wire.link import Link
from pgtopology.node import Address
from pgwire.messages import BackendKey
from pgwire.sqlstate import SqlState

_MAY_PASS = frozenset(
    {
        SqlState.CANNOT_CONNECT_NOW,
        SqlState.ADMIN_SHUTDOWN,
        SqlState.CRASH_SHUTDOWN,
        SqlState.TOO_MANY_CONNECTIONS,
    }
)
"""What a server says that another one, or the same one in a moment, does not say."""


class Dialled(Enum):
    """What became of a dial."""

    ADDED = auto()
    FAILED = auto()
    AT_OWN_LIMIT = auto()
    """The role or the database has as many sessions as it may: see Rest."""


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What the clients of one pool have in common."""

    door: Door
    wish: Wish


class Owner(Protocol):
    """Who knows all pools."""

    def evict_client(self, client: int, eviction: Eviction) -> None:
        """End the session of *client*, which keeps a server that has to go."""
        ...

    def added(self, pool: ServerPool, server: PooledServer) -> None:
        """*pool* has one more server."""
        ...

    def refuse_clients(self, pool: ServerPool, why: Refusal) -> None:
        """No client of *pool* can be served any more."""
        ...


class PooledServer:
    """A server of a pool, or one that is being dialled (Evictable)."""

    def __init__(self, number: int, pool: ServerPool) -> None:
        self.number = number
        self.handle = 0
        self.backend: Backend | None = None
        self.key: BackendKey | None = None
        self.why: Refusal | None = None
        """Why it has to go."""
        self.is_retiring = False
        """Its pool gives it back."""
        self._pool = pool
        self.link: Link | None = None

    @property
    def address(self) -> Address | None:
        """Where it can be cancelled."""
        return self.backend.address if self.backend is not None else None

    def evict(self, eviction: Eviction) -> None:
        """Go: at once, or when its client has done what it does."""
        self.why = eviction.refusal
        if self.handle:
            self._pool.evict(self, eviction)
        elif self.link is not None:
            self.link.abort()

    def retire(self) -> None:
        """Be given back by its pool: at once, or when its client has done what it does."""
        self.is_retiring = True
        self._pool.engine.core.retire(self.handle)

    def pause(self) -> None:
        """Be given to nobody for the moment."""
        if self.handle:
            self._pool.engine.core.pause_server(self.handle)

    def resume(self) -> None:
        """Be given to clients again."""
        if self.handle:
            self._pool.engine.core.resume_server(self.handle)


class ServerPool:
    """See the module."""

    def __init__(
        self,
        key: PoolKey,
        handle: int,
        secret: Secret | None,
        *,
        engine: PoolEngine,
        board: Switchboard,
        connector: Connector,
        owner: Owner,
        next_number: Callable[[], int],
    ) -> None:
        self.key = key
        self.handle = handle
        self.secret = secret
        self.engine = engine
        self.servers: dict[int, PooledServer] = {}
        """By handle."""
        self.reported = b""
        """What a server said of itself last, which clients are told."""
        self.backend: Backend | None = None
        """Who said it."""
        self.why_closed: Refusal | None = None
        """What its clients are told, when it is closed."""
        self.rest = Rest()
        self.idle_since = 0.0
        self.counted: PoolFacts | None = None
        """As of the last look."""
        self._board = board
        self._connector = connector
        self._owner = owner
        self._next_number = next_number
        self._loop = asyncio.get_running_loop()
        self._joining: set[asyncio.Future[Refusal | None]] = set()

    # Clients

    @property
    def is_known(self) -> bool:
        """Whether a server has said what clients are to be told."""
        return self.backend is not None

    @property
    def closed(self) -> bool:
        """Whether it will have no more servers."""
        return self.why_closed is not None

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits until it is known."""
        return not self.is_known and not self.closed and any(not each.done() for each in self._joining)

    def known(self) -> asyncio.Future[Refusal | None]:
        """Return what is done when it is known, or with why it will not be."""
        told: asyncio.Future[Refusal | None] = self._loop.create_future()
        self._joining.add(told)
        told.add_done_callback(self._joining.discard)
        return told

    def _tell_joining(self, why: Refusal | None) -> None:
        for each in tuple(self._joining):
            if not each.done():
                each.set_result(why)

    # Servers

    def evict(self, server: PooledServer, eviction: Eviction) -> None:
        """*server* has to go."""
        if self.backend == server.backend:
            self.backend = None  # the next one may say something else
        if eviction.when is When.NOW:
            self.engine.core.kill(server.handle)
            return
        server.retire()
        if (held := self.engine.core.client_of(server.handle)) is not None and held[1]:
            self._owner.evict_client(held[0], eviction)

    def gone(self, server: PooledServer) -> None:
        """*server* is closed."""
        self.servers.pop(server.handle, None)
        self._board.release(server.number)

    def close(self, why: Refusal) -> None:
        """Let nobody have a server any more, tell who waits to come in *why*, and close the servers that nobody has."""
        self.why_closed = why
        self._tell_joining(why)
        self.engine.core.close_pool(self.handle)
        for server in self.servers.values():
            server.retire()

    async def dial(self) -> Dialled:
        """Have one more server, if there is one to be had."""
        server = PooledServer(self._next_number(), self)
        outcome = Dialled.FAILED
        try:
            outcome = await self._dial(server)
        finally:
            self._connector.login_over(server.number)
            if outcome is not Dialled.ADDED:
                self._board.release(server.number)
                if server.link is not None:
                    server.link.abort()
        return outcome

    async def _dial(self, server: PooledServer) -> Dialled:
        if self.closed:
            return Dialled.FAILED
        limits = self._board.limits
        found = await self._connector.connect(
            server.number,
            server,
            self.key.door,
            failed=None,
            hold_until=self._loop.time() + limits.hold_s,
            is_patient=lambda: not self.closed,
            vouches=self.secret is None,
        )
        if isinstance(found, Refusal):
            self._tell_joining(found)
            return Dialled.FAILED
        server.backend, server.link = found.backend, found.link
        metrics.SERVER_CONNECTIONS.labels(found.backend.node, "dialled").inc()
        outcome: Admitted | Denied | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.login_timeout_s):
                outcome = await log_in(
                    found.link, self.key.wish.packet, self.secret, lambda: self._connector.answered(found.backend)
                )
        if isinstance(outcome, Denied):
            return self._denied(found.backend, outcome)
        if outcome is None or server.why is not None or self.closed or not self._board.stands(server.number):
            return Dialled.FAILED
        return Dialled.ADDED if self._admitted(server, outcome) else Dialled.FAILED

    def _admitted(self, server: PooledServer, admitted: Admitted) -> bool:
        assert server.link is not None
        link, server.link = server.link, None
        self._connector.login_finished(server.number)
        try:
            must_wait = self._board.must_wait(server.number)
            server.handle, _ = give_away(
                link,
                lambda fd, tls: self.engine.core.add_server(self.handle, fd, tls, must_wait),
                can_tls=self.engine.can_tls,
            )
        except (OSError, KeyError):
            link.abort()
            return False
        server.key = admitted.key
        self.servers[server.handle] = server
        self._owner.added(self, server)
        self.reported, self.backend = admitted.reported, server.backend
        self._tell_joining(None)
        return True

    def _denied(self, backend: Backend, denied: Denied) -> Dialled:
        sqlstate = denied.report.sqlstate if denied.report is not None else None
        get_logger().info(
            "a server refused a pool", node=backend.node, user=self.key.wish.user, reason=denied.why, sqlstate=sqlstate
        )
        limit = limit_of(denied.report) if denied.report is not None else None
        if limit is Limit.SERVER:
            self._connector.is_full(backend)
        elif limit is not None:
            return Dialled.AT_OWN_LIMIT
        if sqlstate not in _MAY_PASS:
            self._owner.refuse_clients(self, refusal.pool_refused(backend.node, denied.why, sqlstate))
        return Dialled.FAILED

    def refuse(self, why: Refusal) -> None:
        """Tell who waits to come in that nobody does."""
        self._tell_joining(why)
