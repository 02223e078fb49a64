"""How long a pool rests."""

from __future__ import annotations

from endpointd.pooling.rest import AT_LIMIT_MAX_S, RETRY_S, Rest


def test_a_server_that_cannot_be_had_is_tried_soon_and_ever_again() -> None:
    rest = Rest()
    for now in (1.0, 2.0, 3.0):
        rest.failed(now, is_at_limit=False)
        assert rest.until == now + RETRY_S
        assert rest.is_failing
    rest.succeeded()
    assert not rest.is_failing


def test_a_limit_of_ones_own_is_tried_less_and_less() -> None:
    rest, now, rests = Rest(), 1.0, list[float]()
    for _ in range(8):
        rest.failed(now, is_at_limit=True)
        rests.append(rest.until - now)
        now = rest.until
    assert rests[:4] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S, 8 * RETRY_S]
    assert rests[-1] == AT_LIMIT_MAX_S
    rest.failed(now, is_at_limit=False)
    assert rest.until == now + RETRY_S


def test_what_fails_together_is_one_failure() -> None:
    rest = Rest()
    for _ in range(10):
        rest.failed(1.0, is_at_limit=True)
    assert rest.until == 1.0 + RETRY_S
    rest.failed(rest.until, is_at_limit=True)
    assert rest.until == 1.0 + 3 * RETRY_S


def test_success_begins_anew() -> None:
    rest, now = Rest(), 1.0
    for _ in range(5):
        rest.failed(now, is_at_limit=True)
        now = rest.until
    rest.succeeded()
    rest.failed(now, is_at_limit=True)
    assert rest.until == now + RETRY_S
