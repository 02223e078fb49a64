"""How long a program that ended waits for its next start, and how long a start may be silent."""

from __future__ import annotations

from itertools import accumulate

from supervisor.patience import (
    FIRST_PAUSE_S,
    PATIENCE_ROUNDS,
    PAUSE_MAX_AFTER_SERVING_S,
    PAUSE_MAX_S,
    SERVED_S,
    SETTLED_S,
    START_PATIENCE_ROUNDS,
    START_PATIENCE_ROUNDS_MAX,
    pause_after,
    start_patience_rounds,
)


def pauses(*lived_s: float) -> list[float]:
    """Return the pauses of a program that lived so long each time."""
    return list(accumulate(lived_s, lambda before_s, one_s: pause_after(one_s, before_s), initial=0.0))[1:]


def test_the_first_restart_is_at_once_and_a_program_that_cannot_live_is_tried_ever_more_rarely() -> None:
    assert pauses(0.0, 0.2, 0.0) == [FIRST_PAUSE_S, FIRST_PAUSE_S * 2, FIRST_PAUSE_S * 4]
    assert pauses(*[0.1] * 20)[-1] == PAUSE_MAX_S


def test_a_program_that_is_killed_again_and_again_is_back_soon() -> None:
    assert max(pauses(*[SERVED_S] * 20)) == PAUSE_MAX_AFTER_SERVING_S
    # Even if it could not be started for a while in between.
    assert pauses(*[0.0] * 20, SERVED_S)[-1] == PAUSE_MAX_AFTER_SERVING_S


def test_a_long_life_is_a_new_beginning() -> None:
    assert pauses(*[0.0] * 20, SETTLED_S + 1)[-1] == FIRST_PAUSE_S


def test_a_start_may_be_silent_for_longer_than_a_program_at_work_and_not_for_ever() -> None:
    patience = [start_patience_rounds(mute_starts) for mute_starts in range(2000)]
    assert PATIENCE_ROUNDS < patience[0] == START_PATIENCE_ROUNDS < patience[1]
    assert patience == sorted(patience)
    assert patience[-1] == START_PATIENCE_ROUNDS_MAX
