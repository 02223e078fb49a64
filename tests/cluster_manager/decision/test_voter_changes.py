"""Changes of the voters, played to their end by `decide` alone, and interrupted between any two of their writes and orders.

The cluster here obeys at once: an order that arrives is in force and everybody has flushed everything.  A manager that dies
forgets what is only in its memory; its last write or order took effect, or did not, or arrives when another manager has already
gone on.  Whatever happens, each write may follow the one before it, no safe set of the record misses a commit that the list in
force would acknowledge (S9), and the voters become those that are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import msgspec
import pytest

from cluster_manager.decision import voter_changes
from cluster_manager.decision.actions import Action, Follow, PutInForce, WriteDocument
from cluster_manager.decision.difference import TABLE, Difference, First, difference
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.plan import decide
from cluster_manager.decision.view import View, VotersSent, slots_of
from pgtopology.document import Topology
from pgtopology.epoch import Revision
from pgtopology.observation import Seen, Walsender
from pgtopology.orders import SynchronousAnswer
from pgtopology.quorum import Voters, majority, synchronous_standby_names
from pgtopology.succession import may_follow
from tests.cluster_manager.decision.storyboard import read_view
from tests.cluster_manager.decision.storycluster import WAL, voters_of

STEPS_MAX = 60
SEQUENCES: Mapping[str, tuple[str, str]] = {
    "the second and the third": ("document durability=async voters=n1/1", "n1,n2,n3/2"),
    "the fourth": ("manager nodes=n1,n2,n3,n4\ndocument voters=n1,n2,n3/2", "n1,n2,n3,n4/3"),
    "one to five": ("manager nodes=n1,n2,n3,n4,n5\ndocument durability=async voters=n1/1", "n1,n2,n3,n4,n5/3"),
    "one leaves four": ("manager nodes=n1,n2,n3,n4\ndocument voters=n1,n2,n3,n4/3 leaving=n4", "n1,n2,n3/2"),
    "two leave five": (
        "manager nodes=n1,n2,n3,n4,n5\ndocument voters=n1,n2,n3,n4,n5/3\ndocument leaving=n4\ndocument leaving=n5",
        "n1,n2,n3/2",
    ),
    "one leaves and another comes": (
        "manager nodes=n1,n2,n3,n4,n5\ndocument voters=n1,n2,n3,n4/3 leaving=n3",
        "n1,n2,n4,n5/3",
    ),
    "one is made anew": ("node n3 incarnation=9999", "n1,n2,n3/2"),
    "one is made anew while the fourth comes": (
        "manager nodes=n1,n2,n3,n4\ndocument voters=n1,n2,n3/2\nnode n2 incarnation=9999",
        "n1,n2,n3,n4/3",
    ),
}


@dataclass(frozen=True, slots=True)
class World:
    """The view of a manager whose cluster obeys at once, and the voters whose acknowledgements the writer waits for."""

    view: View
    in_force: Voters

    @property
    def document(self) -> Topology:
        """What is in the store."""
        assert self.view.document is not None
        return self.view.document

    @property
    def voters(self) -> Voters:
        """The recorded voters."""
        assert self.document.voters is not None
        return self.document.voters


def begin(story: str) -> World:
    view = read_view(story)
    assert view.document is not None
    assert view.document.voters is not None
    in_force = view.document.voters
    proof = SynchronousAnswer(node=view.nodes[0].name, in_force=in_force, barrier_lsn=WAL)
    return seen_by_writer(World(replace(view, in_force=proof, slots_in_force=frozenset(slots_of(view.document))), in_force))


def seen_by_writer(world: World) -> World:
    """Return *world* with what its writer shows of the list, and of who follows it."""
    writer = world.view.nodes[0]
    voters = [voter for node in world.view.nodes[1:] if (voter := node.voter()) is not None]
    senders = tuple(
        Walsender(
            name=voter.sync_name,
            slot=voter.sync_name,
            streaming=True,
            flush_lsn=WAL,
            replay_lsn=WAL,
            sync_priority=1 if voter in world.in_force.members else 0,
        )
        for voter in voters
    )
    shown = synchronous_standby_names(world.in_force, writer.name)
    assert writer.observation is not None
    observation = msgspec.structs.replace(writer.observation, walsenders=senders, synchronous_standby_names=shown)
    nodes = (replace(writer, observation=observation), *world.view.nodes[1:])
    return World(replace(world.view, nodes=nodes), world.in_force)


def tell(world: World, name: str, document: Topology) -> World:
    """Return *world* with the node *name* having acted on *document*."""

    def told(node: NodeView) -> NodeView:
        if node.name != name or node.observation is None:
            return node
        seen = Seen(epoch=document.epoch, revision=document.revision, voters=document.voters, timelines=document.timelines)
        return replace(node, observation=msgspec.structs.replace(node.observation, seen=seen))

    return World(replace(world.view, nodes=tuple(told(node) for node in world.view.nodes)), world.in_force)


def due(world: World) -> Action | None:
    """Return what the manager does next about the voters, or None if it is done with them."""
    plan = decide(world.view)
    return next((one for one in plan.actions if isinstance(one, WriteDocument | PutInForce | Follow)), None)


def take_effect(world: World, action: Action, ordered_by: Topology) -> World:
    """Return *world* after *action*, of which no manager knows yet; orders carry (epoch, revision) of *ordered_by* (S8)."""
    match action:
        case WriteDocument(document=document):
            assert may_follow(world.document, document) is None
            return World(replace(world.view, document=document), world.in_force)
        case PutInForce(node=node, voters=voters):
            writer = world.view.node(node)
            assert writer is not None
            assert writer.observation is not None
            if ordered_by.revision < writer.observation.seen.revision:
                return world
            return seen_by_writer(tell(World(world.view, voters), node, ordered_by))
        case Follow(node=node):
            return tell(world, node, ordered_by)
        case _:
            raise AssertionError(f"{action} is no step of the voters")


def learn(world: World, action: Action, ordered_by: Topology) -> World:
    """Return *world* with the manager that did *action* knowing that it is done."""
    if not isinstance(action, PutInForce):
        return world
    view = replace(
        world.view,
        in_force=SynchronousAnswer(node=action.node, in_force=action.voters, barrier_lsn=WAL),
        slots_in_force=frozenset(slots_of(ordered_by)),
        voters_sent=VotersSent(action.voters, ordered_by.revision),
    )
    return World(view, world.in_force)


def taken_over(world: World) -> World:
    """Return *world* under a manager that has just read the document."""
    sent = VotersSent(None, world.document.revision)
    return World(replace(world.view, in_force=None, slots_in_force=None, voters_sent=sent), world.in_force)


def check(world: World) -> World:
    """Return *world* if every safe set of its record meets every commit that its list in force would acknowledge."""
    alive = {voter for node in world.view.nodes if (voter := node.voter()) is not None}
    leader = world.view.nodes[0].voter()
    listed = [voter for voter in world.in_force.members if voter in alive and voter != leader]
    recorded = [voter for voter in world.voters.members if voter in alive]
    safe_sets = [
        one for n in range(1, len(recorded) + 1) for one in combinations(recorded, n) if world.document.is_safe_set(one)
    ]
    for others in combinations(listed, world.in_force.w - 1):
        for promised in safe_sets:
            assert {leader, *others} & set(promised), f"a commit on {leader}, {others} is missed by {promised}"
    return world


def play(world: World) -> Iterator[tuple[World, Action]]:
    """Yield each state with what is done next in it, to the end; what the end is like is asserted by `ends`."""
    for _ in range(STEPS_MAX):
        action = due(world)
        if action is None:
            return
        yield world, action
        world = check(learn(take_effect(world, action, world.document), action, world.document))
    raise AssertionError(f"no end after {STEPS_MAX} steps: {world.voters}")


def end(world: World) -> World:
    """Return the state in which nothing is due any more."""
    for before, action in play(world):
        world = learn(take_effect(before, action, before.document), action, before.document)
    return world


def has_ended_well(world: World, names: str) -> bool:
    wanted = voters_of(names)
    return (
        (world.voters.names, world.voters.w) == (wanted.names, wanted.w)
        and world.in_force == world.voters
        and world.document.former_voters is None
        and world.voters.w == majority(len(world.voters.members))
    )


def interruptions(world: World, action: Action) -> Iterator[World]:
    """Yield what a manager finds that takes over when another died about to do *action*, or having done it."""
    yield taken_over(world)
    yield taken_over(take_effect(world, action, world.document))
    if isinstance(action, WriteDocument):
        return
    # The order arrives late, when the next manager has already done so many things.
    for state, following in play(taken_over(world)):
        yield take_effect(state, action, world.document)
        if isinstance(following, PutInForce):
            break


@pytest.mark.parametrize("name", SEQUENCES)
def test_every_interrupted_change_leads_on_to_the_wanted_voters(name: str) -> None:
    story, wanted = SEQUENCES[name]
    path = list(play(check(begin(story))))
    assert len(path) >= 3
    assert has_ended_well(end(begin(story)), wanted)
    for world, action in path:
        for interrupted in interruptions(world, action):
            assert has_ended_well(end(check(interrupted)), wanted)


@pytest.mark.parametrize("name", ["the second and the third", "one leaves four", "one is made anew"])
def test_a_change_that_is_interrupted_twice_leads_on_too(name: str) -> None:
    story, wanted = SEQUENCES[name]
    for world, action in play(begin(story)):
        for once in interruptions(world, action):
            for later, then in play(once):
                for twice in interruptions(later, then):
                    assert has_ended_well(end(check(twice)), wanted)


def test_the_sequences_go_through_every_row_of_the_table() -> None:
    rows: set[Difference] = set()
    for story, _ in SEQUENCES.values():
        for world, action in play(begin(story)):
            if isinstance(action, WriteDocument) and action.document.voters not in (None, world.voters):
                assert action.document.voters is not None
                rows.add(difference(world.voters, action.document.voters))
    assert rows == set(TABLE)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (Difference.WIDER, "the fourth"),
        (Difference.FEWER_COPIES, "one leaves four"),
        (Difference.NARROWER, "one leaves four"),
        (Difference.MORE_COPIES, "the fourth"),
    ],
)
def test_with_the_other_side_first_a_commit_could_be_missed(
    row: Difference, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = First.POSTGRESQL if TABLE[row].first is First.RECORD else First.RECORD
    monkeypatch.setattr(voter_changes, "TABLE", {**TABLE, row: replace(TABLE[row], first=other)})
    with pytest.raises(AssertionError, match="is missed by"):
        end(begin(SEQUENCES[name][0]))


def test_an_order_that_comes_too_late_is_refused() -> None:
    world = begin(SEQUENCES["the fourth"][0])
    late = PutInForce(world.view.nodes[0].name, voters_of("n1,n2/2"))
    older = msgspec.structs.replace(world.document, revision=Revision(world.document.revision - 1))
    assert take_effect(world, late, older) == world
