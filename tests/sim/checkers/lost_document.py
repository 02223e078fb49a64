"""Were the store lost now, whoever is enough to stand for its document would elect nobody who lacks an acknowledged write.

For each document that nodes have seen: of those who have seen nothing newer, enough to adopt it must not contain a safe set of
its voters that lacks the write.  No rollback is needed to show that one would lose something.  Once an operator has given
voters up this cannot be asked: those who were left out know nothing of it.
"""

from __future__ import annotations

from pgtopology.observation import Seen
from tests.sim.checks import Acknowledged, Checker
from tests.sim.node import SimNode
from tests.sim.world import Violation


class LostDocument(Checker):
    """Looks at each acknowledgement while nodes know of different voters."""

    name = "a lost document lacks an acknowledged write"

    def acknowledged(self, commit: Acknowledged, writer: SimNode) -> None:
        """At the moment of the acknowledgement."""
        document = self.checks.document
        nodes = list(self.checks.nodes.values())
        if document is None or self.checks.given_up or all(node.state.seen.voters == document.voters for node in nodes):
            return
        for seen in {node.state.seen for node in nodes}:
            self._check(commit, seen, [node for node in nodes if node.state.seen.revision <= seen.revision])

    def _check(self, commit: Acknowledged, newest: Seen, heard: list[SimNode]) -> None:
        voters = newest.voters
        if voters is None:
            return
        able = [node for node in heard if node.state.whole and node.pg.exists and _is_voter(node, newest)]
        lacking = [node.name for node in able if not _has(node, commit)]
        if len(able) >= voters.adoption_size and len(lacking) >= voters.safe_set_size:
            raise Violation(
                self.name,
                f"record {commit.record} at {commit.position} (epoch {commit.epoch}, {commit.node}) is not on "
                f"{', '.join(lacking)}, a safe set of what they know: {', '.join(voters.names)}, w={voters.w}",
            )


def _is_voter(node: SimNode, newest: Seen) -> bool:
    voter = newest.voters.find(node.name) if newest.voters is not None else None
    return voter is not None and voter.incarnation == node.state.incarnation


def _has(node: SimNode, commit: Acknowledged) -> bool:
    pg = node.pg
    durable = pg.flushed if pg.life is not None else len(pg.wal)
    return durable >= commit.position and pg.wal[commit.position - 1] == commit.record
