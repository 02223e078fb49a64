"""The process table of Linux, for every program of ours. Source: proc(5).

A process may end at any moment, also between two looks: what is asked of one that is gone is None or empty, never an error.
A table that cannot be read (no descriptor is left, say) proves nothing about anybody and raises OSError.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_GONE = (FileNotFoundError, ProcessLookupError)
_ENDED = frozenset("ZX")
_UNINTERRUPTIBLE = "D"


@dataclass(frozen=True, slots=True)
class Stat:
    """What the kernel knows of a process."""

    state: str
    parent: int
    session: int
    """The pid of its session's leader."""
    cpu_ticks: int
    """Processor time it has used, in user and in system mode."""
    start_ticks: int
    """When it began, since boot: with the pid and the boot it names one process for ever."""

    @property
    def has_ended(self) -> bool:
        """Whether it is a zombie, which waits to be reaped."""
        return self.state in _ENDED

    @property
    def waits_for_disk(self) -> bool:
        """Whether it is in a wait that no signal ends, as for a disk that does not answer."""
        return self.state == _UNINTERRUPTIBLE


def boot_id() -> str:
    """Return the kernel's identifier of this boot, the same in all containers of the machine; empty if it does not say."""
    with contextlib.suppress(OSError, ValueError):
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def pids() -> list[int]:
    """Return every process, zombies included. Raises OSError."""
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 - half the cost of paths


def stat_of(pid: int) -> Stat | None:
    """Return what the kernel knows of *pid*, or None if it is gone. Raises OSError."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except _GONE:
        return None
    # The second field is a name in parentheses, in which anything may stand. From the third on:
    fields = text.rpartition(")")[2].split()
    return Stat(
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        start_ticks=int(fields[19]),
    )


def is_alive(pid: int) -> bool:
    """Return whether *pid* exists and is no zombie. Raises OSError."""
    stat = stat_of(pid)
    return stat is not None and not stat.has_ended


def children(pid: int) -> list[int]:
    """Return the children of *pid*, zombies included; none if it is gone. Raises OSError."""
    try:
        return [int(word) for word in (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except FileNotFoundError:
        if (_PROC / "self" / "task" / str(os.getpid()) / "children").exists():
            return []
    except (ProcessLookupError, PermissionError):
        return []
    # A kernel built without that file: every process is asked for its parent.
    return [other for other in pids() if (stat := stat_of(other)) is not None and stat.parent == pid]


def descendants(pid: int) -> list[int]:
    """Return the children of *pid*, theirs, and so on. Raises OSError."""
    by_parent: dict[int, list[int]] = {}
    for other in pids():
        if (stat := stat_of(other)) is not None:
            by_parent.setdefault(stat.parent, []).append(other)
    found: list[int] = []
    left = [pid]
    while left:
        mine = by_parent.get(left.pop(), [])
        found += mine
        left += mine
    return found


def arguments(pid: int) -> tuple[str, ...]:
    """Return the command line of *pid*; empty for a zombie, or if it is gone or not to be seen by us.

    What is empty at its end is left out: a process that calls itself by a shorter name (proctitle.py) leaves room there.
    """
    try:
        data = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in data.rstrip(b"\0").split(b"\0")) if data else ()


def title(pid: int) -> str | None:
    """Return what *pid* calls itself, an empty text for a zombie, None if it is gone. Raises OSError."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except _GONE:
        return None


def working_directory(pid: int) -> str | None:
    """Return where *pid* works, with " (deleted)" behind it if that is removed; None for a zombie, or if we may not see it."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115 - half the cost of paths
    except OSError:
        return None


def owner(pid: int) -> int | None:
    """Return the user of *pid*, or None if it is gone."""
    try:
        return (_PROC / str(pid)).stat().st_uid
    except OSError:
        return None
