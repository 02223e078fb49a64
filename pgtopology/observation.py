"""What a noded says of its PostgreSQL: facts with ages, no judgement.

Pushed on GET /events at every change and at least every 200 ms, and returned by GET /status.  All ages are durations
measured on the node's own monotonic clock up to the moment of encoding; no wall time crosses a process boundary.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pgtopology.document import FORMAT_VERSION
from pgtopology.epoch import NO_EPOCH, NO_REVISION, Epoch, Revision
from pgtopology.lsn import Lsn
from pgtopology.node import Incarnation, NodeName, Role
from pgtopology.quorum import Voters
from pgtopology.timeline import Timeline, TimelineRecord


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The greatest (epoch, revision) a node has acted on, with what a lost document is rebuilt from (S12)."""

    epoch: Epoch = NO_EPOCH
    revision: Revision = NO_REVISION
    voters: Voters | None = None
    """As that document recorded them."""
    timelines: tuple[TimelineRecord, ...] | None = None
    """The newest claims of this and of all earlier documents; None from a node that never was told."""


class PostmasterState(StrEnum):
    """What the postmaster process is doing."""

    STOPPED = "stopped"
    """No process of the data directory is left."""
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    """Told to stop, or dead with children that are not gone yet."""


class Postmaster(msgspec.Struct, frozen=True, kw_only=True):
    """The one process noded owns."""

    state: PostmasterState
    pid: int | None = None
    exit_status: int | None = None
    """Of the last one that ended: its exit code, or minus the signal; None if none ended, or if it was adopted."""
    unexpected_exit: bool = False
    """It ended although nobody ordered it, and has not been started since."""
    deaf_ms: int = 0
    """How long fresh connections have gone unanswered; 0 while they are answered. Too many clients is an answer."""


class Activity(StrEnum):
    """The long work a node is busy with."""

    IDLE = "idle"
    INITIALISING = "initialising"
    CLONING = "cloning"
    REWINDING = "rewinding"
    PROMOTING = "promoting"


class Port(StrEnum):
    """What a connection to a PostgreSQL port met."""

    UNKNOWN = "unknown"
    """Not tried: there was no reason to."""
    ANSWERS = "answers"
    REFUSED = "refused"
    SILENT = "silent"


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """The WAL receiver of a standby."""

    running: bool
    """From the process table: the view hides a receiver that is still connecting (S2)."""
    streaming: bool
    upstream: NodeName | None
    """Whom the configuration tells it to follow."""
    upstream_epoch: Epoch = NO_EPOCH
    """The epoch of the order that told so."""
    upstream_port: Port = Port.UNKNOWN
    """What this host meets at the upstream's port, tried while the receiver does not stream."""
    written_lsn: Lsn | None = None
    """Up to where the present stream has arrived, be it durable yet or not; None if nothing streams, or noded does not say."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The primary's own commit through the real quorum, every 200 ms."""

    epoch: Epoch
    """Under which this node was promoted."""
    acknowledged_age_ms: int | None = None
    """Since the last one returned without a warning, and enough voters showed it flushed; None before the first."""
    begun_age_ms: int | None = None
    """Since that one was begun: nobody who has flushed it had been cut off by a promise before. None if noded does not say."""
    pending_ms: int = 0
    """How long the present one has been waiting; 0 if none is."""
    lsn: Lsn | None = None
    """WAL end read after the last acknowledged one: at or past its commit record."""
    error: str | None = None
    """The SQL error of the last attempt. An error is no evidence of a dead primary (L6)."""


class Walsender(msgspec.Struct, frozen=True, kw_only=True):
    """One row of pg_stat_replication, joined with the slot its process holds."""

    name: str
    """application_name."""
    slot: str | None
    streaming: bool
    flush_lsn: Lsn | None
    replay_lsn: Lsn | None
    flush_lag_ms: float | None = None
    """From a commit on the writer to the word that it is flushed there, by the writer's clock alone: PostgreSQL's flush_lag, or
    the age of the oldest heartbeat that is not flushed there, if that is more. None: unknown."""
    sync_priority: int
    """0 for a name that is not in the list *that walsender* has read: the proof that it re-read its configuration."""


class RowHolder(StrEnum):
    """Who may keep VACUUM from removing dead rows."""

    SESSION = "session"
    PREPARED = "prepared"
    """A transaction that was prepared for a two-phase commit."""
    SLOT = "slot"
    """For a standby, or for a consumer of changes, also while it is away."""
    STANDBY = "standby"
    """One that streams without a slot."""


class Horizon(msgspec.Struct, frozen=True, kw_only=True):
    """The oldest transaction whose rows VACUUM must keep on a server, and for whom."""

    xmin: int
    """The transaction's number, without its epoch."""
    age_xids: int
    """How many transactions began since."""
    held_ms: int
    """For how long at least."""
    kind: RowHolder
    name: str
    """Of the slot or the prepared transaction; of a session what its application calls itself."""
    pid: int | None = None
    catalog_only: bool = False
    """Only rows of system catalogs are kept."""


class UserSlot(msgspec.Struct, frozen=True, kw_only=True):
    """A replication slot that is not the cluster's own, on the writer, or a standby's copy of it."""

    name: str
    is_physical: bool
    active: bool = False
    restart_lsn: Lsn | None = None
    """From where on it keeps WAL; None if it keeps none."""
    failover: bool = False
    """Its owner asked PostgreSQL to carry it over."""
    usable: bool = True
    """It would do on this server if that were the writer: its WAL is there, and a standby's copy is kept in step."""


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The file system of the data directory."""

    free_bytes: int
    total_bytes: int
    device: str | None = None
    """Which device of which running system: nodes that tell the same one share it. None if that cannot be told."""


class DiskSync(msgspec.Struct, frozen=True, kw_only=True):
    """How long the node's disk takes to make a write durable, tried while a standby gets no WAL or a heartbeat waits."""

    last_ms: int | None = None
    """Of the last trial since WAL arrived; None if none is over."""
    pending_ms: int = 0
    """How long the present one has been going on."""
    slowest_ms: int = 0
    """The longest that ended within the last ten seconds; 0 if none did."""


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """The client backends of a server, noded's own among them."""

    used: int
    limit: int
    """max_connections."""
    waiting: int
    """Of those that are used, how many have committed and wait for the quorum's acknowledgement."""


SLOTS_FREE_MIN = 2
"""With fewer replication slots left a node cannot be sure of one for a member that is made anew."""


class SlotCount(msgspec.Struct, frozen=True, kw_only=True):
    """The replication slots of a server, whosever they are."""

    used: int
    limit: int
    """max_replication_slots."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a noded knows of its node at one moment."""

    format_version: int = FORMAT_VERSION
    node: NodeName
    noded_pid: int
    sequence: int
    """Counts the observations of this noded process."""

    system_identifier: str | None = None
    """None: there is no data directory."""
    incarnation: Incarnation | None = None
    whole: bool = False
    """Its WAL counts: it has streamed past everything its predecessor may have acknowledged (S7)."""
    foreign: bool = False
    """It went through a promotion that nobody ordered: whatever its timeline's number, only another copy helps (S3)."""
    promised: Epoch = NO_EPOCH
    seen: Seen = msgspec.field(default_factory=Seen)
    left_age_ms: int | None = None
    """Since the last acknowledged commit of the writer that this node was, if it was then stopped in good order with its noded
    and has not been promoted since; else None."""
    promoted_epoch: Epoch | None = None
    """The epoch whose promotion this data directory carried out and has not been rewound from since."""

    activity: Activity = Activity.IDLE
    progress_percent: int | None = None
    problem: str | None = None
    """Why the last long work or start failed, until one succeeds; or why the node is quarantined, or PostgreSQL mute."""
    quarantined: bool = False
    """PostgreSQL is kept down and nothing is touched, because state and data do not belong together or cannot be read: only an
    operator's order to make the node anew ends it."""
    storage_problem: str | None = None
    """Why noded could not make its last word durable, until it can: promises are refused."""
    crashes: int = 0
    """How often in a row PostgreSQL ended by itself soon after its start."""
    refused_start: str | None = None
    """What PostgreSQL said when it ended, at its last start, before it read its data: its settings or the machine are why, and
    another copy would change nothing."""
    mute_ms: int = 0
    """How long PostgreSQL has accepted connections since its start without answering one question of noded's."""
    sync: DiskSync | None = None
    """On a standby or the writer; None from a noded that does not try."""
    relaxations: tuple[str, ...] = ()
    """On the writer: who commits, or lately would have, with another synchronous_commit than on."""
    late_ms: int = 0
    """How long noded's loop stood still at most, within the last minute."""
    outside: tuple[str, ...] = ()
    """Tablespaces outside the data directory: copies lack them, and servers of one machine would share them."""
    repairs: tuple[str, ...] = ()
    """On the writer: what SQL had changed of our roles and our database, and what was put right."""
    login_problem: str | None = None
    """Which fresh login fails on this node, noded's own or another node's, and why: a failover to it could not be completed."""
    login_spared: bool = False
    """Whether another writer would do without it: every connection is taken, and noded holds open those that are needed; or
    what fails in noded's own database works in another one."""
    locked_elsewhere: str | None = None
    """What keeps people out of a database that no login of the cluster's own needs."""
    role_notes: tuple[str, ...] = ()
    """While a proxy asks it for roles: who cannot log in through an endpoint, and why the roles may be told as they were."""

    postmaster: Postmaster
    role: Role = Role.NONE
    timeline: Timeline | None = None
    wal_end: Lsn | None = None
    """On a primary what is flushed; on a standby max(received, replayed)."""
    replayed_lsn: Lsn | None = None
    replay_lag_ms: float | None = None
    """On a standby that streams: how long the oldest WAL that it received and did not replay has waited, by its own clock; 0 if
    none waits. None: unknown."""
    upstream_silent_ms: float | None = None
    """Since the last message of its upstream, when that was asked last; a writer's heartbeats bring one every 200 ms."""
    behind_bytes: int | None = None
    """How far its replay is behind the end of WAL that its upstream told last."""
    receiver: Receiver | None = None
    """Present on every standby, also on one without upstream."""
    heartbeat: Heartbeat | None = None
    walsenders: tuple[Walsender, ...] = ()
    synchronous_standby_names: str | None = None
    """As a new backend shows it."""

    connections: Connections | None = None
    slots: SlotCount | None = None
    """As of a second ago or less; None while PostgreSQL has not said, or from a noded that does not ask."""
    slots_kept: tuple[str, ...] | None = None
    """Whose slots it keeps, as it was told since noded began: all members' but its own; None from a noded that does not say."""
    slots_lacking: tuple[str, ...] = ()
    """Of those, the ones from which nobody could stream although noded has tried for a while to put that right."""

    user_slots: tuple[UserSlot, ...] = ()
    """By name; no more than some."""
    horizon: Horizon | None = None
    """None from a noded that does not say, and while nobody keeps anything."""
    disk: Disk | None = None
    data_dir: str
    server_version: str | None = None
    pending_restart: bool = False
    desired_version: int = 0
    """Of the operator's settings this node goes by; 0 means those of its own file."""
    loaded_version: int | None = None
    """Of the settings the running PostgreSQL has read; None while that is not known."""
    restart_for: tuple[str, ...] = ()
    """The parameters whose value in the settings takes effect at the next start only."""
