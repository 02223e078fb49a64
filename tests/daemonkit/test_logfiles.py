"""Log files are read from their ends, and can be followed over a rotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemonkit.logfiles import Follower, last_lines


def test_a_missing_file_is_no_reason_to_stop(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none.log", 5) == []
    assert Follower(tmp_path / "none.log").new_lines() == []


@pytest.mark.parametrize(("count", "expected"), [(0, []), (2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_the_last_lines_are_the_last(tmp_path: Path, count: int, expected: list[str]) -> None:
    path = tmp_path / "x.log"
    path.write_text("a\nb\nc\n")
    assert last_lines(path, count) == expected


def test_of_a_long_file_only_whole_lines_of_its_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    assert last_lines(path, 1000, bytes_max=15) == ["line 999"]


def test_following_gives_complete_lines_only_and_survives_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("past\n")
    follower = Follower(path)
    with path.open("a") as writer:
        writer.write("one\ntw")
        writer.flush()
        assert follower.new_lines() == ["one"]
        writer.write("o\n")
        writer.flush()
        assert follower.new_lines() == ["two"]
    path.write_text("three\n")
    assert follower.new_lines() == ["three"]
