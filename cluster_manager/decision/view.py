"""Everything a decision may depend on, as one frozen value.

The reconciler builds a view from the document, the newest observations and what it remembers of its own orders; `decide`
turns it into a plan.  All times are milliseconds on the manager's one monotonic clock, or ages on it: nothing here is wall
time.  What must survive the manager's death is in the document; what is only here may be forgotten at any moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cluster_manager.decision.flapping import AntiFlap
from pgtopology.document import Durability, Endpoints, Topology
from pgtopology.epoch import NO_EPOCH, NO_REVISION, Epoch, Revision
from pgtopology.lsn import Lsn
from pgtopology.node import Address, NodeName, Role, sync_name
from pgtopology.observation import Observation, Port
from pgtopology.orders import PromiseAnswer, SettingsAnswer
from pgtopology.quorum import Voter, Voters

NEVER_MS = math.inf
"""An age: it has not happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """The manager's patience, in milliseconds. Reasons: docs/law.md, F1 to F6."""

    fresh_ms: float = 300
    """An observation older than this is no basis for touching anything (L4)."""
    silence_ms: float = 600
    """Three missed observations: a node that said nothing for so long is silent."""
    veto_ms: float = 300
    """WAL that reached enough voters this recently says that the writer works and that we are cut off (L3)."""
    deaf_ms: float = 1500
    """Fresh connections unanswered for so long: 3 probes of 500 ms."""
    stuck_ms: float = 600
    """A quorum heartbeat unacknowledged for so long."""
    slow_sync_ms: float = 300
    """A disk that takes so long for one sync: two in a row, the writer's and a standby's, are what makes a heartbeat stuck."""
    busy_sync_ms: float = 100
    """A disk that others share and that takes so long for one sync of the writer's noded: an idle one takes a tenth of that."""
    shared_stuck_ms: float = 5000
    """A heartbeat that waits for so long is not waiting for a busy disk that all share: it would have been acknowledged."""
    unflushed_ms: float = 2000
    """A receiver that makes WAL durable hears nobody meanwhile; after wal_receiver_timeout it would give its upstream up."""
    settled_ms: float = 1500
    """A standby that runs for less may still be connecting: no evidence that its upstream is cut off from it."""
    straggler_ms: float = 30
    """After the first safe set wait so long for better nodes."""
    reader_lease_ms: float = 600
    """Whoever served the old writer by its heartbeat has stopped by then (S14)."""
    replay_progress_ms: float = 2000
    """A candidate whose replay stands still for so long is given up (L5)."""
    helpers_ms: float = 1000
    """A promoted candidate that gets no quorum for so long is helped to one: nodes that cannot just follow are mended."""
    opening_ms: float = 10_000
    """A promoted candidate that gets no quorum for so long is given up, if others could do better."""
    drain_ms: float = 2000
    """How long a planned handover lets sessions finish what they are doing."""
    handover_ms: float = 3000
    """How long a planned handover then waits for the old primary to stop in good order."""
    heir_ms: float = 2000
    """How long a stopped primary then waits for the promise of somebody who can take over, before it is promoted again."""
    checkpoint_ms: float = 60_000
    """How long a planned handover waits for the checkpoint that shortens the stop."""
    refused_ms: float = 2000
    """How long an operator's order that was accepted waits, once it would be refused or its checkpoint failed."""
    checkpointed_ms: float = 10_000
    """A checkpoint younger than this is good enough."""
    adopt_ms: float = 2000
    """How long a manager that has just begun waits for every node before it makes a document anew without some of them."""
    settings_ms: float = 5000
    """After so long without a writer nodes are told of changed settings all the same: they may be what keeps the next one from
    coming to be."""
    lost_stream_ms: float = 30_000
    """A follower that gets no WAL for so long is made anew, if the quorum does without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A node as the manager's settings name it."""

    name: NodeName
    zone: str
    address: Address
    noded: Address
    dns: str
    tier: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What the manager knows of one node."""

    spec: NodeSpec
    observation: Observation | None = None
    age_ms: float = NEVER_MS
    """Since the newest observation arrived; what the manager's own lag made it miss is already taken off."""
    wal_advanced_age_ms: float = NEVER_MS
    """Since its WAL end was last seen to grow."""
    wal_received_age_ms: float = NEVER_MS
    """Since the same, or what has arrived and is not durable yet, was last seen to grow."""
    replay_advanced_age_ms: float = NEVER_MS
    running_for_ms: float = 0
    """How long its PostgreSQL has been observed to run in its present role without a break."""
    not_streaming_for_ms: float = 0
    """How long its receiver has not been streaming; 0 while it is, or on a primary."""
    starved_for_ms: float = 0
    """How long its upstream has given it no WAL, although it has read all of its own; 0 on whoever follows nobody."""
    stopped_under: Epoch = NO_EPOCH
    """The greatest epoch it had promised when no process of its data directory was left. No node starts as a primary (S18) and
    none is promoted below its promise (S8): whatever it ran as a primary of an earlier epoch is over, also while it starts."""
    port: Port = Port.UNKNOWN
    """What the manager's own connection to its PostgreSQL met; tried while its noded is silent."""

    @property
    def name(self) -> NodeName:
        """The node's name."""
        return self.spec.name

    def is_heard(self, timings: Timings) -> bool:
        """Return whether it was heard so recently that what it said describes it."""
        return self.observation is not None and self.age_ms < timings.silence_ms

    def has_stopped(self, epoch: Epoch, timings: Timings) -> bool:
        """Return whether what it ran as a primary before *epoch* is over: by its promise it was stopped, or is a standby."""
        if self.stopped_under >= epoch:
            return True
        observation = self.observation
        fenced = observation is not None and observation.role is Role.STANDBY and observation.promised >= epoch
        return fenced and is_fresh(self, timings)

    def voter(self) -> Voter | None:
        """Return who this node votes as with the data it has now, or None without data."""
        if self.observation is None or self.observation.incarnation is None:
            return None
        return Voter(self.spec.name, self.observation.incarnation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """An answered promise of the document's epoch."""

    answer: PromiseAnswer
    at_ms: float
    wal_advanced_at_ms: float
    """When that node's WAL had last been seen to grow, before it was cut."""


class RequestKind(StrEnum):
    """What an operator may ask for."""

    FAILOVER = "failover"
    """Another writer now; in good order if the present one is well."""
    DATA_LOSS = "allow_data_loss"
    """Another writer out of the voters that answer, although commits may be lost."""
    SWITCHOVER = "switchover"
    """Another writer in good order, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An operator's order that has not begun."""

    kind: RequestKind
    to: NodeName | None = None
    drain_ms: int | None = None
    """How long a planned handover lets sessions finish, if not as long as usual."""
    allow_slot_loss: bool = False
    """Hand over also to who has not yet copied users' slots that will be carried over."""
    asked_at_ms: float = 0


class ActionKind(StrEnum):
    """The orders a node may be given."""

    INIT = "init"
    PROMISE = "promise"
    FOLLOW = "follow"
    PROMOTE = "promote"
    CLONE = "clone"
    REWIND = "rewind"
    STOP = "stop"
    RESTART = "restart"
    SETTINGS = "settings"
    """Whose acknowledgements a commit waits for."""
    CONFIGURE = "configure"
    """The operator's settings of PostgreSQL."""
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The last outcome of an order that did not succeed, until one of its kind does."""

    count: int
    age_ms: float
    code: str
    """The refusal's code, "timeout" or "unreachable"."""
    message: str


@dataclass(frozen=True, slots=True)
class SettingsSent:
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
    in_force: SettingsAnswer | None = None
    """The list the writer of this epoch has proven to be in force, unless another order about it was sent since."""
    settings_sent: SettingsSent | None = None
    slots_in_force: frozenset[str] | None = None
    """The slots the writer was last told to keep, in this epoch since this manager runs."""
    reader_lag_max_ms: int = 0
    """How old what a replica shows may be for the reader endpoint; 0: however old."""
    wall_time: str = ""
    """ISO 8601, only to be written into what people read."""
    timings: Timings = field(default_factory=Timings)

    def node(self, name: str | None) -> NodeView | None:
        """Return the view of the node called *name*, or None."""
        return next((node for node in self.nodes if node.name == name), None)

    @property
    def foreign(self) -> frozenset[NodeName]:
        """The nodes that were seen to have gone through a promotion that nobody ordered (S3)."""
        return frozenset(node.name for node in self.nodes if node.observation is not None and node.observation.foreign)


def is_fresh(node: NodeView, timings: Timings) -> bool:
    """Return whether the node was heard so recently that one may act on what it said."""
    return node.observation is not None and node.age_ms < timings.fresh_ms


def received_lsn(seen: Observation) -> Lsn | None:
    """Return how far WAL has arrived at the node, be it durable yet or not; None if that is not known."""
    written = seen.receiver.written_lsn if seen.receiver is not None else None
    return max((lsn for lsn in (written, seen.wal_end) if lsn is not None), default=None)


def is_flushing(node: NodeView) -> bool:
    """Return whether the node holds WAL of its upstream's that its disk has not made durable yet."""
    seen = node.observation
    written = seen.receiver.written_lsn if seen is not None and seen.receiver is not None else None
    return seen is not None and written is not None and seen.wal_end is not None and written > seen.wal_end


def slots_of(document: Topology) -> tuple[str, ...]:
    """Return the slots every node keeps: one for each member that has data."""
    return tuple(sync_name(member.name, member.incarnation) for member in document.members if member.incarnation is not None)
