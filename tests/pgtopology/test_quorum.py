"""The arithmetic of safe sets, by brute force over every small cluster, and the text PostgreSQL is given."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtopology.node import Incarnation, NodeName
from pgtopology.quorum import NOBODY, Voter, Voters, majority, make_voters, others_asked, synchronous_standby_names


def cluster(n: int, w: int) -> Voters:
    return make_voters([Voter(NodeName(f"n{i}"), Incarnation(f"{i:04x}")) for i in range(1, n + 1)], w)


SHAPES = [(n, w) for n in range(1, 7) for w in range(1, n + 1)]


@pytest.mark.parametrize(("n", "w"), SHAPES)
def test_every_safe_set_meets_every_set_of_w_copies(n: int, w: int) -> None:
    voters = cluster(n, w)
    for promised in combinations(voters.members, voters.safe_set_size):
        assert voters.is_safe_set(promised)
        for copies in combinations(voters.members, w):
            assert set(promised) & set(copies)


@pytest.mark.parametrize(("n", "w"), SHAPES)
def test_whoever_is_left_out_of_a_safe_set_cannot_acknowledge(n: int, w: int) -> None:
    voters = cluster(n, w)
    for promised in combinations(voters.members, voters.safe_set_size):
        left = [voter for voter in voters.members if voter not in promised]
        for writer in [*left, None]:
            name = writer.name if writer is not None else "elsewhere"
            others = [voter for voter in left if voter is not writer]
            assert len(others) < voters.others_needed(name) or (voters.others_needed(name) == 0 and writer is None)


@pytest.mark.parametrize(("n", "w"), SHAPES)
def test_one_fewer_than_a_safe_set_is_none(n: int, w: int) -> None:
    voters = cluster(n, w)
    assert not voters.is_safe_set(voters.members[: voters.safe_set_size - 1])


def test_a_voter_counts_once_and_only_with_the_recorded_data() -> None:
    voters = cluster(3, 2)
    first, second, _ = voters.members
    wiped = Voter(second.name, Incarnation("ffff"))
    assert not voters.is_safe_set([first, first])
    assert not voters.is_safe_set([first, wiped])
    assert voters.is_safe_set([first, second])


@pytest.mark.parametrize(("members", "w"), [(("n2", "n1"), 1), (("n1", "n1"), 1), (("n1",), 2), (("n1", "n2"), 0)])
def test_voters_that_make_no_sense_are_refused(members: tuple[str, ...], w: int) -> None:
    with pytest.raises(ValueError, match=r"voters must be sorted|w must be"):
        Voters(tuple(Voter(NodeName(name), Incarnation("0001")) for name in members), w)


@given(st.integers(1, 15))
def test_a_majority_is_more_than_half_and_not_one_more_than_needed(n: int) -> None:
    assert majority(n) * 2 > n
    assert (majority(n) - 1) * 2 <= n


def test_the_list_names_everybody_but_the_writer() -> None:
    assert synchronous_standby_names(cluster(3, 2), "n1") == 'ANY 1 ("n2_0002", "n3_0003")'
    assert synchronous_standby_names(cluster(5, 3), "n5") == 'ANY 2 ("n1_0001", "n2_0002", "n3_0003", "n4_0004")'


def test_a_writer_that_is_no_voter_needs_w_of_them() -> None:
    assert synchronous_standby_names(cluster(3, 2), "n9") == 'ANY 2 ("n1_0001", "n2_0002", "n3_0003")'


def test_the_list_is_empty_only_when_the_writers_own_copy_is_enough() -> None:
    assert synchronous_standby_names(cluster(1, 1), "n1") == ""
    assert synchronous_standby_names(None, "n1") == f"ANY 1 ({NOBODY})"


def test_a_list_tells_how_many_it_waits_for() -> None:
    assert others_asked(synchronous_standby_names(cluster(3, 2), "n1")) == 1
    assert others_asked(synchronous_standby_names(cluster(5, 3), "n5")) == 2
    assert others_asked(synchronous_standby_names(cluster(1, 1), "n1")) == 0
    assert others_asked(synchronous_standby_names(None, "n1")) == 0
    assert others_asked("*") == 0
