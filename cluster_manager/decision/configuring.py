"""Which nodes are to be told of the operator's settings, and whose slots to keep.

Beside a writer, because settings must not come between a failure and the next writer; without one only when that has lasted,
because they may be what is in its way.  A node that has no data yet is told too, so that its copy starts with them.  A standby
would else learn of a member that came after it, or that was made anew, only at the next handover, and that member could not
stream from it at once.  One that refuses, or is too old to know the order, is told again at that order's pace.
"""

from __future__ import annotations

from cluster_manager.decision.actions import Configure
from cluster_manager.decision.situation import Situation
from pgtopology.node import sync_name
from pgtopology.observation import Observation


def untold(situation: Situation) -> tuple[Configure, ...]:
    """Return an order for each node that goes by another version than the document's, or keeps other slots than it should."""
    document, slots = situation.document, situation.slots
    return tuple(
        Configure(name)
        for name, seen in situation.fresh.items()
        if (seen.desired_version != document.desired.version or _keeps_other_slots(seen, slots))
        and seen.system_identifier in (None, document.system_identifier)
    )


def overdue(situation: Situation) -> tuple[Configure, ...]:
    """Return an order for each node that goes by another version than the document's after a long time without a writer."""
    view, document = situation.view, situation.document
    if view.now_ms - view.transition_began_at_ms < situation.timings.settings_ms:
        return ()
    return tuple(
        Configure(name)
        for name, seen in situation.fresh.items()
        if seen.desired_version != document.desired.version and seen.system_identifier == document.system_identifier
    )


def _keeps_other_slots(seen: Observation, slots: frozenset[str]) -> bool:
    if seen.slots_kept is None or seen.incarnation is None:
        return False
    return frozenset(seen.slots_kept) != slots - {sync_name(seen.node, seen.incarnation)}
