"""How many huge pages the machine would give a server that starts (Linux, Documentation/admin-guide/mm/hugetlbpage.rst).

A second server cannot try it while the first one runs and has its own: what that one gives back is counted instead.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

POOLS = Path("/sys/kernel/mm/hugepages")
MEMINFO = Path("/proc/meminfo")
_OURS = "/anon_hugepage"
"""What the kernel calls such memory in a process's map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The machine's pages of one size."""

    page_kb: int
    free: int
    reserved: int
    """Of those that are free, promised to somebody."""
    surplus: int
    overcommit: int
    """So many the kernel may add; *surplus* is how many of them it has."""

    @property
    def available(self) -> int:
        """How many a program could have, if the kernel finds room for those that it may add."""
        return self.free - self.reserved + max(0, self.overcommit - self.surplus)


def read_pool(page_kb: int, pools: Path = POOLS) -> Pool | None:
    """Return the pages of that size (0: of the machine's usual one), or None if the kernel has none such."""
    with contextlib.suppress(OSError, ValueError):
        page_kb = page_kb or _usual_kb()
        place = pools / f"hugepages-{page_kb}kB"
        free, reserved, surplus, overcommit = (
            int((place / name).read_text())
            for name in ("free_hugepages", "resv_hugepages", "surplus_hugepages", "nr_overcommit_hugepages")
        )
        return Pool(page_kb=page_kb, free=free, reserved=reserved, surplus=surplus, overcommit=overcommit)
    return None


def held_kb(maps: str) -> int:
    """Return how much huge memory a process has by its *maps*, the text of /proc/PID/maps."""
    spans = [line.split(None, 1)[0].split("-") for line in maps.splitlines() if _OURS in line]
    return sum(int(end, 16) - int(begin, 16) for begin, end in spans) >> 10


def lacking(needed: int, pool: Pool | None, held_kb: int) -> str | None:
    """Return what is wanting for a server that needs so many pages and whose former self gives *held_kb* back, or None.

    PostgreSQL says -1 where it cannot have any.
    """
    if pool is None or needed < 0:
        return "the kernel has no huge pages of this size"
    available = pool.available + held_kb // pool.page_kb
    if needed <= available:
        return None
    return f"{needed} huge pages of {pool.page_kb} kB are needed, and the machine has {available} for it (vm.nr_hugepages)"


def _usual_kb() -> int:
    lines = MEMINFO.read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Hugepagesize:")))
