"""Log files that stay bounded.

Programs write to their files themselves (opened for appending), so that they go on when the supervisor is dead.  A file that
has grown is therefore copied aside and truncated in place; a line written in that moment may be lost, nothing blocks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FILE_BYTES_MAX = 16 << 20


def rotate(path: Path) -> bool:
    """Keep the contents of *path* as NAME.1 and empty it if it has grown too large; return whether it was done."""
    try:
        if path.stat().st_size <= FILE_BYTES_MAX:
            return False
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)
    except OSError:
        # A full disk or a file that is gone: the next turn tries again, and programs must not suffer for their logs.
        return False
    return True


def last_lines(path: Path, count: int, *, bytes_max: int = 1 << 20) -> list[str]:
    """Return at most *count* last lines of *path*, read from its last *bytes_max* bytes; empty if there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - bytes_max)
            file.seek(start)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    whole = lines[1:] if start else lines
    return whole[-count:] if count else []


class Follower:
    """Reads what is added to a log file from now on, also over its rotation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        try:
            self._offset = path.stat().st_size
        except OSError:
            self._offset = 0

    def new_lines(self) -> list[str]:
        """Return the complete lines that were added since the last call."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                data = file.read(1 << 20)
        except OSError:
            return []
        self._offset += len(data)
        *complete, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in complete]
