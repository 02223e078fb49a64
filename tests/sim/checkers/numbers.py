"""Epochs and revisions only grow, in the store and on each node, and each document may follow the one before.

No revision is ever used twice or out of order, also not after a rollback of the store.  An epoch may be, which a history that
was lost had begun: less than a safe set of nodes have promised it, so nobody was elected in it.
"""

from __future__ import annotations

from pgtopology.document import Topology
from pgtopology.succession import may_follow
from tests.sim.checks import Checker, Checks
from tests.sim.world import Violation


class Numbers(Checker):
    """Remembers the greatest numbers."""

    name = "numbers went back"

    def __init__(self, checks: Checks, *, law: bool = True) -> None:
        """*law*: ask the law of succession too; a run that breaks the law itself must be noticed by what comes of it."""
        super().__init__(checks)
        self._law = law
        self._greatest: tuple[int, int] = (0, 0)
        self._elected_in = 0
        """The last epoch that had a candidate, in whatever history."""
        self._nodes: dict[str, tuple[int, tuple[int, int]]] = {}

    def written(self, old: Topology | None, new: Topology) -> None:
        """The law of succession, and no revision twice, not even after the store was rolled back."""
        pair = new.epoch, new.revision
        if new.revision <= self._greatest[1] or (new.epoch < self._greatest[0] and not self.checks.rolled_back):
            raise Violation(self.name, f"(epoch, revision) {pair} is written after {self._greatest}")
        self._greatest = max(new.epoch, self._greatest[0]), new.revision
        stood = self.checks.overwritten
        if new.epoch <= self._elected_in and (stood is None or new.epoch > stood.epoch):
            raise Violation(self.name, f"epoch {new.epoch} is begun, but somebody was elected in {self._elected_in}")
        if new.candidate is not None:
            self._elected_in = max(self._elected_in, new.epoch)
        why_not = may_follow(stood, new) if self._law and stood is not None else None
        if why_not is not None:
            raise Violation(self.name, f"revision {new.revision} may not follow: {why_not}")

    def replaced(self, node: str) -> None:
        """The other machine begins anew."""
        self._nodes.pop(node, None)

    def state_changed(self, node: str, promised: int, seen: tuple[int, int]) -> None:
        """What a node has promised and seen."""
        before = self._nodes.get(node)
        if before is not None and (promised < before[0] or seen[0] < before[1][0] or seen[1] < before[1][1]):
            raise Violation(self.name, f"{node} went from promise {before[0]}, seen {before[1]} to {promised}, {seen}")
        self._nodes[node] = promised, seen
