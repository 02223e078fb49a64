"""The durable state of a node, and the pure rules on it.

May this order be accepted?  What follows from the state for PostgreSQL's configuration?  No clock, no file, no process:
`durable_state` stores the value, `node` acts on it.  Every function returns a new state; the caller makes it durable
before it acts.  Sources: docs/law.md, F3, S2 to S8, S10, S12.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from pgtopology.desired import DesiredSettings
from pgtopology.epoch import NO_EPOCH, NO_REVISION, Epoch, Revision, is_behind
from pgtopology.node import Incarnation, NodeName, sync_name
from pgtopology.observation import Seen
from pgtopology.orders import (
    CloneOrder,
    ConfigureOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseOrder,
    PromoteOrder,
    Refusal,
    RewindOrder,
    SynchronousOrder,
    Upstream,
)
from pgtopology.quorum import Voters, synchronous_standby_names
from pgtopology.timeline import TOLD_MAX, Timeline, merge_records

STATE_FORMAT_VERSION = 1


class Work(StrEnum):
    """Long work that destroys data; found at start, it was interrupted."""

    INIT = "init"
    CLONE = "clone"
    REWIND = "rewind"


class Following(msgspec.Struct, frozen=True):
    """Whom to stream from, and under which epoch that was ordered."""

    upstream: Upstream
    epoch: Epoch


class Promotion(msgspec.Struct, frozen=True):
    """A promotion that was begun on this data; it counts as carried out from the moment it is written here."""

    epoch: Epoch
    timeline: Timeline


class Left(msgspec.Struct, frozen=True):
    """When the writer that this node was acknowledged its last commit, before it was stopped in good order with its noded."""

    epoch: Epoch
    boot: str
    """Of the machine: within one boot its monotonic clock goes on."""
    monotonic_ms: int
    wall_ms: int
    """For another boot: the best there is."""

    def age_ms(self, *, boot: str, monotonic_ms: int, wall_ms: int) -> int:
        """Return how long ago that was."""
        return max(0, monotonic_ms - self.monotonic_ms if boot and boot == self.boot else wall_ms - self.wall_ms)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a noded must still know after a power failure."""

    format_version: int = STATE_FORMAT_VERSION
    cluster: str
    node: NodeName
    system_identifier: str | None = None
    """Of the data the rest speaks of; None while there is none."""
    incarnation: Incarnation | None = None
    whole: bool = False
    promised: Epoch = NO_EPOCH
    seen: Seen = msgspec.field(default_factory=Seen)
    following: Following | None = None
    promotion: Promotion | None = None
    """Kept until this data is rewound or replaced."""
    foreign: bool = False
    """This data went through a promotion that nobody ordered: it never counts, and is only good for being replaced (S3)."""
    in_force: Voters | None = None
    """Whose acknowledgements a commit waits for while this node is the writer."""
    work: Work | None = None
    rewound: Revision = NO_REVISION
    """Of the order by which this data was rewound last: who comes with it again, late, finds it done."""
    wanted: bool = True
    """Whether PostgreSQL should run: False after an ordered stop, until an order needs it again."""
    our_slots: tuple[str, ...] = ()
    """The names under which slots are the cluster's own here: all that were ever listed, or seen in use by a noded's role."""
    carried_slots: tuple[str, ...] = ()
    """The users' slots that stand here because the writer has them: a copy each, or the writer's own while this is it."""
    left: Left | None = None
    """Of the writer that this node was last, if it was stopped in good order."""
    desired: DesiredSettings = DesiredSettings()
    """The operator's settings; it is the node's, not its data's, and stays when the data goes."""

    @property
    def sync_name(self) -> str | None:
        """The name under which this node acknowledges; None without data."""
        return sync_name(self.node, self.incarnation) if self.incarnation is not None else None


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an order is not accepted."""

    reason: Refusal
    message: str


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a rule needs to know of the present, besides the state."""

    primary: bool
    """PostgreSQL runs as a primary, or nobody can say that it does not."""
    standby: bool = False
    """PostgreSQL was last seen to run as a standby."""
    busy: Work | None = None
    """Long work that is under way."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings that change while PostgreSQL runs."""

    upstream: Upstream | None
    synchronous_standby_names: str
    standby_slots: tuple[str, ...] = ()
    """Whose copy of WAL there must be before it is decoded for a logical slot that is carried over."""


def refusal(state: State, order: Order, now: Circumstances) -> Refused | None:
    """Return why *order* is not accepted in *state*, or None if it is."""
    return _not_ours(state, order) or overtaken(state, order) or _unfit(state, order, now)


def see(state: State, order: Order) -> State:
    """Return *state* with the document of *order* remembered, if it is newer (S8, S12), and which slots are ours."""
    if not set(order.slots) <= set(state.our_slots):
        state = replace(state, our_slots=tuple(sorted({*state.our_slots, *order.slots})))
    seen = state.seen
    timelines = seen.timelines
    if order.timelines is not None:
        # What was claimed stays claimed, also by a document that the store has lost.
        timelines = merge_records(timelines or (), order.timelines)[-TOLD_MAX:]
    if (order.epoch, order.revision) <= (seen.epoch, seen.revision):
        return state if timelines == seen.timelines else replace(state, seen=replace(seen, timelines=timelines))
    voters = order.voters if order.voters is not None else seen.voters
    return replace(state, seen=Seen(epoch=order.epoch, revision=order.revision, voters=voters, timelines=timelines))


def promise(state: State, epoch: Epoch) -> State:
    """Return *state* after the promise of *epoch*: nobody is followed until a later order says so."""
    return replace(state, promised=Epoch(max(state.promised, epoch)), following=None, wanted=True)


def follow(state: State, upstream: Upstream, epoch: Epoch) -> State:
    """Return *state* with *upstream* followed."""
    return replace(state, following=Following(upstream, epoch), wanted=True)


def begin(state: State, work: Work) -> State:
    """Return *state* from the moment on in which *work* may have damaged the data: its WAL does not count (S7)."""
    return replace(state, work=work, whole=False)


def new_data(state: State, incarnation: Incarnation | None, system_identifier: str | None) -> State:
    """Return *state* bound to a data directory that is being made; of the former one nothing holds any more."""
    return replace(
        state,
        incarnation=incarnation,
        system_identifier=system_identifier,
        promotion=None,
        foreign=False,
        in_force=None,
        rewound=NO_REVISION,
        whole=False,
    )


def no_data(state: State) -> State:
    """Return *state* without a data directory: it is gone, or what is left of it must not be used."""
    return replace(new_data(state, None, None), following=None, work=None)


def finish(state: State, *, whole: bool | None = None) -> State:
    """Return *state* after long work has ended well."""
    return replace(state, work=None, promotion=None, whole=state.whole if whole is None else whole)


def rewound(state: State, revision: Revision) -> State:
    """Return *state* after the rewind that an order of *revision* asked for."""
    return replace(finish(state), rewound=revision)


def is_done(state: State, order: Order) -> bool:
    """Return whether *order* is one that was carried out: done again it would take away what has become whole since."""
    return isinstance(order, RewindOrder) and order.revision <= state.rewound


def recovery_ended(state: State, timeline: Timeline) -> State:
    """Return *state* after PostgreSQL was found to have ended recovery, onto *timeline*.

    If nobody ordered that, its number tells nothing of its contents: it may equal one that was claimed for another node (S3).
    """
    if state.promotion is not None and state.promotion.timeline == timeline:
        return state
    return replace(state, foreign=True, whole=False, following=None)


def standby_configuration(state: State) -> Configuration:
    """Return how a standby is configured, and how every server starts (S10).

    The list is never empty, so that a promotion only replaces one list by another (S1); nobody is followed under an epoch
    below the promise.
    """
    following = state.following
    upstream = following.upstream if following is not None and following.epoch >= state.promised else None
    return Configuration(upstream, synchronous_standby_names(None, state.node))


def writer_configuration(state: State) -> Configuration:
    """Return how the writer is configured: nobody upstream, and the list in force.

    Before a logical slot's owner is given anything, all others must have it, until it is known which of them stream.
    """
    others = [voter.sync_name for voter in state.in_force.members if voter.name != state.node] if state.in_force else []
    return Configuration(None, synchronous_standby_names(state.in_force, state.node), tuple(others))


def may_remain_primary(state: State, timeline: Timeline | None = None) -> bool:
    """Return whether a server found running as a primary, on *timeline* if that is known, is the one that was ordered (S10)."""
    promotion = state.promotion
    if promotion is None or promotion.epoch < state.promised or state.foreign:
        return False
    return timeline is None or timeline == promotion.timeline


def is_newest_upstream(state: State, read_from: Following) -> bool:
    """Return whether *read_from* is still followed, under the newest epoch seen: only its flush LSN proves wholeness (S7)."""
    return state.following == read_from and read_from.epoch >= max(state.promised, state.seen.epoch)


def _not_ours(state: State, order: Order) -> Refused | None:
    if order.cluster != state.cluster:
        return Refused(Refusal.WRONG_CLUSTER, f'this node belongs to cluster "{state.cluster}", not "{order.cluster}"')
    if order.node != state.node:
        return Refused(Refusal.WRONG_NODE, f'this is node "{state.node}", not "{order.node}"')
    if state.system_identifier is None or order.system_identifier == state.system_identifier:
        return None
    if isinstance(order, InitOrder):
        return Refused(Refusal.HAS_DATA, f"there is data, of system {state.system_identifier}")
    return Refused(
        Refusal.WRONG_CLUSTER, f"the data is of system {state.system_identifier}, the order of {order.system_identifier}"
    )


def overtaken(state: State, order: Order) -> Refused | None:
    """Return why *order* is behind what was seen or promised, if it is."""
    if is_behind((order.epoch, order.revision), (state.seen.epoch, state.seen.revision)):
        return Refused(
            Refusal.STALE,
            f"the order follows from epoch {order.epoch} revision {order.revision}, "
            f"but epoch {state.seen.epoch} revision {state.seen.revision} was seen",
        )
    if order.epoch < state.promised:
        return Refused(Refusal.STALE, f"the order is of epoch {order.epoch}, but epoch {state.promised} was promised")
    return None


def _unfit(state: State, order: Order, now: Circumstances) -> Refused | None:
    """Return why this kind of order cannot be carried out now."""
    match order:
        case PromiseOrder():
            if state.promotion is not None and state.promotion.epoch >= order.epoch:
                return Refused(Refusal.RUNNING_PRIMARY, f"this node was itself promoted in epoch {state.promotion.epoch}")
            return _already_follows(state, order, now)
        case InitOrder():
            return _busy(now, Work.INIT)
        case ConfigureOrder():
            return None
        case CloneOrder():
            if now.busy is Work.CLONE:
                return None
            return _busy(now, Work.CLONE) or _would_destroy(state, order.destroys, now)
        case RewindOrder():
            if now.busy is Work.REWIND:
                return None
            return _busy(now, Work.REWIND) or _no_data(state) or _would_destroy(state, order.destroys, now) or _foreign(state)
        case FollowOrder():
            return _busy(now, None) or _no_data(state) or _primary(now) or _foreign(state)
        case PromoteOrder():
            if state.promised != order.epoch:
                return Refused(Refusal.NOT_PROMISED, f"epoch {order.epoch} was not promised here, but epoch {state.promised}")
            return _busy(now, None) or _no_data(state) or _foreign(state)
        case SynchronousOrder():
            if state.promotion is None or state.promotion.epoch != order.epoch or not now.primary:
                return Refused(Refusal.FAILED, f"this node is not the writer of epoch {order.epoch}")
            return _busy(now, None)
        case _:
            return _busy(now, None) or _no_data(state)


def _already_follows(state: State, order: PromiseOrder, now: Circumstances) -> Refused | None:
    """Return why a node that was promised and then told whom to follow is not asked again in this epoch (decision 0011)."""
    following = state.following
    if not now.standby or following is None or min(following.epoch, state.promised) < order.epoch:
        return None
    return Refused(
        Refusal.STALE,
        f'epoch {order.epoch} was promised before, and "{following.upstream.name}" is followed in it by a later order',
    )


def _busy(now: Circumstances, allowed: Work | None) -> Refused | None:
    if now.busy is None or now.busy is allowed:
        return None
    return Refused(Refusal.BUSY, f"{now.busy} is under way")


def _no_data(state: State) -> Refused | None:
    return Refused(Refusal.NO_DATA, "there is no data directory") if state.system_identifier is None else None


def _foreign(state: State) -> Refused | None:
    message = "the data went through a promotion that nobody ordered; it can only be made anew"
    return Refused(Refusal.FAILED, message) if state.foreign else None


def _primary(now: Circumstances) -> Refused | None:
    return Refused(Refusal.RUNNING_PRIMARY, "this node runs as a primary; it must promise first") if now.primary else None


def _would_destroy(state: State, destroys: Incarnation | None, now: Circumstances) -> Refused | None:
    if now.primary:
        return Refused(Refusal.RUNNING_PRIMARY, "the data of a running primary is not destroyed")
    if destroys != state.incarnation:
        return Refused(
            Refusal.WRONG_INCARNATION,
            f"the order destroys incarnation {destroys or 'none'}, here is {state.incarnation or 'none'}",
        )
    return None
