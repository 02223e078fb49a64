"""What can be done to the writer's node: kill it, freeze parts of it, or ask it politely.

A blow is struck at one moment and has an undoing, which thaws what it froze.  Knows processes, not what comes of it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pgtopology.status import NodeStatus
from testkit.cluster import Cluster
from testkit.processes import family, send_all


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
            return _freeze(family(writer.pid))
        case Blow.FREEZE_NODE:
            return _freeze([*family(writer.pid), cluster.pid_of(writer.name)])


def _freeze(pids: list[int]) -> Struck:
    at = time.monotonic()
    send_all(pids, signal.SIGSTOP)
    return Struck(at, lambda: send_all(pids, signal.SIGCONT))
