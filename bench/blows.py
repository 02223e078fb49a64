"""What can be done to the writer's node: kill it, freeze parts of it, or ask it politely.

A blow is struck at one moment and has an undoing, which thaws what it froze.  Knows processes, not what comes of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.cluster import Cluster
from pgtopology.status import NodeStatus


class Blow(StrEnum):
    """The ways to lose a writer."""

    KILL = "kill"
    """SIGKILL to the postmaster."""
    FREEZE_POSTMASTER = "freeze-postmaster"
    """SIGSTOP to the postmaster alone: sessions go on, new connections hang."""
    FREEZE_POSTGRES = "freeze-postgres"
    """SIGSTOP to every process of PostgreSQL."""
    FREEZE_NODE = "freeze-node"
    """SIGSTOP to these and their noded: the node says nothing at all."""
    SWITCHOVER = "switchover"
    """No blow: the planned handover."""


@dataclass(frozen=True, slots=True)
class Struck:
    """A blow that was struck."""

    at: float
    """On the monotonic clock."""
    undo: Callable[[], None]


def strike(blow: Blow, cluster: Cluster, writer: NodeStatus) -> Struck:
    """Strike *blow* at the node *writer*."""
    assert writer.pid is not None
    match blow:
        case Blow.KILL:
            return Struck(cluster.kill_postgres(writer.name), lambda: None)
        case Blow.SWITCHOVER:
            at = time.monotonic()
            cluster.ctl("switchover")
            return Struck(at, lambda: None)
        case Blow.FREEZE_POSTMASTER:
            return _freeze([writer.pid])
        case Blow.FREEZE_POSTGRES:
            return _freeze(_family(writer.pid))
        case Blow.FREEZE_NODE:
            return _freeze([*_family(writer.pid), cluster.pid_of(writer.name)])


def _freeze(pids: list[int]) -> Struck:
    at = time.monotonic()
    for pid in pids:
        _send(pid, signal.SIGSTOP)

    def thaw() -> None:
        for pid in pids:
            _send(pid, signal.SIGCONT)

    return Struck(at, thaw)


def _send(pid: int, number: signal.Signals) -> None:
    # A backend may end between the look and the signal.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _family(postmaster: int) -> list[int]:
    """Return the postmaster and its children."""
    children: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == postmaster:
                children.append(int(stat.parent.name))
    return [postmaster, *children]
