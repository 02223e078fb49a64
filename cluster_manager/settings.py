"""The manager's settings file. Strict: an unknown key is an error that names it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from cluster_manager.decision.flapping import FAILOVERS_REMEMBERED, AntiFlap
from cluster_manager.decision.nodeview import NodeSpec
from cluster_manager.loop.settings import LoopSettings
from daemonkit.logs import LogSettings
from daemonkit.settings import SettingsError, load_settings
from pgtopology.document import Durability, Endpoint, Endpoints
from pgtopology.node import DNS_ZONE, NODES_MAX, Address, Label, NodeName

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
MaxLagMs = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]
Tier = Annotated[int, msgspec.Meta(ge=0, le=15)]

MAX_LAG_MS = 1000
"""Unless the operator says otherwise."""

_RULES = AntiFlap()
"""Unless the operator says otherwise."""


class WantedDurability(StrEnum):
    """What the operator asks for; "reduced" only happens."""

    QUORUM = "quorum"
    ASYNC = "async"


class ClusterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [cluster]."""

    name: Label
    zone: str = DNS_ZONE
    durability: WantedDurability = WantedDurability.QUORUM
    bootstrap: bool = False


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [http]."""

    host: str
    port: Port
    token_file: Path | None = None
    """A token for everything."""
    verifiers_file: Path | None = None
    """The digests of tokens with scopes."""
    allowed_hosts: tuple[str, ...] = ()


class DnsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [dns]."""

    host: str
    port: Port
    ttl_s: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 1


class StoreKind(StrEnum):
    """Where the document lives."""

    EMBEDDED = "embedded"


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [store]."""

    path: Path
    kind: StoreKind = StoreKind.EMBEDDED


class JournalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [journal]."""

    path: Path


class NodedsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [nodeds]."""

    token_file: Path


class EndpointSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [endpoints.writer]."""

    host: str
    port: Port


class ReaderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [endpoints.reader]."""

    host: str
    port: Port
    max_lag_ms: MaxLagMs = MAX_LAG_MS
    """A replica that shows what is older gets no new session; 0: however old."""


class EndpointsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [endpoints]."""

    writer: EndpointSettings
    reader: ReaderSettings


class NodeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One [[nodes]] table."""

    name: Label
    zone: str
    host: str
    port: Port
    noded_host: str
    noded_port: Port
    tier: Tier = 1


Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]


class FailoverSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [failover]: how soon one failover may follow another upon soft evidence; 0 switches a rule off."""

    soft_interval_s: Seconds = _RULES.interval_ms / 1000
    hold_after: Annotated[int, msgspec.Meta(ge=0, le=FAILOVERS_REMEMBERED)] = _RULES.hold_after
    hold_window_s: Seconds = _RULES.hold_window_ms / 1000
    hold_s: Seconds = _RULES.hold_ms / 1000

    def anti_flap(self) -> AntiFlap:
        """Return the rules as decisions know them."""
        return AntiFlap(
            interval_ms=self.soft_interval_s * 1000,
            hold_after=self.hold_after,
            hold_window_ms=self.hold_window_s * 1000,
            hold_ms=self.hold_s * 1000,
        )


class ProvisionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table [provision]: who makes nodes and takes them away; without it others do, and write them into [[nodes]]."""

    supervisor: Path | None = None
    """The socket of the supervisor, where all programs of the cluster are on one machine."""


class ManagerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    cluster: ClusterSettings
    http: HttpSettings
    dns: DnsSettings
    store: StoreSettings
    journal: JournalSettings
    nodeds: NodedsSettings
    endpoints: EndpointsSettings
    nodes: Annotated[tuple[NodeSettings, ...], msgspec.Meta(min_length=1, max_length=NODES_MAX)]
    failover: FailoverSettings = FailoverSettings()
    provision: ProvisionSettings = ProvisionSettings()
    logs: LogSettings = LogSettings()

    @property
    def domain(self) -> str:
        """What the cluster's DNS names end in, without a trailing dot."""
        return f"{self.cluster.name}.{self.cluster.zone}"

    def specs(self) -> tuple[NodeSpec, ...]:
        """Return the nodes as decisions know them."""
        return tuple(
            NodeSpec(
                name=NodeName(node.name),
                zone=node.zone,
                address=Address(node.host, node.port),
                noded=Address(node.noded_host, node.noded_port),
                dns=f"{node.name}.{self.domain}",
                tier=node.tier,
            )
            for node in self.nodes
        )

    def document_endpoints(self) -> Endpoints:
        """Return the endpoints as the document names them."""
        writer, reader = self.endpoints.writer, self.endpoints.reader
        return Endpoints(
            writer=Endpoint(host=writer.host, port=writer.port, dns=f"writer.{self.domain}"),
            reader=Endpoint(host=reader.host, port=reader.port, dns=f"reader.{self.domain}"),
        )

    def wanted_durability(self) -> Durability:
        """Return the durability the operator asks for."""
        return Durability(self.cluster.durability)

    def for_loop(self) -> LoopSettings:
        """Return what the loop goes by."""
        return LoopSettings(
            cluster=self.cluster.name,
            specs=self.specs(),
            endpoints=self.document_endpoints(),
            durability=self.wanted_durability(),
            bootstrap_ordered=self.cluster.bootstrap,
            anti_flap=self.failover.anti_flap(),
            reader_lag_max_ms=self.endpoints.reader.max_lag_ms,
        )


def read_settings(path: Path) -> ManagerSettings:
    """Return the settings in *path*. Raises SettingsError, also for names and ports that clash."""
    settings = load_settings(path, ManagerSettings)
    names = [node.name for node in settings.nodes]
    for index, name in enumerate(names):
        if name in ("writer", "reader"):
            raise SettingsError(f'{path}: nodes[{index}].name: "{name}" is the name of an endpoint')
        if name in names[:index]:
            raise SettingsError(f'{path}: nodes[{index}].name: "{name}" is the name of an earlier node too')
    return settings
