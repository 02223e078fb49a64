"""Which nodes are to be told of the operator's settings, and whose slots to keep.

Beside a writer, because settings must not come between a failure and the next writer; without one only when that has lasted,
because they may be what is in its way.  A node that has no data yet is told too, so that its copy starts with them.  A standby
would else learn of a member that came after it, or that was made anew, only at the next handover, and that member could not
stream from it at once.  One that refuses, or is too old to know the order, is told again at the executor's pace.
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster_manager.decision.actions import Configure
from cluster_manager.decision.nodeview import is_fresh
from cluster_manager.decision.view import View, slots_of
from pgtopology.document import Topology
from pgtopology.node import NodeName, sync_name
from pgtopology.observation import Observation


def untold(view: View, document: Topology) -> tuple[Configure, ...]:
    """Return an order for each node that goes by another version than the document's, or keeps other slots than it should."""
    return tuple(
        Configure(name)
        for name, observation in _heard(view)
        if (observation.desired_version != document.desired.version or _keeps_other_slots(observation, document))
        and observation.system_identifier in (None, document.system_identifier)
    )


def overdue(view: View, document: Topology) -> tuple[Configure, ...]:
    """Return an order for each node that goes by another version than the document's after a long time without a writer."""
    if view.now_ms - view.transition_began_at_ms < view.timings.settings_ms:
        return ()
    return tuple(
        Configure(name)
        for name, observation in _heard(view)
        if observation.desired_version != document.desired.version
        and observation.system_identifier == document.system_identifier
    )


def _heard(view: View) -> Iterator[tuple[NodeName, Observation]]:
    for node in view.nodes:
        if node.observation is not None and is_fresh(node, view.timings):
            yield node.name, node.observation


def _keeps_other_slots(observation: Observation, document: Topology) -> bool:
    if observation.slots_kept is None or observation.incarnation is None:
        return False
    own = sync_name(observation.node, observation.incarnation)
    return frozenset(observation.slots_kept) != frozenset(slots_of(document)) - {own}
