"""All pools of a process: who joins which, who dials for them, and who cancels what. The door of pooling."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from daemonkit.logs import get_logger
from endpointd import metrics, refusal
from endpointd.pooling.poolengine import NO_FACTS, PoolEngine, PoolFacts
from endpointd.pooling.serverlogin import Secret
from endpointd.pooling.serverpool import Dialled, PooledServer, PoolKey, ServerPool
from endpointd.refusal import Refusal
from endpointd.routing.eviction import Eviction, When
from endpointd.routing.switchboard import Switchboard
from endpointd.routing.table import Door
from endpointd.servers.cancelrequest import CANCELS_MAX, carry_cancel
from endpointd.servers.connector import Connector
from endpointd.servers.warmpool import Wish
from endpointd.settings import PooledSettings
from endpointd.wire.keeper import TlsKeeper
from pgtopology.cancels import CARRY_S
from pgwire.messages import BackendKey

TICK_S = 1.0
FORGOTTEN_AFTER_S = 60.0
"""A pool without clients and servers is forgotten after this time, and with it the key to its servers."""
DIALS_MAX = 16
"""At one endpoint of a process, at once; each server has a limit of its own for logins.  An endpoint whose servers cannot be
reached, so that its dials last, takes none of another one's."""
DIALS_OF_ONE_MAX = 8
"""Of these, of one user and database: a login that takes a server long leaves room for others."""


class Client(Protocol):
    """A session of a pooled endpoint."""

    @property
    def pool(self) -> ServerPool | None:
        """Where it gets servers."""
        ...

    def evict(self, eviction: Eviction) -> None:
        """End: see Evictable."""
        ...

    def end(self, why: Refusal) -> None:
        """End now."""
        ...


class Pools:
    """One for the process."""

    def __init__(
        self,
        settings: dict[str, PooledSettings],
        *,
        board: Switchboard,
        connector: Connector,
        tls: TlsKeeper,
        group: asyncio.TaskGroup,
        next_number: Callable[[], int],
    ) -> None:
        """*settings*: of the pooled endpoints, by their names."""
        self.settings = settings
        self.engine = PoolEngine()
        self.engine.on_wants_server = self._wants_server
        self.engine.on_server_gone = self._server_gone
        self._board = board
        self._connector = connector
        self._tls = tls
        self._group = group
        self._next_number = next_number
        self._loop = asyncio.get_running_loop()
        self._pools: dict[PoolKey, ServerPool] = {}
        self._by_handle: dict[int, ServerPool] = {}
        self._servers: dict[int, tuple[ServerPool, PooledServer]] = {}
        self._counted: dict[str, PoolFacts] = {}
        """What pools had counted that are forgotten."""
        self._clients: dict[int, Client] = {}
        """By number."""
        self._keys: dict[BackendKey, int] = {}
        self._wanted: Counter[int] = Counter()
        """Servers that a pool wants and that its login has no room for yet."""
        self._dialling: Counter[int] = Counter()
        self._dials = {name: asyncio.Semaphore(DIALS_MAX) for name in settings}
        self._cancels = asyncio.Semaphore(CANCELS_MAX)

    # Coming in

    async def join(self, door: Door, wish: Wish, secret: Secret | None) -> ServerPool | Refusal:
        """Return the pool for a client whose login is *wish*, when a server has told what the client is to be told."""
        self.engine.listen()
        pool = self._pool(PoolKey(door.unpooled, wish), self.settings[door.name], secret)
        until = self._loop.time() + self._board.limits.hold_s
        while not pool.is_known:
            told = pool.known()
            self._serve(pool)
            try:
                async with asyncio.timeout_at(until):
                    why = await told
            except TimeoutError:
                return self._connector.refusal_of_nobody(pool.key.door)
            finally:
                told.cancel()
            if why is not None:
                return why
        pool.idle_since = self._loop.time()  # its client is about to come
        return pool

    def _pool(self, key: PoolKey, settings: PooledSettings, secret: Secret | None) -> ServerPool:
        pool = self._pools.get(key)
        if pool is not None and not pool.closed:
            return pool
        handle = self.engine.core.add_pool(*_limits(settings))
        pool = self._pools[key] = self._by_handle[handle] = ServerPool(
            key,
            handle,
            secret,
            engine=self.engine,
            board=self._board,
            connector=self._connector,
            owner=self,
            next_number=self._next_number,
        )
        pool.idle_since = self._loop.time()
        return pool

    def _count(self, pool: ServerPool, facts: PoolFacts) -> None:
        """Keep what a pool has counted that is about to be forgotten."""
        name = pool.key.door.pooled.name
        before = self._counted.get(name, NO_FACTS)
        self._counted[name] = before.plus(
            replace(facts, clients=0, waiting=0, pinned=0, servers=0, idle=0, dialled=0, longest_wait_ms=0)
        )

    def enter(self, number: int, client: Client, key: BackendKey | None) -> None:
        """*client* is served from now on, and can be cancelled by *key*."""
        self._clients[number] = client
        if key is not None:
            self._keys[key] = number

    def leave(self, number: int, key: BackendKey | None) -> None:
        """A client has gone."""
        self._clients.pop(number, None)
        if key is not None and self._keys.get(key) == number:
            del self._keys[key]

    # What others ask

    def server(self, handle: int) -> PooledServer | None:
        """Return the server that has this handle."""
        found = self._servers.get(handle)
        return found[1] if found is not None else None

    def server_of(self, number: int) -> PooledServer | None:
        """Return the server that a session has at this moment."""
        try:
            return self.server(self.engine.standing(number).server)
        except KeyError:
            return None

    def totals(self) -> dict[str, PoolFacts]:
        """Return how the pools of each endpoint stand together; what those had counted that are forgotten is in it."""
        found = dict.fromkeys(self.settings, NO_FACTS) | self._counted
        for pool in self._by_handle.values():
            name = pool.key.door.pooled.name
            with contextlib.suppress(KeyError):
                found[name] = found[name].plus(self.engine.pool_facts(pool.handle))
        return found

    # Servers

    def _room(self, pool: ServerPool) -> int:
        """Return how many more servers the user may have at the database: all of its pools at one endpoint share the limit."""
        used = sum(len(each.servers) + self._dialling[each.handle] for each in self._siblings(pool))
        return self._size(pool) - used

    def _size(self, pool: ServerPool) -> int:
        return self.settings[pool.key.door.pooled.name].pool_size

    def _siblings(self, pool: ServerPool) -> list[ServerPool]:
        key = pool.key
        return [
            each
            for each in self._by_handle.values()
            if each.key.door == key.door and each.key.wish.user == key.wish.user and each.key.wish.database == key.wish.database
        ]

    def _wants_server(self, handle: int, count: int) -> None:
        pool = self._by_handle.get(handle)
        if pool is not None:
            self._wanted[handle] += count
            self._serve(pool)

    def _wants(self, pool: ServerPool) -> bool:
        """Return whether *pool* is to have one more server: clients wait for it, or one that wants to come in."""
        return not pool.closed and (self._wanted[pool.handle] > 0 or (pool.is_awaited and not self._dialling[pool.handle]))

    def _may_try(self, pool: ServerPool) -> bool:
        if pool.rest.is_failing and (self._dialling[pool.handle] or self._loop.time() < pool.rest.until):
            return False
        return sum(self._dialling[each.handle] for each in self._siblings(pool)) < DIALS_OF_ONE_MAX

    def _serve(self, pool: ServerPool, *, is_overdue: bool = False) -> None:
        """Dial what *pool* wants, as far as there is room; if it has none at all, have another one give a server back.

        Whoever is refused here is served again when a server has gone or a dial is over, and with each tick (*is_overdue*).
        """
        self._forgo(pool)
        while self._wants(pool) and self._may_try(pool):
            if self._room(pool) <= 0:
                self._make_room(pool, is_overdue=is_overdue)
                return
            is_asked = self._wanted[pool.handle] > 0
            if is_asked:
                self._wanted[pool.handle] -= 1
            self._dial(pool, is_asked=is_asked)

    def _forgo(self, pool: ServerPool) -> None:
        """Want no servers for clients that have been served since, or have gone: another pool would lose its own for them."""
        if not self._wanted[pool.handle] or pool.closed:
            return
        try:
            facts = self.engine.pool_facts(pool.handle)
        except KeyError:
            self._wanted[pool.handle] = 0
            return
        # By the engine's own numbers: it asks again only if fewer are dialled than clients wait.
        for _ in range(min(self._wanted[pool.handle], facts.dialled - facts.waiting)):
            self._wanted[pool.handle] -= 1
            self.engine.core.dial_failed(pool.handle)

    def _serve_all(self, pool: ServerPool) -> None:
        """There may be room again for *pool* and for those that share its number: first for those that have least."""
        for each in sorted(self._siblings(pool), key=lambda each: len(each.servers) + self._dialling[each.handle]):
            self._serve(each)

    def _make_room(self, pool: ServerPool, *, is_overdue: bool) -> None:
        """Have another pool give one server back: one that nobody has, or else the next that becomes free of whoever has more.

        One that has a server may lose its last one too, to a pool that has none and is overdue.
        """
        siblings = self._siblings(pool)
        leaving = [self._held_by(server) for each in siblings for server in each.servers.values() if server.is_retiring]
        if None in leaving:
            return  # there will be room in a moment
        others = sorted((each for each in siblings if each is not pool), key=lambda each: len(each.servers), reverse=True)
        staying = [server for each in others for server in each.servers.values() if not server.is_retiring]
        idle = next((server for server in staying if self._held_by(server) is None), None)
        if idle is not None:
            idle.retire()
            return
        if any(held is not None and not held[1] for held in leaving):
            return  # there will be when a transaction is over
        few = len(pool.servers) + (0 if is_overdue and not pool.servers else 1)
        busy = (server for each in others if len(each.servers) > few for server in each.servers.values())
        for server in busy:
            held = self._held_by(server)
            if held is not None and not held[1] and not server.is_retiring:
                server.retire()
                return

    def _held_by(self, server: PooledServer) -> tuple[int, int] | None:
        """Return the client that has *server*, and whether it keeps it beyond its transaction."""
        return self.engine.core.client_of(server.handle)

    def _dial(self, pool: ServerPool, *, is_asked: bool) -> None:
        self._dialling[pool.handle] += 1
        dialled = self._dialled(pool, is_asked=is_asked)
        self._group.create_task(dialled, name=f"pool {pool.handle & 0xFFFFFFFF} dials")

    async def _dialled(self, pool: ServerPool, *, is_asked: bool) -> None:
        """Have one more server; *is_asked*: the engine counts on it.

        Room and place are given back as soon as it is clear that there is none, and the pool rests without them.
        """
        outcome = Dialled.FAILED
        try:
            async with self._dials[pool.key.door.pooled.name]:
                outcome = await pool.dial()
        except Exception:  # a fault of ours costs one server and is seen
            metrics.BUGS.inc()
            get_logger().exception("a pool's server could not be dialled", user=pool.key.wish.user)
        finally:
            self._dialling[pool.handle] -= 1
        if outcome is Dialled.ADDED:
            pool.rest.succeeded()
            self._serve_all(pool)
            return
        pool.rest.failed(self._loop.time(), is_at_limit=outcome is Dialled.AT_OWN_LIMIT)
        self._serve_all(pool)
        await asyncio.sleep(pool.rest.until - self._loop.time())
        if is_asked:
            with contextlib.suppress(KeyError):
                self.engine.core.dial_failed(pool.handle)
        self._serve_all(pool)

    def added(self, pool: ServerPool, server: PooledServer) -> None:
        """See Owner."""
        self._servers[server.handle] = pool, server

    def _server_gone(self, handle: int) -> None:
        found = self._servers.pop(handle, None)
        if found is None:
            return
        pool, server = found
        pool.gone(server)
        self._serve_all(pool)

    def evict_client(self, client: int, eviction: Eviction) -> None:
        """See Owner."""
        number = self.engine.token_of(client)
        if number is not None and number in self._clients:
            self._clients[number].evict(eviction)

    def refuse_clients(self, pool: ServerPool, why: Refusal) -> None:
        """See Owner."""
        pool.refuse(why)
        for number, client in tuple(self._clients.items()):
            if client.pool is pool and self.engine.is_waiting(number):
                client.end(why)
        if not pool.servers:
            self._forget(pool, why)

    # Cancelling

    async def cancel(self, key: BackendKey) -> bool:
        """Cancel what the session with *key* has under way, at the server that it has; return whether there is one.

        No other session is given that server before the request has been felt, or can no longer be.
        """
        number = self._keys.get(key)
        if number is None:
            return False
        handle = self.engine.cancel_begins(number)
        server = self.server(handle)
        is_over = False
        try:
            if server is not None and server.key is not None and server.address is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CARRY_S), self._cancels:
                        limits = self._board.limits
                        await carry_cancel(server.address, server.key, self._tls, dial_timeout_s=limits.dial_timeout_s)
                        is_over = True
        finally:
            if handle:
                self.engine.cancel_ended(number, handle, is_over=is_over)
        return True

    # Its life

    def take_up(self, settings: dict[str, PooledSettings]) -> None:
        """Go by *settings* from now on."""
        self.settings = {name: settings.get(name, mine) for name, mine in self.settings.items()}
        for pool in self._by_handle.values():
            with contextlib.suppress(KeyError):
                self.engine.core.set_pool(pool.handle, *_limits(self.settings[pool.key.door.pooled.name]))

    def keep_only(self, is_welcome: Callable[[Wish], bool]) -> None:
        """Open no more servers by what a role's former secret was, and end who would need one, at their safe points."""
        for pool in tuple(self._by_handle.values()):
            if not pool.closed and not is_welcome(pool.key.wish):
                self._forget(pool, refusal.role_changed())

    def _forget(self, pool: ServerPool, why: Refusal) -> None:
        """Have no more servers in *pool*, and end its clients, who would wait for one in vain, at their safe points."""
        pool.close(why)
        if self._pools.get(pool.key) is pool:
            del self._pools[pool.key]
        for number, client in tuple(self._clients.items()):
            if client.pool is pool:
                client.evict(Eviction(number, why, When.SAFE_POINT))

    async def run(self) -> None:
        """Forget pools that nobody needs, for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            for pool in tuple(self._by_handle.values()):
                self._look_after(pool, now)

    def _look_after(self, pool: ServerPool, now: float) -> None:
        try:
            facts = self.engine.pool_facts(pool.handle)
        except KeyError:
            del self._by_handle[pool.handle]
            self._wanted.pop(pool.handle, None)
            if pool.counted is not None:
                self._count(pool, pool.counted)
            return
        pool.counted = facts
        if facts.clients or facts.servers or self._dialling[pool.handle] or pool.is_awaited:
            pool.idle_since = now
            self._serve(pool, is_overdue=True)
        elif not pool.closed and now - pool.idle_since > FORGOTTEN_AFTER_S:
            self._forget(pool, refusal.pool_closed(pool.key.door.pooled.name))

    def close(self) -> None:
        """Have no servers any more; the sessions have ended."""
        for pool in self._by_handle.values():
            with contextlib.suppress(KeyError):
                pool.close(refusal.shutting_down())
        self.engine.close()


def _limits(settings: PooledSettings) -> tuple[int, int, int, int, int, int]:
    """Return what the native engine is told."""
    return (
        settings.pool_size,
        settings.pool_min,
        settings.prepared_statements_max,
        round(settings.query_wait_timeout_s * 1000),
        round(settings.server_idle_timeout_s * 1000),
        round(settings.server_lifetime_s * 1000),
    )
