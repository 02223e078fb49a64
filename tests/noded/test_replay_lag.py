"""How long WAL waits for its replay, told from what a standby says now and then."""

from __future__ import annotations

import pytest

from noded.report.heartbeat import INTERVAL_S
from noded.report.replay_lag import Backlog


def test_whoever_has_replayed_everything_is_not_late_however_long_nothing_came() -> None:
    backlog = Backlog()
    assert backlog.note(0.0, 100, 100, 0.177) == 0
    assert backlog.note(60.0, 100, 100, 60.177) == 0
    assert backlog.note(60.2, 200, 200, 0.177) == 0


def test_the_age_of_the_oldest_piece_counts_from_its_arrival() -> None:
    backlog = Backlog()
    backlog.note(0.0, 100, 100, 0.0)
    assert backlog.note(0.2, 200, 100, 0.005) == pytest.approx(0.005)
    assert backlog.note(0.4, 300, 100, 0.005) == pytest.approx(0.205)
    assert backlog.note(13.0, 400, 100, 0.005) == pytest.approx(12.805)
    assert backlog.waits


def test_replay_that_goes_on_is_as_late_as_what_still_waits() -> None:
    backlog = Backlog()
    backlog.note(0.0, 100, 100, 0.0)
    for beat in range(1, 6):
        backlog.note(beat * INTERVAL_S, 100 + beat * 100, 100, 0.0)
    assert backlog.note(1.1, 600, 350, 0.1) == pytest.approx(1.1 - 3 * INTERVAL_S)
    assert backlog.note(1.15, 600, 600, 0.15) == pytest.approx(1.15 - 5 * INTERVAL_S), "the last one waited so long"
    assert backlog.note(1.2, 600, 600, 0.2) == 0


def test_a_steady_delay_is_shown_and_not_the_time_between_two_heartbeats() -> None:
    backlog = Backlog()
    backlog.note(0.0, 0, 0, 0.0)
    seen: list[float] = []
    for beat in range(1, 20):
        came = beat * INTERVAL_S
        for step_s in (0.005, 0.01, 0.02, 0.04, 0.08):
            replayed = beat if step_s >= 0.08 else beat - 1
            seen.append(backlog.note(came + step_s, beat, replayed, step_s))
    assert max(seen) == pytest.approx(0.08)


def test_what_came_between_two_questions_is_no_older_than_the_first_of_them() -> None:
    backlog = Backlog()
    backlog.note(0.0, 100, 100, 0.0)
    assert backlog.note(0.1, 200, 100, 5.0) == pytest.approx(0.1)


def test_another_history_begins_anew() -> None:
    backlog = Backlog()
    backlog.note(0.0, 100, 100, 0.0)
    assert backlog.note(9.0, 900, 100, 8.0) == pytest.approx(8.0)
    assert backlog.note(9.1, 300, 300, 0.0) == 0
    assert not backlog.waits


def test_a_long_pause_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noded.report.replay_lag.PIECES_MAX", 10)
    backlog = Backlog()
    backlog.note(0.0, 0, 0, 0.0)
    for beat in range(1, 100):
        assert backlog.note(float(beat), beat, 0, 0.0) == pytest.approx(beat - 1)
    assert backlog.note(100.0, 99, 99, 1.0) == pytest.approx(1.0)
