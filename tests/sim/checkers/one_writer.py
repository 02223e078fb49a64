"""An epoch has one writer that acknowledges."""

from __future__ import annotations

from tests.sim.checks import Acknowledged, Checker, Checks
from tests.sim.node import SimNode
from tests.sim.world import Violation


class OneWriter(Checker):
    """Remembers who acknowledged in each epoch."""

    name = "two writers acknowledge in one epoch"

    def __init__(self, checks: Checks) -> None:
        super().__init__(checks)
        self._by_epoch: dict[int, str] = {}

    def acknowledged(self, commit: Acknowledged, writer: SimNode) -> None:
        """Compare with the epoch's first."""
        first = self._by_epoch.setdefault(commit.epoch, commit.node)
        if first != commit.node:
            raise Violation(self.name, f"{first} and {commit.node} in epoch {commit.epoch}")
