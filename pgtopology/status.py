"""What `endpointctl status --json` prints: the operator's contract, stable.

Made by the manager, printed by the CLI; tests and tools depend on the field names.
"""

from __future__ import annotations

import msgspec

from pgtopology.document import FORMAT_VERSION
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import NodeName, NodeState
from pgtopology.report import ProxyEndpoint
from pgtopology.timeline import Timeline


class ManagerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The manager that answered."""

    leader: str | None
    store: str
    store_problem: str | None = None
    """Why the document could not be written, until it can: no decision takes effect before."""
    late_ms: int = 0
    """How long the manager's loop stood still at most, within the last minute."""


class VotersStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whose WAL counts."""

    names: tuple[NodeName, ...]
    w: int
    needed: int
    """How many voters must promise before a failover."""
    promisable: int
    """How many could promise now, the writer among them."""
    promisable_without_writer: int = 0
    """The same without it: what a failover would have if the writer were lost."""


class Survives(msgspec.Struct, frozen=True, kw_only=True):
    """Which loss would leave a cluster that goes on by itself: with a writer whose commits are acknowledged."""

    server_crash: bool = False
    """Of the writer's server, PostgreSQL and noded."""
    host_loss: bool = False
    """Of any one host, with all nodes that have its address."""
    zone_loss: bool = False
    """Of any one zone, with all hosts that have a node in it."""


class SurvivesBecause(msgspec.Struct, frozen=True, kw_only=True):
    """The sentence to each of `Survives`: what would happen, or why it would not be survived."""

    server_crash: str = ""
    host_loss: str = ""
    zone_loss: str = ""


class LastFailover(msgspec.Struct, frozen=True, kw_only=True):
    """The newest transition that ended with a writer."""

    epoch: Epoch
    cause: str
    outage_ms: int | None
    """From the last commit of the old writer that was acknowledged to the next published writer; None: unknown."""
    at: str
    since_detection_ms: int | None = None
    """The part of it behind the detection, on the manager's monotonic clock."""
    kind: str = "failover"
    """failover, switchover, planned_stop (it had been stopped in good order) or paused (failover was, by an operator)."""


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where clients connect."""

    host: str
    port: int
    dns: str


class EndpointsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Both doors."""

    writer: EndpointStatus
    reader: EndpointStatus


class TransitionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The unfinished transition."""

    kind: str
    step: str
    cause: str
    candidate: NodeName | None


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node."""

    name: NodeName
    zone: str
    role: str
    state: NodeState
    since: str | None
    """Wall time at which *state* began, ISO 8601."""
    timeline: Timeline | None
    lsn: str | None
    lag_bytes: int | None
    lag_ms: int | None
    """From a commit on the writer to its visibility here; 0 is less than half a millisecond, None is unknown."""
    host: str
    port: int
    pid: int | None
    """The postmaster's."""
    data_dir: str | None
    voter: bool
    whole: bool
    tier: int
    server_version: str | None
    pending_restart: bool
    activity: str | None = None
    progress_percent: int | None = None
    connections: int | None = None
    """Client backends, noded's own among them; None while that is not known."""
    connections_limit: int | None = None
    """max_connections."""
    replication_slots: int | None = None
    """Of everybody's, those that the node has."""
    replication_slots_limit: int | None = None
    """max_replication_slots."""
    connections_waiting: int | None = None
    """How many of them have committed and wait for the quorum."""
    problem: str | None = None
    late_ms: int = 0
    """How long noded's loop stood still at most, within the last minute."""
    reader_eligible: bool = False
    """The reader endpoint sends new sessions here."""
    reader_obstacle: str | None = None
    """Why it does not."""


class ProxyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy."""

    name: str
    epoch: Epoch
    sessions: int
    engine: str
    relaxed_sessions: int = 0
    """Of these, those on the writer that may have weakened what their commits promise."""
    draining: bool = False
    """Whether another process has taken over its endpoints, and it has only the sessions that are left."""
    endpoints: tuple[ProxyEndpoint, ...] = ()
    """Where it listens; empty for one of an earlier version."""
    pids: tuple[int, ...] = ()
    """Its processes; those of an earlier version do not say."""


class VacuumHorizon(msgspec.Struct, frozen=True, kw_only=True):
    """Who keeps VACUUM on the writer from removing dead rows, as far back as anybody does."""

    xmin: int
    """The oldest transaction whose rows are kept, without its epoch."""
    age_xids: int
    held_s: float
    """For how long at least."""
    node: NodeName
    """Where the holder is: what a standby's queries need is kept on the writer too."""
    kind: str
    """session, prepared, slot or standby."""
    holder: str
    """For people."""
    pid: int | None = None
    catalog_only: bool = False
    """Only rows of system catalogs are kept."""
    alarm: bool = False
    """Whether it has gone on for too long."""


class SlotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A replication slot on the writer that is not the cluster's own."""

    name: str
    kind: str
    """physical or logical."""
    active: bool
    restart_lsn: str | None
    lost_with: dict[NodeName, str] = {}
    """The voters that could become the writer and would not have it, or not all of its WAL, and why."""
    lost: bool = False
    """It can never be used again: its WAL is gone."""


class NodeChangeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An order that a node comes or goes, which is not finished."""

    name: NodeName
    zone: str | None
    """Where it is to be; None: where its provisioner puts it."""
    wish: str
    """wanted or leaving"""
    step: str
    """What is due: provision, register and settle of one that is wanted, retire, delete and forget of one that leaves."""
    waits_for: str | None
    """What that waits for, or why it failed; None if it is being done."""
    failures: int
    """How often in a row the provisioner did not do it."""
    next_try: str | None
    """When it is asked next, ISO 8601; None unless it failed."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole."""

    format_version: int = FORMAT_VERSION
    cluster: str
    revision: Revision
    epoch: Epoch
    timeline: Timeline | None
    writer: NodeName | None
    state: str
    """healthy, degraded, at_risk, transition, stuck, paused or bootstrapping; `wait --state healthy` waits for the first."""
    durability: str
    diagnosis: str
    reason: str
    paused: bool
    at_risk: str | None
    """Why the loss of the writer would not be survived, or no commit is acknowledged already, or will be soon; or None."""
    transition: TransitionStatus | None
    manager: ManagerStatus
    voters: VotersStatus
    last_failover: LastFailover | None
    endpoints: EndpointsStatus
    nodes: tuple[NodeStatus, ...]
    proxies: tuple[ProxyStatus, ...]
    versions: dict[str, str]
    relaxations: tuple[str, ...] = ()
    """Who commits on the writer, or lately would have, without waiting as the cluster promises."""
    survives: Survives = msgspec.field(default_factory=Survives)
    survives_because: SurvivesBecause = msgspec.field(default_factory=SurvivesBecause)
    vacuum_horizon: VacuumHorizon | None = None
    """None while nobody keeps anything, or nobody says."""
    slots: tuple[SlotStatus, ...] = ()
    order_pending: str | None = None
    """The failover or switchover that was accepted and has not begun, and what it waits for; None if there is none."""
    node_changes: tuple[NodeChangeStatus, ...] = ()
    """Orders that nodes come or go, as far as they are not finished."""
    order_given_up: str | None = None
    """Why the newest failover or switchover that was accepted ended before anything was changed; None if it did not."""
    repairs: tuple[str, ...] = ()
    """What SQL had changed lately of our roles and our database, and the writer's noded has put right."""
    role_notes: tuple[str, ...] = ()
    """Which roles cannot log in through an endpoint as their passwords are stored, and why proxies may not know all of them."""
