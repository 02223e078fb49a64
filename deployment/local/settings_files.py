"""The TOML files the daemons of a local cluster are started with: its plan as a description, and back.

Pure from plan to text; what is in force is read from the files of the last `up`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cluster_manager.settings import WantedDurability
from daemonkit.logs import LogSettings
from daemonkit.principals import Scope
from daemonkit.settings import read_path
from daemonkit.toml import to_toml
from deployment.cluster import Cluster, Door, Node, PooledDoor
from deployment.local.layout import Layout
from deployment.local.plan import HOST, MANAGER_PROGRAM, PROXY_PROGRAM, SOURCE, SUPERVISOR_PROGRAM, Plan, PlannedProxy
from deployment.local.preferences import Preferences, ProxyPreferences
from deployment.render import (
    Machine,
    asks_for_certificates,
    manager_settings,
    noded_settings,
    proxy_settings,
    vouched_for,
)
from endpointd.rules import RuleError
from endpointd.settings import ServersSettings, TlsSettings, complaints
from endpointd.settings import Settings as ProxySettings
from noded.settings import PostgresTlsTable, VouchingTable
from pgtopology.node import Address


class SupervisorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the supervisor, which stands above this package, is started with; all else it reads in the directory."""

    data_dir: Path
    logs: LogSettings = LogSettings()


def describe(plan: Plan, preferences: Preferences) -> Cluster:
    """Return the cluster of *plan*, all of whose programs are on this machine."""
    return Cluster(
        name=plan.cluster,
        zone=plan.zone,
        durability=WantedDurability(plan.durability),
        nodes=tuple(
            Node(name=node.name, zone=node.zone, postgres=Address(HOST, node.port), noded=Address(HOST, node.noded_port))
            for node in plan.nodes
        ),
        manager=Address(HOST, plan.manager_port),
        dns_port=plan.dns_port,
        writer=Address(HOST, plan.writer_port),
        reader=Address(HOST, plan.reader_port),
        proxy_port=plan.proxy_port,
        postgres=preferences.postgres,
        failover=preferences.failover,
        writer_door=_door(preferences.writer),
        reader_door=_door(preferences.reader),
        pooled_writer=preferences.pooled_writer,
        pooled_reader=preferences.pooled_reader,
        max_lag_ms=preferences.reader.max_lag_ms,
        warm=preferences.warm,
        logs=preferences.logs,
    )


def _door(preferred: Door) -> Door:
    return Door(rules=preferred.rules, client_address=preferred.client_address)


def settings_files(plan: Plan, layout: Layout, preferences: Preferences) -> dict[Path, str]:
    """Return the text of every settings file by its path. Raises RuleError."""
    cluster = describe(plan, preferences)
    logins = vouched_for(cluster)
    vouching = VouchingTable(sources=(SOURCE,), client_ca=layout.trusted, logins=logins) if logins else None
    files: dict[str, msgspec.Struct] = {
        node.name: noded_settings(
            cluster,
            node,
            _machine(layout, layout.node(node.name)),
            socket_dir=layout.sockets / node.name,
            pg_bin=Path(plan.pg_bin),
            tls=_node_tls(layout.node_pair(node.name)) if plan.has_tls else None,
            vouching=vouching if plan.has_tls else None,
        )
        for node in cluster.nodes
    }
    files[MANAGER_PROGRAM] = manager_settings(cluster, _machine(layout, layout.manager), supervisor=layout.control_socket)
    files |= {proxy.program: proxy_of(plan, proxy, layout, preferences) for proxy in plan.proxies}
    files[SUPERVISOR_PROGRAM] = SupervisorSettings(data_dir=layout.root, logs=preferences.logs)
    return {layout.settings_file(name): to_toml(settings) for name, settings in files.items()}


def proxy_of(plan: Plan, proxy: PlannedProxy, layout: Layout, preferences: Preferences) -> ProxySettings:
    """Return the settings of *proxy*. Raises RuleError."""
    cluster = describe(plan, preferences)
    vouches = bool(vouched_for(cluster))
    return proxy_settings(
        _as_seen_from(cluster, proxy),
        proxy.name,
        _machine(layout, layout.proxy_data(proxy.number)),
        feed_token=layout.token_of(Scope.FEED),
        tls=TlsSettings(
            mode=preferences.tls.mode,
            minimum=preferences.tls.minimum,
            certificate=layout.server_pair,
            key=layout.server_pair,
            client_ca=preferences.tls.client_ca or (layout.trusted if asks_for_certificates(cluster) else None),
            user_maps=preferences.tls.user_maps,
        ),
        servers=_servers(plan, layout, preferences.servers, vouches=vouches),
        takeover=layout.takeover_socket(proxy.number),
        engine=preferences.proxy.engine,
        workers=preferences.proxy.workers,
        drain_timeout_s=preferences.proxy.drain_timeout_s,
        unix_socket_directory=preferences.proxy.unix_socket_directory,
        unix_socket_permissions=preferences.proxy.unix_socket_permissions,
    )


def why_refused(plan: Plan, layout: Layout, preferences: Preferences) -> str | None:
    """Return why the proxy would refuse what is preferred for it, or None."""
    try:
        return next(complaints(proxy_of(plan, plan.proxies[0], layout, preferences)), None)
    except RuleError as error:
        return str(error)


def _node_tls(pair: Path) -> PostgresTlsTable:
    return PostgresTlsTable(certificate=pair, key=pair)


def _servers(plan: Plan, layout: Layout, chosen: ServersSettings, *, vouches: bool) -> ServersSettings:
    """Return *chosen* with the cluster's own authority, which has certified the nodes, unless another is named.

    To vouch for clients the proxy must speak TLS, with its own certificate.
    """
    if vouches and plan.has_tls and chosen.tls in ("off", "verify") and chosen.certificate is None:
        pair = layout.proxy_pair
        chosen = msgspec.structs.replace(chosen, tls="verify", certificate=pair, key=pair, source=chosen.source or SOURCE)
    if chosen.unix_socket == "auto":
        chosen = msgspec.structs.replace(chosen, unix_socket=str(layout.sockets / "{node}"))
    is_ours = chosen.tls == "verify" and chosen.ca is None
    return msgspec.structs.replace(chosen, ca=layout.trusted) if is_ours else chosen


def _as_seen_from(cluster: Cluster, proxy: PlannedProxy) -> Cluster:
    """Return *cluster* with the endpoints of *proxy*: all proxies are on one host, so their ports differ."""
    return msgspec.structs.replace(
        cluster,
        writer=Address(HOST, proxy.writer_port),
        reader=Address(HOST, proxy.reader_port),
        proxy_port=proxy.http_port,
    )


def preferences_in_force(layout: Layout, plan: Plan) -> Preferences:
    """Return the preferences the programs of *plan* were started with, so that they go on, and a new node gets the same."""
    manager = _tables(layout.settings_file(MANAGER_PROGRAM))
    in_force: dict[str, object] = {"failover": manager.get("failover", {})}
    proxy = _tables(layout.settings_file(PROXY_PROGRAM))
    kept = ("mode", "minimum", "client_ca", "user_maps")
    in_force["tls"] = {key: value for key, value in proxy.get("tls", {}).items() if key in kept}
    for door in ("writer", "reader"):
        doors = {key: value for key, value in proxy.get(door, {}).items() if key in ("rules", "client_address")}
        in_force[door] = {**_reader_in_force(manager), **doors} if door == "reader" else doors
    for door in ("pooled_writer", "pooled_reader"):
        if door in proxy:
            in_force[door] = {key: value for key, value in proxy[door].items() if key in PooledDoor.__struct_fields__}
    in_force["servers"] = proxy.get("servers", {})
    in_force["warm"] = proxy.get("warm", {})
    in_force["proxy"] = {
        key: value for key, value in proxy.get("proxy", {}).items() if key in ProxyPreferences.__struct_fields__
    }
    for node in plan.nodes:
        found = _tables(layout.settings_file(node.name))
        if found:
            postgres = found.get("postgres", {})
            in_force["postgres"] = {key: postgres[key] for key in ("settings", "hba") if key in postgres}
            in_force["logs"] = found.get("logs", {})
            break
    return msgspec.convert(in_force, Preferences, dec_hook=read_path)


def _reader_in_force(manager: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    reader = manager.get("endpoints", {}).get("reader", {})
    return {key: value for key, value in reader.items() if key == "max_lag_ms"} if isinstance(reader, dict) else {}


def _tables(path: Path) -> dict[str, dict[str, object]]:
    """Return the tables of a settings file; none if it was never written, or is damaged: it is about to be written anew."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}


def _machine(layout: Layout, data: Path) -> Machine:
    return Machine(listen=HOST, data=data, secrets=layout.secrets)
