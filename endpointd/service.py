"""What serves clients in one process of a proxy, whether it is the only one, the main one or a worker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from daemonkit.kept import Kept
from daemonkit.logs import get_logger
from daemonkit.proctitle import DRAINING, call_process
from daemonkit.program import Running
from daemonkit.secrets import SecretFile
from daemonkit.version import VERSION
from endpointd import refusal
from endpointd.auth.gate import Gate
from endpointd.auth.rolefeed import RoleFeed
from endpointd.auth.roles import Roles
from endpointd.collector import ProxyCollector
from endpointd.pooling.pools import Pools
from endpointd.pooling.statestatements import why_no_grammar
from endpointd.relay.choice import make_engine
from endpointd.relay.engine import KeepingEngine
from endpointd.roster import Roster
from endpointd.routing.feed import Feed
from endpointd.routing.heartbeat_check import HeartbeatCheck
from endpointd.routing.switchboard import Switchboard
from endpointd.routing.table import Door
from endpointd.servers.connector import Connector
from endpointd.servers.warm import WarmServers
from endpointd.servers.warmpool import Wish, fingerprint
from endpointd.session.cancelling import cancel_for_others
from endpointd.session.disconnections import Disconnections
from endpointd.session.elsewhere import Elsewhere
from endpointd.session.listener import Listener
from endpointd.session.longkeys import KeyMint, Origin
from endpointd.session.quota import Places
from endpointd.session.registry import SessionRegistry
from endpointd.session.shared import Shared
from endpointd.settings import (
    Settings,
    endpoints_telling_addresses,
    limits_of_process,
    pooled_of_process,
    rules_of,
    user_maps_of,
    warm_of_process,
)
from endpointd.takeover.colleagues import Colleagues
from endpointd.takeover.words import Standing
from endpointd.wire.keeper import TlsKeeper
from endpointd.wire.link import LINGER_S
from pgtopology.cancels import proxy_id
from pgtopology.document import Topology
from pgtopology.report import ProxyEndpoint

DRAIN_S = 3.0
"""After SIGTERM sessions may go on until their safe points for this long."""
DRAIN_POLL_S = 0.5
FEED_NAME_MAX = 64
"""A manager takes no longer one."""


class Service:
    """Its doors, its sessions, and what they need to know. Made within the task group that the sessions run in."""

    def __init__(
        self,
        proxy: Running[Settings],
        tls: TlsKeeper,
        board: Switchboard,
        places: Places,
        cache: Kept[Topology],
        group: asyncio.TaskGroup,
        *,
        first_session: int = 1,
        processes: int = 1,
    ) -> None:
        """*first_session*: the number of this process's first one; *processes*: of the proxy."""
        settings = proxy.settings
        self._proxy = proxy
        self._processes = processes
        self.tls = tls
        self.board = board
        self.engine = make_engine(settings.proxy.engine)
        self.warm = WarmServers(warm_of_process(settings.warm, processes))
        self.connector = Connector(
            board,
            fallback_to_writer=settings.reader.fallback_to_writer,
            draw=secrets.randbelow,
            tls=tls,
            warm=self.warm,
        )
        self.connector.unix_socket = settings.servers.unix_socket
        self.registry = SessionRegistry(first=first_session, step=processes)
        self.roster = Roster(settings.proxy.name, self.registry)
        self.pools = self._make_pools(group) if settings.pooled else None
        feed_token = SecretFile(settings.feed.token_file)
        self._noded_token = SecretFile(settings.nodeds.token_file)
        self.rolefeed = RoleFeed(board, self._noded_token, Roles(secrets.token_bytes(32)))
        self.gate = Gate(rules_of(settings), self.rolefeed, endpoints_telling_addresses(settings), user_maps_of(settings))
        self.colleagues = Colleagues(settings.proxy.takeover)
        self.feeds: list[Feed] = []
        own = Origin(proxy_id(settings.proxy.name), os.getpid().to_bytes(4, "big") + secrets.token_bytes(4))
        mint = KeyMint.of_cluster(feed_token(), own)
        elsewhere = Elsewhere(mint, self.colleagues.cancel, self.feeds)
        self._shared = Shared(
            board,
            self.connector,
            self.engine,
            tls,
            self.gate,
            places,
            self.warm,
            keeper=self.engine if isinstance(self.engine, KeepingEngine) else None,
            pools=self.pools,
            mint=mint,
            cancel_elsewhere=elsewhere.cancel,
        )
        board.on_table = self.warm.go_by
        self.rolefeed.on_change = self._roles_changed
        self._is_draining = False
        tls.complain()
        kept = cache.load()
        if kept is not None:
            get_logger().info("routing by the cached document", epoch=kept.epoch, revision=kept.revision)
            board.set_topology(kept)
        self.feeds += [
            Feed(
                url,
                feed_token,
                settings.proxy.name,
                board,
                cache,
                engine=self.engine.name,
                endpoints=tuple(ProxyEndpoint(name, place.host, place.port) for name, place in settings.endpoints),
                count=lambda: len(self.registry),
                count_relaxed=lambda: self.registry.relaxed_sessions(board.topology),
                answer=self.roster.answer,
                cancel=self.cancel,
            )
            for url in settings.feed.urls
        ]
        nodes = (Door.of(instance.node) for instance in settings.instances)
        pooled = (door for door in (Door.POOLED_WRITER, Door.POOLED_READER) if door.name in settings.pooled)
        doors = (Door.WRITER, Door.READER, *nodes, *pooled)
        disconnections = Disconnections()
        self.listeners = [Listener(door, settings, self._shared, group, self.registry, disconnections) for door in doors]
        # What is here now lives as long as the process: no search for garbage has to go through it.
        gc.collect()
        gc.freeze()

    def _make_pools(self, group: asyncio.TaskGroup) -> Pools:
        if (why := why_no_grammar()) is not None:
            get_logger().warning(why)
        return Pools(
            pooled_of_process(self._proxy.settings, self._processes),
            board=self.board,
            connector=self.connector,
            tls=self.tls,
            group=group,
            next_number=self.registry.next_number,
        )

    def background(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return what goes on all the time."""
        return (
            HeartbeatCheck(self.board, self._noded_token).run(),
            self.rolefeed.run(),
            self.tls.run(),
            self.warm.run(),
            *((self.pools.run(),) if self.pools is not None else ()),
            *(feed.run() for feed in self.feeds),
        )

    def collector(self) -> ProxyCollector:
        """Return what tells GET /metrics of it."""
        clock = asyncio.get_running_loop().time
        return ProxyCollector(
            self.registry, self.board, self.feeds, self.rolefeed, self.colleagues, self.warm, self.pools, clock
        )

    def standing(self) -> Standing:
        """Return how it stands."""
        return Standing(
            pid=os.getpid(),
            version=VERSION,
            epoch=self.board.table.epoch,
            revision=self.board.table.revision,
            is_vouched=self.board.is_vouched,
            knows_roles=self.rolefeed.roles.is_known,
            is_draining=self._is_draining,
            sessions=len(self.registry),
        )

    async def cancel(self, packet: bytes) -> bool:
        """Carry out a cancel request that came to another process or proxy; return whether one of our sessions has its key."""
        return await cancel_for_others(self._shared, packet)

    def open(self, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        """Let clients in at *sockets*, by purpose."""
        for listener in self.listeners:
            listener.open(sockets[f"endpoint {listener.door}"])

    def close(self) -> None:
        """Let nobody in any more. The sessions go on."""
        for listener in self.listeners:
            listener.close()

    def take_up(self, new: Settings) -> None:
        """Go by *new*, as far as that can be done without a restart. Raises SettingsError."""
        self.tls.take_up(new.tls, new.servers)
        self.board.limits = limits_of_process(new.limits, self._processes)
        self.warm.settings = warm_of_process(new.warm, self._processes)
        if self.pools is not None:
            self.pools.take_up(pooled_of_process(new, self._processes))
        self.connector.fallback_to_writer = new.reader.fallback_to_writer
        self.connector.unix_socket = new.servers.unix_socket
        self.gate.rules, self.gate.user_maps = rules_of(new), user_maps_of(new)
        self.gate.tell_address = endpoints_telling_addresses(new)
        self.board.notify()
        for listener in self.listeners:
            listener.take_up(new)

    def _roles_changed(self) -> None:
        self.warm.keep_only(lambda session: self._may_still_come(session.key.wish))
        if self.pools is not None:
            self.pools.keep_only(self._may_still_come)

    def _may_still_come(self, wish: Wish) -> bool:
        """Return whether the role that logged in by *wish* is what it was then, as far as is known."""
        roles = self.rolefeed.roles
        if wish.is_vouched:
            return roles.is_vouchable(wish.user)
        secret = roles.find(wish.user)
        return secret.doom is None and fingerprint(secret.verifier) == wish.proof

    def call_draining(self, main_pid: int) -> None:
        """Be known as one that drains, to managers, in the log and to `ps`; *main_pid* is the main process of those that do."""
        self._is_draining = True
        self.warm.close()
        mark = f".draining-{main_pid}"
        name = self._proxy.settings.proxy.name[: FEED_NAME_MAX - len(mark)] + mark
        for feed in self.feeds:
            feed.name, feed.is_draining = name, True
        self.roster.name = name
        self._proxy.log_under(name)
        if not call_process(DRAINING):
            get_logger().warning("there is no room in the process table to say that this process drains")
        get_logger().info("another process serves, this one drains", sessions=len(self.registry))
        self.board.notify()

    @property
    def is_empty(self) -> bool:
        """Whether nobody is in. Who has just come in is no session yet."""
        return not len(self.registry) and not any(one.reception.is_occupied for one in self.listeners)

    async def drain(self) -> None:
        """End all sessions: at their safe points, then at once, and give their last words time to arrive."""
        self.warm.close()
        for listener in self.listeners:
            listener.drain(refusal.shutting_down())
        for session in self.registry:
            session.drain(refusal.shutting_down())
        if not await self.registry.wait_until_empty(DRAIN_S):
            for session in self.registry:
                session.end(refusal.shutting_down())
            await self.registry.wait_until_empty(LINGER_S)


async def let_end(is_over: Callable[[], bool], sessions: Callable[[], int], timeout_s: float | None) -> None:
    """Wait until all *sessions* have ended by themselves, and it *is_over*, or the time is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not is_over():  # noqa: ASYNC110 - it takes hours
                await asyncio.sleep(DRAIN_POLL_S)
            return
    get_logger().info("the time for draining is over", sessions=sessions())
