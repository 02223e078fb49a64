"""A timeline belongs to one epoch: what stands at a position of a timeline is the same everywhere and for ever."""

from __future__ import annotations

from tests.sim.checks import Checker, Checks
from tests.sim.world import Violation


class Timelines(Checker):
    """Remembers who wrote each timeline."""

    name = "a timeline has two contents"

    def __init__(self, checks: Checks) -> None:
        super().__init__(checks)
        self._last: dict[int, tuple[str, int]] = {}

    def generated(self, node: str, timeline: int, position: int, record: int) -> None:
        """One node writes a timeline, onwards; initdb's own, 1, is never written after it."""
        before = self._last.get(timeline)
        if before is not None and (before[0] != node or position <= before[1]):
            raise Violation(
                self.name, f"timeline {timeline} position {position} is written by {node}, after {before[0]} wrote {before[1]}"
            )
        self._last[timeline] = node, position
