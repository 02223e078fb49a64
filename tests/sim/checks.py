"""Where the simulated world tells the checkers what happened.

One method per kind of fact; each checker listens to those it needs.  The values shared by several checkers (which commits
were acknowledged, which document stands) are kept here once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster_manager.decision.view import View
from pgtopology.document import Durability, Topology
from pgtopology.node import NodeName
from pgtopology.quorum import Voters

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
    strange: bool = False
    """It did not wait for the quorum, because somebody had emptied the list by hand."""


class Checker:
    """A property. Subclasses override what they listen to and raise Violation."""

    name = "?"

    def __init__(self, checks: Checks) -> None:
        self.checks = checks

    def generated(self, node: str, timeline: int, position: int, record: int) -> None:
        """A record was written on a primary (or by initdb)."""

    def generated_by_hand(self, node: str, timeline: int, position: int, record: int) -> None:
        """A record was written on a node that was promoted without an order."""

    def acknowledged(self, commit: Acknowledged, writer: SimNode) -> None:
        """A commit was acknowledged by PostgreSQL."""

    def written(self, old: Topology | None, new: Topology) -> None:
        """A document was stored."""

    def decided(self, view: View, old: Topology | None, new: Topology) -> None:
        """A manager that knows of *old* is about to write *new*, because of *view*."""

    def read(self, row: Acknowledged) -> None:
        """A client got an answer through the writer endpoint, the newest row of which was *row*."""

    def promised(self, node: str, epoch: int) -> None:
        """A node answered a promise."""

    def streams(self, node: str, epoch: int) -> None:
        """A node tells the primary of *epoch* what it has flushed."""

    def state_changed(self, node: str, promised: int, seen: tuple[int, int]) -> None:
        """A noded's state changed, or was read after a restart."""

    def replaced(self, node: str) -> None:
        """Another machine has this node's name from now on."""

    def data_lost(self, node: SimNode) -> None:
        """A node's WAL became shorter, or another's, or began to count."""


def gives_up(old: Topology | None, new: Topology) -> bool:
    """Return whether *new* leaves voters behind under a new epoch, as only an operator may."""
    if old is None or old.voters is None or new.voters is None or new.epoch == old.epoch:
        return False
    if new.durability is not Durability.REDUCED:
        return False  # made anew, because the store was behind
    return not set(old.voters.members) <= set(new.voters.members) or new.voters.w < old.voters.w


class Checks:
    """All checkers, and what they share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.records = 0
        self.document: Topology | None = None
        self.overwritten: Topology | None = None
        """What stood in the store before the newest document: not the last one written, if the store was rolled back."""
        self.commits: list[Acknowledged] = []
        self.visible: list[tuple[float, Acknowledged]] = []
        """The acknowledgements that reached a client and were newer than all before, and when."""
        self.nodes: dict[str, SimNode] = {}
        self.checkers: list[Checker] = []
        self.seen: list[Acknowledged] = []
        """The newest rows that reads have shown to clients."""
        self.hoped: list[Acknowledged] = []
        """What some of the voters left over hold, and others do not: not lost if all of them promised before the election."""
        self.given_up = 0
        """Below this epoch an operator has given up what the voters left over do not all hold."""
        self.rolled_back = False
        self.has_clocks = True
        """Whether the managers' clocks on the wall are right enough; else they stand still."""
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

    def generated_by_hand(self, node: str, timeline: int, position: int, record: int) -> None:
        """A record was written on a node that was promoted without an order."""
        for checker in self.checkers:
            checker.generated_by_hand(node, timeline, position, record)

    def acknowledged(self, record: int, position: int, node: str, epoch: int) -> Acknowledged:
        """A commit of a client was acknowledged."""
        commit = Acknowledged(record, position, node, epoch, self.nodes[node].pg.lets_pass)
        if epoch < self.given_up or commit.strange:
            return commit
        writer = self.nodes[node]
        for checker in self.checkers:
            checker.acknowledged(commit, writer)
        self.commits.append(commit)
        return commit

    def seen_by_client(self, commit: Acknowledged) -> None:
        """The acknowledgement reached its client."""
        visible = self.visible
        if commit.epoch < self.given_up or commit.strange:
            return
        if not visible or (visible[-1][1].epoch, visible[-1][1].position) < (commit.epoch, commit.position):
            visible.append((self.world.now, commit))

    def written(self, new: Topology) -> None:
        """A document was stored."""
        old, self.document = self.document, new
        if new.voters is not None and gives_up(old, new):
            self.give_up(new.epoch, new.voters)
        for checker in self.checkers:
            checker.written(old, new)

    def decided(self, view: View, old: Topology | None, new: Topology) -> None:
        """A manager is about to write *new*."""
        for checker in self.checkers:
            checker.decided(view, old, new)

    def give_up(self, epoch: int, voters: Voters) -> None:
        """From *epoch* on an operator makes do with what all of *voters* hold."""
        self.given_up = epoch

        def kept(commit: Acknowledged) -> bool:
            return all(self.holds(voter.name, commit) for voter in voters.members)

        def durable(commit: Acknowledged) -> bool:
            nodes = [self.nodes[voter.name].pg for voter in voters.members]
            return any(self.holds(pg.node, commit) and pg.flushed >= commit.position for pg in nodes)

        self.hoped = [commit for commit in self.commits if not kept(commit) and durable(commit)]
        self.commits = [commit for commit in self.commits if kept(commit)]
        self.visible = [(at_ms, commit) for at_ms, commit in self.visible if kept(commit)]
        self.seen = [row for row in self.seen if kept(row)]

    def read(self, node: str, position: int, record: int, epoch: int) -> None:
        """A client was shown *record*, and nothing newer but what only a strange hand let pass."""
        if epoch >= self.given_up:
            for checker in self.checkers:
                checker.read(Acknowledged(record, position, node, epoch))

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

    def replaced(self, node: SimNode) -> None:
        """A node that had left was replaced by an empty one, which knows nothing of its promises."""
        for checker in self.checkers:
            checker.replaced(node.name)

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
