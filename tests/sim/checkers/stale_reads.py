"""Nothing older is read on the writer endpoint than what was acknowledged to a client before the read began."""

from __future__ import annotations

from bisect import bisect_right

from tests.sim.checks import Checker
from tests.sim.node import SimNode
from tests.sim.world import Violation


class StaleReads(Checker):
    """Compares each read, when it is executed, with the newest acknowledgement that a client had when it began."""

    name = "stale read on the writer endpoint"

    def look(self, began_ms: float, node: SimNode, visible: int) -> str | None:
        """Return what a read that began at *began_ms* and is executed now on *node* fails to show, or None."""
        index = bisect_right(self.checks.visible, began_ms, key=lambda one: one[0])
        if index == 0:
            return None
        at_ms, commit = self.checks.visible[index - 1]
        if visible >= commit.position and self.checks.holds(node.name, commit):
            return None
        return (
            f"a read that began at {began_ms:.1f} ms on {node.name} did not show record {commit.record} of epoch "
            f"{commit.epoch}, acknowledged to a client at {at_ms:.1f} ms by {commit.node}"
        )

    def shown(self, stale: str | None) -> None:
        """The answer reached its client."""
        if stale is not None:
            raise Violation(self.name, stale)
