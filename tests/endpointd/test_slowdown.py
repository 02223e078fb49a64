"""How long the answer to a wrong password waits."""

from __future__ import annotations

import pytest

from endpointd.auth.slowdown import ADDRESSES_MAX, FORGIVEN_S, FREE, MOST_S, Slowdown


def test_the_first_failures_cost_nothing_and_each_after_them_twice_the_one_before() -> None:
    slowdown = Slowdown()
    waits = [slowdown.failed("10.0.0.1", now=0.0) for _ in range(FREE + 8)]
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE : FREE + 3] == [0.1, 0.2, 0.4]
    assert waits[-1] == MOST_S


def test_who_does_not_wait_for_the_answer_waits_when_it_comes_again() -> None:
    slowdown = Slowdown()
    for _ in range(FREE):
        slowdown.failed("10.0.0.1", now=0.0)
    assert slowdown.left_s("10.0.0.1", now=0.0) == 0.0
    assert slowdown.failed("10.0.0.1", now=0.0) == 0.1
    assert slowdown.left_s("10.0.0.1", now=0.04) == pytest.approx(0.06)
    assert slowdown.left_s("10.0.0.2", now=0.04) == slowdown.left_s("10.0.0.1", now=0.1) == 0.0


def test_an_address_pays_for_itself_alone_and_is_forgiven() -> None:
    slowdown = Slowdown()
    for _ in range(FREE + 1):
        slowdown.failed("10.0.0.1", now=0.0)
    assert slowdown.failed("10.0.0.2", now=0.0) == 0.0
    assert slowdown.failed("10.0.0.1", now=FORGIVEN_S) == 0.0


def test_so_many_addresses_are_remembered_and_no_more() -> None:
    slowdown = Slowdown()
    for number in range(ADDRESSES_MAX + 10):
        slowdown.failed(str(number), now=0.0)
    assert len(slowdown) == ADDRESSES_MAX
