"""The proxy as a program: puts the parts together, and takes them apart again when it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import resource
import secrets
import sys

from daemonkit.descriptors import FOR_STRANGERS_LESS, allow_descriptors
from daemonkit.httpserver import HttpServer, registered
from daemonkit.logs import get_logger
from daemonkit.principals import accepted_tokens
from daemonkit.program import Daemon, Running
from daemonkit.secrets import SecretFile, read_secret
from endpointd import metrics, refusal
from endpointd.admin import routes
from endpointd.auth.gate import Gate
from endpointd.auth.rolefeed import RoleFeed
from endpointd.auth.roles import Roles
from endpointd.collector import ProxyCollector
from endpointd.relay.asyncio_engine import AsyncioEngine
from endpointd.roster import Roster
from endpointd.routing.feed import Feed, document_cache
from endpointd.routing.heartbeat_check import HeartbeatCheck
from endpointd.routing.switchboard import Switchboard
from endpointd.routing.table import Door
from endpointd.servers.connector import Connector
from endpointd.session.disconnections import Disconnections
from endpointd.session.listener import Listener, ListenError, listen_error
from endpointd.session.registry import SessionRegistry
from endpointd.session.shared import Shared
from endpointd.settings import Settings, endpoints_telling_addresses, needs_restart, read_settings, rules_of
from endpointd.wire.identity import CertificateError
from endpointd.wire.keeper import TlsKeeper
from endpointd.wire.link import LINGER_S

DRAIN_S = 3.0
"""After SIGTERM sessions may go on until their safe points for this long."""


def prepare(settings: Settings) -> TlsKeeper:
    """Return what TLS is spoken with. Raises SecretError or CertificateError if a file cannot be used that will be needed."""
    accepted_tokens(settings.http.token_file, settings.http.verifiers_file)
    for path in (settings.feed.token_file, settings.nodeds.token_file):
        read_secret(path)
    return TlsKeeper(settings.tls, settings.servers)


def check(settings: Settings) -> None:
    """Raise SettingsError for all that would keep the proxy from serving, and for a certificate that has expired."""
    identity = prepare(settings).clients
    why = identity.complaint(dt.datetime.now(dt.UTC)) if identity is not None else None
    if why is not None:
        raise CertificateError(why)


async def serve(proxy: Running[Settings], tls: TlsKeeper) -> None:
    """Run the proxy until it is told to stop, and end its sessions. Raises ListenError."""
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
    gate = Gate(rules_of(settings), rolefeed, endpoints_telling_addresses(settings))
    shared = Shared(board, connector, engine, tls, gate)
    kept = cache.load()
    if kept is not None:
        get_logger().info("routing by the cached document", epoch=kept.epoch, revision=kept.revision)
        board.set_topology(kept)
    async with asyncio.TaskGroup() as group:
        listeners = [
            Listener(door, place.host, place.port, shared, group, registry, disconnections)
            for door, place in (
                (Door.WRITER, settings.writer),
                (Door.READER, settings.reader),
                *((Door.of(instance.node), instance) for instance in settings.instances),
            )
        ]
        feeds = [
            Feed(
                url,
                feed_token,
                settings.proxy.name,
                board,
                cache,
                engine=engine.name,
                count=lambda: len(registry),
                count_relaxed=lambda: registry.relaxed_sessions(board.topology),
                answer=roster.answer,
            )
            for url in settings.feed.urls
        ]
        background = [
            cache.run(),
            HeartbeatCheck(board, noded_token).run(),
            rolefeed.run(),
            tls.run(),
            *(feed.run() for feed in feeds),
        ]
        collector = ProxyCollector(registry, board, feeds, rolefeed, asyncio.get_running_loop().time)

        def take_up(new: Settings) -> dict[str, object]:
            tls.take_up(new.tls, new.servers)
            server.set_verifiers(accepted_tokens(new.http.token_file, new.http.verifiers_file))
            board.limits = new.limits
            connector.fallback_to_writer = new.reader.fallback_to_writer
            gate.rules = rules_of(new)
            gate.tell_address = endpoints_telling_addresses(new)
            board.notify()
            _allow_files(new)
            for listener in listeners:
                listener.take_up()
            late = needs_restart(settings, new)
            return {"needs_restart": ", ".join(late)} if late else {}

        server = HttpServer(
            host=settings.http.host,
            port=settings.http.port,
            verifiers=verifiers,
            routes=routes(settings.proxy.name, engine.name, board, registry, roster),
        )
        tasks: list[asyncio.Task[None]] = []
        try:
            async with contextlib.AsyncExitStack() as stack:
                for listener in listeners:
                    await listener.open()
                try:
                    await stack.enter_async_context(server)
                except OSError as error:
                    raise listen_error(settings.http.host, settings.http.port, "HTTP", error) from error
                tasks += [group.create_task(work) for work in background]
                background.clear()
                stack.enter_context(registered(collector))
                proxy.on_reload(take_up)
                life.notify_ready()
                await life.stopping.wait()
                for listener in listeners:
                    listener.close()
                await _drain(registry)
        finally:
            for listener in listeners:
                listener.close()
            for work in background:
                work.close()
            for task in tasks:
                task.cancel()


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
    mendable=(ListenError,),
    reloads=metrics.RELOADS,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the program."""
    return PROXY.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
