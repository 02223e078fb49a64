"""Which nodes are to be told of the operator's settings.

Beside a writer only: settings never come between a failure and the next writer.  A node that has no data yet is told too, so
that its copy starts with them.  One that refuses, or is too old to know the order, is told again at the executor's pace.
"""

from __future__ import annotations

from cluster_manager.decision.actions import Configure
from cluster_manager.decision.view import View, is_fresh
from pgtopology.document import Topology


def untold(view: View, document: Topology) -> tuple[Configure, ...]:
    """Return an order for each node that goes by another version than the document's."""
    return tuple(
        Configure(node.name)
        for node in view.nodes
        if node.observation is not None
        and is_fresh(node, view.timings)
        and node.observation.desired_version != document.desired.version
        and node.observation.system_identifier in (None, document.system_identifier)
    )
