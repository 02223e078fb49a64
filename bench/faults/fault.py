"""One fault as a value: what it does, how it is undone, and what must come of it.

The doing is a context manager on an `Arena`: on entry it strikes, on exit it undoes.  What is expected is data, so that the
table of all faults can be printed, chosen from and tested without a cluster.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pgtopology.status import NodeStatus, Status
from testkit.checks.outcomes import Checked
from testkit.clients.crew import Crew
from testkit.cluster import Cluster
from testkit.injuries import Part, frozen, kill


class Missed(Exception):  # noqa: N818 - a finding, not a failure of ours
    """What was expected did not happen."""


class Stage(StrEnum):
    """On what kind of cluster a fault is played."""

    LOCAL = "local"
    """`endpointctl up`."""
    DISKS = "disks"
    """The same, with one node on a small file system of its own."""
    NETWORK = "network"
    """One network namespace for each program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What must come of a fault. Bounds are for a busy machine; the table shows what it was."""

    moves: bool | None = True
    """Whether there is another epoch with a writer; None: both are allowed."""
    epochs: tuple[int, int] = (1, 1)
    """The least and the most that may be used."""
    outage_s: float | None = 3.0
    """The longest time without an acknowledgement; None: bounded by the fault itself."""
    recovered_s: float | None = None
    """From the undoing to the first acknowledgement, where writes stop until then."""
    healthy_s: float = 60.0
    """From the undoing until all is well."""

    def __str__(self) -> str:
        parts = {True: "writer moves", False: "no failover", None: "either"}[self.moves]
        if self.outage_s is not None:
            parts += f", <= {self.outage_s:g} s"
        if self.recovered_s is not None:
            parts += f", stuck until undone, then <= {self.recovered_s:g} s"
        return parts


@dataclass(slots=True)
class Arena:
    """What a fault may lay hands on, and what it tells of its own doing."""

    cluster: Cluster
    crew: Crew
    before: Status
    """The healthy cluster that is struck."""
    repetition: int = 0
    struck_at: float = 0.0
    undone_at: float = 0.0
    checks: list[Checked] = field(default_factory=list)
    """Of clients that the fault itself made."""
    notes: list[str] = field(default_factory=list)

    def strikes(self) -> None:
        """Note that the fault begins now."""
        self.struck_at = time.monotonic()

    def undoes(self) -> None:
        """Note that the fault ends now."""
        self.undone_at = time.monotonic()

    @property
    def writer(self) -> NodeStatus:
        """The writer that is struck."""
        assert self.before.writer is not None
        return self.cluster.node(self.before.writer, self.before)

    @property
    def replicas(self) -> list[NodeStatus]:
        """The other nodes."""
        return [node for node in self.before.nodes if node.name != self.before.writer]

    def kill(self, part: Part, node: NodeStatus | None = None) -> None:
        """SIGKILL to a part of the writer's node, or of *node*."""
        kill(self.cluster, part, node or self.writer)

    def frozen(self, part: Part, node: NodeStatus | None = None) -> contextlib.AbstractContextManager[None]:
        """Keep a part of the writer's node, or of *node*, stopped for a while."""
        return frozen(self.cluster, part, node or self.writer)

    def stays_stuck(self, seconds: float) -> None:
        """Watch for *seconds* that not one write is acknowledged and nobody is promoted. Raises Missed."""
        epoch = self.before.epoch
        time.sleep(0.3)
        acknowledged = self.crew.acknowledgements
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.1)
            if self.crew.acknowledgements > acknowledged:
                raise Missed("a write was acknowledged while it could not be on two nodes")
            with contextlib.suppress(OSError):
                status = self.cluster.status()
                if status.epoch > epoch and status.writer is not None:
                    raise Missed(f"{status.writer} became the writer without a safe set")

    def goes_on(self, seconds: float) -> None:
        """Watch for *seconds* that writes go on and the writer is the same. Raises Missed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.crew.wait_for_more(20, timeout_s=20.0)
            except TimeoutError as error:
                raise Missed(str(error)) from error
            with contextlib.suppress(OSError):
                status = self.cluster.status()
                if status.epoch != self.before.epoch:
                    raise Missed(f"the epoch became {status.epoch}: {status.reason}")


Strike = Callable[[Arena], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that can happen."""

    name: str
    scenario: int
    """Its number in the list of scenarios."""
    does: str
    strike: Strike
    expect: Expectation
    stage: Stage = Stage.LOCAL


def scratch() -> Path:
    """Return a new directory for what a fault needs."""
    return Path(tempfile.mkdtemp(prefix="endpointd-fault-"))
