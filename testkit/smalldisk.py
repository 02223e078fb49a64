"""A directory of a cluster on a file system of its own that is small and can be filled.

A tmpfs in a mount namespace of the test's thread, which every process it starts inherits; nothing of it is seen elsewhere.
Needs root; NotPossible says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from testkit.not_possible import NotPossible

_CLONE_NEWNS = 0x20000
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def private_mounts() -> Iterator[None]:
    """Give the calling thread mounts that nobody else sees. Raises NotPossible where that is not allowed."""
    if os.geteuid() != 0:
        raise NotPossible("a small file system can be mounted by root only")
    home = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    directory = Path.cwd()
    try:
        if _libc.unshare(_CLONE_NEWNS) != 0:
            raise NotPossible(f"no mount namespace can be made here: {os.strerror(ctypes.get_errno())}")
        _mount("--make-rprivate", "/")
        yield
    finally:
        if _libc.setns(home, _CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "the mount namespace cannot be left")
        os.chdir(directory)
        os.close(home)


class SmallDisk:
    """*path*, an existing directory nobody uses at the moment, moved to a file system of *size_mb* for a `with` block."""

    def __init__(self, path: Path, size_mb: int) -> None:
        self.path = path
        self._aside = path.with_name(f"{path.name}.aside")
        self._size_mb = size_mb
        self._ballast = path / "ballast"

    def __enter__(self) -> SmallDisk:
        self.path.rename(self._aside)
        self.path.mkdir(mode=0o700)
        _mount("-t", "tmpfs", "-o", f"size={self._size_mb}m,mode=0700", "tmpfs", str(self.path))
        for entry in self._aside.iterdir():
            if not entry.is_socket():
                subprocess.run(["cp", "-a", str(entry), str(self.path)], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        # Lazily: whoever still has it open keeps it until it ends.
        subprocess.run(["umount", "-l", str(self.path)], check=True)
        self.path.rmdir()
        self._aside.rename(self.path)

    def fill(self) -> None:
        """Leave not one byte; what is freed meanwhile is taken as well when this is called again."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * (1 << 16)):
                pass

    def free(self) -> None:
        """Let there be room again."""
        self._ballast.unlink(missing_ok=True)

    @property
    def free_bytes(self) -> int:
        """How much room there is."""
        return shutil.disk_usage(self.path).free


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPossible(f"no small file system can be mounted here: {done.stderr.strip()}")
