"""Voters change one step at a time, in the order that keeps every recorded safe set meeting every possible commit.

A wider list is recorded first and put in force afterwards; a greater w (async to quorum is one) is put in force first, proven
by a new backend, by walsenders that re-read their configuration and by a barrier commit flushed on w voters, and recorded
then (S9).  So a cluster of three grows {n1} w=1, {n1,n2} w=2, {n1,n2,n3} w=2.  A voter whose data was made anew is recorded
under its new incarnation once it is whole.  The set does not change at a failover and never shrinks because a node is away.

After each change the voters before it stay in the document until so many of them have seen the new record that it cannot be
lost with the store; until then it is neither put in force, nor enough for an election, nor changed again (docs/decisions/0006).
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision.actions import Action, ActionKind, Follow, PutInForce, WriteDocument
from cluster_manager.decision.nodeview import NodeView, is_fresh
from cluster_manager.decision.view import View, slots_of
from pgtopology.document import Durability, Topology
from pgtopology.epoch import Revision
from pgtopology.node import NodeState
from pgtopology.observation import Observation
from pgtopology.orders import SettingsAnswer, Upstream
from pgtopology.quorum import Voter, Voters, majority, make_voters, synchronous_standby_names


def next_step(view: View, document: Topology) -> tuple[str, Action | None] | None:
    """Return what is being changed about the voters and the action that is due, or None if nothing is to change."""
    if document.writer is not None and (ActionKind.SETTINGS, document.writer) in view.in_flight:
        return "the writer is being told whose acknowledgements count", None
    step = _step(view, document)
    if step is not None and isinstance(action := step[1], PutInForce) and not _is_ordered(view, document, action.voters):
        return step[0], _bump(document)
    return step


def unstick(view: View, document: Topology) -> tuple[str, Action | None] | None:
    """Return what may let commits that are stuck go on, without a step forward: the record itself, put in force.

    A list that is ahead of its record is taken back, for what is recorded is enough; one that is behind it is brought up to it.
    A voter that was made anew is recorded, for nobody waits for its former data.
    """
    writer = view.node(document.writer)
    recorded = document.voters
    if writer is None or writer.observation is None or recorded is None or not is_fresh(writer, view.timings):
        return None
    if (ActionKind.SETTINGS, writer.name) in view.in_flight:
        return None
    if (made_anew := _made_anew(view, document, recorded)) is not None:
        voter, voters = made_anew
        return f'"{voter.name}" votes with its new data', _record(document, voters, f'"{voter.name}" is whole again')
    if not _differs(writer.observation, recorded, document):
        return None
    step = _made_known(view, document, writer, recorded)
    step = step or ("the recorded voters are put in force again", PutInForce(writer.name, recorded))
    is_order = isinstance(step[1], PutInForce)
    return (step[0], _bump(document)) if is_order and not _is_ordered(view, document, recorded) else step


def _bump(document: Topology) -> WriteDocument:
    bumped = msgspec.structs.replace(document, revision=Revision(document.revision + 1))
    return WriteDocument(bumped, "the next list has a revision of its own, so that an earlier order comes too late")


def _made_known(view: View, document: Topology, writer: NodeView, recorded: Voters) -> tuple[str, Action | None] | None:
    """Return how the last change of the voters is told to those before it, or None if it cannot be lost any more (S12).

    The others are told by an order to follow whom they follow; the writer then learns it with the order to put it in force.
    """
    former = document.former_voters
    if former is None:
        return None
    voters = {node.name: voter for node in view.nodes if (voter := node.voter()) is not None and voter in former.members}
    known = [voters[node.name] for node in view.nodes if node.name in voters and _knows(node, document)]
    if former.make_known(known, recorded):
        settled = msgspec.structs.replace(document, revision=Revision(document.revision + 1), former_voters=None)
        names = ", ".join(voter.name for voter in known) or "enough voters"
        return "the change of the voters is known", WriteDocument(settled, f"{names} know of the change of the voters")
    led = voters.get(writer.name)
    if led is not None and former.make_known([*known, led], recorded):
        return "the recorded voters are put in force", PutInForce(writer.name, recorded)
    ignorant = [node for node in view.nodes if node.name in voters and node.name != writer.name and not _knows(node, document)]
    told = next((node for node in ignorant if _follows(node, view, document)), None)
    action = Follow(told.name, Upstream(writer.name, writer.spec.address)) if told is not None else None
    return "the change of the voters is made known before it is used", action


def _knows(node: NodeView, document: Topology) -> bool:
    """Return whether the node has seen this record of the voters.

    Equal ones of an earlier time do not count: those between the two, which others may have seen, would win against them.
    """
    seen = node.observation.seen if node.observation is not None else None
    return seen is not None and seen.voters == document.voters and seen.revision >= document.voters_since


def _follows(node: NodeView, view: View, document: Topology) -> bool:
    """Return whether ordering the node to follow the writer tells it nothing but the newest record."""
    observation = node.observation
    return (
        is_fresh(node, view.timings)
        and observation is not None
        and observation.receiver is not None
        and observation.receiver.upstream == document.writer
        and (ActionKind.FOLLOW, node.name) not in view.in_flight
    )


def _is_ordered(view: View, document: Topology, voters: Voters) -> bool:
    """Return whether an order for *voters* can be told from every earlier one that may still be under way (S8)."""
    sent = view.settings_sent
    return sent is None or sent.revision < document.revision or sent.voters == voters


def _step(view: View, document: Topology) -> tuple[str, Action | None] | None:
    writer = view.node(document.writer)
    if writer is None or writer.observation is None or document.voters is None or not is_fresh(writer, view.timings):
        return None
    recorded = document.voters
    replaced = _made_anew(view, document, recorded)
    if replaced is not None:
        voter, voters = replaced
        return f'"{voter.name}" votes with its new data', _record(document, voters, f'"{voter.name}" is whole again')
    telling = _made_known(view, document, writer, recorded)
    if telling is not None:
        return telling
    if view.slots_in_force != frozenset(slots_of(document)):
        wanted = view.in_force.in_force if view.in_force is not None and _ahead(view, document, recorded) else recorded
        return "the writer learns whose WAL it keeps", PutInForce(writer.name, wanted)
    if _differs(writer.observation, recorded, document) and not _ahead(view, document, recorded):
        return "the recorded voters are put in force", PutInForce(writer.name, recorded)
    narrowed = _narrowed(view, document, recorded)
    if narrowed is not None:
        return _narrow(view, document, writer.observation, recorded, narrowed)
    grown = _grown(view, document, recorded)
    if grown is None:
        return None if _is_proven(view, recorded) else ("the voters are proven", PutInForce(writer.name, recorded))
    if grown.w == recorded.w:
        added = next(voter.name for voter in grown.members if recorded.find(voter.name) is None)
        return f'"{added}" becomes a voter', _record(document, grown, f'"{added}" streams and is whole')
    proof = view.in_force
    if proof is None or proof.in_force != grown:
        return f"w={grown.w} is put in force", PutInForce(writer.name, grown)
    if _differs(writer.observation, grown, document) or not _is_flushed(writer.observation, document, proof):
        return f"w={grown.w} is in force; waiting for its barrier commit", None
    return f"w={grown.w} is recorded", _record(document, grown, f"w={grown.w} is in force and proven")


def _narrowed(view: View, document: Topology, recorded: Voters) -> Voters | None:
    """Return the voters one step closer to being without those who leave, or None.

    A smaller w comes first where the smaller cluster needs fewer copies, so that no step needs more nodes than there will be.
    """
    leaving = [
        voter
        for voter in recorded.members
        if voter.name != document.writer and (member := document.member(voter.name)) is not None and member.leaving
    ]
    left = len(recorded.members) - 1
    if not leaving or left < 1:
        return None
    if recorded.w > majority(left):
        return Voters(recorded.members, recorded.w - 1)
    gone = leaving[0]
    return Voters(tuple(voter for voter in recorded.members if voter != gone), recorded.w)


def _narrow(
    view: View, document: Topology, observation: Observation, recorded: Voters, narrowed: Voters
) -> tuple[str, Action | None]:
    """Take one step down: a smaller w is recorded first, a narrower list is put in force and proven first (S9)."""
    if narrowed.w < recorded.w:
        return f"w={narrowed.w} is recorded", _record(document, narrowed, "a voter leaves, and fewer copies are needed")
    gone = next(voter for voter in recorded.members if narrowed.find(voter.name) is None)
    proof = view.in_force
    if proof is None or proof.in_force != narrowed:
        return f'"{gone.name}" leaves the list in force', PutInForce(observation.node, narrowed)
    still_read = any(sender.name == gone.sync_name and sender.sync_priority > 0 for sender in observation.walsenders)
    if still_read or _differs(observation, narrowed, document) or not _is_flushed(observation, document, proof):
        return f'the list without "{gone.name}" is in force; waiting for its barrier commit', None
    return f'"{gone.name}" is no voter any more', _record(document, narrowed, f'"{gone.name}" leaves')


def _grown(view: View, document: Topology, recorded: Voters) -> Voters | None:
    """Return the voters one step closer to all configured nodes, or None."""
    if view.wanted_durability is not Durability.QUORUM or len(view.specs) < 3:
        return None
    able = [node for node in view.nodes if recorded.find(node.name) is None and _may_join(node, document)]
    # Whoever is in force already goes first: a list that is half-way is finished, not exchanged for another.
    able.sort(key=lambda node: view.in_force is None or view.in_force.in_force.find(node.name) is None)
    joining = able[0] if able else None
    voter = joining.voter() if joining is not None else None
    if voter is not None and len(recorded.members) == 1:
        return make_voters([*recorded.members, voter], 2)
    ready = [node for node in view.nodes if recorded.find(node.name) is not None and _is_ready(node, document)]
    # A greater w that those who are level could not acknowledge would hang every commit.
    if recorded.w < majority(len(recorded.members)) and len(ready) >= recorded.w:
        return Voters(recorded.members, recorded.w + 1)
    if voter is not None:
        return make_voters([*recorded.members, voter], recorded.w)
    return None


def _ahead(view: View, document: Topology, recorded: Voters) -> bool:
    """Return whether what is in force is the next step on purpose, ahead of its record: a greater w, or a narrower list."""
    if view.in_force is None:
        return False
    in_force = view.in_force.in_force
    return in_force.w > recorded.w or in_force == _narrowed(view, document, recorded)


def _may_join(node: NodeView, document: Topology) -> bool:
    member = document.member(node.name)
    return member is not None and not member.leaving and _is_ready(node, document)


def _is_ready(node: NodeView, document: Topology) -> bool:
    member = document.member(node.name)
    observation = node.observation
    return (
        observation is not None
        and observation.whole
        and member is not None
        and member.state is NodeState.STREAMING
        and member.incarnation == observation.incarnation
    )


def _made_anew(view: View, document: Topology, recorded: Voters) -> tuple[Voter, Voters] | None:
    for node in view.nodes:
        before = recorded.find(node.name)
        voter = node.voter()
        if before is None or voter is None or voter == before or not _is_ready(node, document):
            continue
        others = [one for one in recorded.members if one != before]
        return voter, make_voters([*others, voter], recorded.w)
    return None


def _differs(observation: Observation, recorded: Voters, document: Topology) -> bool:
    shown = observation.synchronous_standby_names
    return shown is not None and document.writer is not None and shown != synchronous_standby_names(recorded, document.writer)


def _is_proven(view: View, recorded: Voters) -> bool:
    return view.in_force is not None and view.in_force.in_force == recorded


def _is_flushed(observation: Observation, document: Topology, proof: SettingsAnswer) -> bool:
    """Return whether the barrier commit is on w voters, by walsenders that have read the list it was made under."""
    names = {voter.sync_name for voter in proof.in_force.members}
    flushed = [
        sender
        for sender in observation.walsenders
        if sender.name in names
        and sender.slot == sender.name
        and sender.sync_priority > 0
        and sender.flush_lsn is not None
        and sender.flush_lsn >= proof.barrier_lsn
    ]
    return document.writer is not None and len(flushed) >= proof.in_force.others_needed(document.writer)


def _record(document: Topology, voters: Voters, because: str) -> WriteDocument:
    durability = Durability.QUORUM if voters.w > 1 else Durability.ASYNC
    if document.durability is Durability.REDUCED and voters.w <= 1:
        durability = Durability.REDUCED
    before, revision = document.voters, Revision(document.revision + 1)
    anew = before is not None and before.names == voters.names and before.w == voters.w
    return WriteDocument(
        msgspec.structs.replace(
            document,
            revision=revision,
            voters=voters,
            former_voters=document.former_voters if anew else before,
            voters_since=revision,
            durability=durability,
        ),
        because,
    )
