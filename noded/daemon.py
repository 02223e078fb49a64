"""Starts a noded: reads settings and secrets, finds PostgreSQL, opens the HTTP interface.

Everything that can be wrong with the settings ends it here, with one line on standard error and exit status 2; what the
machine refuses just now (a full disk, a directory that another noded holds), with exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import os
import sys
from pathlib import Path

import msgspec

from daemonkit.httpserver import HttpServer, registered
from daemonkit.lifecycle import EXIT_FAILED, EXIT_USAGE, Lifecycle, run
from daemonkit.logs import configure_logs, get_logger
from daemonkit.parentage import become_subreaper
from daemonkit.principals import Scope, Verifiers, read_verifiers
from daemonkit.secrets import read_secret
from daemonkit.settings import SettingsError, load_settings
from daemonkit.version import VERSION
from noded import conf, metrics
from noded.attention import Attention
from noded.binaries import Binaries, BinariesError, find_binaries
from noded.census import Census
from noded.durable_state import DurableState, StateError
from noded.heartbeat import Heartbeat
from noded.instance import Instance, Server
from noded.layout import Layout
from noded.node import Node
from noded.postmaster import Postmaster
from noded.reporter import Doing, Reporter
from noded.server import OPEN_PATHS, make_routes
from noded.sessions import Sessions
from noded.settings import NodedSettings
from pgtopology.desired import DesiredSettings
from pgtopology.node import NodeName
from pgtopology.parameters import SettingRefused, check_kept, without_refused

PASSING = frozenset({errno.EAGAIN, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})
"""What the machine may refuse now and grant later."""
UMASK = 0o077
"""Everything that noded and PostgreSQL write is private to the user."""


def main(arguments: list[str] | None = None) -> int:
    """Run a noded until it is told to stop, and return its exit status."""
    parser = argparse.ArgumentParser(prog="endpointd-noded", description="the daemon beside one PostgreSQL server")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings, TOML")
    parser.add_argument("--version", action="version", version=f"endpointd {VERSION}")
    options = parser.parse_args(arguments)
    os.umask(UMASK)
    try:
        settings = load_settings(options.config, NodedSettings)
        initial = DesiredSettings(
            parameters={name.lower(): value for name, value in settings.postgres.settings.items()}, hba=settings.postgres.hba
        )
        check_kept(DesiredSettings(parameters=settings.postgres.settings, hba=settings.postgres.hba))
        initial = without_refused(initial)
        token = read_secret(settings.http.token_file)
        _verifiers(settings)
        passwords = read_passwords(settings)
        layout = Layout(settings.node.dir.absolute())
        layout.make()
        lock = _lock(layout.lock)
        binaries = find_binaries(settings.node.pg_bin, prefer_bundled=settings.node.prefer_bundled)
        state = DurableState(layout.state, cluster=settings.node.cluster, node=NodeName(settings.node.name))
    except (SettingsError, SettingRefused, BinariesError, StateError, OSError) as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"endpointd-noded: {error}\n")
        # What may pass is worth another start; settings do not mend themselves.
        return EXIT_FAILED if isinstance(error, OSError) and error.errno in PASSING else EXIT_USAGE
    configure_logs(program="noded", level=settings.logs.level, style=settings.logs.style)

    async def serve(life: Lifecycle) -> None:
        await _serve(settings, initial, layout, binaries, state, passwords, token, life, options.config)

    try:
        return run(serve)
    finally:
        os.close(lock)


def read_passwords(settings: NodedSettings) -> dict[str, str]:
    """Return the passwords of the roles that a new cluster has."""
    secrets = settings.secrets
    return {
        conf.SUPERUSER: read_secret(secrets.superuser),
        conf.CONTROL_ROLE: read_secret(secrets.control),
        conf.REPLICATION_ROLE: read_secret(secrets.replication),
        conf.PROBE_ROLE: read_secret(secrets.probe),
    }


async def _serve(
    settings: NodedSettings,
    initial: DesiredSettings,
    layout: Layout,
    binaries: Binaries,
    state: DurableState,
    passwords: dict[str, str],
    token: str,
    life: Lifecycle,
    config: Path,
) -> None:
    log = get_logger(node=settings.node.name)
    log.info("noded starts", version=VERSION, postgresql=binaries.version, binaries=str(binaries.directory))
    if not become_subreaper():
        log.warning("orphans of a dead postmaster will not be reaped here")
    node = make_node(settings, initial, layout, binaries, state, passwords)
    node.reporter.late_ms = life.lag.stood_still_ms
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(node.run(life.stopping))
        ready = tasks.create_task(node.taken_up.wait())
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        server = HttpServer(
            host=settings.http.host,
            port=settings.http.port,
            token=token,
            verifiers=_verifiers(settings),
            routes=make_routes(node),
            open_paths=OPEN_PATHS,
        )
        census = Census(node.reporter.compose, lambda: node.reporter.gatherer.facts.slots)
        with registered(census):
            async with server:
                log.info("noded serves", port=server.port)
                life.on_reload(lambda: server.set_verifiers(_verifiers(_take_up(config, settings))))
                life.notify_ready()
                await asyncio.wait([running])


def _verifiers(settings: NodedSettings) -> Verifiers:
    """Return those of operators' tokens that are good here: orders come from managers alone. Raises SecretError."""
    file = settings.http.verifiers_file
    return read_verifiers(file).only(Scope.SCRAPE, Scope.FEED, Scope.READ) if file is not None else Verifiers()


def _take_up(config: Path, settings: NodedSettings) -> NodedSettings:
    """Log as *config* says now; everything else in it is read at the start only. Raises SettingsError."""
    try:
        new = load_settings(config, NodedSettings)
    except SettingsError:
        metrics.RELOADS.labels("failed").inc()
        raise
    configure_logs(program="noded", level=new.logs.level, style=new.logs.style)
    metrics.RELOADS.labels("done").inc()
    same = msgspec.structs.replace(new, logs=settings.logs) == settings
    get_logger().info("settings read anew", **({} if same else {"needs_restart": "everything but [logs]"}))
    return new


def make_node(
    settings: NodedSettings,
    initial: DesiredSettings,
    layout: Layout,
    binaries: Binaries,
    state: DurableState,
    passwords: dict[str, str],
) -> Node:
    """Put a node together. An event loop must be running."""
    reporters: list[Reporter] = []

    def poke() -> None:
        for reporter in reporters:
            reporter.poke()

    sessions = Sessions(
        socket_dir=settings.node.socket_dir,
        port=settings.postgres.port,
        password=passwords[conf.CONTROL_ROLE],
        major=binaries.major,
    )
    instance = Instance(
        layout=layout,
        binaries=binaries,
        server=Server(
            name=settings.node.name,
            host=settings.postgres.host,
            port=settings.postgres.port,
            socket_dir=settings.node.socket_dir,
            initial=initial,
            replication_password=passwords[conf.REPLICATION_ROLE],
        ),
        state=state,
        postmaster=Postmaster(layout, poke, tablespaces_anywhere=settings.postgres.tablespaces == "anywhere"),
        sessions=sessions,
    )
    attention = Attention()
    heartbeat = Heartbeat(sessions.heartbeat, state, poke, attention)
    doing = Doing()
    reporter = Reporter(instance, heartbeat, doing, attention)
    reporters.append(reporter)
    return Node(instance=instance, heartbeat=heartbeat, reporter=reporter, doing=doing, passwords=passwords)


def _lock(path: Path) -> int:
    """Return a lock that only one noded of this directory can hold. Raises BlockingIOError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BlockingIOError(errno.EAGAIN, f"another noded works in {path.parent.parent}") from error
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
