"""Who becomes the writer: the total order over the positions of the voters that promised.

The greatest (epoch of the timeline, LSN) among a safe set holds every acknowledged commit; the epoch comes first, never the
LSN alone (law F4).  Ties are broken by what was replayed, then promotion tier, then name.  Who was passed over and why is
part of the result, because that is the first question of whoever reads about a failover at night.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from cluster_manager.decision.view import Promise
from pgtopology.document import Topology, Transition, TransitionKind
from pgtopology.epoch import Epoch
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, Position
from pgtopology.quorum import Voter
from pgtopology.timeline import epoch_of

TIER_MAX = 15
"""The last promotion tier: that of a voter which is no member any more."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A promise that counts."""

    voter: Voter
    position: Position
    """With the epoch that the document gives its timeline."""
    promise: Promise


@dataclass(frozen=True, slots=True)
class Tally:
    """Which promises count, and why the others do not."""

    counted: tuple[Counted, ...]
    passed_over: Mapping[str, str]

    @property
    def voters(self) -> tuple[Voter, ...]:
        """The voters whose promise counts."""
        return tuple(one.voter for one in self.counted)

    def safe_since_ms(self, size: int) -> float | None:
        """Return when the promises that count first were *size*, or None if they are fewer.

        The one whose promise completed the set counts; whoever came later widened the choice.
        """
        at_ms = sorted(one.promise.at_ms for one in self.counted)
        return at_ms[size - 1] if len(at_ms) >= size else None


@dataclass(frozen=True, slots=True)
class Elected:
    """The winner."""

    node: NodeName
    position: Position
    passed_over: Mapping[str, str]
    """Every other voter, with the reason."""
    because: str


@dataclass(frozen=True, slots=True)
class Field:
    """Who of a safe set may be elected."""

    standing: tuple[Counted, ...]
    barred: Mapping[str, str]
    """Every other voter whose promise counts, with the reason."""
    alone_because: str | None = None
    """Why nobody but the one who stands may, where it is not the furthest that is looked for."""


def tally(document: Topology, promises: Mapping[NodeName, Promise], foreign: Collection[NodeName]) -> Tally:
    """Return which of *promises* count for a safe set of the document's voters.

    Only a recorded voter with the recorded incarnation, whole, with a known position, on a timeline that the document knows
    (S3, S6, S7).  Whether that timeline was ever opened does not matter: it was claimed for one epoch and one candidate, who
    was elected by a safe set, so it is as good as any other of its epoch (docs/decisions/0002).

    *foreign* are the nodes that were seen to have been promoted by hand: that never ends while they have this data, so it holds
    whether the promise was answered before or comes late.  Whoever followed such a node would take over what it wrote since, on
    a timeline whose number may be claimed for another (S3).
    """
    counted: list[Counted] = []
    passed: dict[str, str] = {}
    for voter in document.voters.members if document.voters is not None else ():
        promise = promises.get(voter.name)
        flaw = _flaw(document, voter, promise, foreign)
        if flaw is not None:
            passed[voter.name] = flaw
        elif promise is not None and (placed := _placed(document, promise)) is not None:
            counted.append(Counted(voter, placed, promise))
    return Tally(tuple(counted), passed)


def _flaw(document: Topology, voter: Voter, promise: Promise | None, foreign: Collection[NodeName]) -> str | None:
    """Return why the voter's promise does not count, or None if it does."""
    if promise is None:
        return "has not promised"
    answer = promise.answer
    if answer.promised != document.epoch:
        return f"promised epoch {answer.promised}, not {document.epoch}"
    if answer.incarnation != voter.incarnation:
        return "has other data than the voter that was recorded"
    if not answer.whole:
        return "is not whole"
    if voter.name in foreign:
        return "was promoted by hand since it promised"
    if answer.position is None:
        return f"does not know its position: {answer.unknown_because or 'no reason given'}"
    if _placed(document, promise) is None:
        return f"is on timeline {answer.position.timeline}, which nobody claimed"
    return None


def _placed(document: Topology, promise: Promise) -> Position | None:
    """Return the promised position with the epoch that the document gives its timeline, or None if it gives none."""
    position = promise.answer.position
    epoch = epoch_of(document.timelines, position.timeline) if position is not None else None
    return msgspec.structs.replace(position, epoch=Epoch(epoch)) if position is not None and epoch is not None else None


def elect(document: Topology, votes: Tally) -> Elected | None:
    """Return the node to promote, or None if the promises that count are no safe set."""
    if not document.is_safe_set(votes.voters):
        return None
    field = who_may_stand(document, votes)
    furthest = max(_reach(one) for one in field.standing)
    wished = next((one for one in field.standing if _is_asked_for(one, document) and _reach(one) == furthest), None)
    winner, *others = sorted(field.standing, key=lambda one: rank(one, document, is_wished=one is wished))
    because = f"its WAL reaches furthest, to {format_lsn(winner.position.lsn)} on timeline {winner.position.timeline}"
    if field.alone_because is not None:
        because = field.alone_because
    elif winner is wished:
        because = "the operator asked for it, and nobody's WAL reaches further"
    passed = {**votes.passed_over, **field.barred, **{one.voter.name: _why_passed_over(one, winner) for one in others}}
    return Elected(winner.voter.name, winner.position, passed, because)


def who_may_stand(document: Topology, votes: Tally) -> Field:
    """Return who of the safe set *votes* may be elected, before it is asked who of them is.

    A planned handover goes to a node that holds the old primary's whole WAL, its shutdown checkpoint included: the one that
    was asked for, if one was; else the old primary is promoted again.  If the old primary did not answer it is no handover
    any more, and the wish is heard where it costs nothing.
    """
    counted, wish = votes.counted, document.transition
    old = next((one for one in counted if wish is not None and one.voter.name == wish.from_node), None)
    if wish is None or not wish.avoid_old or old is None:
        return Field(counted, {})
    if wish.kind is TransitionKind.FAILOVER:
        # The old primary is not well, and an operator wants it replaced: it leads again only if no safe set stands without it.
        others = tuple(one for one in counted if one is not old)
        if not document.is_safe_set([one.voter for one in others]):
            return Field(counted, {})
        return Field(others, {old.voter.name: "is the old primary, and the operator wants another"})
    heirs = tuple(one for one in counted if one is not old and _reach(one) >= _reach(old) and _is_wanted(one, wish))
    standing = heirs or (old,)
    barred: dict[str, str] = {one.voter.name: _why_no_heir(one, old, wish) for one in counted if one not in standing}
    again = None if heirs else "nobody who may take over holds its shutdown checkpoint; it is promoted again"
    return Field(standing, barred, again)


def rank(one: Counted, document: Topology, *, is_wished: bool) -> tuple[int, int, bool, int, bool, int, str]:
    """Return the place of *one* in the total order; the smallest wins.

    What follows after the position decides among equals only: whom the operator asked for, who has least left to replay, who
    is not being taken out of the cluster (it would have to hand over again), promotion tier, name.  *is_wished* says that an
    operator asked for it and nobody's WAL reaches further.
    """
    epoch, lsn = _reach(one)
    name = one.voter.name
    member = document.member(name)
    leaving, tier = (member.leaving, member.tier) if member is not None else (True, TIER_MAX)
    return -epoch, -lsn, not is_wished, -one.position.replayed_lsn, leaving, tier, name


def _is_asked_for(one: Counted, document: Topology) -> bool:
    return document.transition is not None and document.transition.target == one.voter.name


def _is_wanted(one: Counted, wish: Transition) -> bool:
    return wish.target is None or wish.target == one.voter.name


def _why_no_heir(one: Counted, old: Counted, wish: Transition) -> str:
    if one is old:
        return "is the old primary, and hands over"
    if _reach(one) < _reach(old):
        return "does not hold the old primary's shutdown checkpoint"
    return f'the operator asked for "{wish.target}"'


def _reach(one: Counted) -> tuple[int, int]:
    return one.position.epoch, one.position.lsn


def _why_passed_over(one: Counted, winner: Counted) -> str:
    if one.position.epoch != winner.position.epoch:
        return f"its timeline is of epoch {one.position.epoch}, the winner's of {winner.position.epoch}"
    if one.position.lsn != winner.position.lsn:
        return f"its WAL ends {winner.position.lsn - one.position.lsn} bytes earlier"
    if one.position.replayed_lsn != winner.position.replayed_lsn:
        return f"it has replayed {winner.position.replayed_lsn - one.position.replayed_lsn} bytes less"
    return "equal; tier, name or the operator's wish decided"
