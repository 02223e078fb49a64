"""Where the simulated world tells the checkers what happened.

One method per kind of fact; each checker listens to those it needs.  The values shared by several checkers (which commits
were acknowledged, which document stands) are kept here once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgtopology.document import Topology
from pgtopology.node import NodeName

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A commit that PostgreSQL acknowledged."""

    record: int
    position: int
    node: str
    epoch: int


class Checker:
    """A property. Subclasses override what they listen to and raise Violation."""

    name = "?"

    def __init__(self, checks: Checks) -> None:
        self.checks = checks

    def generated(self, node: str, timeline: int, position: int, record: int) -> None:
        """A record was written on a primary (or by initdb)."""

    def acknowledged(self, commit: Acknowledged, writer: SimNode) -> None:
        """A commit was acknowledged by PostgreSQL."""

    def written(self, old: Topology | None, new: Topology) -> None:
        """A document was stored."""

    def promised(self, node: str, epoch: int) -> None:
        """A node answered a promise."""

    def streams(self, node: str, epoch: int) -> None:
        """A node tells the primary of *epoch* what it has flushed."""

    def state_changed(self, node: str, promised: int, seen: tuple[int, int]) -> None:
        """A noded's state changed, or was read after a restart."""

    def data_lost(self, node: SimNode) -> None:
        """A node's WAL became shorter, or another's, or began to count."""


class Checks:
    """All checkers, and what they share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.records = 0
        self.document: Topology | None = None
        self.commits: list[Acknowledged] = []
        self.visible: list[tuple[float, Acknowledged]] = []
        """The acknowledgements that reached a client and were newer than all before, and when."""
        self.nodes: dict[str, SimNode] = {}
        self.checkers: list[Checker] = []
        self.rolled_back = False
        self._generated: list[Callable[[str, int, int, int], None]] = []
        self._streams: list[Callable[[str, int], None]] = []

    def install(self, checkers: list[Checker]) -> None:
        """Listen from now on."""
        self.checkers = checkers
        self._generated = [c.generated for c in checkers if type(c).generated is not Checker.generated]
        self._streams = [c.streams for c in checkers if type(c).streams is not Checker.streams]

    def generated(self, node: str, timeline: int, position: int, record: int) -> None:
        """A record was written."""
        for told in self._generated:
            told(node, timeline, position, record)

    def acknowledged(self, record: int, position: int, node: str, epoch: int) -> Acknowledged:
        """A commit of a client was acknowledged."""
        commit = Acknowledged(record, position, node, epoch)
        writer = self.nodes[node]
        for checker in self.checkers:
            checker.acknowledged(commit, writer)
        self.commits.append(commit)
        return commit

    def seen_by_client(self, commit: Acknowledged) -> None:
        """The acknowledgement reached its client."""
        visible = self.visible
        if not visible or (visible[-1][1].epoch, visible[-1][1].position) < (commit.epoch, commit.position):
            visible.append((self.world.now, commit))

    def written(self, new: Topology) -> None:
        """A document was stored."""
        old, self.document = self.document, new
        for checker in self.checkers:
            checker.written(old, new)

    def promised(self, node: str, epoch: int) -> None:
        """A promise was answered."""
        for checker in self.checkers:
            checker.promised(node, epoch)

    def acknowledges_stream(self, node: str, epoch: int | None) -> None:
        """A standby replies to its upstream, a primary of *epoch*; None if that is a standby."""
        if epoch:
            for told in self._streams:
                told(node, epoch)

    def state_changed(self, node: str, promised: int, seen: tuple[int, int]) -> None:
        """A noded's state is this now."""
        for checker in self.checkers:
            checker.state_changed(node, promised, seen)

    def data_lost(self, node: SimNode) -> None:
        """A node's data changed otherwise than by growing."""
        for checker in self.checkers:
            checker.data_lost(node)

    def writer(self) -> SimNode | None:
        """Return the published writer."""
        document = self.document
        return self.nodes[document.writer] if document is not None and document.writer is not None else None

    def holds(self, name: NodeName | str, commit: Acknowledged) -> bool:
        """Return whether the WAL of *name* has *commit*."""
        wal = self.nodes[name].pg.wal
        return len(wal) >= commit.position and wal[commit.position - 1] == commit.record
