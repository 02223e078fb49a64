"""Durable files and secrets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from daemonkit import durable
from daemonkit.durable import read_or_none, write_durably
from daemonkit.secrets import SecretError, read_secret


def test_a_file_is_replaced_as_a_whole_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_durably(tmp_path / "state", b"", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o644


def test_the_steps_happen_in_the_order_that_survives_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    seen: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        is_dir = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append(f"{'directory' if is_dir else 'file'}, renamed: {path.exists()}")
        real(descriptor)

    monkeypatch.setattr(durable.os, "fsync", fsync)
    write_durably(path, b"x")
    assert seen == ["file, renamed: False", "directory, renamed: True"]


def test_a_failed_fsync_leaves_the_old_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    write_durably(path, b"old")

    def fsync(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_none_and_a_directory_is_an_error(tmp_path: Path) -> None:
    assert read_or_none(tmp_path / "none") is None
    with pytest.raises(IsADirectoryError):
        read_or_none(tmp_path)


def make_secret(path: Path, content: bytes, mode: int = 0o600) -> Path:
    write_durably(path, content, mode)
    return path


def test_a_private_secret_is_read_without_its_line_end(tmp_path: Path) -> None:
    assert read_secret(make_secret(tmp_path / "s", b"abc\n")) == "abc"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_secret_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(SecretError, match=f"mode {mode:04o}.*expected mode 0600"):
        read_secret(make_secret(tmp_path / "s", b"abc", mode))


@pytest.mark.parametrize(
    ("content", "error"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff", "not UTF-8"), (b"x" * 5000, "longer than")]
)
def test_what_is_no_secret_is_refused(tmp_path: Path, content: bytes, error: str) -> None:
    with pytest.raises(SecretError, match=error):
        read_secret(make_secret(tmp_path / "s", content))


def test_a_secret_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="No such file"):
        read_secret(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SecretError, match="not a regular file"):
        read_secret(tmp_path / "pipe")
