"""What is to be done about the replication slots of this node. Pure.

A slot is the cluster's own, or its user's.  The cluster's own carry a name that an order has listed, or were seen in use by
the role that only nodeds know, or look like a member's (`ours`); one for every other member stands on every node, so that
whoever becomes the writer already holds WAL for all (L9), and those of members that are gone are dropped after a while, so
that a dead node cannot fill a living one's disk.  Everything else is somebody's who made it, and is never dropped where it was
made.  What the writer has of it is kept on every standby under the same name, no further than the writer's, so that its owner
goes on after a handover without a gap; what stands here only as such a copy (`carried`) goes when the writer has it no more.

The names of the cluster's own are nobody else's: a slot of another kind under one of them, logical or of a session's lifetime,
is no member's, and goes at once with whoever holds it.  On a standby members alone hold theirs, to follow whoever is elected.

A slot keeps row versions for whoever asked for them last, also when that one is long gone, and a standby's feedback hands
them on to the writer, where VACUUM then removes nothing: so an idle slot is relieved of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from noded.postgres.conf import SYNCHRONISES
from noded.postgres.slots import Slot
from pgtopology.lsn import Lsn
from pgtopology.observation import SLOTS_FREE_MIN
from pgtopology.quorum import Voters

_LIFE = re.compile(r"[a-z0-9_]+_[0-9a-f]{6}")
"""The form of a sync name: node.py."""

_OF_POSTGRESQL = "pg_conflict_detection"
"""PostgreSQL's own, from 19 on: a subscriber's launcher makes it on a writer, and nobody else may make one of this name."""

KEPT_S = 60.0
"""How long a slot of no member stays: a copy that is being made has its slot before the cluster knows its name; and how long
a copy stays whose original is gone."""
AWAY_S = 10.0
"""A standby that is away for so long has no query left that deserves row versions: its connection is tried every 100 ms."""
KEEPS_UP_BYTES = 16 << 20
"""A standby that is further behind the first one than this is exchanged for another, if one can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known."""

    standby: bool
    major: int
    here: Mapping[str, Slot]
    there: Mapping[str, Slot] | None = None
    """The writer's, on a standby that has lately asked it."""
    members: frozenset[str] | None = None
    """Of all other members; None until an order has said so."""
    ours: frozenset[str] = frozenset()
    carried: frozenset[str] = frozenset()
    replayed: Lsn | None = None
    oldest_wal: Lsn | None = None
    """From where on this server has WAL."""
    idle_s: Mapping[str, float] = field(default_factory=dict[str, float])
    """How long each slot has been seen idle."""
    left_s: Mapping[str, float] = field(default_factory=dict[str, float])
    """How long each of `left_over` has been."""
    limit: int | None = None
    """max_replication_slots, on a standby."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Make:
    """A physical slot to be made."""

    name: str
    reserve: bool = True
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chores:
    """What to do, in this order."""

    carried: frozenset[str]
    """To be remembered first."""
    free: tuple[str, ...] = ()
    """Those whose holders are ended, unless these are members."""
    drop: tuple[str, ...] = ()
    make: tuple[Make, ...] = ()
    advance: Mapping[str, Lsn] = field(default_factory=dict[str, Lsn])
    take_back: Mapping[str, Lsn] = field(default_factory=dict[str, Lsn])
    """Those that must keep WAL from further back on than they do."""
    hold: tuple[str, str] | None = None
    """An idle slot, and the catalog_xmin it is to keep meanwhile, so that PostgreSQL can put a logical slot in step."""
    release: tuple[str, ...] = ()
    """Those that keep row versions for nobody."""
    synchronise_anew: bool = False
    """PostgreSQL's worker holds a copy that cannot come in step as it is: it begins again."""


def users_slots(slots: Mapping[str, Slot], ours: Collection[str]) -> dict[str, Slot]:
    """Return the lasting slots among *slots* that are somebody's who made them: neither the cluster's own nor PostgreSQL's."""
    return {name: slot for name, slot in slots.items() if name not in ours and name != _OF_POSTGRESQL and not slot.temporary}


def lives_of_members(slots: Iterable[Slot], members: Collection[str]) -> frozenset[str]:
    """Return the names of those among *slots* that are *members*' but for the incarnation.

    A copy has its slot before anybody knows its name; one that came to nothing at once leaves it, and nobody saw it in use.
    """
    nodes = {name.rpartition("_")[0] for name in members}
    return frozenset(
        slot.name for slot in slots if slot.is_physical and _LIFE.fullmatch(slot.name) and slot.name.rpartition("_")[0] in nodes
    )


def left_over(now: Situation) -> frozenset[str]:
    """Return the idle slots that stand here for nobody: of members that are gone, and copies of what the writer has not."""
    idle = {name for name, slot in now.here.items() if not slot.active and not slot.temporary}
    found: set[str] = set()
    if now.members is not None:
        found |= {name for name in idle & now.ours - now.members if now.here[name].is_physical}
    if now.standby and now.there is not None and now.members is not None:
        kept_up = {name for name in users_slots(now.there, now.ours) if _can_follow(now, name)}
        found |= (idle & now.carried) - kept_up - now.ours
    return frozenset(found)


def lacking(now: Situation) -> frozenset[str]:
    """Return the members that have no slot here from which they could stream."""
    members = now.members or frozenset()
    return frozenset(
        name
        for name in members
        if (slot := now.here.get(name)) is None or not slot.is_for_standbys or (slot.is_lost and not slot.active)
    )


def chores(now: Situation) -> Chores:
    """Return what is to be done."""
    members = now.members or frozenset()
    claimed = _claimed(now)
    wrong = {name for name in claimed if not now.here[name].is_for_standbys}
    drop = {name for name in left_over(now) if now.left_s.get(name, 0.0) >= _kept_s(now, name)} | (wrong - members)
    make = [Make(name=name, anew=name in now.here) for name in sorted(lacking(now))]
    carried = now.carried
    advance: dict[str, Lsn] = {}
    back: dict[str, Lsn] = {}
    theirs: dict[str, Slot] = {}
    hold: tuple[str, str] | None = None
    if now.members is None:
        pass  # nobody has said yet which are the cluster's own
    elif not now.standby:
        carried = frozenset(users_slots(now.here, now.ours))
    elif now.there is not None:
        theirs = users_slots(now.there, now.ours)
        copies = {name for name in theirs if theirs[name].is_physical and not theirs[name].is_lost}
        # A slot's name is its name in the whole cluster: what has it here and there is one slot.
        carried = ((now.carried | theirs.keys()) & now.here.keys()) - drop | copies
        make += [made for name in sorted(copies) if (made := _copy(name, now.here.get(name), theirs[name])) is not None]
        hold = _hold(now, theirs)
        if hold is None or _holds(now, hold):
            drop |= {name for name in theirs if _keeps_synchronisation_away(now, name)}
        advance = _advances(now, members | copies)
        back = _taken_back(now, copies)
    return Chores(
        carried=carried,
        free=tuple(sorted(name for name in claimed if now.here[name].active and (now.standby or name in wrong))),
        drop=tuple(sorted(drop)),
        make=tuple(make),
        advance=advance,
        take_back=back,
        hold=hold if hold is not None and not _holds(now, hold) else None,
        release=tuple(
            name
            for name in sorted(now.here)
            if name not in drop and (hold is None or name != hold[0]) and _holds_rows_for_nobody(now, name)
        ),
        synchronise_anew=hold is not None and _holds(now, hold) and any(_is_stuck(now, slot) for slot in theirs.values()),
    )


def standby_slots(before: Collection[str], voters: Voters | None, writer: str, here: Mapping[str, Slot]) -> tuple[str, ...]:
    """Return the slots of as many other voters as a commit of *writer* needs: decoding waits until these have the WAL.

    Then what a subscriber was given is on every safe set, as an acknowledged commit is, and whoever is elected has it.  Those
    that stream, and of them those that did *before* unless they are far behind; with too few the rest, for commits wait too.
    """
    if voters is None or not (needed := voters.others_needed(writer)):
        return ()
    others = {voter.sync_name for voter in voters.members if voter.name != writer}
    known = {name for name in others & here.keys() if here[name].is_for_standbys}
    reach = {name: here[name].restart_lsn or Lsn(0) for name in known}
    best = max(reach.values(), default=Lsn(0))

    def preference(name: str) -> tuple[bool, bool, int, str]:
        keeps_up = best - reach[name] <= KEEPS_UP_BYTES
        return not here[name].active, not (name in before and keeps_up), -reach[name], name

    return tuple(sorted(sorted(known, key=preference)[:needed]))


def _kept_s(now: Situation, name: str) -> float:
    """Return how long a slot that is left over stays: a copy is in the way of members' slots where there is no room."""
    is_short = now.limit is not None and now.limit - len(now.here) < SLOTS_FREE_MIN
    return 0.0 if is_short and name in now.carried - now.ours else KEPT_S


def _claimed(now: Situation) -> frozenset[str]:
    """Return the slots here under names that are the cluster's own, once somebody has said which those are."""
    return frozenset(now.here.keys() & (now.ours | now.members)) if now.members is not None else frozenset()


def _can_follow(now: Situation, name: str) -> bool:
    """Return whether the slot here is kept where the writer's slot of that name is."""
    here, there = now.here.get(name), (now.there or {})[name]
    if here is None or here.is_physical != there.is_physical:
        return False
    return here.is_physical or here.synced


def _copy(name: str, here: Slot | None, there: Slot) -> Make | None:
    """Return how the writer's physical slot comes to be here, or None if it is."""
    reserve = there.restart is not None
    if here is None:
        return Make(name=name, reserve=reserve)
    if here.active or not here.is_physical or not (here.is_lost or (reserve and here.restart is None)):
        return None
    return Make(name=name, reserve=reserve, anew=True)


def _advances(now: Situation, names: Collection[str]) -> dict[str, Lsn]:
    """Return how far the slots of this standby may let go of WAL: of what is replayed here and not needed by the writer's."""
    assert now.there is not None
    found: dict[str, Lsn] = {}
    for name in names:
        here, there = now.here.get(name), now.there.get(name)
        if here is None or here.active or here.is_lost or not here.is_physical or here.restart_lsn is None:
            continue
        limit = now.replayed
        # The writer has no slot for itself, and none that counts for whoever is to be copied anew.
        if there is not None and there.restart_lsn is not None and not there.is_lost:
            limit = min(limit, there.restart_lsn) if limit is not None else None
        if limit is not None and limit > here.restart_lsn:
            found[name] = limit
    return found


def _keeps_synchronisation_away(now: Situation, name: str) -> bool:
    """Return whether a former writer's own logical slot stands where PostgreSQL wants to put its copy of the writer's."""
    here, there = now.here.get(name), (now.there or {})[name]
    # None like it can be made on a standby: it is from the time when this node was the writer.
    is_former = here is not None and not here.is_physical and here.failover and not here.synced and not here.active
    return now.major >= SYNCHRONISES and is_former and there.failover and not there.is_physical


def _taken_back(now: Situation, copies: Collection[str]) -> dict[str, Lsn]:
    """Return the copies that begin later than the writer's slot although the WAL in between is here."""
    found: dict[str, Lsn] = {}
    for name in copies:
        here, there = now.here.get(name), (now.there or {})[name]
        if here is None or here.active or here.is_lost or here.restart_lsn is None or there.restart_lsn is None:
            continue
        if now.oldest_wal is not None and now.oldest_wal <= there.restart_lsn < here.restart_lsn:
            found[name] = there.restart_lsn
    return found


def _hold(now: Situation, theirs: Mapping[str, Slot]) -> tuple[str, str] | None:
    """Return the slot that is to keep rows of catalogs for logical slots that are not in step yet, and from where on.

    PostgreSQL puts a copy in step only if the writer's slot needs no older rows than this server is sure to have, and is sure
    only of what some slot here has kept. It has them: the writer, whose WAL it replays, keeps them for its own slot. Thus a
    standby that was the writer a moment ago, or was made anew, does not wait until the slot's consumer has moved on.
    """
    if now.major < SYNCHRONISES or now.members is None:
        return None
    needed = [slot.catalog_xmin for slot in theirs.values() if _is_out_of_step(now, slot) and slot.catalog_xmin is not None]
    idle = [
        name
        for name in sorted(now.members)
        if (slot := now.here.get(name)) is not None and slot.is_physical and not slot.active and not slot.is_lost
    ]
    return (idle[0], functools.reduce(_older, needed)) if needed and idle else None


def _is_out_of_step(now: Situation, there: Slot) -> bool:
    here = now.here.get(there.name)
    wants = not there.is_physical and there.failover and not there.is_lost
    return wants and (here is None or here.temporary or not here.synced)


def _is_stuck(now: Situation, there: Slot) -> bool:
    """Return whether the copy here was begun with newer rows than the writer's slot needs: it stays so until that moves on."""
    here = now.here.get(there.name)
    if here is None or not (here.temporary and here.synced) or here.catalog_xmin is None or there.catalog_xmin is None:
        return False
    return _is_out_of_step(now, there) and here.catalog_xmin != _older(here.catalog_xmin, there.catalog_xmin)


def _holds(now: Situation, hold: tuple[str, str]) -> bool:
    """Return whether the slot keeps what it is to keep, and nothing else."""
    slot = now.here[hold[0]]
    return slot.xmin is None and slot.catalog_xmin == hold[1]


def _older(one: str, other: str) -> str:
    """Return the older of two transaction numbers; they go round."""
    return one if (int(one) - int(other)) & 0xFFFFFFFF >= 1 << 31 else other


def _holds_rows_for_nobody(now: Situation, name: str) -> bool:
    slot = now.here[name]
    if slot.active or slot.temporary or slot.is_lost or not slot.is_physical or not slot.holds_rows:
        return False
    if now.standby:
        # Whoever streamed from it did so when it was the writer.
        return name in now.ours or name in now.carried
    return name in now.ours and now.idle_s.get(name, 0.0) >= AWAY_S
