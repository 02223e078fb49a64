"""Looks at status all the time, and judges afterwards whether it told the truth.

Pure but for the thread that asks: what was seen is a list, and the judgement compares it with when clients got answers.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pgtopology.status import Status
from testkit.cluster import Cluster

EVERY_S = 0.1
LATE_S = 2.0
"""How long status may still say "healthy" after the last commit."""
EARLY_S = 1.0
"""How long before the first commit it may say so again: clients have to notice."""
STUCK_AFTER_S = 7.0
"""A standstill that lasts so long must have been called stuck, or at risk: 5 s are promised."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What status said."""

    at: float
    """On the monotonic clock."""
    state: str
    diagnosis: str
    at_risk: str | None
    """Also that the crash of a server would not be survived."""
    words: str
    """All that it said of what is not well."""


class Lookout:
    """Looks from `__enter__` to `__exit__`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="lookout", daemon=True)
        self.seen: list[Seen] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def between(self, begin: float, end: float) -> list[Seen]:
        """Return what was seen in that time."""
        return [seen for seen in list(self.seen) if begin <= seen.at <= end]

    def _look(self) -> None:
        while not self._stop.wait(EVERY_S):
            asked = time.monotonic()
            try:
                self.seen.append(seen_in(self._cluster.status(timeout_s=2.0), asked))
            except (OSError, ValueError) as error:
                self.seen.append(Seen(asked, "silent", str(error), None, ""))


def seen_in(status: Status, at: float) -> Seen:
    """Return what *status* says."""
    problems = [f"{node.name}: {node.problem}" for node in status.nodes if node.problem]
    at_risk = status.at_risk
    if at_risk is None and not status.survives.server_crash:
        at_risk = f"a server crash is not survived: {status.survives_because.server_crash}"
    words = [at_risk or "", "" if status.diagnosis == "HEALTHY" else status.reason, *problems, *status.relaxations]
    return Seen(at, status.state, status.diagnosis, at_risk, "; ".join(word for word in words if word))


def lies(seen: Sequence[Seen], acknowledged: Sequence[float]) -> list[str]:
    """Return where *seen* said that all was well, or nothing of a standstill, though no client got an answer."""
    found: list[str] = []
    for begin, end in itertools.pairwise(acknowledged):
        inside = [look for look in seen if begin + LATE_S <= look.at < end]
        if any(look.state == "healthy" for look in inside if look.at < end - EARLY_S):
            found.append(f'status said "healthy" in {end - begin:.1f} s without a commit')
        late = [look for look in inside if look.at >= begin + STUCK_AFTER_S]
        if late and not any(look.state == "stuck" or look.at_risk is not None for look in late):
            last = f"{late[-1].state}: {late[-1].words}"
            found.append(f"status never said stuck nor at_risk in {end - begin:.1f} s without a commit, but {last}")
    return found
