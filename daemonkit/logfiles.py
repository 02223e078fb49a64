"""Reading log files: their last lines, and what is added to them from now on, also over a rotation."""

from __future__ import annotations

import os
from pathlib import Path


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
