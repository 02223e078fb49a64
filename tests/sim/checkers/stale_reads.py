"""Nothing older is read on the writer endpoint than what was acknowledged to a client before the read began."""

from __future__ import annotations

from bisect import bisect_right

from tests.sim.checks import Checker
from tests.sim.node import SimNode
from tests.sim.world import Violation


class StaleReads(Checker):
    """Compares each read with the newest acknowledgement that a client had when it began."""

    name = "stale read on the writer endpoint"

    def read(self, began_ms: float, node: SimNode, visible: int) -> None:
        """*visible* records of *node* were visible."""
        index = bisect_right(self.checks.visible, began_ms, key=lambda one: one[0])
        if index == 0:
            return
        due = self.checks.visible[index - 1]
        commit = due[1]
        wal = node.pg.wal
        if visible < commit.position or len(wal) < commit.position or wal[commit.position - 1] != commit.record:
            raise Violation(
                self.name,
                f"a read that began at {began_ms:.1f} ms on {node.name} did not show record {commit.record} of epoch "
                f"{commit.epoch}, acknowledged at {due[0]:.1f} ms by {commit.node}",
            )
