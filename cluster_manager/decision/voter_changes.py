"""Voters change one step at a time, in the order that keeps every recorded safe set meeting every possible commit.

What differs says who goes first, the record or PostgreSQL (`difference.TABLE`).  A wider list is recorded first and put in
force afterwards; a greater w (async to quorum is one) is put in force first, proven by a new backend, by walsenders that
re-read their configuration and by a barrier commit flushed on w voters, and recorded then (S9).  So a cluster of three grows
{n1} w=1, {n1,n2} w=2, {n1,n2,n3} w=2.  A voter whose data was made anew is recorded under its new incarnation once it is
whole.  The set does not change at a failover and never shrinks because a node is away (L11).

After each change the voters before it stay in the document until so many of them have seen the new record that it cannot be
lost with the store; until then it is neither put in force, nor enough for an election, nor changed again (docs/decisions/0006).

Nothing here remembers where a change stands: each question looks at the record, at the list that the writer shows and has
proven, and at who knows.  A manager that takes over at any moment, or puts the same in force again, goes on from there
(`tests/cluster_manager/decision/test_voter_changes.py` plays every interruption).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster_manager.decision.actions import Action, ActionKind, Follow, PutInForce, WriteDocument
from cluster_manager.decision.attempt import next_document
from cluster_manager.decision.difference import TABLE, Difference, First, difference
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.proof import flushed_by
from cluster_manager.decision.situation import Situation
from pgtopology.document import Durability, Topology
from pgtopology.epoch import Revision
from pgtopology.node import NodeState
from pgtopology.observation import Observation
from pgtopology.orders import SynchronousAnswer, Upstream
from pgtopology.quorum import Voter, Voters, majority, make_voters, synchronous_standby_names

Step = tuple[str, Action | None]
"""What is being changed about the voters, and the action that is due; none while it is only waited for."""


def next_step(situation: Situation) -> Step | None:
    """Return what is being changed about the voters and the action that is due, or None if nothing is to change."""
    view, writer = situation.view, situation.document.writer
    if writer is not None and (ActionKind.SYNCHRONOUS, writer) in view.in_flight:
        return "the writer is being told whose acknowledgements count", None
    at = _moment(situation)
    step = next((step for ask in QUESTIONS if (step := ask(at)) is not None), None) if at is not None else None
    return _told_apart(situation, step) if step is not None else None


def unstick(situation: Situation) -> Step | None:
    """Return what may let commits that are stuck go on, without a step forward: the record itself, put in force.

    A list that is ahead of its record is taken back, for what is recorded is enough; one that is behind it is brought up to it.
    A voter that was made anew is recorded, for nobody waits for its former data.
    """
    at = _moment(situation)
    if at is None or (ActionKind.SYNCHRONOUS, at.writer.name) in situation.view.in_flight:
        return None
    if (anew := _new_data(at)) is not None:
        return anew
    if not at.shows_other_than(situation.voters):
        return None
    step = _made_known(at) or ("the recorded voters are put in force again", PutInForce(at.writer.name, situation.voters))
    return _told_apart(situation, step)


def _told_apart(situation: Situation, step: Step) -> Step:
    """Return *step*, or first a revision for it, so that its order can be told from all earlier ones that come late (S8)."""
    what, action = step
    sent, document = situation.view.voters_sent, situation.document
    if not isinstance(action, PutInForce) or sent is None:
        return step
    if sent.revision < document.revision or sent.voters == action.voters:
        return step
    because = "the next list has a revision of its own, so that an earlier order comes too late"
    return what, WriteDocument(next_document(document), because)


@dataclass(frozen=True, slots=True)
class _Moment:
    """A writer that is heard, beside the situation: what every question below looks at."""

    situation: Situation
    writer: NodeView
    seen: Observation

    @property
    def recorded(self) -> Voters:
        """The voters of the document."""
        return self.situation.voters

    @property
    def proven(self) -> SynchronousAnswer | None:
        """The list the writer has proven to be in force."""
        return self.situation.view.in_force

    def shows_other_than(self, voters: Voters) -> bool:
        """Return whether the writer shows another list than that of *voters*."""
        shown = self.seen.synchronous_standby_names
        return shown is not None and shown != synchronous_standby_names(voters, self.writer.name)

    @property
    def is_ahead(self) -> bool:
        """Whether what is in force is the next step on purpose, ahead of its record: a greater w, or a narrower list."""
        if self.proven is None:
            return False
        return self.proven.in_force.w > self.recorded.w or self.proven.in_force == _narrowed(self)


def _moment(situation: Situation) -> _Moment | None:
    writer = situation.writer
    seen = situation.fresh.get(writer.name) if writer is not None else None
    return _Moment(situation, writer, seen) if writer is not None and seen is not None else None


def _new_data(at: _Moment) -> Step | None:
    """A voter whose data was made anew is recorded with it, once it is whole."""
    for node in at.situation.view.nodes:
        before, voter = at.recorded.find(node.name), node.voter()
        if before is None or voter is None or voter == before or not _is_ready(at.situation, node):
            continue
        others = [one for one in at.recorded.members if one != before]
        return _take(at, make_voters([*others, voter], at.recorded.w))
    return None


def _made_known(at: _Moment) -> Step | None:
    """The last change of the voters is told to those before it, until it cannot be lost any more (S12).

    The others are told by an order to follow whom they follow; the writer then learns it with the order to put it in force.
    """
    situation, document, recorded = at.situation, at.situation.document, at.recorded
    former = document.former_voters
    if former is None:
        return None
    nodes = situation.view.nodes
    voters = {node.name: voter for node in nodes if (voter := node.voter()) is not None and voter in former.members}
    known = [voters[node.name] for node in nodes if node.name in voters and _knows(node, document)]
    if former.make_known(known, recorded):
        names = ", ".join(voter.name for voter in known) or "enough voters"
        settled = WriteDocument(next_document(document, former_voters=None), f"{names} know of the change of the voters")
        return "the change of the voters is known", settled
    led = voters.get(at.writer.name)
    if led is not None and former.make_known([*known, led], recorded):
        return "the recorded voters are put in force", PutInForce(at.writer.name, recorded)
    ignorant = [node for node in nodes if node.name in voters and node.name != at.writer.name and not _knows(node, document)]
    told = next((node for node in ignorant if _follows(situation, node)), None)
    action = Follow(told.name, Upstream(at.writer.name, at.writer.spec.address)) if told is not None else None
    return "the change of the voters is made known before it is used", action


def _slots_told(at: _Moment) -> Step | None:
    """The writer keeps WAL for every member that has data."""
    if at.situation.view.slots_in_force == at.situation.slots:
        return None
    wanted = at.proven.in_force if at.proven is not None and at.is_ahead else at.recorded
    return "the writer learns whose WAL it keeps", PutInForce(at.writer.name, wanted)


def _record_in_force(at: _Moment) -> Step | None:
    """PostgreSQL goes by the record, unless it is ahead of it on purpose."""
    if not at.shows_other_than(at.recorded) or at.is_ahead:
        return None
    return "the recorded voters are put in force", PutInForce(at.writer.name, at.recorded)


def _fewer(at: _Moment) -> Step | None:
    """Whoever is being taken out leaves the voters."""
    narrowed = _narrowed(at)
    return _take(at, narrowed) if narrowed is not None else None


def _more(at: _Moment) -> Step | None:
    """Whoever is configured and ready joins them, with as many copies as that calls for."""
    grown = _grown(at)
    return _take(at, grown) if grown is not None else None


def _proven(at: _Moment) -> Step | None:
    """What is recorded is proven to be in force, also to a manager that has only begun."""
    if at.proven is not None and at.proven.in_force == at.recorded:
        return None
    return "the voters are proven", PutInForce(at.writer.name, at.recorded)


QUESTIONS: tuple[Callable[[_Moment], Step | None], ...] = (
    _new_data,
    _made_known,
    _slots_told,
    _record_in_force,
    _fewer,
    _more,
    _proven,
)
"""What may be due, in the order in which it is asked; the first answer is the step."""


def _take(at: _Moment, wanted: Voters) -> Step:
    """Return the next half of the step from the recorded voters to *wanted*: the record's or PostgreSQL's."""
    row = TABLE[difference(at.recorded, wanted)]
    changed = [voter.name for voter in (*wanted.members, *at.recorded.members) if not _in_both(voter, at.recorded, wanted)]
    who, w = next(iter(changed), ""), wanted.w
    record = row.recorded.format(who=who, w=w), _record(at, wanted, row.because.format(who=who, w=w))
    if row.first is First.RECORD:
        return record
    proof = at.proven
    if proof is None or proof.in_force != wanted:
        return row.put_in_force.format(who=who, w=w), PutInForce(at.writer.name, wanted)
    gone = {voter.sync_name for voter in at.recorded.members if wanted.find(voter.name) is None}
    is_read = any(sender.name in gone and sender.sync_priority > 0 for sender in at.seen.walsenders)
    if is_read or at.shows_other_than(wanted) or not _is_flushed(at, proof):
        return row.waits.format(who=who, w=w), None
    return record


def _in_both(voter: Voter, recorded: Voters, wanted: Voters) -> bool:
    return voter in recorded.members and voter in wanted.members


def _record(at: _Moment, voters: Voters, because: str) -> WriteDocument:
    document, before = at.situation.document, at.recorded
    durability = Durability.QUORUM if voters.w > 1 else Durability.ASYNC
    if document.durability is Durability.REDUCED and voters.w <= 1:
        durability = Durability.REDUCED
    return WriteDocument(
        next_document(
            document,
            voters=voters,
            former_voters=document.former_voters if difference(before, voters) is Difference.NEW_DATA else before,
            voters_since=Revision(document.revision + 1),
            durability=durability,
        ),
        because,
    )


def _is_flushed(at: _Moment, proof: SynchronousAnswer) -> bool:
    """Return whether the barrier commit is on w voters, by walsenders that have read the list it was made under."""
    voters = proof.in_force
    flushed = [one for one in flushed_by(at.seen, voters.members, proof.barrier_lsn) if one.sync_priority > 0]
    return len(flushed) >= voters.others_needed(at.writer.name)


def _narrowed(at: _Moment) -> Voters | None:
    """Return the voters one step closer to being without those who leave, or None.

    A smaller w comes first where the smaller cluster needs fewer copies, so that no step needs more nodes than there will be.
    """
    recorded, document = at.recorded, at.situation.document
    leaving = [
        voter
        for voter in recorded.members
        if voter.name != at.writer.name and (member := document.member(voter.name)) is not None and member.leaving
    ]
    left = len(recorded.members) - 1
    if not leaving or left < 1:
        return None
    if recorded.w > majority(left):
        return Voters(recorded.members, recorded.w - 1)
    return Voters(tuple(voter for voter in recorded.members if voter != leaving[0]), recorded.w)


def _grown(at: _Moment) -> Voters | None:
    """Return the voters one step closer to all configured nodes, or None."""
    situation, recorded, proven = at.situation, at.recorded, at.proven
    view = situation.view
    if view.wanted_durability is not Durability.QUORUM or len(view.specs) < 3:
        return None
    able = [node for node in view.nodes if recorded.find(node.name) is None and _may_join(situation, node)]
    # Whoever is in force already goes first: a list that is half-way is finished, not exchanged for another.
    able.sort(key=lambda node: proven is None or proven.in_force.find(node.name) is None)
    voter = able[0].voter() if able else None
    if voter is not None and len(recorded.members) == 1:
        return make_voters([*recorded.members, voter], 2)
    ready = [node for node in view.nodes if recorded.find(node.name) is not None and _is_ready(situation, node)]
    # A greater w that those who are level could not acknowledge would hang every commit.
    if recorded.w < majority(len(recorded.members)) and len(ready) >= recorded.w:
        return Voters(recorded.members, recorded.w + 1)
    return make_voters([*recorded.members, voter], recorded.w) if voter is not None else None


def _may_join(situation: Situation, node: NodeView) -> bool:
    member = situation.document.member(node.name)
    return member is not None and not member.leaving and _is_ready(situation, node)


def _is_ready(situation: Situation, node: NodeView) -> bool:
    member = situation.document.member(node.name)
    observation = node.observation
    return (
        observation is not None
        and observation.whole
        and member is not None
        and member.state is NodeState.STREAMING
        and member.incarnation == observation.incarnation
    )


def _knows(node: NodeView, document: Topology) -> bool:
    """Return whether the node has seen this record of the voters.

    Equal ones of an earlier time do not count: those between the two, which others may have seen, would win against them.
    """
    seen = node.observation.seen if node.observation is not None else None
    return seen is not None and seen.voters == document.voters and seen.revision >= document.voters_since


def _follows(situation: Situation, node: NodeView) -> bool:
    """Return whether ordering the node to follow the writer tells it nothing but the newest record."""
    seen = situation.fresh.get(node.name)
    return (
        seen is not None
        and seen.receiver is not None
        and seen.receiver.upstream == situation.document.writer
        and (ActionKind.FOLLOW, node.name) not in situation.view.in_flight
    )
