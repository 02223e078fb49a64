"""The manager's program: puts the parts together and lets them run until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass

from prometheus_client import Counter

from cluster_manager.api.control import Control
from cluster_manager.api.sessions import SessionsApi
from cluster_manager.dns.kept import kept_document
from cluster_manager.dns.process import DnsProcess
from cluster_manager.operations.drill import Drills
from cluster_manager.operations.node_changes import NodeChanges
from cluster_manager.provision.external import ExternalProvisioner
from cluster_manager.provision.local import LocalProvisioner
from cluster_manager.provision.provisioner import Provisioner
from cluster_manager.proxies.cancels import Cancels
from cluster_manager.proxies.feed import Feed
from cluster_manager.proxies.inquiries import Inquiries
from cluster_manager.record.chronicle import Chronicle
from cluster_manager.record.flight_files import FlightFiles, FlightWriter
from cluster_manager.record.flight_recorder import FlightRecorder
from cluster_manager.record.journal import Journal
from cluster_manager.report.metrics import ManagerMetrics
from cluster_manager.settings import ManagerSettings, read_settings
from cluster_manager.shell.reconciler import Reconciler
from cluster_manager.store.embedded import EmbeddedStore
from cluster_manager.store.store import StoreError, StoreUnavailable
from daemonkit.httpserver import HttpServer, registered
from daemonkit.logs import get_logger
from daemonkit.principals import Verifiers, accepted_tokens
from daemonkit.proctable import boot_id
from daemonkit.program import Daemon, Running
from daemonkit.secrets import read_secret
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, Epoch

LEASE_KEEP_S = 0.5


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the manager cannot begin without."""

    verifiers: Verifiers
    noded_token: str


def read_secrets(settings: ManagerSettings) -> Secrets:
    """Return what *settings* name. Raises SecretError."""
    return Secrets(
        accepted_tokens(settings.http.token_file, settings.http.verifiers_file), read_secret(settings.nodeds.token_file)
    )


def provisioner_of(settings: ManagerSettings) -> Provisioner:
    """Return who makes the nodes."""
    supervisor = settings.provision.supervisor
    return LocalProvisioner(supervisor) if supervisor is not None else ExternalProvisioner()


async def serve(manager: Running[ManagerSettings], secrets: Secrets) -> None:
    """Manage the cluster until told to stop. Raises StoreError if the store cannot be had, OSError for a taken port."""
    settings, life = manager.settings, manager.life
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
        feed = Feed(lambda: store.lease.remaining_ms, lambda: reconciler.wake())

        def publish(document: Topology) -> None:
            feed.publish(document)
            dns.update(document)
            kept.keep(document)

        def epoch() -> Epoch:
            return reconciler.document.epoch if reconciler.document is not None else NO_EPOCH

        with Journal(settings.journal.path) as journal:
            files = FlightFiles(settings.journal.path.parent / "failovers")
            before = files.find(None)
            recorder = FlightRecorder(manager=holder, boot=boot_id(), before=before)
            flights = FlightWriter(recorder, files, ended_before=before.epoch if before is not None and before.ended else None)
            chronicle = Chronicle(journal, flights)
            provisioner = provisioner_of(settings)
            reconciler = Reconciler(
                settings, secrets.noded_token, store, chronicle, publish, feed.are_settled, feed.seen, recorder, provisioner
            )
            async with reconciler.executor as executor:
                changes = NodeChanges(reconciler, provisioner)
                rehearsals = Drills(reconciler, executor, files)
                late_ms = life.lag.stood_still_ms
                control = Control(reconciler, store, feed, journal, chronicle, flights, rehearsals, changes, late_ms)
                cancels = Cancels(feed)
                sessions = SessionsApi(Inquiries(feed), journal, epoch)
                metrics = ManagerMetrics(reconciler, chronicle, lambda: any(not proxy.draining for proxy in feed.proxies()))
                flights.on_ended = metrics.ended
                server = HttpServer(
                    host=settings.http.host,
                    port=settings.http.port,
                    verifiers=secrets.verifiers,
                    routes=[*control.routes(), *sessions.routes(), *cancels.routes()],
                    allowed_hosts=settings.http.allowed_hosts,
                )
                with registered(metrics):
                    async with server, asyncio.TaskGroup() as tasks:
                        parts = [
                            tasks.create_task(reconciler.observer.run(), name="observer"),
                            tasks.create_task(reconciler.run(), name="reconciler"),
                            tasks.create_task(flights.run(), name="flight records"),
                            tasks.create_task(_keep_lease(store), name="lease"),
                            tasks.create_task(kept.run(), name="kept document"),
                        ]

                        def take_up(new: ManagerSettings) -> dict[str, object]:
                            server.set_verifiers(accepted_tokens(new.http.token_file, new.http.verifiers_file))
                            reconciler.set_nodes(new)
                            get_logger().info("nodes read anew", nodes=",".join(spec.name for spec in reconciler.specs))
                            return {}

                        manager.on_reload(take_up)
                        life.notify_ready()
                        get_logger().info("manager serves", cluster=settings.cluster.name, port=settings.http.port)
                        await life.stopping.wait()
                        for part in parts:
                            part.cancel()


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


MANAGER = Daemon(
    name="endpointd-manager",
    description="The cluster's manager.",
    log_name=lambda _: "manager",
    read=read_settings,
    prepare=read_secrets,
    serve=serve,
    mendable=(StoreError, OSError),
    cannot="the manager cannot serve",
    reloads=Counter("endpointd_manager_reloads", "Attempts to read the settings anew.", ["outcome"]),
)
