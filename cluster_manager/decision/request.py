"""May the operator's order be carried out? The reason why not, or None."""

from __future__ import annotations

from cluster_manager.decision.members import node_state
from cluster_manager.decision.suspicion import promisable
from cluster_manager.decision.view import Request, View
from pgtopology.document import Topology
from pgtopology.node import NodeState


def refusal(view: View, request: Request) -> str | None:
    """Return why *request* cannot be carried out now, or None if it can."""
    document = view.document
    if document is None:
        return "there is no cluster yet"
    if document.transition is not None:
        return f"a {document.transition.kind} is under way (epoch {document.epoch})"
    if request.to is not None:
        trouble = _unfit(view, document, request.to)
        if trouble is not None:
            return trouble
    if document.voters is None or len(document.voters.members) < 2:
        return "there is no other voter to hand over to: durability is async"
    able, missing = promisable(view, document)
    if not document.voters.is_safe_set(able):
        who = "; ".join(f'"{name}" {why}' for name, why in missing.items())
        return f"only {len(able)} of the {document.voters.safe_set_size} voters needed could promise: {who}"
    others = [voter for voter in able if voter.name != document.writer]
    if not document.voters.is_safe_set(others):
        return f'without "{document.writer}" the voters that answer are no safe set: the writer could not leave it'
    return None


def _unfit(view: View, document: Topology, name: str) -> str | None:
    node = view.node(name)
    if node is None:
        return f'there is no node "{name}"; the nodes are {", ".join(spec.name for spec in view.specs)}'
    if name == document.writer:
        return f'"{name}" is the writer already'
    if document.voters is None or document.voters.find(name) is None:
        return f'"{name}" is no voter'
    state = node_state(node, document, view)
    if state is not NodeState.STREAMING:
        return f'"{name}" is {state}, not streaming'
    return None
