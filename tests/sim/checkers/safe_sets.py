"""Every safe set that could promise now meets every acknowledged write: fewer than a safe set of the recorded voters that
count lack it.

Stronger than "nothing was lost": it needs no second failure to show that one would lose something.
"""

from __future__ import annotations

from tests.sim.checks import Acknowledged, Checker
from tests.sim.node import SimNode
from tests.sim.world import Violation


class SafeSets(Checker):
    """Looks at each acknowledgement, and at the newest one whenever a node's data changes otherwise than by growing."""

    name = "a safe set lacks an acknowledged write"

    def acknowledged(self, commit: Acknowledged, writer: SimNode) -> None:
        """At the moment of the acknowledgement."""
        self._check(commit)

    def data_lost(self, node: SimNode) -> None:
        """Of what was acknowledged last; earlier ones are before it in every history that holds it."""
        if self.checks.commits:
            self._check(max(self.checks.commits[-8:], key=lambda commit: (commit.epoch, commit.position)))

    def _check(self, commit: Acknowledged) -> None:
        document = self.checks.document
        if document is None or document.voters is None:
            return
        lacking: list[str] = []
        for voter in document.voters.members:
            node = self.checks.nodes[voter.name]
            state = node.state
            if state.incarnation != voter.incarnation or not state.whole or not node.pg.exists:
                continue
            pg = node.pg
            durable = pg.flushed if pg.life is not None else len(pg.wal)
            if not (durable >= commit.position and pg.wal[commit.position - 1] == commit.record):
                lacking.append(voter.name)
        if len(lacking) >= document.voters.safe_set_size:
            raise Violation(
                self.name,
                f"record {commit.record} at {commit.position} (epoch {commit.epoch}, {commit.node}) is not on "
                f"{', '.join(lacking)}: {document.voters.safe_set_size} voters are a safe set",
            )
