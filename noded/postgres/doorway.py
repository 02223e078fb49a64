"""The path of PostgreSQL's unix socket, which outlives its own removal.

Somebody who cleans /tmp takes the path away and leaves the socket: PostgreSQL listens on, and nobody finds it, noded neither.
A descriptor of the socket's file, opened while the path was there, leads to it still, and so does a symbolic link to that
descriptor in /proc.  Sources: open(2) on O_PATH, proc(5) on /proc/PID/fd, unix(7).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from daemonkit.logs import get_logger


class Doorway:
    """The path *path* of a socket that somebody else listens on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._inode = 0

    def keep(self) -> None:
        """Remember the socket at the path, or have the path lead to the remembered one. Raises OSError."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._restore()
            return
        if status.st_ino != self._inode:
            self.forget()
            self._descriptor, self._inode = os.open(self.path, os.O_PATH | os.O_CLOEXEC), status.st_ino

    def forget(self) -> None:
        """Whoever listened is gone."""
        descriptor, self._descriptor, self._inode = self._descriptor, None, 0
        if descriptor is not None:
            os.close(descriptor)

    def _restore(self) -> None:
        if self._descriptor is None:
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()  # a link that leads nowhere
        self.path.symlink_to(f"/proc/{os.getpid()}/fd/{self._descriptor}")
        get_logger().warning("the path of PostgreSQL's socket was gone and leads to it again", path=str(self.path))
