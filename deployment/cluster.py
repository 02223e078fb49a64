"""What a cluster is to be: its nodes, where everybody is found, and what its operator chose.

The same for all its programs.  Where files lie and which addresses a program may listen on is its machine's (render.py).  The
types of what an operator chose, with their bounds and defaults, are those of the daemons that obey.
"""

from __future__ import annotations

import msgspec

from cluster_manager.settings import MAX_LAG_MS, FailoverSettings, MaxLagMs, Tier, WantedDurability
from daemonkit.logs import LogSettings
from endpointd.settings import ClientAddress, LimitSettings, PoolCount, PoolMin, Rules, WaitSeconds, WarmSettings
from pgtopology.node import DNS_ZONE, Address, Label


class PostgresSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every node's PostgreSQL begins with, until the first `endpointctl config set` takes it over."""

    settings: dict[str, str] = {}
    hba: tuple[str, ...] = ()
    """Lines for pg_hba.conf, before our own."""


class Door(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients of one endpoint meet; the proxy's settings explain it."""

    rules: Rules = ()
    client_address: ClientAddress = "none"


class PooledDoor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pooled endpoint; the proxy's settings explain it."""

    rules: Rules = ()
    pool_size: PoolCount = 20
    pool_min: PoolMin = 0
    query_wait_timeout_s: WaitSeconds = 120.0
    server_idle_timeout_s: WaitSeconds = 600.0
    server_lifetime_s: WaitSeconds = 3600.0
    prepared_statements_max: PoolCount = 200


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One PostgreSQL server with its noded."""

    name: Label
    zone: str
    """Of availability."""
    postgres: Address
    """Where proxies and the other servers reach PostgreSQL."""
    noded: Address
    """Where managers reach its noded."""
    tier: Tier = 1
    """Promotion tier, 0 first to 15 last."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The description."""

    name: Label
    zone: str = DNS_ZONE
    """Of its DNS names: the writer is writer.NAME.ZONE."""
    durability: WantedDurability = WantedDurability.QUORUM
    nodes: tuple[Node, ...]
    manager: Address
    """Its API."""
    manager_names: tuple[str, ...] = ()
    """By which the manager is called too, beside its address."""
    dns_port: int
    """Of the manager's name server, UDP and TCP."""
    writer: Address
    """The writer endpoint as clients reach it."""
    reader: Address
    writer_door: Door = Door()
    reader_door: Door = Door()
    pooled_writer: PooledDoor | None = None
    """Two ports above the writer endpoint, if there is to be one."""
    pooled_reader: PooledDoor | None = None
    """Two ports above the reader endpoint."""
    proxy_port: int
    """Of every proxy's health and metrics."""
    postgres: PostgresSettings = PostgresSettings()
    failover: FailoverSettings = FailoverSettings()
    max_lag_ms: MaxLagMs = MAX_LAG_MS
    """Of a replica that gets new sessions of the reader endpoint; 0: however old it is what it shows."""
    fallback_to_writer: bool = True
    """Where the reader endpoint leads with no replica left; else clients wait and are refused."""
    limits: LimitSettings = LimitSettings()
    """Of each proxy."""
    warm: WarmSettings = WarmSettings()
    """What each proxy keeps for the next clients."""
    logs: LogSettings = LogSettings()

    def node(self, name: str) -> Node | None:
        """Return the node called *name*."""
        return next((node for node in self.nodes if node.name == name), None)
