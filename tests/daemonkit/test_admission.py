"""Who goes when a listener's strangers are too many, and who stays whatever strangers do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonkit.admission import Admission, Budget, address_group

BUDGET = Budget(strangers_max=4, known_max=2, stranger_s=5.0, hurried_s=1.0)


def test_the_oldest_stranger_of_the_largest_crowd_goes() -> None:
    hall = Admission(BUDGET)
    arrivals = [(1, "quiet"), (2, "crowd"), (3, "crowd"), (4, "crowd")]
    assert all(hall.enter(guest, address, 0.0) == () for guest, address in arrivals)
    assert hall.enter(5, "new", 0.0) == (2,)
    hall.leave(2)
    assert hall.enter(6, "crowd", 0.0) == (3,)


def test_one_address_may_be_given_less_than_all() -> None:
    hall = Admission(replace(BUDGET, strangers_per_address_max=2))
    assert hall.enter(1, "a", 0.0) == hall.enter(2, "a", 0.0) == hall.enter(3, "b", 0.0) == ()
    assert hall.enter(4, "a", 0.0) == (1,)


def test_whoever_is_known_takes_no_stranger_s_place_and_never_goes() -> None:
    hall = Admission(BUDGET)
    hall.enter(1, "a", 0.0)
    assert hall.admit(1)
    assert (hall.strangers, hall.known) == (0, 1)
    victims = [victim for guest in range(2, 100) for victim in hall.enter(guest, "a", 0.0)]
    assert 1 not in victims
    assert hall.admit(99)
    assert not hall.admit(98)
    assert hall.admit(1)
    hall.leave(1)
    assert hall.admit(98)


def test_strangers_have_less_time_when_there_are_many_and_new_time_when_they_were_served() -> None:
    hall = Admission(BUDGET)
    hall.enter(1, "a", 0.0)
    hall.enter(2, "a", 0.1)
    assert hall.overdue(4.9) == ()
    assert hall.overdue(5.05) == (1,)
    hall.renew(1, 5.0)
    assert hall.overdue(5.2) == (2,)
    hall.enter(3, "a", 5.0)
    assert hall.overdue(5.5) == (2,)
    assert hall.overdue(6.0) == (2, 1, 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_there_are_never_more_than_the_budget_says(steps: list[tuple[int, bool]]) -> None:
    hall = Admission(BUDGET)
    for guest, (address, proves) in enumerate(steps):
        for victim in hall.enter(guest, str(address), float(guest)):
            hall.leave(victim)
        if proves:
            hall.admit(guest)
        assert hall.strangers <= BUDGET.strangers_max
        assert hall.known <= BUDGET.known_max


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not an address", "not an address"),
    ],
)
def test_what_counts_as_one_address(host: str, counted: str) -> None:
    assert address_group(host) == counted
