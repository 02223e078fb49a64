"""Which document may follow which: the rules by example, and as properties over random histories."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtopology.document import (
    Candidate,
    Durability,
    Step,
    Topology,
    Transition,
    TransitionKind,
)
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import Lsn
from pgtopology.node import Incarnation, NodeName
from pgtopology.quorum import Voter, make_voters
from pgtopology.succession import is_single_step, may_follow, may_replace
from pgtopology.timeline import Timeline, TimelineRecord
from testkit.documents import document, member, voters

NAMES = tuple(NodeName(name) for name in ("n1", "n2", "n3"))


RECORD = TimelineRecord(timeline=Timeline(2), epoch=Epoch(1), node="n1", parent=Timeline(1), fork_lsn=Lsn(1), opened=True)

SERVING = document(
    system_identifier="1",
    revision=Revision(7),
    epoch=Epoch(1),
    voters=voters("n1 n2 n3", 2),
    writer=NAMES[0],
    candidate=Candidate(NAMES[0], Timeline(2)),
    timelines=(RECORD,),
    members=tuple(member(name) for name in NAMES),
)
TRANSITION = Transition(kind=TransitionKind.FAILOVER, step=Step.RECRUITING, cause="x", first_epoch=Epoch(2), started_at="now")


def after(document: Topology, **changes: object) -> Topology:
    """Return *document* as the next revision, with *changes*; a revision among them is the one it shall follow."""
    revision = Revision(int(str(changes.pop("revision", document.revision))) + 1)
    return msgspec.structs.replace(document, revision=revision, **changes)


RECRUITING = after(SERVING, epoch=Epoch(2), writer=None, candidate=None, transition=TRANSITION)
CLAIM = TimelineRecord(timeline=Timeline(3), epoch=Epoch(2), node="n2", parent=Timeline(2), fork_lsn=Lsn(9))
CLAIMED = after(
    RECRUITING,
    candidate=Candidate(NAMES[1], Timeline(3)),
    timelines=(RECORD, CLAIM),
    transition=msgspec.structs.replace(TRANSITION, step=Step.PROMOTING),
)
OPENED = after(CLAIMED, writer=NAMES[1], transition=None, timelines=(RECORD, msgspec.structs.replace(CLAIM, opened=True)))


def test_revisions_may_be_left_out() -> None:
    assert may_follow(SERVING, msgspec.structs.replace(SERVING, revision=Revision(SERVING.revision + 10_000))) is None


def test_the_steps_of_a_failover_follow_one_another() -> None:
    assert may_follow(SERVING, RECRUITING) is None
    assert may_follow(RECRUITING, CLAIMED) is None
    assert may_follow(CLAIMED, OPENED) is None
    assert may_follow(CLAIMED, after(CLAIMED, epoch=Epoch(3), candidate=None, transition=TRANSITION)) is None


REFUSED = {
    "another cluster": (SERVING, after(SERVING, cluster="other")),
    "another system identifier": (SERVING, after(SERVING, system_identifier="2")),
    "revision back": (SERVING, msgspec.structs.replace(SERVING, revision=Revision(SERVING.revision - 1))),
    "revision kept": (SERVING, SERVING),
    "epoch back": (OPENED, after(OPENED, epoch=Epoch(1))),
    "writer to writer": (SERVING, after(SERVING, writer=NAMES[1], candidate=Candidate(NAMES[1], Timeline(2)))),
    "writer to writer under a new epoch": (SERVING, after(OPENED, revision=Revision(7))),
    "no writer in the same epoch": (SERVING, after(SERVING, writer=None, transition=TRANSITION)),
    "neither writer nor transition": (RECRUITING, after(RECRUITING, transition=None)),
    "writer during a transition": (CLAIMED, after(OPENED, revision=CLAIMED.revision, transition=TRANSITION)),
    "writer without a claim": (RECRUITING, after(RECRUITING, writer=NAMES[1], transition=None)),
    "second candidate": (CLAIMED, after(CLAIMED, candidate=Candidate(NAMES[2], Timeline(3)))),
    "second timeline": (
        CLAIMED,
        after(
            CLAIMED,
            candidate=Candidate(NAMES[1], Timeline(5)),
            timelines=(*CLAIMED.timelines, msgspec.structs.replace(CLAIM, timeline=Timeline(5))),
        ),
    ),
    "candidate dropped": (CLAIMED, after(CLAIMED, candidate=None, transition=TRANSITION)),
    "promoting nobody": (RECRUITING, after(RECRUITING, transition=CLAIMED.transition)),
    "recruiting with a candidate": (RECRUITING, after(CLAIMED, revision=RECRUITING.revision, transition=TRANSITION)),
    "new epoch with a candidate": (SERVING, after(CLAIMED, revision=SERVING.revision)),
    "timeline reused": (
        RECRUITING,
        after(RECRUITING, candidate=Candidate(NAMES[1], Timeline(2))),
    ),
    "timeline that a hand may give": (
        RECRUITING,
        after(
            CLAIMED,
            candidate=Candidate(NAMES[1], Timeline(4)),
            timelines=(RECORD, msgspec.structs.replace(CLAIM, timeline=Timeline(4))),
        ),
    ),
    "timeline below the greatest": (
        after(RECRUITING, timelines=(msgspec.structs.replace(RECORD, timeline=Timeline(8)),)),
        after(
            after(RECRUITING),
            timelines=(
                msgspec.structs.replace(CLAIM, timeline=Timeline(5)),
                msgspec.structs.replace(RECORD, timeline=Timeline(8)),
            ),
        ),
    ),
    "timeline record changed": (
        OPENED,
        after(OPENED, timelines=(msgspec.structs.replace(RECORD, node="n3"), OPENED.timelines[1])),
    ),
    "timeline record closed again": (OPENED, after(OPENED, timelines=CLAIMED.timelines)),
    "newest timeline record dropped": (OPENED, after(OPENED, timelines=(RECORD,))),
    "voters change without a writer": (RECRUITING, after(RECRUITING, voters=voters("n1 n2", 2))),
    "two voters leave at once": (SERVING, after(SERVING, voters=voters("n1", 1))),
    "voters forgotten": (SERVING, after(SERVING, voters=None)),
    "voter is no member": (SERVING, after(SERVING, voters=voters("n1 n2 n3 n4", 2))),
    "members with one name": (SERVING, after(SERVING, members=(*SERVING.members, SERVING.members[0]))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_may_not_follow(name: str) -> None:
    old, new = REFUSED[name]
    assert may_follow(old, new) is not None


def test_an_operator_may_give_voters_up_under_a_new_epoch() -> None:
    forced = after(RECRUITING, epoch=Epoch(3), voters=voters("n1", 1), durability=Durability.REDUCED)
    assert may_follow(RECRUITING, forced) is None
    assert may_follow(RECRUITING, msgspec.structs.replace(forced, durability=Durability.QUORUM)) is not None


def test_voters_change_one_step_at_a_time() -> None:
    assert is_single_step(voters("n1", 1), voters("n1 n2", 2))
    assert is_single_step(voters("n1 n2", 2), voters("n1 n2 n3", 2))
    assert not is_single_step(voters("n1", 1), voters("n1 n2 n3", 2))
    assert not is_single_step(voters("n1 n2 n3", 2), voters("n1 n2 n4", 2))
    assert not is_single_step(voters("n1 n2 n3 n4 n5", 1), voters("n1 n2 n3 n4 n5", 3))


def test_a_voter_made_anew_is_one_step_and_two_are_not() -> None:
    old = voters("n1 n2 n3", 2)
    anew = Voter(NAMES[2], Incarnation("1111"))
    assert is_single_step(old, make_voters([*old.members[:2], anew], 2))
    assert not is_single_step(old, make_voters([old.members[0], Voter(NAMES[1], Incarnation("1111")), anew], 2))
    assert not is_single_step(old, make_voters([old.members[0], anew], 2))


def test_a_reader_may_miss_revisions_but_never_goes_back() -> None:
    assert may_replace(SERVING, OPENED) is None
    assert may_replace(SERVING, SERVING) is None
    assert may_replace(OPENED, SERVING) is not None
    assert may_replace(OPENED, CLAIMED) is not None
    assert may_replace(SERVING, msgspec.structs.replace(SERVING, paused=True)) is None
    two_writers = after(SERVING, writer=NAMES[1], candidate=Candidate(NAMES[1], Timeline(2)))
    assert may_replace(SERVING, two_writers) is not None


def test_a_reader_takes_the_document_that_is_sent_now_for_one_of_the_same_revision() -> None:
    """A store restored from a copy that lacked a revision nobody acted on writes it anew."""
    unopened = msgspec.structs.replace(CLAIMED, revision=OPENED.revision)
    assert unopened.epoch == OPENED.epoch
    assert may_replace(OPENED, unopened) is None
    assert may_replace(unopened, OPENED) is None
    other = msgspec.structs.replace(OPENED, writer=NAMES[2], candidate=Candidate(NAMES[2], Timeline(2)))
    assert may_replace(OPENED, other) is not None


CHAIN = (SERVING, RECRUITING, CLAIMED, OPENED)


@given(st.lists(st.sampled_from(range(len(CHAIN))), min_size=2, max_size=12))
def test_whatever_order_documents_arrive_in_a_reader_only_moves_forward(arrivals: list[int]) -> None:
    held = CHAIN[arrivals[0]]
    for index in arrivals[1:]:
        if may_replace(held, CHAIN[index]) is None:
            assert (CHAIN[index].epoch, CHAIN[index].revision) >= (held.epoch, held.revision)
            held = CHAIN[index]
    assert held is CHAIN[max(arrivals)]


@given(st.sampled_from(CHAIN), st.sampled_from(CHAIN))
def test_only_the_next_document_may_follow(old: Topology, new: Topology) -> None:
    assert (may_follow(old, new) is None) == (CHAIN.index(new) == CHAIN.index(old) + 1)
