"""What was decided about a local cluster: its nodes, ports and binaries.

Kept as cluster.json in the data directory, so that a later `up` brings back the same cluster whatever its own arguments'
defaults are; changed when a node is added or taken out.  Ports: one base, fixed distances (config/local.toml).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from deployment.ports import POOLED_PORT_OFFSET
from pgtopology.node import DNS_ZONE, NODES_MAX
from pgtopology.supervision import PlannedNode

DEFAULT_BASE_PORT = 6400
BASE_PORT_MAX = 65_535 - 99
"""So that the whole block is ports."""
NODE_COUNTS = (1, 2, 3, 5)
"""With how many nodes a cluster may begin."""
DEFAULT_NODE_COUNT = 3
CLUSTER = "local"
HOST = "127.0.0.1"
SOURCE = "127.0.0.2"
"""From where the proxy vouches for clients, and nobody speaks to the nodes otherwise."""
USER = "postgres"
DATABASE = "postgres"
PROXIES_MAX = 4
"""As many as have their ports in the block."""

MANAGER_PROGRAM = "cluster_manager"
PROXY_PROGRAM = "endpointd"
"""The first proxy; the others have their number behind it."""
SUPERVISOR_PROGRAM = "supervisor"


@dataclass(frozen=True, slots=True)
class PortUse:
    """One port the cluster will listen on."""

    port: int
    purpose: str
    udp: bool = False


@dataclass(frozen=True, slots=True)
class PlannedProxy:
    """One proxy with its endpoints."""

    number: int
    """From 1."""
    base_port: int
    """Of the cluster."""

    @property
    def name(self) -> str:
        """By which managers, status and logs know it."""
        return f"proxy-{self.number}"

    @property
    def program(self) -> str:
        """By which the supervisor knows it; the first has the name from when there was one."""
        return PROXY_PROGRAM if self.number == 1 else f"{PROXY_PROGRAM}-{self.number}"

    @property
    def writer_port(self) -> int:
        """Its writer endpoint; two more of its four ports are kept free for pooled endpoints."""
        return self.base_port + 32 + 4 * (self.number - 1)

    @property
    def reader_port(self) -> int:
        """Its reader endpoint."""
        return self.writer_port + 1

    @property
    def http_port(self) -> int:
        """Its health and metrics."""
        return self.base_port + 90 + self.number - 1

    @property
    def ports(self) -> tuple[PortUse, ...]:
        """What it listens on."""
        of = f" of {self.name}" if self.number > 1 else ""
        return (
            PortUse(self.writer_port, f"the writer endpoint{of}"),
            PortUse(self.reader_port, f"the reader endpoint{of}"),
            PortUse(self.http_port, f"the health and metrics of {self.name}"),
        )

    @property
    def pooled_ports(self) -> tuple[PortUse, PortUse]:
        """What it listens on if it has a pooled writer and a pooled reader endpoint."""
        of = f" of {self.name}" if self.number > 1 else ""
        return (
            PortUse(self.writer_port + POOLED_PORT_OFFSET, f"the pooled writer endpoint{of}"),
            PortUse(self.reader_port + POOLED_PORT_OFFSET, f"the pooled reader endpoint{of}"),
        )


PROXY_PROGRAMS = tuple(PlannedProxy(number, 0).program for number in range(1, PROXIES_MAX + 1))
"""What a proxy may be called by the supervisor."""


class LeavingNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that was ordered out of the cluster; kept until nothing of it runs any more."""

    node: PlannedNode
    purge: bool = False
    """Whether its directory is removed too, instead of being put aside."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as `up` laid it out."""

    format_version: int = 1
    cluster: str = CLUSTER
    zone: str = DNS_ZONE
    base_port: int
    pg_bin: str
    """Directory of PostgreSQL's programs."""
    has_tls: bool = False
    """Whether that PostgreSQL was built with TLS."""
    nodes: tuple[PlannedNode, ...]
    proxy_count: Annotated[int, msgspec.Meta(ge=1, le=PROXIES_MAX)] = 1
    leaving: tuple[LeavingNode, ...] = ()
    """Those among *nodes* are members still, and the others are no more than programs and files to be done with."""

    @property
    def everybody(self) -> tuple[PlannedNode, ...]:
        """The nodes, and those whose programs may still run although they are no nodes of the cluster any more."""
        return (*self.nodes, *(one.node for one in self.leaving if self.find(one.node.name) is None))

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes' names."""
        return tuple(node.name for node in self.nodes)

    def find(self, name: str) -> PlannedNode | None:
        """Return the node called *name*."""
        return next((node for node in self.nodes if node.name == name), None)

    def find_leaving(self, name: str) -> LeavingNode | None:
        """Return the order by which the node called *name* leaves."""
        return next((one for one in self.leaving if one.node.name == name), None)

    @property
    def proxies(self) -> tuple[PlannedProxy, ...]:
        """The proxies; the first one's endpoints are those that the manager and DNS tell."""
        return tuple(PlannedProxy(number, self.base_port) for number in range(1, self.proxy_count + 1))

    @property
    def writer_port(self) -> int:
        """The writer endpoint of the first proxy."""
        return self.proxies[0].writer_port

    @property
    def reader_port(self) -> int:
        """The reader endpoint of the first proxy."""
        return self.proxies[0].reader_port

    @property
    def proxy_port(self) -> int:
        """The health and metrics of the first proxy."""
        return self.proxies[0].http_port

    @property
    def dns_port(self) -> int:
        """The authoritative name server, UDP and TCP."""
        return self.base_port + 53

    @property
    def manager_port(self) -> int:
        """The manager's HTTP API."""
        return self.base_port + 80

    @property
    def api(self) -> str:
        """URL of the manager."""
        return f"http://{HOST}:{self.manager_port}"

    @property
    def durability(self) -> str:
        """A quorum needs three nodes."""
        return "quorum" if len(self.nodes) >= 3 else "async"

    @property
    def programs(self) -> tuple[str, ...]:
        """Names of the processes, in the order in which they are started."""
        return (*(node.name for node in self.nodes), MANAGER_PROGRAM, *(proxy.program for proxy in self.proxies))

    @property
    def ports(self) -> tuple[PortUse, ...]:
        """Every port that must be free before anything starts, but for those of pooled endpoints."""
        return (
            *(use for proxy in self.proxies for use in proxy.ports),
            PortUse(self.dns_port, "DNS"),
            PortUse(self.dns_port, "DNS", udp=True),
            PortUse(self.manager_port, "the manager's API"),
            *(use for node in self.nodes for use in node_ports(node)),
        )


def make_plan(*, node_count: int, base_port: int, pg_bin: str, proxy_count: int = 1, has_tls: bool = False) -> Plan:
    """Return the plan of a new cluster: nodes n1, n2, … spread over the zones az1, az2 and az3."""
    nodes = tuple(plan_node(number, base_port=base_port) for number in range(1, node_count + 1))
    return Plan(base_port=base_port, pg_bin=pg_bin, has_tls=has_tls, nodes=nodes, proxy_count=proxy_count)


def plan_node(number: int, *, base_port: int, zone: str | None = None) -> PlannedNode:
    """Return the *number*th node, counted from 1. The ports of NODES_MAX of them fit between the others of the block."""
    index = number - 1
    return PlannedNode(
        name=f"n{number}",
        zone=zone or f"az{index % 3 + 1}",
        port=base_port + 10 + index,
        noded_port=base_port + 60 + index,
    )


def node_ports(node: PlannedNode) -> tuple[PortUse, ...]:
    """Return what *node* listens on."""
    return (PortUse(node.port, f"PostgreSQL of {node.name}"), PortUse(node.noded_port, f"noded of {node.name}"))


def node_number(name: str) -> int | None:
    """Return the number in a node's *name*, or None if no node can be called that."""
    return next((number for number in range(1, NODES_MAX + 1) if name == f"n{number}"), None)
