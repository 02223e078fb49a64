"""A plan looks again just when silence begins to count, seldom while all is well, and often while something is under way."""

from __future__ import annotations

import pytest

from cluster_manager.decision.plan import BUSY_WAKE_MS, CALM_WAKE_MS, REST_WAKE_MS, decide
from tests.cluster_manager.decision.storyboard import read_view


def wait_ms(story: str) -> float:
    """Return how long the plan for *story* rests."""
    view = read_view(story)
    return decide(view).wake_at_ms - view.now_ms


def test_a_cluster_at_rest_is_looked_at_seldom_and_words_that_say_nothing_wake_nobody() -> None:
    assert decide(read_view("")).is_restful
    assert wait_ms("") == REST_WAKE_MS


def test_a_cluster_with_something_to_do_hears_every_word() -> None:
    plan = decide(read_view("node n3 age=900"))
    assert not plan.is_restful


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ("node n1 age=290", 10),  # until its word is stale
        ("node n1 age=560\nnode n2 advanced=560\nnode n3 advanced=570", 30),  # until others miss it, too
        ("node n1 age=450\nnode n2 advanced=450\nnode n3 advanced=450", CALM_WAKE_MS),
        ("node n1 age=900 port=answers\nnode n2 advanced=900\nnode n3 advanced=900", CALM_WAKE_MS),
    ],
)
def test_the_moment_at_which_silence_counts_is_not_missed(story: str, expected: float) -> None:
    assert wait_ms(story) == expected


def test_a_transition_is_followed_closely() -> None:
    assert wait_ms("transition failover recruiting from=n1 cause=PRIMARY_FAILED") == BUSY_WAKE_MS
