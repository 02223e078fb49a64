"""The manager's program: puts the parts together and lets them run until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path

from prometheus_client import REGISTRY

from cluster_manager.chronicle import Chronicle
from cluster_manager.control import Control
from cluster_manager.dns.kept import kept_document
from cluster_manager.dns.process import DnsProcess
from cluster_manager.executor import Executor
from cluster_manager.feed import Feed
from cluster_manager.flightfiles import FlightFiles, FlightWriter, boot_id
from cluster_manager.flightrecorder import FlightRecorder
from cluster_manager.journal import Journal
from cluster_manager.metrics import ManagerMetrics
from cluster_manager.observer import Observer
from cluster_manager.reconciler import Reconciler
from cluster_manager.rehearsal import Rehearsals
from cluster_manager.settings import ManagerSettings, read_settings
from cluster_manager.store.embedded import EmbeddedStore
from cluster_manager.store.store import StoreError, StoreUnavailable
from daemonkit.httpserver import HttpServer
from daemonkit.lifecycle import Lifecycle, run
from daemonkit.logs import configure_logs, get_logger
from daemonkit.principals import Verifiers, accepted_tokens
from daemonkit.secrets import read_secret
from daemonkit.settings import SettingsError
from daemonkit.version import VERSION
from pgtopology.document import Topology

LEASE_KEEP_S = 0.5


async def serve(settings: ManagerSettings, config: Path, verifiers: Verifiers, noded_token: str, life: Lifecycle) -> None:
    """Manage the cluster until *life* says stop. Raises StoreError if the store cannot be had, OSError for a taken port."""
    specs = settings.specs()
    holder = f"{socket.gethostname()}:{os.getpid()}"
    dns = DnsProcess(
        host=settings.dns.host,
        port=settings.dns.port,
        ttl_s=settings.dns.ttl_s,
        log_level=settings.logs.level,
        log_style=settings.logs.style,
    )
    settings.journal.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = kept_document(settings.journal.path.with_name("topology.json"))
    last = kept.load()
    if last is not None:
        dns.begin_with(last)  # names are answered before the store has said anything
    async with EmbeddedStore(settings.store.path) as store, dns:
        await store.acquire(holder)
        observer = Observer(specs, noded_token)
        feed = Feed(lambda: store.lease.remaining_ms, observer.changed.set)

        def publish(document: Topology) -> None:
            feed.publish(document)
            dns.update(document)
            kept.keep(document)

        with Journal(settings.journal.path) as journal:
            files = FlightFiles(settings.journal.path.parent / "failovers")
            before = files.find(None)
            recorder = FlightRecorder(manager=holder, boot=boot_id(), before=before)
            flights = FlightWriter(recorder, files, ended_before=before.epoch if before is not None and before.ended else None)
            chronicle = Chronicle(journal, flights)
            async with Executor(specs, noded_token, observer, observer.changed, recorder) as executor:
                reconciler = Reconciler(settings, store, observer, executor, chronicle, publish, feed.are_settled, feed.seen)
                rehearsals = Rehearsals(reconciler, executor, files)
                control = Control(reconciler, store, feed, journal, chronicle, flights, rehearsals, life.lag.stood_still_ms)
                metrics = ManagerMetrics(reconciler, chronicle, lambda: bool(feed.proxies()))
                flights.on_ended = metrics.ended
                REGISTRY.register(metrics)
                server = HttpServer(
                    host=settings.http.host,
                    port=settings.http.port,
                    verifiers=verifiers,
                    routes=control.routes(),
                    allowed_hosts=settings.http.allowed_hosts,
                )
                async with (
                    server,
                    asyncio.TaskGroup() as tasks,
                ):
                    parts = [
                        tasks.create_task(observer.run(), name="observer"),
                        tasks.create_task(reconciler.run(), name="reconciler"),
                        tasks.create_task(flights.run(), name="flight records"),
                        tasks.create_task(_keep_lease(store), name="lease"),
                        tasks.create_task(kept.run(), name="kept document"),
                    ]

                    def reload() -> None:
                        new = read_settings(config)
                        server.set_verifiers(accepted_tokens(new.http.token_file, new.http.verifiers_file))
                        reconciler.set_nodes(new)
                        get_logger().info("nodes read anew", nodes=",".join(spec.name for spec in reconciler.specs))

                    life.on_reload(reload)
                    life.notify_ready()
                    get_logger().info("manager serves", cluster=settings.cluster.name, port=settings.http.port)
                    await life.stopping.wait()
                    for part in parts:
                        part.cancel()


async def _serve_or_say(
    settings: ManagerSettings, config: Path, verifiers: Verifiers, noded_token: str, life: Lifecycle
) -> None:
    """Serve; what an operator can mend (a taken port, a held store) is one line, not a traceback."""
    failed = False
    try:
        await serve(settings, config, verifiers, noded_token, life)
    except* (StoreError, OSError) as group:
        for error in group.exceptions:
            get_logger().error("the manager cannot serve", reason=str(error))
        failed = True
    if failed:
        raise SystemExit(1)


async def _keep_lease(store: EmbeddedStore) -> None:
    """Renew the lease; end the program when it is lost, because somebody else may lead now."""
    while True:
        await asyncio.sleep(LEASE_KEEP_S)
        try:
            lease = await store.keep()
        except StoreUnavailable:
            continue  # a slow or full disk takes the lock from nobody; who reads and writes says what is wrong
        if not lease.held:
            raise StoreError("the lease on the store is lost")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="endpointd-manager", description="The cluster's manager.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings file (TOML)")
    parser.add_argument("--version", action="version", version=VERSION)
    arguments = parser.parse_args()
    try:
        settings = read_settings(arguments.config)
        verifiers = accepted_tokens(settings.http.token_file, settings.http.verifiers_file)
        noded_token = read_secret(settings.nodeds.token_file)
        configure_logs(program="manager", level=settings.logs.level, style=settings.logs.style)
    except (SettingsError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the logs are not set up yet
        sys.exit(2)
    sys.exit(run(lambda life: _serve_or_say(settings, arguments.config, verifiers, noded_token, life)))


if __name__ == "__main__":
    main()
