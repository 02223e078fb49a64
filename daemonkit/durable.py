"""Files that survive a power failure.

A file is replaced as a whole: written beside its final place, fsynced, renamed over it, and the directory fsynced, in this
order.  A reader therefore finds the old contents or the new ones, never a mixture; and when write_durably has returned, it
finds the new ones even after a crash.  An fsync that failed is never tried again on the same file, because the kernel may
have dropped the pages it could not write: the new file is thrown away and the error goes to the caller.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace *path* with *data*; it is on disk when this returns.

    Raises OSError. The old contents then still stand, except when the last step, the fsync of the directory, failed: then
    the new ones stand, but may not survive a crash.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    renamed = False
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        renamed = True
    finally:
        if not renamed:
            Path(name).unlink(missing_ok=True)
    fsync_dir(path.parent)


def fsync_dir(path: Path) -> None:
    """Make the names in directory *path* durable: files created, renamed or removed there. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_or_none(path: Path) -> bytes | None:
    """Return the contents of *path*, or None if there is no such file. Raises OSError for every other failure."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
