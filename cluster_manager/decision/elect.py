"""Who becomes the writer: the total order over the positions of the voters that promised.

The greatest (epoch of the timeline, LSN) among a safe set holds every acknowledged commit; the epoch comes first, never the
LSN alone (law F4).  Ties are broken by what was replayed, then promotion tier, then name.  Who was passed over and why is
part of the result, because that is the first question of whoever reads about a failover at night.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cluster_manager.decision.view import Promise
from pgtopology.document import Topology, Transition, TransitionKind
from pgtopology.epoch import Epoch
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, Position
from pgtopology.quorum import Voter
from pgtopology.timeline import epoch_of


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


@dataclass(frozen=True, slots=True)
class Elected:
    """The winner."""

    node: NodeName
    position: Position
    passed_over: Mapping[str, str]
    """Every other voter, with the reason."""
    because: str


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
        if promise is None:
            passed[voter.name] = "has not promised"
            continue
        answer = promise.answer
        position = answer.position
        epoch = epoch_of(document.timelines, position.timeline) if position is not None else None
        if answer.promised != document.epoch:
            passed[voter.name] = f"promised epoch {answer.promised}, not {document.epoch}"
        elif answer.incarnation != voter.incarnation:
            passed[voter.name] = "has other data than the voter that was recorded"
        elif not answer.whole:
            passed[voter.name] = "is not whole"
        elif voter.name in foreign:
            passed[voter.name] = "was promoted by hand since it promised"
        elif position is None:
            passed[voter.name] = f"does not know its position: {answer.unknown_because or 'no reason given'}"
        elif epoch is None:
            passed[voter.name] = f"is on timeline {position.timeline}, which nobody claimed"
        else:
            placed = Position(
                timeline=position.timeline, lsn=position.lsn, replayed_lsn=position.replayed_lsn, epoch=Epoch(epoch)
            )
            counted.append(Counted(voter, placed, promise))
    return Tally(tuple(counted), passed)


def elect(document: Topology, votes: Tally) -> Elected | None:
    """Return the node to promote, or None if the promises that count are no safe set.

    A planned handover goes to a node that holds the old primary's whole WAL, its shutdown checkpoint included: the one that
    was asked for, if one was; else the old primary is promoted again.  If the old primary did not answer it is no handover
    any more, and the wish is heard where it costs nothing.
    """
    voters = document.voters
    if voters is None or not document.is_safe_set(votes.voters):
        return None
    wish = document.transition
    field = votes.counted
    passed = dict(votes.passed_over)
    old = next((one for one in field if wish is not None and one.voter.name == wish.from_node), None)
    if wish is not None and wish.kind is TransitionKind.FAILOVER and wish.avoid_old and old is not None:
        # The old primary is not well, and an operator wants it replaced: it leads again only if no safe set stands without it.
        others = tuple(one for one in field if one is not old)
        if document.is_safe_set([one.voter for one in others]):
            field = others
            passed[old.voter.name] = "is the old primary, and the operator wants another"
    elif wish is not None and wish.avoid_old and old is not None:
        heirs = tuple(one for one in field if one is not old and _reach(one) >= _reach(old) and _is_wanted(one, wish))
        passed.update({one.voter.name: _why_no_heir(one, old, wish) for one in field if one not in heirs})
        if not heirs:
            del passed[old.voter.name]
            because = "nobody who may take over holds its shutdown checkpoint; it is promoted again"
            return Elected(old.voter.name, old.position, passed, because)
        field = heirs
    # Only among equals: who is being taken out of the cluster would have to hand over again.
    ranks = {member.name: (member.leaving, member.tier) for member in document.members}
    ranked = sorted(field, key=lambda one: one.voter.name)
    ranked.sort(key=lambda one: ranks.get(one.voter.name, (True, 15)))
    ranked.sort(key=lambda one: one.position.replayed_lsn, reverse=True)
    ranked.sort(key=_reach, reverse=True)
    winner = ranked[0]
    because = f"its WAL reaches furthest, to {format_lsn(winner.position.lsn)} on timeline {winner.position.timeline}"
    if wish is not None and wish.target is not None:
        asked = next((one for one in ranked if one.voter.name == wish.target), None)
        if asked is not None and _reach(asked) == _reach(winner):
            winner, because = asked, "the operator asked for it, and nobody's WAL reaches further"
    for one in ranked:
        if one is not winner:
            passed[one.voter.name] = _why_passed_over(one, winner)
    return Elected(winner.voter.name, winner.position, passed, because)


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
