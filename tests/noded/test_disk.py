"""Durable writes on a disk that hangs: the loop goes on, and who asks again finds it done."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from msgspec.structs import replace

from noded.law.disk import Disk
from noded.law.durable_state import DurableState
from pgtopology.epoch import Epoch
from pgtopology.node import NodeName

DEADLINE_S = 30.0


class Hang:
    """Work that hangs in the kernel, reading a pipe, until it is let go."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.times = 0

    def __call__(self) -> None:
        os.read(self._read, 1)
        self.times += 1

    def let_go(self) -> None:
        os.write(self._write, b"x")


@pytest.fixture
def hang() -> Generator[Hang]:
    made = Hang()
    yield made
    made.let_go()


def until_written(disk: Disk, path: Path) -> None:
    """Write until the disk answers."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            disk.write(path, b"probe")
        except OSError:
            assert time.monotonic() < deadline
        else:
            return


def test_what_is_done_in_time_is_done_and_its_own_error_is_raised(tmp_path: Path) -> None:
    disk = Disk()
    disk.write(tmp_path / "file", b"1")
    assert (tmp_path / "file").read_bytes() == b"1"
    with pytest.raises(FileNotFoundError):
        disk.write(tmp_path / "no" / "file", b"1")
    disk.write(tmp_path / "file", b"2")
    assert (tmp_path / "file").read_bytes() == b"2"


def test_a_disk_that_hangs_holds_nobody_up_for_longer_than_a_moment(tmp_path: Path, hang: Hang) -> None:
    disk = Disk(patience_s=0.05)
    with pytest.raises(TimeoutError, match="has not completed a write"):
        disk.run(hang)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="has not completed a write"):
            disk.write(tmp_path / "file", b"1")
    assert not (tmp_path / "file").exists()
    hang.let_go()
    until_written(disk, tmp_path / "probe")
    assert not (tmp_path / "file").exists(), "what failed at once is not done later"


def test_who_asks_for_the_same_again_finds_it_done_once(hang: Hang) -> None:
    disk = Disk(patience_s=0.05)
    with pytest.raises(TimeoutError):
        disk.run(hang, key="same")
    with pytest.raises(TimeoutError):
        disk.run(hang, key="same")
    hang.let_go()
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            disk.run(hang, key="same")
        except TimeoutError:
            assert time.monotonic() < deadline
        else:
            break
    assert hang.times == 1
    hang.let_go()
    disk.run(hang, key="same")
    assert hang.times == 2, "what was taken note of once is done anew"


def test_a_state_that_was_given_up_does_not_hold_until_it_is_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = DurableState(path, cluster="c", node=NodeName("n1"), disk=Disk(patience_s=0.0))
    wanted = replace(state.value, promised=Epoch(3))
    seen: list[int] = []
    state.on_change(lambda: seen.append(state.value.promised))
    with pytest.raises(TimeoutError):
        state.store(wanted)
    assert (state.value.promised, seen) == (0, [])
    assert "has not completed" in (state.problem or "")
    deadline = time.monotonic() + DEADLINE_S
    while state.value != wanted:
        assert time.monotonic() < deadline
        try:
            state.store(wanted)
        except TimeoutError:
            assert state.value.promised == 0
    assert (seen, state.problem) == ([3], None)
    assert DurableState(path, cluster="c", node=NodeName("n1")).value == wanted
