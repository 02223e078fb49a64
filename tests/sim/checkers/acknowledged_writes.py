"""No acknowledged write is missing in the history of any later writer."""

from __future__ import annotations

from pgtopology.document import Topology
from tests.sim.checks import Acknowledged, Checker
from tests.sim.node import SimNode
from tests.sim.world import Violation


class AcknowledgedWrites(Checker):
    """Looks at every opening, and at late acknowledgements of earlier epochs."""

    name = "acknowledged write lost"

    def written(self, old: Topology | None, new: Topology) -> None:
        """A writer that is opened holds everything."""
        if new.writer is not None and (old is None or old.writer != new.writer):
            for commit in self.checks.commits:
                self._check(new, commit)

    def acknowledged(self, commit: Acknowledged, writer: SimNode) -> None:
        """What is acknowledged although a later writer stands must be there too."""
        document = self.checks.document
        if document is not None and document.writer is not None and document.epoch > commit.epoch:
            self._check(document, commit)

    def at_the_end(self) -> None:
        """The last writer holds everything."""
        document = self.checks.document
        if document is not None and document.writer is not None:
            for commit in self.checks.commits:
                self._check(document, commit)

    def _check(self, document: Topology, commit: Acknowledged) -> None:
        assert document.writer is not None
        if not self.checks.holds(document.writer, commit):
            raise Violation(
                self.name,
                f"record {commit.record} at {commit.position}, acknowledged by {commit.node} in epoch {commit.epoch}, "
                f"is not on {document.writer}, the writer of epoch {document.epoch}",
            )
