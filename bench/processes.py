"""Looks into the process table and signals what it finds: families, commands, freezing and thawing.

A process may end between the look and the signal; that is never an error.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path


def send(pid: int, number: signal.Signals) -> None:
    """Signal one process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def send_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal every one of *pids*, in their order."""
    for pid in pids:
        send(pid, number)


@contextlib.contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Keep *pids* stopped for a while."""
    stopped = list(pids)
    send_all(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        send_all(stopped, signal.SIGCONT)


def descendants(pid: int) -> list[int]:
    """Return the children of *pid*, theirs, and so on."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    left = [pid]
    while left:
        mine = children.get(left.pop(), [])
        found += mine
        left += mine
    return found


def family(pid: int) -> list[int]:
    """Return *pid* and its descendants."""
    return [pid, *descendants(pid)]


def command(pid: int) -> str:
    """Return the command line of *pid*, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def cpu_s(pid: int) -> float:
    """Return the processor time *pid* has used, in seconds. Raises OSError if it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def age_s(pid: int) -> float:
    """Return how long *pid* has lived, in seconds. Raises OSError if it is gone."""
    begun = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - begun


def resident_bytes(pid: int) -> int:
    """Return the memory *pid* has resident. Raises OSError if it is gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
