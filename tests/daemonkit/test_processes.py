"""Processes found again by record, never mistaken for another one with the same pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from daemonkit.processes import (
    describe_process,
    find_by_command,
    find_recorded,
    pin,
    session_members,
    start_ticks_of,
    write_record,
)
from daemonkit.proctable import arguments
from deployment.local.postmaster import postmaster_of

SLEEPER = "import signal; signal.pause()"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
    _until(lambda: arguments(process.pid) != ())
    yield process
    process.kill()
    process.wait()


def test_a_recorded_process_is_found_and_its_end_is_seen(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record = describe_process("sleeper", sleeper.pid)
    assert record is not None
    write_record(tmp_path / "r", record)
    found = find_recorded(tmp_path / "r")
    assert found is not None
    with found:
        assert not found.has_ended
        found.send(signal.SIGTERM)
        assert found.wait(10.0)
        assert sleeper.wait() == -signal.SIGTERM
        found.send(signal.SIGTERM)


@pytest.mark.parametrize("wrong", [{"start_ticks": 1}, {"boot_id": "another boot"}, {"command": ("vi",)}])
def test_another_process_with_the_same_pid_is_not_ours(sleeper: subprocess.Popen[bytes], wrong: dict[str, object]) -> None:
    record = describe_process("sleeper", sleeper.pid)
    assert record is not None
    assert pin(msgspec.structs.replace(record, **wrong)) is None


def test_a_zombie_counts_as_gone(sleeper: subprocess.Popen[bytes]) -> None:
    record = describe_process("sleeper", sleeper.pid)
    assert record is not None
    pinned = pin(record)
    assert pinned is not None
    with pinned:
        pinned.send(signal.SIGKILL)
        assert pinned.wait(10.0)
        assert start_ticks_of(sleeper.pid) is None
        assert pin(record) is None


def test_a_process_without_a_record_is_found_by_its_command_line(sleeper: subprocess.Popen[bytes]) -> None:
    mark = f"{SLEEPER} # {os.getpid()}"
    other = subprocess.Popen([sys.executable, "-c", mark])
    try:
        _until(lambda: arguments(other.pid) != ())
        found = find_by_command("x", (sys.executable, "-c", mark))
        assert found is not None
        assert found.pid == other.pid
    finally:
        other.kill()
        other.wait()
    assert find_by_command("x", (sys.executable, "-c", mark)) is None


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"name": "n1"}'])
def test_a_damaged_record_finds_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "r").write_bytes(content)
    assert find_recorded(tmp_path / "r") is None


def test_a_session_is_told_without_its_leader(tmp_path: Path) -> None:
    flag = tmp_path / "ready"
    code = (
        "import pathlib, subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]); "
        f"pathlib.Path({str(flag)!r}).write_text(str(child.pid)); child.wait()"
    )
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        _until(lambda: flag.exists() and flag.read_text() != "")
        [member] = session_members(leader.pid)
        assert member == int(flag.read_text())
        os.kill(member, signal.SIGKILL)
    finally:
        leader.kill()
        leader.wait()


def test_a_left_over_postmaster_pid_names_nobody(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    assert postmaster_of(tmp_path) is None
    (tmp_path / "postmaster.pid").write_text(f"{sleeper.pid}\n{tmp_path}\n")
    assert postmaster_of(tmp_path) is None, "its working directory is another"


def test_a_server_in_its_directory_is_found(tmp_path: Path) -> None:
    server = subprocess.Popen([sys.executable, "-c", SLEEPER], cwd=tmp_path)
    try:
        (tmp_path / "postmaster.pid").write_text(f"{server.pid}\n{tmp_path}\n")
        assert postmaster_of(tmp_path) == server.pid
    finally:
        server.kill()
        server.wait()


def test_the_command_line_of_a_process_that_is_gone_is_empty() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert arguments(process.pid) == ()


def _until(is_met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not is_met():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)
