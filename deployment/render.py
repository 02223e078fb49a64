"""From the description of a cluster to what each of its programs is started with.

Pure: the daemons' own settings types, which daemonkit.toml writes and the daemons read back to equal values.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cluster_manager import settings as manager
from deployment.cluster import Cluster, Door, Node, PooledDoor
from deployment.files import CACHE, JOURNAL, NODES_TOKEN, ROLE_SECRETS, STORE, VERIFIERS
from deployment.ports import POOLED_PORT_OFFSET
from endpointd import settings as proxy
from endpointd.rules import Method, read_rules, vouched_logins
from noded import settings as noded


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What one program finds where it runs: a host, a container, a directory of a local cluster."""

    listen: str
    """The address that its ports are opened on."""
    data: Path
    """What it must find again after a restart, and nobody else writes to."""
    secrets: Path
    """The directory of secrets, by their names in files.py."""


def noded_settings(
    cluster: Cluster,
    node: Node,
    machine: Machine,
    *,
    socket_dir: Path,
    pg_bin: Path | None = None,
    tls: noded.PostgresTlsTable | None = None,
    vouching: noded.VouchingTable | None = None,
) -> noded.NodedSettings:
    """Return the settings of the noded of *node*; without *pg_bin* it looks for PostgreSQL's programs itself."""
    return noded.NodedSettings(
        node=noded.NodeTable(cluster=cluster.name, name=node.name, dir=machine.data, socket_dir=socket_dir, pg_bin=pg_bin),
        postgres=noded.PostgresTable(
            host=machine.listen,
            port=node.postgres.port,
            settings=cluster.postgres.settings,
            hba=cluster.postgres.hba,
            tls=tls,
        ),
        http=noded.HttpTable(
            host=machine.listen,
            port=node.noded.port,
            token_file=machine.secrets / NODES_TOKEN,
            verifiers_file=machine.secrets / VERIFIERS,
        ),
        vouching=vouching,
        secrets=noded.SecretsTable(**{role: machine.secrets / role for role in ROLE_SECRETS}),
        logs=cluster.logs,
    )


def _doors(cluster: Cluster) -> tuple[Door | PooledDoor, ...]:
    pooled = (cluster.pooled_writer, cluster.pooled_reader)
    return (cluster.writer_door, cluster.reader_door, *(door for door in pooled if door is not None))


def vouched_for(cluster: Cluster) -> tuple[str, ...]:
    """Return whom proxies vouch for by the endpoints' rules, each as databases and users. Raises RuleError."""
    doors = _doors(cluster)
    return tuple(dict.fromkeys(login for door in doors for login in vouched_logins(read_rules(door.rules))))


def asks_for_certificates(cluster: Cluster) -> bool:
    """Return whether any endpoint has a rule that asks clients for one. Raises RuleError."""
    doors = _doors(cluster)
    return any(rule.method is Method.CERT for door in doors for rule in read_rules(door.rules))


def manager_settings(cluster: Cluster, machine: Machine, *, supervisor: Path | None = None) -> manager.ManagerSettings:
    """Return the settings of the manager, which may begin the cluster; *supervisor* is the socket of who makes its nodes."""
    return manager.ManagerSettings(
        cluster=manager.ClusterSettings(name=cluster.name, zone=cluster.zone, durability=cluster.durability, bootstrap=True),
        http=manager.HttpSettings(
            host=machine.listen,
            port=cluster.manager.port,
            verifiers_file=machine.secrets / VERIFIERS,
            allowed_hosts=cluster.manager_names,
        ),
        dns=manager.DnsSettings(host=machine.listen, port=cluster.dns_port),
        store=manager.StoreSettings(path=machine.data / STORE),
        journal=manager.JournalSettings(path=machine.data / JOURNAL),
        nodeds=manager.NodedsSettings(token_file=machine.secrets / NODES_TOKEN),
        endpoints=manager.EndpointsSettings(
            writer=manager.EndpointSettings(host=cluster.writer.host, port=cluster.writer.port),
            reader=manager.ReaderSettings(host=cluster.reader.host, port=cluster.reader.port, max_lag_ms=cluster.max_lag_ms),
        ),
        nodes=tuple(
            manager.NodeSettings(
                name=node.name,
                zone=node.zone,
                host=node.postgres.host,
                port=node.postgres.port,
                noded_host=node.noded.host,
                noded_port=node.noded.port,
                tier=node.tier,
            )
            for node in cluster.nodes
        ),
        failover=cluster.failover,
        provision=manager.ProvisionSettings(supervisor=supervisor),
        logs=cluster.logs,
    )


def proxy_settings(
    cluster: Cluster,
    name: str,
    machine: Machine,
    *,
    feed_token: Path,
    tls: proxy.TlsSettings | None = None,
    servers: proxy.ServersSettings | None = None,
    takeover: Path | None = None,
    engine: proxy.WantedEngine = "auto",
    workers: proxy.Workers = 1,
    drain_timeout_s: float | None = None,
    unix_socket_directory: Path | None = None,
    unix_socket_permissions: proxy.Permissions = "0777",
) -> proxy.Settings:
    """Return the settings of the proxy called *name*, which knows managers and nodeds by *feed_token* alone.

    At the socket *takeover* another process of it may relieve it.
    """
    return proxy.Settings(
        proxy=proxy.ProxySettings(
            name=name,
            cache=machine.data / CACHE,
            engine=engine,
            takeover=takeover,
            workers=workers,
            drain_timeout_s=drain_timeout_s,
            unix_socket_directory=unix_socket_directory,
            unix_socket_permissions=unix_socket_permissions,
        ),
        feed=proxy.FeedSettings(urls=(f"http://{cluster.manager}",), token_file=feed_token),
        nodeds=proxy.NodedSettings(token_file=feed_token),
        writer=proxy.WriterSettings(
            host=machine.listen,
            port=cluster.writer.port,
            rules=cluster.writer_door.rules,
            client_address=cluster.writer_door.client_address,
        ),
        reader=proxy.ReaderSettings(
            host=machine.listen,
            port=cluster.reader.port,
            rules=cluster.reader_door.rules,
            client_address=cluster.reader_door.client_address,
            fallback_to_writer=cluster.fallback_to_writer,
        ),
        pooled_writer=_pooled(cluster.pooled_writer, machine, cluster.writer.port),
        pooled_reader=_pooled(cluster.pooled_reader, machine, cluster.reader.port),
        tls=tls or proxy.TlsSettings(),
        servers=servers or proxy.ServersSettings(),
        limits=cluster.limits,
        warm=cluster.warm,
        http=proxy.HttpSettings(host=machine.listen, port=cluster.proxy_port, verifiers_file=machine.secrets / VERIFIERS),
        logs=cluster.logs,
    )


def _pooled(door: PooledDoor | None, machine: Machine, ordinary_port: int) -> proxy.PooledSettings | None:
    """Return the settings of a pooled endpoint, whose port follows from that of the ordinary one."""
    if door is None:
        return None
    chosen = msgspec.structs.asdict(door)
    return proxy.PooledSettings(host=machine.listen, port=ordinary_port + POOLED_PORT_OFFSET, **chosen)
