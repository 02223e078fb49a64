"""What the programs of an idle cluster cost: processor time and memory of each, read from /proc."""

from __future__ import annotations

import time
from dataclasses import dataclass

from testkit.cluster import Cluster
from testkit.processes import cpu_s, resident_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One program."""

    program: str
    cpu_percent: float
    """Of one core."""
    resident_bytes: int


def measure(cluster: Cluster, seconds: float) -> list[Cost]:
    """Watch the programs of *cluster*, on which nobody works and at which nobody looks, for *seconds*."""
    names = ["cluster_manager", "endpointd", *sorted(node.name for node in cluster.wait_healthy().nodes)]
    pids = {name: cluster.pid_of(name) for name in names}
    begun = time.monotonic()
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    passed_s = time.monotonic() - begun
    return [
        Cost(
            program=name,
            cpu_percent=(cpu_s(pid) - before[name]) / passed_s * 100.0,
            resident_bytes=resident_bytes(pid),
        )
        for name, pid in pids.items()
    ]
