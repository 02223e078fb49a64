"""What a client has read through the writer endpoint is in the history of every later writer, acknowledged or not (I15)."""

from __future__ import annotations

from pgtopology.document import Topology
from tests.sim.checks import Acknowledged, Checker
from tests.sim.world import Violation


class SeenRows(Checker):
    """Remembers the newest row of each answer."""

    name = "a row that was read is lost"

    def read(self, row: Acknowledged) -> None:
        """The newest row that an answer showed."""
        seen = self.checks.seen
        if not seen or (seen[-1].epoch, seen[-1].position) < (row.epoch, row.position):
            seen.append(row)

    def written(self, old: Topology | None, new: Topology) -> None:
        """A writer that is opened shows everything that was shown."""
        if new.writer is not None and (old is None or old.writer != new.writer):
            for row in self.checks.seen:
                if row.epoch < new.epoch and not self.checks.holds(new.writer, row):
                    raise Violation(
                        self.name,
                        f"record {row.record} at {row.position}, read on {row.node} in epoch {row.epoch}, "
                        f"is not on {new.writer}, the writer of epoch {new.epoch}",
                    )
