"""Small files that every program needs at its start, kept in mind so that one that is removed comes back as it was.

Without its token or a password a program would refuse its settings for good, and what runs goes on by the old ones: only the
same content helps.  A file that somebody writes anew is remembered anew.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from daemonkit.durable import write_durably
from daemonkit.logs import get_logger

FILE_BYTES_MAX = 1 << 16


class Keepsakes:
    """The files in *folder* and the others named."""

    def __init__(self, folder: Path, *others: Path) -> None:
        self._folder = folder
        self._others = others
        self._known: dict[Path, tuple[int, bytes]] = {}
        """When each was changed, in nanoseconds, and what it holds."""

    def restore(self) -> None:
        """Remember what is new, and write again what is gone. What the disk refuses is tried again the next time."""
        for path in {*self._known, *self._present()}:
            with contextlib.suppress(OSError):
                try:
                    self._remember(path)
                except FileNotFoundError:
                    self._write(path)

    def _present(self) -> list[Path]:
        try:
            # Hidden ones are beginnings of files that are being written (daemonkit.durable).
            return [*(path for path in self._folder.iterdir() if not path.name.startswith(".")), *self._others]
        except OSError:
            return list(self._others)

    def _remember(self, path: Path) -> None:
        status = path.stat()
        known = self._known.get(path)
        if (known is None or known[0] != status.st_mtime_ns) and path.is_file() and status.st_size <= FILE_BYTES_MAX:
            self._known[path] = status.st_mtime_ns, path.read_bytes()

    def _write(self, path: Path) -> None:
        if path in self._known:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(path, self._known[path][1])
            get_logger().warning("a file that programs need was gone and is there again", path=str(path))
