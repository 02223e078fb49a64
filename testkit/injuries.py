"""Every way to hurt a local cluster by signals: one catalogue of what may be hit, and how.

Knows processes, not what comes of it.  Disks are hurt in `smalldisk` and, where it is more than
full, `bench.faults.disks`; networks in `testkit.namespaces`; by SQL, in `bench.faults.tenants` and `tests.hostile`.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pgtopology.status import NodeStatus
from testkit.cluster import Cluster
from testkit.processes import command, send_all, stop, top_down


class Part(StrEnum):
    """What may be hit."""

    POSTMASTER = "postmaster"
    """A node's postmaster alone: sessions go on, new connections hang or are refused."""
    POSTGRES = "postgres"
    """Every process of a node's PostgreSQL."""
    NODED = "noded"
    """A node's noded; its PostgreSQL lives."""
    NODE = "node"
    """A node's noded and PostgreSQL: frozen it says nothing at all, like a machine that has gone."""
    SESSION = "session"
    """One session of a client on this machine: PostgreSQL would restart in place and show commits that nobody has."""
    WALSENDERS = "walsenders"
    """Those that stream to a node's replicas: what is committed from now on waits, and stays on this node alone."""
    STARTUP = "startup"
    """The process of a replica that replays: its receiver cannot be told to stop."""
    MANAGER = "manager"
    PROXY = "proxy"
    SUPERVISOR = "supervisor"


PROGRAMS = {Part.MANAGER: "cluster_manager", Part.PROXY: "endpointd", Part.SUPERVISOR: "supervisor"}
"""The parts of which a cluster has one, and what they are called where pids are written down."""
_TITLES = {
    Part.SESSION: "postgres postgres 127.0.0.1",
    Part.WALSENDERS: "walsender ",
    Part.STARTUP: "startup",
}


class Harm(StrEnum):
    """What may be done to it."""

    KILL = "kill"
    FREEZE = "freeze"
    """SIGSTOP, until it is undone."""


@dataclass(frozen=True, slots=True)
class Injury:
    """One harm to one part."""

    harm: Harm
    part: Part

    def __str__(self) -> str:
        return f"{self.harm}-{self.part}"


INJURIES = {str(injury): injury for injury in (Injury(harm, part) for harm in Harm for part in Part)}


@dataclass(frozen=True, slots=True)
class Struck:
    """An injury that was inflicted."""

    at: float
    """On the monotonic clock."""
    undo: Callable[[], None] = lambda: None


def pids_of(cluster: Cluster, part: Part, node: NodeStatus | None = None) -> Iterator[int]:
    """Yield the processes of *part*, of *node* where a node has it, parents first; none of what does not run.

    Each is yielded before its children are looked for: whoever is frozen as it comes starts no further one.
    """
    if node is None or part in PROGRAMS:
        assert part in PROGRAMS, f"{part} is a part of a node"
        yield from _program(cluster, PROGRAMS[part])
        return
    noded, postmaster = _program(cluster, node.name), [node.pid] if cluster.owns(node.pid) else []
    match part:
        case Part.NODED:
            yield from noded
        case Part.POSTMASTER:
            yield from postmaster
        case Part.POSTGRES:
            yield from itertools.chain.from_iterable(map(top_down, postmaster))
        case Part.NODE:
            # The one may be a child of the other.
            seen: set[int] = set()
            for pid in itertools.chain.from_iterable(map(top_down, (*noded, *postmaster))):
                if pid not in seen:
                    seen.add(pid)
                    yield pid
        case _:
            found = [pid for pid in itertools.chain.from_iterable(map(top_down, postmaster)) if _TITLES[part] in command(pid)]
            yield from found[:1] if part is Part.SESSION else found


def inflict(injury: Injury, cluster: Cluster, node: NodeStatus | None = None) -> Struck:
    """Inflict *injury* on *cluster*, on *node* where a node has the part."""
    at = time.monotonic()
    pids = pids_of(cluster, injury.part, node)
    if injury.harm is Harm.FREEZE:
        return Struck(at, stop(pids))
    send_all(list(pids), signal.SIGKILL)
    return Struck(at)


def kill(cluster: Cluster, part: Part, node: NodeStatus | None = None) -> None:
    """SIGKILL to *part*."""
    inflict(Injury(Harm.KILL, part), cluster, node)


@contextlib.contextmanager
def frozen(cluster: Cluster, part: Part, node: NodeStatus | None = None) -> Iterator[None]:
    """Keep *part* stopped for a while."""
    struck = inflict(Injury(Harm.FREEZE, part), cluster, node)
    try:
        yield
    finally:
        struck.undo()


def _program(cluster: Cluster, name: str) -> list[int]:
    """Return the pid of a program, if it runs."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        pid = cluster.pid_of(name)
        if cluster.owns(pid):
            return [pid]
    return []
