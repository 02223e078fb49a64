"""A timeline belongs to one epoch: what stands at a position of a timeline is the same everywhere and for ever.

What a node wrote that somebody promoted by hand is nothing of it, except on the very timeline that was claimed for this node: a
candidate may be promoted by hand before its order arrives, and the others follow it already.  Who follows any other node that
is promoted by hand goes along too, before anybody can look; that is excused while nobody has claimed the number, because such
data never counts.
"""

from __future__ import annotations

from pgtopology.document import Topology
from tests.sim.checks import Checker, Checks
from tests.sim.node import SimNode
from tests.sim.world import Violation


class Timelines(Checker):
    """Remembers who wrote each timeline."""

    name = "a timeline has two contents"

    def __init__(self, checks: Checks) -> None:
        super().__init__(checks)
        self._last: dict[int, tuple[str, int]] = {}
        self._records: dict[tuple[int, int], int] = {}
        self._by_hand: dict[tuple[str, int, int], int] = {}
        self._claims: dict[int, str] = {}

    def generated(self, node: str, timeline: int, position: int, record: int) -> None:
        """One node writes a timeline, onwards; initdb's own, 1, is never written after it."""
        before = self._last.get(timeline)
        if before is not None and (before[0] != node or position <= before[1]):
            raise Violation(
                self.name, f"timeline {timeline} position {position} is written by {node}, after {before[0]} wrote {before[1]}"
            )
        self._last[timeline] = node, position
        self._records[timeline, position] = record

    def generated_by_hand(self, node: str, timeline: int, position: int, record: int) -> None:
        """It may be the timeline that is claimed for the node, now or soon."""
        self._by_hand[node, timeline, position] = record

    def data_lost(self, node: SimNode) -> None:
        """Data that begins to count holds nothing that nobody's promotion was ordered for."""
        if node.state.whole and node.pg.exists and node.pg.standby_signal:
            self._compare(node)

    def promised(self, node: str, epoch: int) -> None:
        """Nor does what may be elected; a promotion by hand that noded had not seen yet is known by then."""
        self.data_lost(self.checks.nodes[node])

    def written(self, old: Topology | None, new: Topology) -> None:
        """Nor does a writer; and no number is claimed that another node got by hand, for its followers have it too.

        A candidate may be promoted by hand after its promise, before anybody can know: it refuses the order, and is no writer.
        """
        for record in new.timelines:
            if record.timeline not in self._claims:
                self._claims[record.timeline] = record.node
                self._check_number_is_free(record.timeline, record.node)
        if new.writer is not None and (old is None or old.writer is None):
            self._compare(self.checks.nodes[new.writer])

    def _check_number_is_free(self, timeline: int, claimant: str) -> None:
        taken = {node for node, number, _ in self._by_hand if number == timeline} - {claimant}
        if taken:
            raise Violation(self.name, f"timeline {timeline} is claimed for {claimant}, but {taken} took it by hand before")

    def _compare(self, node: SimNode) -> None:
        timelines = node.pg.timelines
        for index, (timeline, begin) in enumerate(timelines):
            end = timelines[index + 1][1] if index + 1 < len(timelines) else len(node.pg.wal)
            for position in range(begin + 1, min(end, len(node.pg.wal)) + 1):
                claimant = self._claims.get(timeline)
                if claimant is not None and (timeline, position) not in self._records:
                    by_hand = self._by_hand.get((claimant, timeline, position))
                    if by_hand is not None:
                        self._records[timeline, position] = by_hand
                elif claimant is None and index == len(timelines) - 1 and self._went_along(node, timeline, position):
                    continue
                if self._records.get((timeline, position)) != node.pg.wal[position - 1]:
                    raise Violation(
                        self.name,
                        f"{node.name} holds record {node.pg.wal[position - 1]} at {position} of timeline {timeline}, where "
                        f"{self._records.get((timeline, position))} was written",
                    )

    def _went_along(self, node: SimNode, timeline: int, position: int) -> bool:
        """Return whether *node* has its record there from another one that was promoted by hand."""
        others = [name for name in self.checks.nodes if name != node.name]
        return any(self._by_hand.get((other, timeline, position)) == node.pg.wal[position - 1] for other in others)
