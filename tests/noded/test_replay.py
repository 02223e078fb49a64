"""When the end of local WAL is known, and when a server is asked no longer (S6)."""

from __future__ import annotations

import pytest

from noded.acts.effects import Sample, Unanswered
from noded.acts.fence import CONFLICT_CHECK_EVERY, REFUSED_S, RESCANNED_S, SILENT_S, Replay, Unknown
from pgtopology.lsn import Lsn
from pgtopology.node import Position
from pgtopology.timeline import Timeline


def sample(*, replayed: int = 900, received: int = 0, at_end: bool = True, standby: bool = True) -> Sample:
    return Sample(standby=standby, timeline=Timeline(3), lsn=Lsn(900), received=received, replayed=Lsn(replayed), at_end=at_end)


END = Position(timeline=Timeline(3), lsn=Lsn(900), replayed_lsn=Lsn(900))


def test_the_end_is_known_when_the_startup_process_waits_for_more_and_everything_is_replayed() -> None:
    assert Replay().sampled(sample(), 1.0) == END
    assert Replay().sampled(sample(received=900), 1.0) == END


def test_while_wal_is_replayed_nothing_is_known() -> None:
    replay = Replay()
    assert replay.sampled(sample(at_end=False), 1.0) is None
    assert "being replayed" in replay.reason


def test_what_never_came_whole_is_waited_for_until_it_was_looked_for_again() -> None:
    replay = Replay()
    assert replay.sampled(sample(received=950), 1.0) is None
    assert replay.sampled(sample(received=950), 1.0 + RESCANNED_S / 2) is None
    # Something was replayed meanwhile, so all begins anew.
    assert replay.sampled(sample(replayed=910, received=950), 1.0 + RESCANNED_S) is None
    assert replay.sampled(sample(replayed=910, received=950), 1.0 + 1.5 * RESCANNED_S) is None
    known = replay.sampled(sample(replayed=910, received=950), 1.0 + 2 * RESCANNED_S)
    assert isinstance(known, Position)
    assert known.replayed_lsn == 910


def test_a_server_that_has_replayed_nothing_is_no_server_at_its_end() -> None:
    assert Replay().sampled(sample(replayed=0), 1.0) is None


def test_a_primary_tells_no_position() -> None:
    assert Replay().sampled(sample(standby=False), 1.0) == Unknown("PostgreSQL is not a standby")


@pytest.mark.parametrize(("refuses", "patience_s"), [(True, REFUSED_S), (False, SILENT_S)])
def test_a_server_that_answers_nothing_for_long_is_mute(refuses: bool, patience_s: float) -> None:
    replay, answer = Replay(), Unanswered("no", refuses=refuses)
    assert replay.unanswered(answer, 1.0) is None
    assert replay.sampled(sample(at_end=False), 2.0) is None  # it has answered once
    assert replay.unanswered(answer, 3.0) is None
    assert replay.unanswered(answer, 3.0 + 0.9 * patience_s) is None
    mute = replay.unanswered(answer, 3.0 + patience_s)
    assert mute is not None
    assert mute.mute


def test_who_holds_up_replay_is_ended_at_once_and_now_and_then() -> None:
    replay = Replay()
    due: list[bool] = []
    for _ in range(2 * CONFLICT_CHECK_EVERY):
        replay.sampled(sample(at_end=False), 1.0)
        due.append(replay.is_held_up())
    assert [number for number, is_due in enumerate(due) if is_due] == [0, CONFLICT_CHECK_EVERY]
    replay.sampled(sample(), 2.0)
    assert not replay.is_held_up()
