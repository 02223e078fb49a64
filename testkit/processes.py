"""Looks into the process table and signals what it finds: families, commands, freezing and thawing.

A process may end between the look and the signal; that is never an error.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from daemonkit.proctable import Stat, children, stat_of, title


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
    thaw = stop(pids)
    try:
        yield
    finally:
        thaw()


def stop(pids: Iterable[int]) -> Callable[[], None]:
    """SIGSTOP each of *pids* as it comes, and return what lets all of them go on."""
    stopped: list[int] = []
    for pid in pids:
        send(pid, signal.SIGSTOP)
        stopped.append(pid)
    return lambda: send_all(stopped, signal.SIGCONT)


def top_down(pid: int) -> Iterator[int]:
    """Yield *pid*, then its children, theirs, and so on; each before its children are looked for."""
    yield pid
    for child in children(pid):
        yield from top_down(child)


def command(pid: int) -> str:
    """Return the command line of *pid*, empty if it is gone."""
    with contextlib.suppress(OSError):
        return title(pid) or ""
    return ""


def cpu_s(pid: int) -> float:
    """Return the processor time *pid* has used, in seconds. Raises ProcessLookupError if it is gone."""
    return _stat(pid).cpu_ticks / os.sysconf("SC_CLK_TCK")


def run_s(pid: int) -> float:
    """Return how long the threads of *pid* that live have run, in seconds: finer than cpu_s. Raises OSError if it ended."""
    threads = Path(f"/proc/{pid}/task")
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads.iterdir()) / 1e9


def age_s(pid: int) -> float:
    """Return how long *pid* has lived, in seconds. Raises ProcessLookupError if it is gone."""
    begun = _stat(pid).start_ticks / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - begun


def resident_bytes(pid: int) -> int:
    """Return the memory *pid* has resident. Raises OSError if it is gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def proportional_bytes(pid: int) -> int:
    """Return the memory of *pid*, what it shares with others by its part of it (Pss, proc(5)). Raises OSError if it is gone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _stat(pid: int) -> Stat:
    stat = stat_of(pid)
    if stat is None:
        raise ProcessLookupError(pid)
    return stat
