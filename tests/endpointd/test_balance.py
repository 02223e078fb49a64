"""Least connections with two random choices."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from endpointd.routing.balance import choose
from endpointd.routing.table import Backend
from pgtopology.node import Address, NodeName

THREE = tuple(Backend(NodeName(name), Address("h", 1), False) for name in ("n1", "n2", "n3"))


def test_sessions_spread_evenly() -> None:
    draw = Random(7).randrange
    sessions: Counter[str] = Counter()
    for _ in range(3000):
        chosen = choose(THREE, sessions, draw)
        assert chosen is not None
        sessions[chosen.node] += 1
    assert max(sessions.values()) - min(sessions.values()) <= 3


def test_the_emptier_of_two_is_chosen_whichever_is_drawn_first() -> None:
    for first in range(3):
        for second in range(2):
            draws = [first, second]
            chosen = choose(THREE, {"n1": 5, "n2": 1, "n3": 9}, lambda _n, draws=draws: draws.pop(0))
            assert chosen is not None
            drawn = {first, (first + 1 + second) % 3}
            assert len(drawn) == 2
            assert chosen.node == min((THREE[i].node for i in drawn), key=lambda node: {"n1": 5, "n2": 1, "n3": 9}[node])


def test_a_tie_goes_to_the_first_drawn() -> None:
    draws = [1, 0]
    chosen = choose(THREE, {}, lambda _n: draws.pop(0))
    assert chosen is not None
    assert chosen.node == "n2"


@pytest.mark.parametrize(("avoid", "chosen"), [({"n1", "n3"}, "n2"), ({"n1", "n2", "n3"}, None)])
def test_what_is_to_be_avoided_is(avoid: set[str], chosen: str | None) -> None:
    found = choose(THREE, {"n2": 99}, Random(1).randrange, avoid=avoid)
    assert (found.node if found else None) == chosen


def test_of_none_none_is_chosen() -> None:
    assert choose((), {}, Random(1).randrange) is None
