"""Listening at a path: takes the place of a socket that nobody listens at any more, and of nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path


def bind_at(path: Path, mode: int) -> socket.socket:
    """Return a socket that is bound at *path*, instead of what is there, for whom *mode* lets connect. Raises OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        path.chmod(mode)
    except OSError:
        listening.close()
        raise
    return listening


def bind_unix(path: Path, mode: int) -> socket.socket:
    """Return a socket that is bound at *path*, for whom *mode* lets connect. Raises OSError, with the path in it."""
    # Nobody may connect before the mode is right, so it gets its name last.
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        _require_free(path)
        listening = bind_at(aside, mode)
        try:
            aside.replace(path)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise OSError(error.errno, f"cannot listen at {path}: {error.strerror or error}") from error
    return listening


def place_of(listening: socket.socket) -> Path:
    """Return where a socket of `bind_unix` is found; the kernel knows the name that it was made under."""
    return Path(str(listening.getsockname())).with_suffix("")


def _require_free(path: Path) -> None:
    """Raise OSError if there is something at *path* that is not ours to replace."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "something is there that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as knocking:
        try:
            knocking.connect(str(path))
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass  # its queue is full
    raise OSError(errno.EADDRINUSE, "another program listens there")
