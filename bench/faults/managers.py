"""What may befall the manager: gone for a while, killed at each step of a failover, or frozen in the middle of one."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.faults.fault import Arena, Missed
from supervisor.patience import SETTLED_S
from testkit.injuries import Part
from testkit.processes import age_s, send

PHASES = ("detected", "published", "elected", "promoted", "repointed", "opened")
AWAY_S = 60.0
"""Long enough for anything that leans on a manager to give way."""


@contextlib.contextmanager
def no_manager(arena: Arena) -> Iterator[None]:
    """No manager for a while, and a replica restarts meanwhile."""
    arena.strikes()
    arena.cluster.program("stop", "cluster_manager")
    try:
        _without_manager(arena, AWAY_S / 3)
        arena.kill(Part.POSTGRES, arena.replicas[0])
        _without_manager(arena, AWAY_S * 2 / 3)
    finally:
        arena.cluster.program("start", "cluster_manager")
    yield


def _without_manager(arena: Arena, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            arena.crew.wait_for_more(20, timeout_s=20.0)
        except TimeoutError as error:
            raise Missed(f"writes stopped without a manager: {error}") from error


def kill_manager_at(phase: str) -> Callable[[Arena], contextlib.AbstractContextManager[None]]:
    """Return the fault that kills the writer, and the manager as soon as it has written *phase* of the failover."""

    @contextlib.contextmanager
    def strike(arena: Arena) -> Iterator[None]:
        journal = arena.cluster.data_dir / "manager" / "journal.jsonl"
        manager = arena.cluster.pid_of("cluster_manager")
        # One that dies again and again is started again with growing pauses: that is another fault.
        while age_s(manager) < SETTLED_S:
            time.sleep(0.5)
        offset = journal.stat().st_size
        arena.strikes()
        arena.kill(Part.POSTGRES)
        if _wait_for_event(journal, offset, f"failover.{phase}", timeout_s=20.0):
            send(manager, signal.SIGKILL)
        else:
            raise Missed(f"the manager never came to {phase}")
        yield

    return strike


def _wait_for_event(journal: Path, offset: int, kind: str, *, timeout_s: float) -> bool:
    """Return whether *kind* was written behind *offset* in time; the file is looked at every millisecond."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with journal.open("rb") as file:
            file.seek(offset)
            if any(json.loads(line)["kind"] == kind for line in file.read().split(b"\n")[:-1] if line):
                return True
        time.sleep(0.001)
    return False


@contextlib.contextmanager
def freeze_manager(arena: Arena) -> Iterator[None]:
    """The manager is frozen in the middle of a failover and goes on later with what it knew then."""
    journal = arena.cluster.data_dir / "manager" / "journal.jsonl"
    offset = journal.stat().st_size
    arena.strikes()
    arena.kill(Part.POSTGRES)
    if not _wait_for_event(journal, offset, "failover.published", timeout_s=20.0):
        raise Missed("the manager never published")
    with arena.frozen(Part.MANAGER):
        time.sleep(2.0)
    yield
