"""Everything a decision may depend on, as one frozen value.

The loop builds a view from the document, the newest observations and what it remembers of its own orders; `decide`
turns it into a plan.  All times are milliseconds on the manager's one monotonic clock, or ages on it: nothing here is wall
time.  What must survive the manager's death is in the document; what is only here may be forgotten at any moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster_manager.decision.actions import ActionKind
from cluster_manager.decision.flapping import AntiFlap
from cluster_manager.decision.nodeview import NodeSpec, NodeView
from cluster_manager.decision.request import Request
from cluster_manager.decision.timings import Timings
from cluster_manager.decision.tries import Desired
from pgtopology.document import Durability, Endpoints, Topology
from pgtopology.epoch import NO_EPOCH, NO_REVISION, Epoch, Revision
from pgtopology.node import NodeName, sync_name
from pgtopology.orders import PromiseAnswer, SynchronousAnswer
from pgtopology.quorum import Voters


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """An answered promise of the document's epoch."""

    answer: PromiseAnswer
    at_ms: float
    wal_advanced_at_ms: float
    """When that node's WAL had last been seen to grow, before it was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The last outcome of an order that did not succeed, until one of its kind does."""

    count: int
    age_ms: float
    code: str
    """The refusal's code, "timeout" or "unreachable"."""
    message: str


@dataclass(frozen=True, slots=True)
class VotersSent:
    """The newest order about the list of synchronous standbys in this epoch."""

    voters: Voters | None
    """None: an earlier manager's, of whatever list."""
    revision: Revision
    """Of the document it followed from: what tells it from others when orders arrive late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The whole."""

    now_ms: float
    started_at_ms: float = 0
    """When this manager began: what it has not seen since then proves nothing."""
    cluster: str
    specs: tuple[NodeSpec, ...]
    """In the order of the settings: the first is the one a new cluster begins with."""
    endpoints: Endpoints
    wanted_durability: Durability
    bootstrap_ordered: bool = False
    document: Topology | None = None
    epoch_is_ours: bool = False
    """Whether this manager process began the document's epoch: only then does it know every promise it asked for."""
    epoch_began_at_ms: float = 0
    transition_began_at_ms: float = 0
    """When the unfinished transition was begun or, by an earlier manager, found; its further attempts count from then too."""
    claimed_at_ms: float = 0
    """When the candidate of this epoch was written down, or found written down; what a candidate has to show counts from
    then."""
    nodes: tuple[NodeView, ...] = ()
    """One for each spec, in the same order."""
    promises: Mapping[NodeName, Promise] = field(default_factory=dict[NodeName, Promise])
    """Of the document's epoch only, the newest of each node."""
    soft_failovers_at_ms: tuple[float, ...] = ()
    """When each failover upon soft evidence began, oldest first, as far as this manager remembers."""
    anti_flap: AntiFlap = field(default_factory=AntiFlap)
    request: Request | None = None
    checkpointed_at_ms: float | None = None
    """When the writer of this epoch last completed a checkpoint that was ordered."""
    proxies_settled: bool = True
    """Whether every connected proxy has reported this epoch, and so has no session of an earlier writer left."""
    proxies_seen: tuple[Epoch, Revision] = (NO_EPOCH, NO_REVISION)
    """The greatest pair that a connected proxy reports."""
    being_remade: frozenset[NodeName] = frozenset()
    """Nodes that were ordered to rewind or clone so lately that they may not have said yet that they are not whole."""
    in_flight: frozenset[tuple[ActionKind, NodeName]] = frozenset()
    failures: Mapping[tuple[ActionKind, NodeName], Failure] = field(default_factory=dict[tuple[ActionKind, NodeName], Failure])
    in_force: SynchronousAnswer | None = None
    """The list the writer of this epoch has proven to be in force, unless another order about it was sent since."""
    voters_sent: VotersSent | None = None
    slots_in_force: frozenset[str] | None = None
    """The slots the writer was last told to keep, in this epoch since this manager runs."""
    reader_lag_max_ms: int = 0
    """How old what a replica shows may be for the reader endpoint; 0: however old."""
    desired: tuple[Desired, ...] | None = None
    """The nodes the cluster is to have, and what was tried; None until the record was read."""
    wall_time: str = ""
    """ISO 8601, only to be written into what people read."""
    timings: Timings = field(default_factory=Timings)

    def node(self, name: str | None) -> NodeView | None:
        """Return the view of the node called *name*, or None."""
        return next((node for node in self.nodes if node.name == name), None)

    @property
    def writer(self) -> NodeView | None:
        """The published writer; None while there is none, or if it is not among the configured nodes."""
        return self.node(self.document.writer) if self.document is not None else None

    @property
    def foreign(self) -> frozenset[NodeName]:
        """The nodes that were seen to have gone through a promotion that nobody ordered (S3)."""
        return frozenset(node.name for node in self.nodes if node.observation is not None and node.observation.foreign)


def slots_of(document: Topology) -> tuple[str, ...]:
    """Return the slots every node keeps: one for each member that has data."""
    return tuple(sync_name(member.name, member.incarnation) for member in document.members if member.incarnation is not None)
