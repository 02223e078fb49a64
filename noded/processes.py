"""The process table, as far as a node needs it: who belongs to this data directory, and what they say they do.

PostgreSQL's own views are not enough: pg_stat_wal_receiver hides a receiver that is still connecting (S2), and a dead
postmaster answers nothing while its backends live on.  Linux's /proc is read; PostgreSQL names its processes there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_PROC = Path("/proc")
_RECEIVER = re.compile(r"postgres: (\S+: )?walreceiver\b")
_STREAMING = re.compile(_RECEIVER.pattern + " streaming ")
_SYNCHRONISER = re.compile(r"postgres: (\S+: )?slotsync worker\b")
_TOOLS = (b"pg_basebackup", b"pg_rewind", b"initdb", b"postgres", b"unshare")


def children(pid: int) -> list[int]:
    """Return the children of *pid*, zombies included; none if it is gone."""
    try:
        return [int(word) for word in (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except FileNotFoundError:
        if (_PROC / "self" / "task" / str(os.getpid()) / "children").exists():
            return []
    except (ProcessLookupError, PermissionError):
        return []
    # A kernel built without that file: every process is asked for its parent.
    return [other for other in _all_pids() if (stat := _stat(other)) is not None and stat[1] == pid]


def title(pid: int) -> str | None:
    """Return what *pid* calls itself, an empty text for a zombie, None if it is gone."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_alive(pid: int) -> bool:
    """Return whether *pid* exists and is no zombie."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def is_zombie(pid: int) -> bool:
    """Return whether *pid* has ended and waits to be reaped."""
    stat = _stat(pid)
    return stat is not None and stat[0] == "Z"


def start_time(pid: int) -> int | None:
    """Return when *pid* began, in the kernel's ticks: with the pid it names one process for ever. None if it is gone."""
    stat = _stat(pid)
    return stat[2] if stat is not None else None


def members(pgdata: Path) -> list[int]:
    """Return every living process that works in *pgdata*: a postmaster, its children and its orphans.

    They all keep it as their working directory. Zombies have none and are not returned.
    """
    wanted = os.path.realpath(pgdata)
    deleted = wanted + " (deleted)"
    return [pid for pid in _all_pids() if _cwd(pid) in (wanted, deleted)]


def tools_on(path: Path) -> list[int]:
    """Return every process of a PostgreSQL tool that was given *path* as an argument: what a killed noded left at work."""
    found: list[int] = []
    for pid in _all_pids():
        try:
            words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(path) in words[1:] and words[0].rpartition(b"/")[2] in _TOOLS:
            found.append(pid)
    return found


def receivers(postmaster: int) -> list[int]:
    """Return the children of *postmaster* that call themselves WAL receivers."""
    return [pid for pid in children(postmaster) if _RECEIVER.match(title(pid) or "")]


def slot_synchronisers(postmaster: int) -> list[int]:
    """Return the children of *postmaster* that keep its logical slots in step with its upstream's, from PostgreSQL 17 on."""
    return [pid for pid in children(postmaster) if _SYNCHRONISER.match(title(pid) or "")]


def is_streaming(receiver: int) -> bool:
    """Return whether the WAL receiver says that it has written what it was sent."""
    return _STREAMING.match(title(receiver) or "") is not None


def possible_receivers(postmaster: int) -> list[int]:
    """Return the children of *postmaster* that are WAL receivers, or too young to say what they are (S2).

    A child carries the postmaster's own command line until it has named itself.
    """
    found: list[int] = []
    for pid in children(postmaster):
        text = title(pid)
        if text and (_RECEIVER.match(text) or not text.startswith("postgres: ")):
            found.append(pid)
    return found


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 - half the cost of paths


def _cwd(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115 - half the cost of paths
    except OSError:
        return None


def _stat(pid: int) -> tuple[str, int, int] | None:
    """Return state, parent and start time of *pid*."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])
