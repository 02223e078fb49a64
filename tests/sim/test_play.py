"""A failover and a handover, word by word, are what their texts say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.play import PLAYS, play

TEXTS = Path(__file__).parent / "plays"


@pytest.mark.parametrize("name", PLAYS)
def test_a_play_goes_as_it_is_written(name: str) -> None:
    """Who wants it otherwise writes it anew: ``python -m tests.sim --play NAME > tests/sim/plays/NAME.txt``."""
    assert play(name) == (TEXTS / f"{name}.txt").read_text()


def test_every_text_is_played() -> None:
    """None is left over."""
    assert {path.stem for path in TEXTS.iterdir()} == set(PLAYS)
