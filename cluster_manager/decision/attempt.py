"""What the steps of a transition share: the next document, a new attempt, and the words for what is under way."""

from __future__ import annotations

import msgspec

from cluster_manager.decision.actions import WriteDocument
from cluster_manager.decision.diagnose import Diagnosis, Finding
from pgtopology.document import Step, Topology, Transition, TransitionKind
from pgtopology.epoch import Epoch, Revision


def new_attempt(document: Topology, transition: Transition, because: str) -> WriteDocument:
    """Start recruiting anew under the next epoch, for the same failure."""
    return WriteDocument(
        next_document(
            document,
            epoch=Epoch(document.epoch + 1),
            candidate=None,
            transition=msgspec.structs.replace(transition, step=Step.RECRUITING),
        ),
        because,
    )


def next_document(document: Topology, **changes: object) -> Topology:
    """Return *document* with *changes*, as the next revision."""
    return msgspec.structs.replace(document, revision=Revision(document.revision + 1), **changes)


def in_flight(transition: Transition, reason: str) -> Finding:
    """Return the diagnosis of an unfinished transition that goes on."""
    if transition.kind is TransitionKind.BOOTSTRAP:
        return Finding(Diagnosis.BOOTSTRAPPING, reason)
    return Finding(Diagnosis.TRANSITION_IN_FLIGHT, reason)
