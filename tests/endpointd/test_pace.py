"""How long the clients of an address take for their part of a login, as far as it was seen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from endpointd.servers.pace import ADDRESSES_MAX, Pace


def test_nothing_is_known_of_an_address_that_finished_no_login() -> None:
    pace = Pace()
    pace.learn("a", 0.1)
    assert pace.enough_s("b") is None


def test_the_first_login_tells_the_mean_and_half_of_it_is_taken_for_the_deviation() -> None:
    pace = Pace()
    pace.learn("a", 0.25)
    assert pace.enough_s("a") == 0.25 + 4 * 0.125


@given(st.floats(0.001, 10), st.floats(0.001, 10))
def test_what_is_seen_again_and_again_is_believed(before_s: float, after_s: float) -> None:
    pace = Pace()
    for took_s in (before_s, *[after_s] * 200):
        pace.learn("a", took_s)
    enough_s = pace.enough_s("a")
    assert enough_s is not None
    assert abs(enough_s - after_s) < 0.001


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=50))
def test_it_is_never_less_than_the_quickest(seen_s: list[float]) -> None:
    pace = Pace()
    for took_s in seen_s:
        pace.learn("a", took_s)
    enough_s = pace.enough_s("a")
    assert enough_s is not None
    assert enough_s >= min(seen_s) - 1e-9


def test_the_address_that_finished_none_for_longest_is_forgotten() -> None:
    pace = Pace()
    for number in range(ADDRESSES_MAX):
        pace.learn(str(number), 0.1)
    pace.learn("0", 0.1)
    pace.learn("new", 0.1)
    assert pace.enough_s("0") is not None
    assert pace.enough_s("1") is None
    assert pace.enough_s("2") is not None
