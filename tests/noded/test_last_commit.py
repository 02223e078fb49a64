"""How long ago a writer that was stopped in good order was acknowledged its last commit."""

from __future__ import annotations

import pytest

from noded.law.promise import Left
from pgtopology.epoch import Epoch


@pytest.mark.parametrize(
    ("boot", "age_ms"), [("b1", 15_000), ("b2", 20_000), ("", 20_000)], ids=["one boot", "another boot", "no boot known"]
)
def test_how_long_ago_a_writer_was_left_is_told_by_one_clock_if_there_is_one(boot: str, age_ms: int) -> None:
    left = Left(Epoch(4), "b1", 1_000, 5_000)
    assert left.age_ms(boot=boot, monotonic_ms=16_000, wall_ms=25_000) == age_ms
    assert left.age_ms(boot=boot, monotonic_ms=0, wall_ms=0) == 0
