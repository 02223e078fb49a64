"""Looks at status again and again in a thread, and remembers when each node became what; and reads the steps of a failover.

Every answer is the manager's; while none answers every lane says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from bench.timeline import Sample
from pgtopology.node import NodeState
from pgtopology.status import NodeStatus, Status
from testkit.cluster import Cluster

POLL_S = 0.04
ASK_TIMEOUT_S = 0.5
STEPS = ("published", "elected", "promoted", "opened")


class Watcher:
    """Watches from `__enter__` to `__exit__`."""

    def __init__(self, cluster: Cluster, nodes: Sequence[str]) -> None:
        self._cluster = cluster
        self._lanes: dict[str, list[Sample]] = {name: [] for name in nodes}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(5.0)

    @property
    def lanes(self) -> Mapping[str, Sequence[Sample]]:
        """What every node was, and since when."""
        return {name: tuple(samples) for name, samples in self._lanes.items()}

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            asked = time.monotonic()
            try:
                states = _states(self._cluster.status(timeout_s=ASK_TIMEOUT_S))
            except (OSError, ValueError):
                states = {}
            for name, samples in self._lanes.items():
                state = states.get(name, "unknown")
                if not samples or samples[-1].state != state:
                    samples.append(Sample(asked, state))


def _states(status: Status) -> dict[str, str]:
    candidate = status.transition.candidate if status.transition is not None else None

    def state_of(node: NodeStatus) -> str:
        if node.name == status.writer and node.state is NodeState.RUNNING:
            return "writer"
        if node.role == "primary":
            return "promoted" if node.name == candidate else "outdated"
        return str(node.state)

    return {node.name: state_of(node) for node in status.nodes}


def steps(cluster: Cluster, *, after_epoch: int) -> list[tuple[float, str]]:
    """Return when the steps of the failovers after *after_epoch* were taken. Raises OSError.

    The manager's monotonic clock is this machine's.  The steps are written when they are known, and carry their time since the
    detection, which is the time to believe.
    """
    found: list[tuple[float, str]] = []
    written: dict[object, float] = {}
    for event in cluster.events():
        kind = str(event["kind"]).removeprefix("failover.")
        epoch, elapsed_ms, at_ms = event["epoch"], event.get("elapsed_ms"), event["monotonic_ms"]
        if not isinstance(epoch, int) or epoch <= after_epoch or not isinstance(at_ms, int) or not isinstance(elapsed_ms, int):
            continue
        if kind == "published":
            # It is written in the moment it is true, so it tells when the detection was.
            written[epoch] = (at_ms - elapsed_ms) / 1000
            found.append((written[epoch], "detected"))
        if kind in STEPS:
            detected = written.get(epoch)
            found.append((detected + elapsed_ms / 1000 if detected is not None else at_ms / 1000, kind))
    return found
