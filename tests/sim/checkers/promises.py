"""Who promised an epoch acknowledges nothing of a lower one: neither as a standby nor as a primary, also after restarts."""

from __future__ import annotations

from tests.sim.checks import Acknowledged, Checker, Checks
from tests.sim.node import SimNode
from tests.sim.world import Violation


class Promises(Checker):
    """Remembers the greatest promise each node has answered."""

    name = "a promise is broken"

    def __init__(self, checks: Checks) -> None:
        super().__init__(checks)
        self._answered: dict[str, int] = {}

    def promised(self, node: str, epoch: int) -> None:
        """The answer has left."""
        self._answered[node] = max(epoch, self._answered.get(node, 0))

    def replaced(self, node: str) -> None:
        """The promise was the other machine's."""
        self._answered.pop(node, None)

    def streams(self, node: str, epoch: int) -> None:
        """A standby's reply."""
        if epoch < self._answered.get(node, 0):
            raise Violation(self.name, f"{node} promised epoch {self._answered[node]} and acknowledges epoch {epoch}'s WAL")

    def acknowledged(self, commit: Acknowledged, writer: SimNode) -> None:
        """A primary's own."""
        if commit.epoch < self._answered.get(commit.node, 0):
            raise Violation(
                self.name,
                f"{commit.node} promised epoch {self._answered[commit.node]} and acknowledges a commit of epoch {commit.epoch}",
            )
