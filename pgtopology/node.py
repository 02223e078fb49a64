"""One PostgreSQL server of the cluster, as the topology document and the messages between our programs name it.

Knows names, addresses, roles and states.  Knows nothing of votes (quorum.py) or of who leads (document.py).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, NewType

import msgspec

from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.lsn import Lsn
from pgtopology.timeline import Timeline

NodeName = NewType("NodeName", str)
"""A name the operator chose: 1 to 40 characters of a-z, 0-9 and hyphen. It stays when the node's data is wiped."""

NAME_PATTERN = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
Label = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
"""A name as operators write it in settings: what may stand in a DNS name (RFC 1123), 1 to 40 characters."""

DNS_ZONE = "endpointd.internal"
"""What a cluster's DNS names end in unless the operator has a zone for it; ICANN keeps `internal` for private use."""

PROXY_COMMON_NAME = "endpointd_proxy"
"""Of the certificate by which a proxy vouches for clients at servers, never for a role whose name begins with "endpointd"."""

NODES_MAX = 16
"""One writer and 15 replicas."""

Incarnation = NewType("Incarnation", str)
"""Four hexadecimal digits or more, random, drawn anew whenever a data directory is made: it tells the data from the name."""


class Role(StrEnum):
    """What a PostgreSQL server is at a moment."""

    PRIMARY = "primary"
    STANDBY = "standby"
    NONE = "none"
    """Not running, or it has not said yet."""


class NodeState(StrEnum):
    """What status shows of a node; the words are part of the operator's contract."""

    RUNNING = "running"
    """The writer."""
    STREAMING = "streaming"
    CATCHING_UP = "catching_up"
    CLONING = "cloning"
    REWINDING = "rewinding"
    STOPPED = "stopped"
    UNREACHABLE = "unreachable"


class NodeKind(StrEnum):
    """What a member keeps. Log-only voters will be another kind under the same arithmetic."""

    POSTGRES = "postgres"


class Address(msgspec.Struct, frozen=True):
    """Where a TCP service listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node as everyone else sees it."""

    name: NodeName
    zone: str
    address: Address
    """PostgreSQL's own address: what proxies and standbys dial."""
    noded: Address
    dns: str
    """The node's own DNS name, without a trailing dot."""
    kind: NodeKind = NodeKind.POSTGRES
    incarnation: Incarnation | None = None
    """Of the data directory the manager has accepted; None until the node has one."""
    role: Role = Role.NONE
    state: NodeState = NodeState.STOPPED
    timeline: Timeline | None = None
    tier: int = 1
    """Promotion tier, 0 first to 15 last; it breaks ties of the election only."""
    reader_eligible: bool = False
    """Whether the reader endpoint may send new connections here: streaming, and within the lag limit."""
    stopped: bool = False
    """An operator wants its PostgreSQL down; nobody starts it but a failover that needs to know how far it reaches."""
    leaving: bool = False
    """An operator wants it out of the cluster: it stops being a voter, then a member."""
    lag_bytes: int | None = None
    """Distance to the writer when this revision was written; not kept up to date in between."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a node's local WAL: how far its history reaches, on which timeline.

    *lsn* is max(received, replayed) as IDENTIFY_SYSTEM reports it after the end of local WAL was reached (S6).
    *epoch* is the epoch the timeline belongs to; the manager derives it from the document and ignores what a node says.
    """

    timeline: Timeline
    lsn: Lsn
    replayed_lsn: Lsn
    epoch: Epoch = NO_EPOCH


def sync_name(name: NodeName, incarnation: Incarnation) -> str:
    """Return the name under which a node's WAL receiver acknowledges, which is also the name of its slot.

    It carries the incarnation, so that neither a namesake nor the wiped predecessor of a node can acknowledge in its place
    (S16). Slot names admit a-z, 0-9 and underscore only.
    """
    return f"{name.replace('-', '_')}_{incarnation}"
