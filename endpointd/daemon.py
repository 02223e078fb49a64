"""The proxy as a program: puts the parts together, and takes them apart again when it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import resource
import secrets
import socket
import sys
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from daemonkit.descriptors import FOR_STRANGERS_LESS, allow_descriptors
from daemonkit.httpserver import HttpServer, registered
from daemonkit.logs import get_logger
from daemonkit.principals import accepted_tokens
from daemonkit.proctitle import DRAINING, call_process
from daemonkit.program import Daemon, Running
from daemonkit.racing import first_of
from daemonkit.secrets import SecretFile, read_secret
from daemonkit.version import VERSION
from endpointd import metrics, refusal
from endpointd.admin import routes
from endpointd.auth.gate import Gate
from endpointd.auth.rolefeed import RoleFeed
from endpointd.auth.roles import Roles
from endpointd.collector import ProxyCollector
from endpointd.entrances import Entrances, ListenError, claim
from endpointd.relay.asyncio_engine import AsyncioEngine
from endpointd.roster import Roster
from endpointd.routing.feed import Feed, document_cache
from endpointd.routing.heartbeat_check import HeartbeatCheck
from endpointd.routing.switchboard import Switchboard
from endpointd.routing.table import Door
from endpointd.servers.connector import Connector
from endpointd.session.cancelling import cancel_for_others
from endpointd.session.disconnections import Disconnections
from endpointd.session.elsewhere import Elsewhere
from endpointd.session.listener import Listener
from endpointd.session.longkeys import KeyMint, Origin
from endpointd.session.registry import SessionRegistry
from endpointd.session.shared import Shared
from endpointd.settings import (
    Settings,
    endpoints_telling_addresses,
    needs_restart,
    read_settings,
    rules_of,
    user_maps_of,
)
from endpointd.takeover.colleagues import Colleagues
from endpointd.takeover.incumbent import Incumbent
from endpointd.takeover.predecessor import Predecessor, TakeoverError, meet
from endpointd.takeover.words import Standing
from endpointd.wire.identity import CertificateError
from endpointd.wire.keeper import TlsKeeper
from endpointd.wire.link import LINGER_S
from pgtopology.cancels import proxy_id
from pgtopology.report import ProxyEndpoint

DRAIN_S = 3.0
"""After SIGTERM sessions may go on until their safe points for this long."""
DRAIN_POLL_S = 0.5
FEED_NAME_MAX = 64
"""A manager takes no longer one."""


def prepare(settings: Settings) -> TlsKeeper:
    """Return what TLS is spoken with. Raises SecretError or CertificateError if what will be needed cannot be used."""
    accepted_tokens(settings.http.token_file, settings.http.verifiers_file)
    for path in (settings.feed.token_file, settings.nodeds.token_file):
        read_secret(path)
    _require_source(settings.servers.source)
    return TlsKeeper(settings.tls, settings.servers)


def _require_source(source: str | None) -> None:
    """Raise CertificateError if *source* is no address of this machine."""
    if source is None:
        return
    try:
        with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((source, 0))
    except OSError as error:
        raise CertificateError(f"[servers], source: {source} is no address of this machine: {error.strerror}") from error


def check(settings: Settings) -> None:
    """Raise SettingsError for all that would keep the proxy from serving, and for a certificate that has expired."""
    identity = prepare(settings).clients
    why = identity.complaint(dt.datetime.now(dt.UTC)) if identity is not None else None
    if why is not None:
        raise CertificateError(why)


async def serve(proxy: Running[Settings], tls: TlsKeeper) -> None:
    """Run the proxy until it is told to stop, or is relieved and has drained. Raises ListenError, TakeoverError."""
    path = proxy.settings.proxy.takeover
    predecessor = await meet(path) if path is not None else None
    try:
        await _serve(proxy, tls, predecessor, await claim(proxy.settings, predecessor))
    finally:
        if predecessor is not None:
            predecessor.close()


async def _serve(
    proxy: Running[Settings], tls: TlsKeeper, predecessor: Predecessor | None, sockets: Mapping[str, Sequence[socket.socket]]
) -> None:
    """Serve at *sockets*, as soon as *predecessor* is relieved."""
    settings, life = proxy.settings, proxy.life
    _allow_files(settings)
    board = Switchboard(settings.limits)
    connector = Connector(board, fallback_to_writer=settings.reader.fallback_to_writer, draw=secrets.randbelow, tls=tls)
    engine = AsyncioEngine()
    tls.complain()
    registry = SessionRegistry()
    roster = Roster(settings.proxy.name, registry)
    disconnections = Disconnections()
    cache = document_cache(settings.proxy.cache)
    verifiers = accepted_tokens(settings.http.token_file, settings.http.verifiers_file)
    feed_token = SecretFile(settings.feed.token_file)
    noded_token = SecretFile(settings.nodeds.token_file)
    rolefeed = RoleFeed(board, noded_token, Roles(secrets.token_bytes(32)))
    gate = Gate(rules_of(settings), rolefeed, endpoints_telling_addresses(settings), user_maps_of(settings))
    path = settings.proxy.takeover
    colleagues = Colleagues(path)
    feeds: list[Feed] = []
    own = Origin(proxy_id(settings.proxy.name), os.getpid().to_bytes(4, "big") + secrets.token_bytes(4))
    mint = KeyMint.of_cluster(feed_token(), own)
    elsewhere = Elsewhere(mint, colleagues.cancel, feeds)
    shared = Shared(board, connector, engine, tls, gate, mint=mint, cancel_elsewhere=elsewhere.cancel)
    kept = cache.load()
    if kept is not None:
        get_logger().info("routing by the cached document", epoch=kept.epoch, revision=kept.revision)
        board.set_topology(kept)
    feeds += [
        Feed(
            url,
            feed_token,
            settings.proxy.name,
            board,
            cache,
            engine=engine.name,
            endpoints=tuple(ProxyEndpoint(name, place.host, place.port) for name, place in settings.endpoints),
            count=lambda: len(registry),
            count_relaxed=lambda: registry.relaxed_sessions(board.topology),
            answer=roster.answer,
            cancel=partial(cancel_for_others, shared),
        )
        for url in settings.feed.urls
    ]
    entrances = Entrances(
        lambda: Standing(
            pid=os.getpid(),
            version=VERSION,
            epoch=board.table.epoch,
            revision=board.table.revision,
            is_vouched=board.is_vouched,
            knows_roles=rolefeed.roles.is_known,
            is_draining=incumbent.relieved.is_set(),
            sessions=len(registry),
        ),
        partial(cancel_for_others, shared),
    )
    incumbent = Incumbent(path, entrances, colleagues)
    doors = (Door.WRITER, Door.READER, *(Door.of(instance.node) for instance in settings.instances))
    async with asyncio.TaskGroup() as group:
        listeners = [Listener(door, settings, shared, group, registry, disconnections) for door in doors]
        server = HttpServer(
            host=settings.http.host,
            port=settings.http.port,
            verifiers=verifiers,
            routes=routes(settings.proxy.name, engine.name, board, registry, roster),
            sockets=sockets["HTTP"],
        )
        keeping = group.create_task(cache.run())
        background = (
            HeartbeatCheck(board, noded_token).run(),
            rolefeed.run(),
            tls.run(),
            incumbent.run(),
            colleagues.run(),
            *(feed.run() for feed in feeds),
        )
        tasks = [keeping, *(group.create_task(work) for work in background)]

        def take_up(new: Settings) -> dict[str, object]:
            tls.take_up(new.tls, new.servers)
            server.set_verifiers(accepted_tokens(new.http.token_file, new.http.verifiers_file))
            board.limits = new.limits
            connector.fallback_to_writer = new.reader.fallback_to_writer
            gate.rules, gate.user_maps = rules_of(new), user_maps_of(new)
            gate.tell_address = endpoints_telling_addresses(new)
            board.notify()
            _allow_files(new)
            for listener in listeners:
                listener.take_up(new)
            late = needs_restart(settings, new)
            return {"needs_restart": ", ".join(late)} if late else {}

        try:
            async with contextlib.AsyncExitStack() as stack:
                incumbent.listen()
                if predecessor is not None and not await _unless(life.stopping, predecessor.relieve(entrances.standing)):
                    return
                for listener in listeners:
                    listener.open(sockets[f"endpoint {listener.door}"])
                await stack.enter_async_context(server)
                entrances.opened(settings, [*(listener.reception for listener in listeners), server.reception])
                collector = ProxyCollector(registry, board, feeds, rolefeed, colleagues, asyncio.get_running_loop().time)
                stack.enter_context(registered(collector))
                proxy.on_reload(take_up)
                incumbent.serve()
                if predecessor is not None:
                    predecessor.let_go()
                life.notify_ready()
                if await _unless(life.stopping, incumbent.relieved.wait()):
                    keeping.cancel()  # the document's copy on disk is the successor's from now on
                    _call_draining(proxy, feeds, roster, len(registry))
                    board.notify()
                    await stack.aclose()
                    await _unless(life.stopping, _let_end(registry, listeners, settings.proxy.drain_timeout_s))
                for listener in listeners:
                    listener.close()
                await _drain(registry)
        finally:
            incumbent.close()
            for listener in listeners:
                listener.close()
            for task in tasks:
                task.cancel()


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Do *work*, and return True; False if *stopping* came first."""
    return await first_of(work, stopping.wait()) == 0


def _call_draining(proxy: Running[Settings], feeds: Sequence[Feed], roster: Roster, sessions: int) -> None:
    """Be known as one that drains, to managers, in the log and to `ps`."""
    mark = f".draining-{os.getpid()}"
    name = proxy.settings.proxy.name[: FEED_NAME_MAX - len(mark)] + mark
    for feed in feeds:
        feed.name, feed.is_draining = name, True
    roster.name = name
    proxy.log_under(name)
    if not call_process(DRAINING):
        get_logger().warning("there is no room in the process table to say that this process drains")
    get_logger().info("another process serves, this one drains", sessions=sessions)


async def _let_end(registry: SessionRegistry, listeners: Sequence[Listener], timeout_s: float | None) -> None:
    """Wait until every session has ended by itself, or the time is over. Who has just come in is no session yet."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while len(registry) or any(one.reception.is_occupied for one in listeners):  # noqa: ASYNC110 - it takes hours
                await asyncio.sleep(DRAIN_POLL_S)
            return
    get_logger().info("the time for draining is over", sessions=len(registry))


async def _drain(registry: SessionRegistry) -> None:
    """End all sessions: at their safe points, then at once, and give their last words time to arrive."""
    for session in registry:
        session.drain(refusal.shutting_down())
    if not await registry.wait_until_empty(DRAIN_S):
        for session in registry:
            session.end(refusal.shutting_down())
        await registry.wait_until_empty(LINGER_S)


def _allow_files(settings: Settings) -> None:
    """Have all open files that the system grants, and say so if that is less than all sessions need at once."""
    limits = settings.limits
    needed = 2 * limits.sessions_max + limits.hold_max + 2 * limits.strangers_max + FOR_STRANGERS_LESS
    allowed = allow_descriptors()
    if resource.RLIM_INFINITY != allowed < needed:
        get_logger().warning("too few open files are allowed for sessions_max", needed=needed, allowed=allowed)


PROXY = Daemon(
    name="endpointd",
    description="The proxy of a PostgreSQL cluster.",
    log_name=lambda settings: settings.proxy.name,
    read=read_settings,
    prepare=prepare,
    check=check,
    serve=serve,
    mendable=(ListenError, TakeoverError),
    reloads=metrics.RELOADS,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the program."""
    return PROXY.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
