"""Nothing older is read on the writer endpoint than what was acknowledged to a client before the read began.

One thing cannot be prevented, and an operator is told of it: voters that were given up (--allow-data-loss), and are enough to
acknowledge among themselves, vouch for their writer as long as nobody reaches them (S13).
"""

from __future__ import annotations

from bisect import bisect_right

from endpointd.routing.freshness import HEARTBEAT_VALID_S
from tests.sim.checks import Checker, Checks
from tests.sim.node import SimNode
from tests.sim.world import Violation


class StaleReads(Checker):
    """Compares each read, when it is executed, with the newest acknowledgement that a client had when it began."""

    name = "stale read on the writer endpoint"

    def __init__(self, checks: Checks) -> None:
        super().__init__(checks)
        self._promised_ms: dict[tuple[str, int], float] = {}
        """When a node first promised an epoch."""

    def promised(self, node: str, epoch: int) -> None:
        """From now on *node* acknowledges to no writer of an earlier epoch."""
        self._promised_ms.setdefault((node, epoch), self.checks.world.now)

    def look(self, began_ms: float, node: SimNode, visible: int, *, lent: bool) -> str | None:
        """Return what a read that began at *began_ms* and is executed now on *node* fails to show, or None.

        *lent*: a manager's lease vouched for the node when it began.
        """
        index = bisect_right(self.checks.visible, began_ms, key=lambda one: one[0])
        if index == 0:
            return None
        at_ms, commit = self.checks.visible[index - 1]
        if visible >= commit.position and self.checks.holds(node.name, commit):
            return None
        if commit.epoch >= self.checks.given_up and not lent and self._is_left_to_itself(node, began_ms):
            return None
        return (
            f"a read that began at {began_ms:.1f} ms on {node.name} did not show record {commit.record} of epoch "
            f"{commit.epoch}, acknowledged to a client at {at_ms:.1f} ms by {commit.node}"
        )

    def _is_left_to_itself(self, node: SimNode, began_ms: float) -> bool:
        """Return whether the voters that an operator gave up could acknowledge a heartbeat that vouched for *node* then."""
        voters, life = node.state.in_force, node.pg.life
        if voters is None or life is None or life.epoch >= self.checks.given_up:
            return False
        before_ms = began_ms - HEARTBEAT_VALID_S * 1000
        gone = {name for (name, epoch), at_ms in self._promised_ms.items() if epoch > life.epoch and at_ms <= before_ms}
        return sum(voter.name not in gone for voter in voters.members) >= voters.w

    def shown(self, stale: str | None) -> None:
        """The answer reached its client."""
        if stale is not None:
            raise Violation(self.name, stale)
