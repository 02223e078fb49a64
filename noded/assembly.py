"""Starts a noded: reads settings and secrets, finds PostgreSQL, opens the HTTP interface.

Everything that can be wrong with the settings is found here; what the machine refuses just now (a full disk, a directory that
another noded holds) may be had at the next start.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from daemonkit.httpserver import HttpServer, registered
from daemonkit.logs import get_logger
from daemonkit.parentage import become_subreaper
from daemonkit.principals import Scope, Verifiers, read_verifiers
from daemonkit.program import Daemon, NotNow, Running
from daemonkit.secrets import read_secret
from daemonkit.settings import SettingsError, load_settings
from daemonkit.version import VERSION
from noded import metrics
from noded.acts.acts import Acts
from noded.acts.memory import Memory
from noded.files.layout import Layout
from noded.law.durable_state import DurableState, StateError
from noded.node import Node
from noded.postgres import conf
from noded.postgres.binaries import Binaries, BinariesError, find_binaries
from noded.postgres.instance import Instance, Server
from noded.postgres.postmaster import Postmaster
from noded.postgres.sessions import Sessions
from noded.postgres.tls import ServerTls, has_tls
from noded.postgres.vouching import Vouching, VouchingError, read_logins, read_sources
from noded.report.attention import Attention
from noded.report.collector import ObservationCollector
from noded.report.heartbeat import Heartbeat
from noded.report.reporter import Reporter
from noded.server import OPEN_PATHS, make_routes
from noded.settings import NodedSettings
from pgtopology.desired import DesiredSettings
from pgtopology.node import NodeName
from pgtopology.parameters import SettingRefused, check_kept, without_refused

PASSING = frozenset({errno.EAGAIN, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})
"""What the machine may refuse now and grant later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a noded cannot begin without."""

    initial: DesiredSettings
    """What PostgreSQL begins with."""
    token: str
    passwords: dict[str, str]
    layout: Layout
    lock: int
    """Of the directory, as long as the process lives."""
    binaries: Binaries
    state: DurableState
    tls: ServerTls | None
    vouching: Vouching | None


def prepare(settings: NodedSettings) -> Resources:
    """Find, read and lock everything. Raises SettingsError, or NotNow for what the machine may grant later."""
    try:
        initial = DesiredSettings(
            parameters={name.lower(): value for name, value in settings.postgres.settings.items()}, hba=settings.postgres.hba
        )
        check_kept(DesiredSettings(parameters=settings.postgres.settings, hba=settings.postgres.hba))
        token = read_secret(settings.http.token_file)
        _verifiers(settings)
        passwords = read_passwords(settings)
        layout = Layout(settings.node.dir.absolute())
        layout.make()
        binaries = find_binaries(settings.node.pg_bin, prefer_bundled=settings.node.prefer_bundled)
        return Resources(
            initial=without_refused(initial),
            token=token,
            passwords=passwords,
            layout=layout,
            lock=_lock(layout.lock),
            binaries=binaries,
            state=DurableState(layout.state, cluster=settings.node.cluster, node=NodeName(settings.node.name)),
            tls=_tls(settings, binaries),
            vouching=_vouching(settings),
        )
    except (SettingRefused, BinariesError, StateError, VouchingError) as error:
        raise SettingsError(str(error)) from error
    except OSError as error:
        raise (NotNow if error.errno in PASSING else SettingsError)(str(error)) from error


def _tls(settings: NodedSettings, binaries: Binaries) -> ServerTls | None:
    """Return what PostgreSQL is to speak TLS with. Raises BinariesError if it cannot."""
    table = settings.postgres.tls
    if table is None:
        return None
    if not has_tls(binaries):
        raise BinariesError(f"[postgres.tls] is given, and the PostgreSQL in {binaries.directory} was built without TLS")
    vouching = settings.vouching
    return ServerTls(table.certificate, table.key, vouching.client_ca if vouching is not None else None)


def _vouching(settings: NodedSettings) -> Vouching | None:
    """Return whom proxies may vouch for. Raises VouchingError."""
    table = settings.vouching
    if table is None:
        return None
    if settings.postgres.tls is None:
        raise VouchingError("[vouching] needs [postgres.tls]: by a certificate nobody logs in without TLS")
    return Vouching(read_sources(table.sources), read_logins(table.logins))


def read_passwords(settings: NodedSettings) -> dict[str, str]:
    """Return the passwords of the roles that a new cluster has."""
    secrets = settings.secrets
    return {
        conf.SUPERUSER: read_secret(secrets.superuser),
        conf.CONTROL_ROLE: read_secret(secrets.control),
        conf.REPLICATION_ROLE: read_secret(secrets.replication),
        conf.PROBE_ROLE: read_secret(secrets.probe),
    }


async def serve(noded: Running[NodedSettings], has: Resources) -> None:
    """Look after one PostgreSQL until told to stop."""
    settings, life = noded.settings, noded.life
    log = get_logger(node=settings.node.name)
    log.info("noded starts", version=VERSION, postgresql=has.binaries.version, binaries=str(has.binaries.directory))
    if not become_subreaper():
        log.warning("orphans of a dead postmaster will not be reaped here")
    node = make_node(settings, has)
    node.reporter.late_ms = life.lag.stood_still_ms
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(node.run(life.stopping))
        ready = tasks.create_task(node.started_up.wait())
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        server = HttpServer(
            host=settings.http.host,
            port=settings.http.port,
            token=has.token,
            verifiers=_verifiers(settings),
            routes=make_routes(node),
            open_paths=OPEN_PATHS,
        )
        collector = ObservationCollector(node.reporter.compose, lambda: node.reporter.slots)
        with registered(collector):
            async with server:
                log.info("noded serves", port=server.port)

                def take_up(new: NodedSettings) -> dict[str, object]:
                    server.set_verifiers(_verifiers(new))
                    same = msgspec.structs.replace(new, logs=settings.logs) == settings
                    return {} if same else {"needs_restart": "everything but [logs]"}

                noded.on_reload(take_up)
                life.notify_ready()
                await asyncio.wait([running])


def _verifiers(settings: NodedSettings) -> Verifiers:
    """Return those of operators' tokens that are good here: orders come from managers alone. Raises SecretError."""
    file = settings.http.verifiers_file
    return read_verifiers(file).only(Scope.SCRAPE, Scope.FEED, Scope.READ) if file is not None else Verifiers()


def make_node(settings: NodedSettings, has: Resources) -> Node:
    """Put a node together. An event loop must be running."""
    reporters: list[Reporter] = []

    def poke() -> None:
        for reporter in reporters:
            reporter.poke()

    sessions = Sessions(
        socket_dir=settings.node.socket_dir,
        port=settings.postgres.port,
        password=has.passwords[conf.CONTROL_ROLE],
        major=has.binaries.major,
    )
    instance = Instance(
        layout=has.layout,
        binaries=has.binaries,
        server=Server(
            name=settings.node.name,
            host=settings.postgres.host,
            port=settings.postgres.port,
            socket_dir=settings.node.socket_dir,
            initial=has.initial,
            replication_password=has.passwords[conf.REPLICATION_ROLE],
            tls=has.tls,
            vouching=has.vouching,
        ),
        state=has.state,
        postmaster=Postmaster(has.layout, poke, tablespaces_anywhere=settings.postgres.tablespaces == "anywhere"),
        sessions=sessions,
    )
    attention = Attention()
    heartbeat = Heartbeat(sessions.heartbeat, has.state, poke, attention)
    acts = Acts(Memory(has.state))
    reporter = Reporter(instance, heartbeat, acts.memory, attention)
    reporters.append(reporter)
    return Node(instance=instance, heartbeat=heartbeat, reporter=reporter, acts=acts, passwords=has.passwords)


def _lock(path: Path) -> int:
    """Return a lock that only one noded of this directory can hold. Raises BlockingIOError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BlockingIOError(errno.EAGAIN, f"another noded works in {path.parent.parent}") from error
    return descriptor


NODED = Daemon(
    name="endpointd-noded",
    description="The daemon beside one PostgreSQL server.",
    log_name=lambda _: "noded",
    read=lambda path: load_settings(path, NodedSettings),
    prepare=prepare,
    serve=serve,
    reloads=metrics.RELOADS,
)
