"""What the manager tells a noded to do, and what noded answers.

Every order carries the (epoch, revision) of the document it follows from; noded makes the greatest pair durable and refuses
smaller ones with 409 (S8).  Every order is idempotent: it may arrive twice, late, or again after an answer was lost.
Deadlines are durations and advice; safety never rests on them.

Quick orders (promise, follow, promote, settings, configure, start, stop) answer when done.  Long ones (init, clone, rewind)
answer when begun; their progress and outcome are in the next observations.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from pgtopology.desired import DesiredSettings
from pgtopology.document import FORMAT_VERSION
from pgtopology.epoch import NUMBER_MAX, Epoch, Revision
from pgtopology.lsn import Lsn
from pgtopology.node import Address, Incarnation, NodeName, Position
from pgtopology.observation import Seen
from pgtopology.quorum import Voters
from pgtopology.timeline import Timeline, TimelineRecord

DEADLINE_MS_MAX = 86_400_000


class Upstream(msgspec.Struct, frozen=True):
    """Whom a standby streams from, or a copy is made from."""

    name: NodeName
    address: Address


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What all orders carry."""

    format_version: int = FORMAT_VERSION
    cluster: str
    node: NodeName
    """Whom the order is for: a noded refuses another's."""
    system_identifier: str | None
    """None before the cluster has data. A node with another identifier refuses everything."""
    epoch: Annotated[Epoch, msgspec.Meta(ge=0, le=NUMBER_MAX)]
    revision: Annotated[Revision, msgspec.Meta(ge=0, le=NUMBER_MAX)]
    voters: Voters | None
    """As recorded in that document: what synchronous_standby_names is made from, and what a promise reports as seen."""
    timelines: tuple[TimelineRecord, ...] | None = None
    """The newest timelines that are claimed in that document, for the node to keep; None from a manager that tells none."""
    slots: tuple[str, ...] = ()
    """The sync names of all members: a slot exists for each on every node, except a node's own."""
    deadline_ms: Annotated[int, msgspec.Meta(ge=0, le=DEADLINE_MS_MAX)] = 5000


class StopMode(StrEnum):
    """PostgreSQL's own words."""

    FAST = "fast"
    IMMEDIATE = "immediate"


class InitOrder(Order, frozen=True, kw_only=True):
    """Make a data directory where there is none, and start it as a standby without upstream. Bootstrap only."""


class PromiseOrder(Order, frozen=True, kw_only=True):
    """Never again acknowledge a writer of an epoch below this one, and say how far your WAL reaches (F3)."""

    stop_mode: StopMode = StopMode.IMMEDIATE
    """How a node that runs as a primary is stopped."""


class FollowOrder(Order, frozen=True, kw_only=True):
    """Stream from *upstream*; start PostgreSQL as its standby if it is down."""

    upstream: Upstream


class PromoteOrder(Order, frozen=True, kw_only=True):
    """Become the primary of this epoch on *timeline*, which is claimed for you; on another number stop."""

    timeline: Timeline


class CloneOrder(Order, frozen=True, kw_only=True):
    """Replace the data directory by a copy of *source*'s, then follow it."""

    source: Upstream
    destroys: Incarnation | None
    """The data that goes: None if there is none. Another one than this is not touched."""
    by_operator: bool = False
    """An operator wants it: a quarantined node obeys too, and what was quarantined goes."""


class RewindOrder(Order, frozen=True, kw_only=True):
    """Bring the data directory back to the point where it left *source*'s history, then follow it."""

    source: Upstream
    destroys: Incarnation
    """The data whose diverged tail goes; it is kept aside."""


class StartOrder(Order, frozen=True, kw_only=True):
    """Start PostgreSQL as a standby, as the durable state says."""


class StopOrder(Order, frozen=True, kw_only=True):
    """Stop PostgreSQL and leave no process of its data directory."""

    mode: StopMode = StopMode.FAST


class CheckpointOrder(Order, frozen=True, kw_only=True):
    """Write dirty pages out now. Answers when it is done."""


class SynchronousOrder(Order, frozen=True, kw_only=True):
    """Put *in_force*'s list of synchronous standbys in force on the writer, and prove it."""

    in_force: Voters
    """May differ from the recorded voters by one step: which of the two is wider is the manager's business."""


class ConfigureOrder(Order, frozen=True, kw_only=True):
    """Go by the operator's settings from now on: what needs no restart at once, the rest from the next start on.

    Also without data, and while data is copied: a copy needs them when it starts.
    """

    desired: DesiredSettings


class CheckSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A question to a noded: would its PostgreSQL take these settings? Changes nothing."""

    format_version: int = FORMAT_VERSION
    before: DesiredSettings
    """What holds now: only what differs from it can be refused for what the cluster already does."""
    wanted: DesiredSettings
    as_writer: bool = True
    """Whether it is asked too what the cluster could not do. Only the writer knows what its WAL demands."""
    named: tuple[str, ...] = ()
    """Names in lower case that must be parameters' names, though none of the settings gives them."""


class SettingsChecked(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    format_version: int = FORMAT_VERSION
    refused: str | None = None
    """One line that says which and why, with the accepted range; None if all would be taken."""
    restart_for: tuple[str, ...] = ()
    """The parameters whose change needs a restart."""


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """The order is done, or for a long one: begun or already under way."""

    format_version: int = FORMAT_VERSION
    node: NodeName
    done: bool = True
    """False: begun, watch the observations."""
    detail: str = ""


class PromiseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A durable promise, and what the node brings to the election."""

    format_version: int = FORMAT_VERSION
    node: NodeName
    promised: Epoch
    incarnation: Incarnation | None
    system_identifier: str | None
    whole: bool
    seen: Seen
    """The greatest it had seen *before* this order."""
    position: Position | None = None
    """None while unknown: the node is fenced, but does not count and is no candidate (S6)."""
    unknown_because: str = ""
    was_primary: bool = False
    """It ran as a primary when it was asked, and is proven stopped now."""


class SynchronousAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The list is in force: a new backend shows it and the checkpointer has read it."""

    format_version: int = FORMAT_VERSION
    node: NodeName
    in_force: Voters
    barrier_lsn: Lsn
    """WAL end after a commit made under the list: voters that have flushed it acknowledged under the list."""


class Refusal(StrEnum):
    """Why a noded answered 409; the message says more."""

    STALE = "stale_order"
    """It has seen a greater (epoch, revision), or has promised a greater epoch."""
    WRONG_NODE = "wrong_node"
    WRONG_CLUSTER = "wrong_cluster"
    WRONG_INCARNATION = "wrong_incarnation"
    RUNNING_PRIMARY = "running_primary"
    """It will not destroy, or promise away, the data of the primary of this very epoch."""
    BUSY = "busy"
    """Long work of another kind is under way."""
    NO_DATA = "no_data"
    HAS_DATA = "has_data"
    NOT_PROMISED = "not_promised"
    """A promotion is ordered of a node that has not promised this epoch."""
    FAILED = "failed"
    """PostgreSQL did not do it; the node is left safe."""
