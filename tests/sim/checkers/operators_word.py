"""Only an operator gives voters up, only while no safe set answers, and no more than need be is lost then; and nobody fails
over while that is paused.
"""

from __future__ import annotations

from cluster_manager.decision.elect import tally
from cluster_manager.decision.recruiting import ALLOW_DATA_LOSS
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.timings import Timings
from cluster_manager.decision.view import View
from pgtopology.document import Topology
from tests.sim.checks import Checker, gives_up
from tests.sim.world import Violation

FRESH_MS = 300.0


class OperatorsWord(Checker):
    """Looks at each document that a manager decides to write, with what that manager has heard."""

    name = "against the operator's word"

    def decided(self, view: View, old: Topology | None, new: Topology) -> None:
        """A manager is about to write *new*."""
        request = view.request
        if old is not None and new.candidate is not None and old.candidate is None:
            self._elects(view, old, new)
        if old is None or old.voters is None or new.epoch == old.epoch:
            return
        if gives_up(old, new):
            self._gives_up(view, old, request)
        if old.paused and old.transition is None and request is None and not _is_behind(view, old):
            raise Violation(self.name, f"epoch {new.epoch} begins although failovers are paused")

    def _elects(self, view: View, old: Topology, new: Topology) -> None:
        """Of what one of the voters left over holds nothing is lost if all of them have promised; and all are waited for."""
        hoped, self.checks.hoped = self.checks.hoped, []
        if old.voters is None or old.transition is None or old.transition.cause != ALLOW_DATA_LOSS or new.candidate is None:
            return
        counted = tally(old, view.promises, view.foreign).counted
        if len(counted) < len(old.voters.members):
            safe_since_ms = sorted(one.promise.at_ms for one in counted)[old.voters.safe_set_size - 1]
            if view.now_ms - safe_since_ms < Timings().heir_ms:
                waited = f"{view.now_ms - safe_since_ms:.0f} ms after a safe set promised"
                raise Violation(self.name, f"of the voters left over only {len(counted)} were waited for, {waited}")
            return
        for commit in hoped:
            if not self.checks.holds(new.candidate.node, commit):
                raise Violation(
                    self.name,
                    f"all voters left over promised, one of them holds record {commit.record} at {commit.position}, and "
                    f"{new.candidate.node} is elected, which does not",
                )

    def _gives_up(self, view: View, old: Topology, request: Request | None) -> None:
        if request is None or request.kind is not RequestKind.DATA_LOSS:
            raise Violation(self.name, f"voters are given up after epoch {old.epoch}, and nobody asked for it")
        assert old.voters is not None
        answering = [
            voter
            for voter in old.voters.members
            for node in view.nodes
            if node.name == voter.name
            and node.observation is not None
            and node.age_ms < FRESH_MS
            and node.observation.whole
            and node.observation.incarnation == voter.incarnation
        ]
        if old.is_safe_set(answering):
            names = ", ".join(voter.name for voter in answering)
            raise Violation(self.name, f"voters are given up although {names} answer, which are a safe set")


def _is_behind(view: View, old: Topology) -> bool:
    """Return whether a node has seen more than the store holds: it may have forgotten that the pause is over.

    A document made anew begins an epoch whatever it says (S12); failovers stay paused in it.
    """
    seen = (node.observation.seen for node in view.nodes if node.observation is not None)
    return any((one.epoch, one.revision) > (old.epoch, old.revision) for one in seen)
