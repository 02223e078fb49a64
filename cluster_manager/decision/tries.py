"""What became of the orders a provisioner was given about one node, and when it may be asked next.

A failed try is followed by another after a while that doubles, within bounds, and never ends by itself: an operator takes the
order back.  Only what this manager process knows: the next one asks anew, and every order may be given again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cluster_manager.decision.nodeview import NEVER_MS
from cluster_manager.provision.provisioner import Answer, ByOthers, Declined, Gone, Leads, Made, Unheard
from pgtopology.desired_nodes import DesiredNode

RETRY_MS = 1000.0
"""Before the second try."""
RETRY_MAX_MS = 60_000.0
"""Before any further one, at most."""
REGISTER_MS = 10_000.0
"""A node that was made and is not named in the manager's settings by then is ordered once more."""
LOOK_AGAIN_MS = 1000.0
"""How soon it is asked how far a node is that is led out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """Of one order."""

    failures: int = 0
    """In a row."""
    answer: Answer | None = None
    """The newest."""
    is_asked: bool = False
    """Whether an answer is waited for."""
    next_at_ms: float = -NEVER_MS
    """When the provisioner may be asked next."""

    @property
    def reason(self) -> str | None:
        """Why the last try failed, or None if it did not."""
        return self.answer.reason if isinstance(self.answer, Declined | Unheard) else None

    def asked(self) -> Tries:
        """Return what is the case once the provisioner is asked."""
        return replace(self, is_asked=True)

    def answered(self, answer: Answer, now_ms: float) -> Tries:
        """Return what is the case once it has answered."""
        match answer:
            case Declined() | Unheard():
                pause_ms = min(RETRY_MAX_MS, RETRY_MS * 2.0 ** min(self.failures, 10))
                return Tries(failures=self.failures + 1, answer=answer, next_at_ms=now_ms + pause_ms)
            case Made():
                return Tries(answer=answer, next_at_ms=now_ms + REGISTER_MS)
            case Leads() | Gone():
                return Tries(answer=answer, next_at_ms=now_ms + LOOK_AGAIN_MS)
            case ByOthers():
                return Tries(answer=answer, next_at_ms=NEVER_MS)

    def at_once(self) -> Tries:
        """Return what is the case once the order is given again: nothing that was answered before counts."""
        return Tries(is_asked=self.is_asked)


@dataclass(frozen=True, slots=True)
class Desired:
    """One node of the record, and what was tried."""

    node: DesiredNode
    tries: Tries = field(default_factory=Tries)
