"""The proxy as a program: puts the parts together, and takes them apart again when it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import resource
import socket
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from daemonkit.descriptors import FOR_STRANGERS_LESS, allow_descriptors
from daemonkit.httpserver import HttpServer, registered
from daemonkit.logs import get_logger
from daemonkit.principals import accepted_tokens
from daemonkit.program import Daemon, Running
from daemonkit.racing import first_of
from daemonkit.secrets import read_secret
from daemonkit.settings import SettingsError, load_settings
from endpointd import metrics
from endpointd.admin import routes
from endpointd.entrances import HTTP, Entrances, ListenError, claim, remove_unix_sockets
from endpointd.gathered import Gathered
from endpointd.pooling.statestatements import why_no_grammar
from endpointd.relay.choice import why_not_native
from endpointd.routing.feed import document_cache
from endpointd.routing.switchboard import Switchboard
from endpointd.service import Service, let_end
from endpointd.session.places import OwnPlaces
from endpointd.session.quota import Quota
from endpointd.settings import Settings, in_force, limits_of_process, needs_restart, processes_of, read_settings
from endpointd.takeover.incumbent import Incumbent, require_private
from endpointd.takeover.predecessor import Predecessor, TakeoverError, meet
from endpointd.wire.identity import CertificateError
from endpointd.wire.keeper import TlsKeeper
from endpointd.worker import serve_as_worker
from endpointd.workers.crew import Crew
from endpointd.workers.ledger import Ledger
from endpointd.workers.membership import lent_settings


def read(config: Path) -> Settings:
    """Return the settings in *config*; in a worker, what its main process goes by, whatever stands there by now.

    Raises SettingsError.
    """
    lent = lent_settings()
    return load_settings(lent, Settings) if lent is not None else read_settings(config)


def prepare(settings: Settings) -> TlsKeeper:
    """Return what TLS is spoken with. Raises SettingsError if what will be needed cannot be used."""
    if settings.proxy.engine == "native" and (why := why_not_native()) is not None:
        raise SettingsError(f"[proxy], engine: there is no native engine: {why}; or set it to auto or asyncio")
    if settings.pooled and (why := why_not_native()) is not None:
        raise SettingsError(f"[{_first_pooled(settings)}]: pooled endpoints need the native engine: {why}; or leave them out")
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


def check(settings: Settings) -> tuple[str, ...]:
    """Return what keeps the proxy from serving well.

    Raises SettingsError for all that would keep it from serving, and for a certificate that has expired.
    """
    keeper, now = prepare(settings), dt.datetime.now(dt.UTC)
    for shown in (keeper.clients, keeper.servers):
        if shown is not None and (why := shown.complaint(now)) is not None:
            raise CertificateError(why)
    if settings.proxy.takeover is not None:
        try:
            require_private(settings.proxy.takeover)
        except OSError as error:
            raise SettingsError(f"[proxy], takeover: {settings.proxy.takeover}: {error.strerror}") from error
    why = why_no_grammar() if settings.pooled else None
    return (f"[{_first_pooled(settings)}]: {why}",) if why is not None else ()


def _first_pooled(settings: Settings) -> str:
    """Return the name of its table."""
    return next(iter(settings.pooled)).replace("-", "_")


async def serve(proxy: Running[Settings], tls: TlsKeeper) -> None:
    """Run the proxy until it is told to stop, or is relieved and has drained. Raises ListenError, TakeoverError."""
    worker: int | None = proxy.given.worker
    if worker is not None:
        await serve_as_worker(proxy, tls, worker)
        return
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
    processes = processes_of(settings)
    _allow_files(settings)
    board = Switchboard(limits_of_process(settings.limits, processes))
    cache = document_cache(settings.proxy.cache)
    quota = Quota()
    places = OwnPlaces(quota, lambda: board.limits, lambda: crew.freed())
    crew = Crew(processes - 1, proxy.config, settings, Ledger(quota), board, lambda: places.is_full)
    async with asyncio.TaskGroup() as group:
        service = Service(proxy, tls, board, places, cache, group, processes=processes)
        gathered = Gathered(service.roster, crew)
        entrances = Entrances(service.standing, service.cancel, crew)
        incumbent = Incumbent(settings.proxy.takeover, entrances, service.colleagues)
        server = HttpServer(
            host=settings.http.host,
            port=settings.http.port,
            verifiers=accepted_tokens(settings.http.token_file, settings.http.verifiers_file),
            routes=routes(
                settings.proxy.name,
                service.engine.name,
                board,
                lambda: len(service.registry) + crew.sessions,
                gathered.sessions,
            ),
            sockets=sockets[HTTP],
            metrics=gathered.metrics if processes > 1 else None,
        )
        keeping = group.create_task(cache.run())
        doors = {purpose: some for purpose, some in sockets.items() if purpose != HTTP}
        background = (*service.background(), incumbent.run(), service.colleagues.run(), crew.run(doors))
        tasks = [keeping, *(group.create_task(work) for work in background)]

        def take_up(new: Settings) -> dict[str, object]:
            held = in_force(settings, new)
            verifiers = accepted_tokens(new.http.token_file, new.http.verifiers_file)
            service.take_up(held)
            server.set_verifiers(verifiers)
            _allow_files(held)
            crew.reload(held)
            late = needs_restart(settings, new)
            return {"needs_restart": ", ".join(late)} if late else {}

        try:
            async with contextlib.AsyncExitStack() as stack:
                incumbent.listen()
                if predecessor is not None and not await _unless(
                    life.stopping, predecessor.relieve(lambda incumbent: crew.lacking(service.standing(), incumbent))
                ):
                    return
                service.open(sockets)
                await stack.enter_async_context(server)
                entrances.opened(settings, [*(listener.reception for listener in service.listeners), server.reception])
                stack.enter_context(registered(service.collector()))
                proxy.on_reload(take_up)
                incumbent.serve()
                crew.accept()
                if predecessor is not None:
                    predecessor.let_go()
                life.notify_ready()
                if is_relieved := await _unless(life.stopping, incumbent.relieved.wait()):
                    keeping.cancel()  # the document's copy on disk is the successor's from now on
                    crew.drain()
                    service.call_draining(service.standing().pid)
                    await stack.aclose()
                    await _unless(life.stopping, _let_end(service, crew, settings.proxy.drain_timeout_s))
                if not is_relieved:
                    remove_unix_sockets(each for some in doors.values() for each in some)
                service.close()
                async with asyncio.TaskGroup() as ends:
                    ends.create_task(crew.end())
                    ends.create_task(service.drain())
        finally:
            incumbent.close()
            service.close()
            await crew.end()
            for task in tasks:
                task.cancel()


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Do *work*, and return True; False if *stopping* came first."""
    return await first_of(work, stopping.wait()) == 0


def _let_end(service: Service, crew: Crew, timeout_s: float | None) -> Coroutine[Any, Any, None]:
    """Wait until every session has ended by itself, those of the workers too, or the time is over."""
    return let_end(lambda: service.is_empty and crew.is_gone, lambda: len(service.registry) + crew.sessions, timeout_s)


def _allow_files(settings: Settings) -> None:
    """Have all open files that the system grants, and say so if that is less than all sessions need at once."""
    limits = settings.limits
    needed = 2 * limits.sessions_max + limits.hold_max + 2 * limits.strangers_max + FOR_STRANGERS_LESS
    allowed = allow_descriptors()
    if resource.RLIM_INFINITY != allowed < needed:
        get_logger().warning("too few open files are allowed for sessions_max", needed=needed, allowed=allowed)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # the main process starts them


PROXY = Daemon(
    name="endpointd",
    description="The proxy of a PostgreSQL cluster.",
    log_name=lambda settings: settings.proxy.name,
    read=read,
    prepare=prepare,
    check=check,
    serve=serve,
    mendable=(ListenError, TakeoverError),
    reloads=metrics.RELOADS,
    arguments=_arguments,
)
