"""A cluster in containers: described by config/compose.toml and by the environment that docker-compose.yml gives.

Knows where things are in a container and on its networks.  docker/launch.py is the program that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from cluster_manager.settings import MAX_LAG_MS, FailoverSettings, ManagerSettings, MaxLagMs, Tier, WantedDurability
from daemonkit.durable import write_durably
from daemonkit.logs import LogSettings, Style
from daemonkit.settings import SettingsError
from deployment.certificates import AUTHORITY_DAYS
from deployment.cluster import Cluster, Door, Node, PooledDoor, PostgresSettings
from deployment.keyring import Keyring, Leaf
from deployment.ports import POOLED_PORT_OFFSET
from deployment.render import Machine, manager_settings, noded_settings, proxy_settings
from endpointd.settings import Count, LimitSettings, Seconds, ServersSettings, TlsSettings, WarmSettings
from endpointd.settings import Settings as ProxySettings
from noded.settings import NodedSettings, PostgresTlsTable
from pgtopology.node import DNS_ZONE, NODES_MAX, Address, Label

CLUSTER_FILE = Path("/etc/endpointd/compose.toml")
RUN = Path("/run/endpointd")
"""In memory, and this container's own."""
DATA = Path("/var/lib/endpointd")
"""A volume."""
TLS = Path("/etc/endpointd/tls")
"""A volume, read by nodes or by proxies: each has what the authority certified for it."""
TLS_NODES, TLS_PROXY = TLS, Path("/etc/endpointd/tls-proxy")
"""Both, where they are made; the authority is in a third, which nobody else reads."""
ENDPOINTS = "endpoints.pem"
AUTHORITIES = "ca.crt"
SECRETS = RUN / "secrets"
SOCKETS = RUN / "socket"

EVERYWHERE = "0.0.0.0"  # noqa: S104 - the container's networks decide who gets here
POSTGRES_PORT = 5432
NODED_PORT = 8008
MANAGER_PORT = 6480
DNS_PORT = 53
WRITER_PORT = 6432
READER_PORT = 6433
PROXY_PORT = 6490
MANAGER = "manager"
PROXY = "proxy"
"""Names of services, by which the engine's resolver leads to their containers."""
DEFAULT_NODES = "n1,n2,n3"
USER = "postgres"

LastNumber = Annotated[int, msgspec.Meta(ge=2, le=254)]
_LIMITS = LimitSettings()


class ClusterTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[cluster]"""

    name: Label = "local"
    zone: str = DNS_ZONE
    durability: WantedDurability = WantedDurability.QUORUM


class ProxyTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[proxy]"""

    fallback_to_writer: bool = True
    max_lag_ms: MaxLagMs = MAX_LAG_MS
    sessions_max: Count = _LIMITS.sessions_max
    hold_s: Seconds = _LIMITS.hold_s


class TlsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tls]: how clients are spoken to; the certificate is the cluster's own."""

    mode: Literal["off", "prefer", "require"] = "prefer"
    minimum: Literal["1.2", "1.3"] = "1.2"


class ServersTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[servers]: how the proxy speaks to the nodes, where their PostgreSQL was built with TLS."""

    tls: Literal["off", "verify"] = "verify"


class ContainerLogs(LogSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[logs]: engines collect lines for machines."""

    style: Style = "json"


class NetworkTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[network]: last numbers of addresses in the nodes' network."""

    manager: LastNumber


class NodeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [[nodes]] table."""

    name: Label
    zone: str
    number: LastNumber
    tier: Tier = 1


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """config/compose.toml"""

    network: NetworkTable
    nodes: Annotated[tuple[NodeTable, ...], msgspec.Meta(min_length=1, max_length=NODES_MAX)]
    cluster: ClusterTable = ClusterTable()
    postgres: PostgresSettings = PostgresSettings()
    proxy: ProxyTable = ProxyTable()
    warm: WarmSettings = WarmSettings()
    writer: Door = Door()
    reader: Door = Door()
    pooled_writer: PooledDoor | None = None
    pooled_reader: PooledDoor | None = None
    tls: TlsTable = TlsTable()
    servers: ServersTable = ServersTable()
    failover: FailoverSettings = FailoverSettings()
    logs: ContainerLogs = ContainerLogs()


def describe(file: ClusterFile, environment: Mapping[str, str]) -> Cluster:
    """Return the cluster with every node of *file*, in the network that *environment* names. Raises SettingsError."""
    net = environment.get("ENDPOINTD_NET", "")
    if net.count(".") != 2:
        raise SettingsError(f'ENDPOINTD_NET: "{net}" is not the first three numbers of an address, such as "172.30.64"')
    return Cluster(
        name=file.cluster.name,
        zone=file.cluster.zone,
        durability=file.cluster.durability,
        nodes=tuple(
            Node(
                name=node.name,
                zone=node.zone,
                postgres=Address(f"{net}.{node.number}", POSTGRES_PORT),
                noded=Address(f"{net}.{node.number}", NODED_PORT),
                tier=node.tier,
            )
            for node in file.nodes
        ),
        manager=Address(f"{net}.{file.network.manager}", MANAGER_PORT),
        manager_names=(MANAGER,),
        dns_port=DNS_PORT,
        writer=Address(PROXY, WRITER_PORT),
        reader=Address(PROXY, READER_PORT),
        writer_door=file.writer,
        reader_door=file.reader,
        pooled_writer=file.pooled_writer,
        pooled_reader=file.pooled_reader,
        proxy_port=PROXY_PORT,
        postgres=file.postgres,
        failover=file.failover,
        max_lag_ms=file.proxy.max_lag_ms,
        fallback_to_writer=file.proxy.fallback_to_writer,
        limits=LimitSettings(sessions_max=file.proxy.sessions_max, hold_s=file.proxy.hold_s),
        warm=file.warm,
        logs=LogSettings(level=file.logs.level, style=file.logs.style),
    )


def certify(cluster: Cluster, now: datetime) -> tuple[Path, ...]:
    """Make the authority, and what it certifies: only what is missing, damaged, due or for other names. Return the files.

    The nodes' certificates end with the authority: nobody but the proxies asks for them, and with an expired one there would be
    no writer.
    """
    domain = f"{cluster.name}.{cluster.zone}"
    ring = Keyring(cluster.name, DATA / "ca.pem", TLS_NODES / AUTHORITIES)
    nodes = [
        Leaf(TLS_NODES / f"{node.name}.pem", node.name, (f"{node.name}.{domain}", node.postgres.host), days=AUTHORITY_DAYS)
        for node in cluster.nodes
    ]
    names = (PROXY, f"writer.{domain}", f"reader.{domain}", "localhost", "127.0.0.1", "::1")
    leaves = (*nodes, Leaf(TLS_PROXY / ENDPOINTS, "endpoints", names))
    ring.certify(leaves, now)
    write_durably(TLS_PROXY / AUTHORITIES, ring.trusted.read_bytes(), 0o644)
    return tuple(leaf.path for leaf in leaves)


def of_node(cluster: Cluster, name: str, *, has_tls: bool = False) -> NodedSettings:
    """Return the settings of the noded of *name*; *has_tls*: PostgreSQL was built with it. Raises SettingsError."""
    pair = TLS / f"{name}.pem"
    tls = PostgresTlsTable(certificate=pair, key=pair) if has_tls else None
    return noded_settings(cluster, _node(cluster, name), _machine(DATA / "node"), socket_dir=SOCKETS, tls=tls)


def of_manager(cluster: Cluster, environment: Mapping[str, str]) -> ManagerSettings:
    """Return the settings of the manager, which looks after the nodes that *environment* names. Raises SettingsError."""
    names = [name for word in environment.get("ENDPOINTD_NODES", DEFAULT_NODES).split(",") if (name := word.strip())]
    present = tuple(_node(cluster, name) for name in names)
    return manager_settings(msgspec.structs.replace(cluster, nodes=present), _machine(DATA))


def of_proxy(
    cluster: Cluster, hostname: str, *, tls: TlsTable | None = None, servers: ServersTable | None = None
) -> ProxySettings:
    """Return the settings of the proxy in the container called *hostname*; *tls* and *servers* where there are certificates."""
    pair = TLS / ENDPOINTS
    return proxy_settings(
        cluster,
        f"proxy-{hostname}",
        _machine(DATA),
        feed_token=SECRETS / "feed-token",
        tls=TlsSettings(mode=tls.mode, minimum=tls.minimum, certificate=pair, key=pair) if tls is not None else None,
        servers=ServersSettings(tls=servers.tls, ca=TLS / AUTHORITIES) if servers is not None else None,
    )


def psql_command(cluster: Cluster, place: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that opens psql at *place*, an endpoint or a node. Raises SettingsError."""
    match place:
        case "writer":
            address = cluster.writer
        case "reader":
            address = cluster.reader
        case "pooled-writer" | "pooled-reader":
            address = _pooled(cluster, place)
        case _:
            address = _node(cluster, place).postgres
    return ["psql", f"postgresql://{USER}@{address}/{USER}", *arguments]


def _pooled(cluster: Cluster, name: str) -> Address:
    """Return where clients reach a pooled endpoint. Raises SettingsError if there is none."""
    is_writer = name == "pooled-writer"
    if (cluster.pooled_writer if is_writer else cluster.pooled_reader) is None:
        raise SettingsError(f"{CLUSTER_FILE}: there is no endpoint {name}; a table [{name.replace('-', '_')}] opens it")
    ordinary = cluster.writer if is_writer else cluster.reader
    return Address(ordinary.host, ordinary.port + POOLED_PORT_OFFSET)


def _machine(data: Path) -> Machine:
    return Machine(listen=EVERYWHERE, data=data, secrets=SECRETS)


def _node(cluster: Cluster, name: str) -> Node:
    node = cluster.node(name)
    if node is None:
        raise SettingsError(f'{CLUSTER_FILE}: there is no node "{name}", only {", ".join(node.name for node in cluster.nodes)}')
    return node
