"""What may stand for a lost document: the arithmetic by brute force, and its rules of succession (decisions 0005 and 0006)."""

from __future__ import annotations

from itertools import combinations

import msgspec
import pytest

from pgtopology.document import Adopted, Candidate, Step, Topology
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import Incarnation, NodeName
from pgtopology.quorum import Voter, make_voters
from pgtopology.succession import may_follow, may_replace
from pgtopology.timeline import Timeline, merge_records
from testkit.documents import voters
from tests.pgtopology.test_quorum import SHAPES, cluster
from tests.pgtopology.test_succession import CLAIM, CLAIMED, NAMES, RECORD, RECRUITING, SERVING, TRANSITION, after

ADOPTS = Adopted(epoch=Epoch(4), revision=Revision(50), timeline=Timeline(5))
ADOPTED = msgspec.structs.replace(
    SERVING,
    epoch=Epoch(104),
    revision=Revision(10_050),
    voters=voters("n1 n3", 2),
    writer=None,
    candidate=None,
    transition=msgspec.structs.replace(TRANSITION, adopts=ADOPTS),
)


@pytest.mark.parametrize(("n", "w"), SHAPES)
def test_enough_to_adopt_meet_every_safe_set_and_every_w_copies(n: int, w: int) -> None:
    all_voters = cluster(n, w)
    for heard in combinations(all_voters.members, all_voters.adoption_size):
        assert all_voters.is_safe_set(heard)
        assert all(set(heard) & set(safe) for safe in combinations(all_voters.members, all_voters.safe_set_size))
        assert all(set(heard) & set(copies) for copies in combinations(all_voters.members, w))


@pytest.mark.parametrize(("n", "w"), SHAPES)
def test_a_record_known_to_so_many_cannot_be_lost(n: int, w: int) -> None:
    """The number in membership: min(w, n - w + 1) voters who know a record meet all who are enough to adopt; fewer do not."""
    all_voters = cluster(n, w)
    enough = min(w, n - w + 1)
    wider = cluster(n + 1, w)
    assert all_voters.make_known(all_voters.members[:enough], wider)
    assert not all_voters.make_known(all_voters.members[: enough - 1], wider)
    for heard in combinations(all_voters.members, all_voters.adoption_size):
        assert all(set(heard) & set(known) for known in combinations(all_voters.members, enough))
    fewer = all_voters.members[: enough - 1]
    assert any(not set(heard) & set(fewer) for heard in combinations(all_voters.members, all_voters.adoption_size))


@pytest.mark.parametrize(("n", "w"), SHAPES)
def test_the_former_data_of_a_voter_made_anew_needs_nobody_to_know(n: int, w: int) -> None:
    """Whoever is enough to adopt without it meets every w copies of the voters that replaced it."""
    all_voters = cluster(n, w)
    former = all_voters.members[-1]
    anew = [*all_voters.members[:-1], Voter(former.name, Incarnation("ffff"))]
    for heard in combinations(all_voters.members[:-1], all_voters.adoption_size):
        assert all(set(heard) & set(copies) for copies in combinations(anew, w))


def test_an_adopted_document_may_follow_any() -> None:
    for old in (SERVING, RECRUITING, CLAIMED):
        assert may_follow(old, ADOPTED) is None
        assert may_replace(old, ADOPTED) is None


REFUSED: dict[str, Topology] = {
    "an epoch that is not greater": msgspec.structs.replace(ADOPTED, epoch=Epoch(1)),
    "an epoch that somebody has seen": msgspec.structs.replace(ADOPTED, epoch=Epoch(4)),
    "a revision that somebody has seen": msgspec.structs.replace(ADOPTED, revision=Revision(50)),
    "without voters": msgspec.structs.replace(ADOPTED, voters=None),
    "another cluster": msgspec.structs.replace(ADOPTED, cluster="other"),
    "another system identifier": msgspec.structs.replace(ADOPTED, system_identifier="2"),
    "with a candidate": msgspec.structs.replace(
        ADOPTED,
        candidate=Candidate(NAMES[0], Timeline(6)),
        timelines=(RECORD, msgspec.structs.replace(RECORD, timeline=Timeline(6), epoch=Epoch(104))),
        transition=msgspec.structs.replace(TRANSITION, adopts=ADOPTS, step=Step.PROMOTING),
    ),
    "not said to be adopted": msgspec.structs.replace(ADOPTED, transition=TRANSITION),
    "not said to be adopted, and no jump": after(SERVING, epoch=Epoch(2), writer=None, candidate=None, transition=TRANSITION,
                                                 voters=voters("n1 n3", 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_an_adopted_document_goes_beyond_everything_and_begins_with_nobody(name: str) -> None:
    assert may_follow(SERVING, REFUSED[name]) is not None


def test_a_reader_takes_a_greater_epoch_with_a_smaller_revision() -> None:
    """It may have seen revisions that nobody who was asked has."""
    ahead = msgspec.structs.replace(SERVING, revision=Revision(20_000))
    assert may_replace(ahead, ADOPTED) is None
    assert may_replace(ADOPTED, ahead) is not None


def test_only_the_data_of_another_voter_changes_beside_a_candidate() -> None:
    assert CLAIMED.voters is not None
    assert CLAIMED.candidate is not None

    def anew(*names: NodeName, w: int = 2) -> Topology:
        members = [Voter(n, Incarnation("ffff") if n in names else Incarnation("0000")) for n in NAMES]
        return after(CLAIMED, voters=make_voters(members, w))

    other = next(name for name in NAMES if name != CLAIMED.candidate.node)
    assert may_follow(CLAIMED, anew(other)) is None
    assert may_follow(CLAIMED, anew(CLAIMED.candidate.node)) is not None
    assert may_follow(CLAIMED, anew(*[name for name in NAMES if name != CLAIMED.candidate.node])) is not None
    assert may_follow(CLAIMED, anew(other, w=1)) is not None
    assert may_follow(CLAIMED, after(CLAIMED, voters=voters("n1 n2", 2))) is not None
    assert may_follow(RECRUITING, after(RECRUITING, voters=anew(other).voters)) is not None


def test_claims_are_merged_and_never_changed() -> None:
    opened = msgspec.structs.replace(CLAIM, opened=True)
    assert merge_records((CLAIM,), (RECORD, opened)) == (RECORD, opened)
    assert merge_records((RECORD, opened), (CLAIM,)) == (RECORD, opened)
    foreign = msgspec.structs.replace(CLAIM, epoch=Epoch(9))
    assert merge_records((CLAIM,), (foreign,)) == (CLAIM,)
