"""Pauses between attempts: the first is free, each later one is twice as long, up to a limit, until one succeeds."""

from __future__ import annotations

from noded.law.backoff import Backoff


def test_pauses_double_up_to_a_limit_and_are_forgotten() -> None:
    backoff = Backoff(first_s=0.5, max_s=3.0, free=1)
    pauses: list[float] = []
    for now in (10.0, 20.0, 30.0, 40.0, 50.0, 60.0):
        backoff.failed(now, f"at {now:.0f}")
        pauses.append(backoff.left_s(now))
    assert pauses == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert (backoff.failures, backoff.reason) == (6, "at 60")
    assert backoff.left_s(62.0) == 1.0
    assert backoff.left_s(100.0) == 0.0
    backoff.forget()
    assert (backoff.failures, backoff.reason, backoff.left_s(60.0)) == (0, "", 0.0)


def test_very_many_failures_do_no_harm() -> None:
    backoff = Backoff(first_s=1.0, max_s=60.0)
    for _ in range(5000):
        backoff.failed(0.0, "again")
    assert backoff.left_s(0.0) == 60.0
