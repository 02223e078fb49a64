"""The document as this manager knows it, and since when what stands in it holds, on this manager's clock."""

from __future__ import annotations

from collections import deque

import msgspec

from cluster_manager.decision.flapping import FAILOVERS_REMEMBERED
from pgtopology.document import Topology
from pgtopology.epoch import Revision

REVISIONS_SKIPPED = 10_000_000
"""As milliseconds almost three hours, by which clocks of managers may go wrong."""


class KnownDocument:
    """As it was last read or written; what is read may be somebody else's, and an old copy."""

    def __init__(self, now_ms: float) -> None:
        self.document: Topology | None = None
        self.is_read = False
        """Whether the store was ever read: only then is None an answer."""
        self.epoch_is_ours = False
        self._is_ours = False
        """Whether this process wrote the document: what was found may be an old copy."""
        self.epoch_began_ms = now_ms
        self.claimed_ms = now_ms
        self.transition_began_ms = now_ms
        self.soft_failovers_ms: deque[float] = deque(maxlen=FAILOVERS_REMEMBERED)
        """When each failover upon soft evidence began."""
        self._unpublished: Topology | None = None

    def found(self, document: Topology | None, now_ms: float) -> None:
        """Go on from a document that somebody else may have written."""
        before, self.document = self.document, document
        self._is_ours = self._is_ours and document == before
        self._unpublished = document
        self.is_read, self.epoch_is_ours = True, False
        self.epoch_began_ms = self.claimed_ms = now_ms
        if before is None or before.transition is None:
            self.transition_began_ms = now_ms

    def wrote(self, new: Topology, now_ms: float, *, upon_soft_evidence: bool) -> bool:
        """Go on from the document that was just written. Return whether it begins an epoch."""
        old, self.document, self._unpublished = self.document, new, None
        self._is_ours = True
        if new.candidate is not None and (old is None or new.candidate != old.candidate):
            self.claimed_ms = now_ms
        if new.transition is not None and (old is None or old.transition is None):
            self.transition_began_ms = now_ms
        begins = old is None or new.epoch > old.epoch
        if begins:
            self.epoch_is_ours, self.epoch_began_ms = True, now_ms
            if upon_soft_evidence:
                self.soft_failovers_ms.append(now_ms)
        return begins

    def beyond_all_histories(self, new: Topology, wall_ms: int) -> Topology:
        """Return *new*, planned upon this document, with a revision beyond all written before, also in a lost history (S12).

        What is found in the store may be a copy of less than was written, and those who know more may be away.  So a revision
        is the time of its writing; where that clock is behind, whoever writes upon what was found goes far beyond it.
        """
        revision = Revision(max(new.revision, wall_ms))
        if revision == new.revision and not self._is_ours:
            revision = Revision(revision + REVISIONS_SKIPPED)
        since = revision if new.voters_since == new.revision else new.voters_since
        return msgspec.structs.replace(new, revision=revision, voters_since=since)

    def take_unpublished(self) -> Topology | None:
        """Return what was read and is not published yet, once."""
        found, self._unpublished = self._unpublished, None
        return found
