"""Log files stay bounded, and can be followed over a rotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from endpointctl.local import logfiles
from endpointctl.local.logfiles import Follower, last_lines, rotate


def test_a_grown_file_is_kept_aside_and_emptied_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles, "FILE_BYTES_MAX", 10)
    path = tmp_path / "x.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old lines enough\n")
        assert rotate(path)
        writer.write(b"new\n")
    assert path.read_text() == "new\n"
    assert (tmp_path / "x.log.1").read_text() == "old lines enough\n"
    assert not rotate(path)


def test_a_missing_file_is_no_reason_to_stop(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "none.log")
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
