"""The proxy as a program: puts the parts together, and takes them apart again when it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import secrets
import sys
from pathlib import Path

from daemonkit.descriptors import FOR_STRANGERS_LESS, allow_descriptors
from daemonkit.httpserver import HttpServer, registered
from daemonkit.lifecycle import EXIT_FAILED, EXIT_USAGE, Lifecycle, run
from daemonkit.logs import configure_logs, get_logger
from daemonkit.principals import accepted_tokens
from daemonkit.secrets import SecretFile, read_secret
from daemonkit.settings import SettingsError
from daemonkit.version import VERSION
from endpointd import metrics, refusal
from endpointd.admin import routes
from endpointd.census import Census
from endpointd.connector import Connector
from endpointd.endings import Endings
from endpointd.feed import Feed, document_cache
from endpointd.house import House
from endpointd.link import LINGER_S
from endpointd.listener import Listener, ListenError, listen_error
from endpointd.login import Surroundings
from endpointd.relay.asyncio_engine import AsyncioEngine
from endpointd.routing import Door
from endpointd.settings import Settings, needs_restart, read_settings
from endpointd.switchboard import Switchboard
from endpointd.witness import Witness

DRAIN_S = 3.0
"""After SIGTERM sessions may go on until their safe points for this long."""


async def serve(settings: Settings, config: Path, life: Lifecycle) -> None:
    """Run the proxy until it is told to stop, and end its sessions. *config* is read again at each reload."""
    board = Switchboard(settings.limits)
    connector = Connector(board, fallback_to_writer=settings.reader.fallback_to_writer, draw=secrets.randbelow)
    engine = AsyncioEngine()
    around = Surroundings(board, connector, engine)
    house = House()
    endings = Endings()
    cache = document_cache(settings.proxy.cache)
    verifiers = accepted_tokens(settings.http.token_file, settings.http.verifiers_file)
    feed_token = SecretFile(settings.feed.token_file)
    noded_token = SecretFile(settings.nodeds.token_file)
    kept = cache.load()
    if kept is not None:
        get_logger().info("routing by the cached document", epoch=kept.epoch, revision=kept.revision)
        board.set_topology(kept)
    async with asyncio.TaskGroup() as group:
        listeners = [
            Listener(door, place.host, place.port, around, group, house, endings)
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
                count=lambda: len(house),
                count_relaxed=lambda: house.relaxed_sessions(board.topology),
            )
            for url in settings.feed.urls
        ]
        background = [cache.run(), Witness(board, noded_token).run(), *(feed.run() for feed in feeds)]
        census = Census(house, board, feeds, asyncio.get_running_loop().time)

        def reload() -> None:
            new = _take_up(config, settings, board, connector)
            server.set_verifiers(accepted_tokens(new.http.token_file, new.http.verifiers_file))
            for listener in listeners:
                listener.take_up()

        server = HttpServer(
            host=settings.http.host,
            port=settings.http.port,
            verifiers=verifiers,
            routes=routes(settings.proxy.name, engine.name, board, house),
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
                stack.enter_context(registered(census))
                life.on_reload(reload)
                life.notify_ready()
                await life.stopping.wait()
                for listener in listeners:
                    listener.close()
                await _drain(house)
        finally:
            for listener in listeners:
                listener.close()
            for work in background:
                work.close()
            for task in tasks:
                task.cancel()


def _take_up(config: Path, settings: Settings, board: Switchboard, connector: Connector) -> Settings:
    """Go on with what is in *config* now, as far as that is possible without a restart. Raises SettingsError."""
    try:
        new = read_settings(config)
    except SettingsError:
        metrics.RELOADS.labels("failed").inc()
        raise
    board.limits = new.limits
    connector.fallback_to_writer = new.reader.fallback_to_writer
    board.notify()
    configure_logs(program=settings.proxy.name, level=new.logs.level, style=new.logs.style)
    _allow_files(new)
    metrics.RELOADS.labels("done").inc()
    late = needs_restart(settings, new)
    get_logger().info("settings read anew", **({"needs_restart": ", ".join(late)} if late else {}))
    return new


async def _drain(house: House) -> None:
    """End all sessions: at their safe points, then at once, and give their last words time to arrive."""
    for session in house:
        session.drain(refusal.shutting_down())
    if not await house.wait_until_empty(DRAIN_S):
        for session in house:
            session.end(refusal.shutting_down())
        await house.wait_until_empty(LINGER_S)


def _allow_files(settings: Settings) -> None:
    """Have all open files that the system grants, and say so if that is less than all sessions need at once."""
    limits = settings.limits
    needed = 2 * limits.sessions_max + limits.hold_max + 2 * limits.strangers_max + FOR_STRANGERS_LESS
    allowed = allow_descriptors()
    if resource.RLIM_INFINITY != allowed < needed:
        get_logger().warning("too few open files are allowed for sessions_max", needed=needed, allowed=allowed)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="endpointd", description="The proxy of a PostgreSQL cluster.")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="settings file (TOML)")
    parser.add_argument("--version", action="version", version=f"endpointd {VERSION}")
    arguments = parser.parse_args()
    try:
        settings = read_settings(arguments.config)
        configure_logs(program=settings.proxy.name, level=settings.logs.level, style=settings.logs.style)
        accepted_tokens(settings.http.token_file, settings.http.verifiers_file)
        for path in (settings.feed.token_file, settings.nodeds.token_file):
            read_secret(path)
    except SettingsError as error:
        print(f"endpointd: {error}", file=sys.stderr)  # noqa: T201 - before there are logs
        sys.exit(EXIT_USAGE)
    _allow_files(settings)
    reasons: list[str] = []

    async def live(life: Lifecycle) -> None:
        """Serve; a port that is taken is one clear line, not a traceback."""
        try:
            await serve(settings, arguments.config, life)
        except* ListenError as errors:
            reasons.extend(str(error) for error in errors.exceptions)

    code = run(live)
    for reason in reasons:
        get_logger().error("cannot serve", reason=reason)
    sys.exit(EXIT_FAILED if reasons else code)


if __name__ == "__main__":
    main()
