"""Log files that stay bounded, whatever is written to them.

Programs write to their files themselves (opened for appending), so that they go on when whoever looks after the files is gone.
A file that has grown is therefore copied aside and cut short in place; a line written in that moment may be lost, nothing
blocks.  A user of SQL can write a gigabyte to one at once: the kernel copies, piece by piece, no more is kept than a limit,
and of what is longer the middle is left out.  Run it in a thread, never on a loop that others wait for.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

FILE_BYTES_MAX = 16 << 20
KEPT_BYTES_MAX = 32 << 20
"""Of the former file. One that is looked at every second or five is seldom longer."""
_PIECE_BYTES = 1 << 20


def rotate(path: Path, *, file_bytes_max: int = FILE_BYTES_MAX, kept_bytes_max: int = KEPT_BYTES_MAX) -> bool:
    """Keep the contents of *path* as NAME.1 and empty it if it has grown too large; return whether it was done.

    What cannot be kept, on a full disk, stays where it is until it is longer than what would be kept, and is then given up.
    """
    # A file that is gone, or a disk that refuses: the next turn tries again, and programs must not suffer for their logs.
    try:
        size = path.stat().st_size
        if size <= file_bytes_max or (not _keep(path, size, kept_bytes_max) and size <= kept_bytes_max):
            return False
        os.truncate(path, 0)
    except OSError:
        return False
    return True


def _keep(path: Path, size: int, kept_bytes_max: int) -> bool:
    """Copy *size* bytes of *path* beside it, without their middle if they are too many; return whether there was room."""
    kept = path.with_name(path.name + ".1")
    half = kept_bytes_max // 2
    try:
        with path.open("rb", buffering=0) as source, kept.open("wb", buffering=0) as target:
            if size <= kept_bytes_max:
                _copy(source.fileno(), target.fileno(), 0, size)
            else:
                _copy(source.fileno(), target.fileno(), 0, half)
                target.write(f"\n... {size - 2 * half} bytes were left out here ...\n".encode())
                _copy(source.fileno(), target.fileno(), size - half, half)
    except OSError:
        with contextlib.suppress(OSError):
            kept.unlink()  # half of it is no help, and takes the room that is missing
        return False
    return True


def _copy(source: int, target: int, begin: int, count: int) -> None:
    while count > 0:
        copied = os.sendfile(target, source, begin, min(count, _PIECE_BYTES))
        if copied == 0:
            return
        begin += copied
        count -= copied
