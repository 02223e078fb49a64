"""What an operator may order of one node: stop, start, restart, reinit.  That it leaves is `node_changes`.

Knows which order is refused and why; the orders themselves are the loop's, the marks that outlive this process the
document's.  The writer is never touched: it hands over first.
"""

from __future__ import annotations

from cluster_manager.decision.actions import Clone, Restart
from cluster_manager.decision.leaving import IS_THE_WRITER, NO_WRITER, marked
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.repair import quorum_does_without, without_slot
from cluster_manager.decision.situation import survey
from cluster_manager.decision.view import View
from cluster_manager.not_done import NotFound, Refused
from cluster_manager.shell.reconciler import Reconciler
from pgtopology.document import Topology
from pgtopology.orders import Upstream

ORDERS = ("stop", "start", "restart", "reinit")


async def carry_out(reconciler: Reconciler, name: str, order: str, *, force: bool) -> str:
    """Carry out *order* on the node *name* and return what was done. Raises NotDone if it is refused."""
    if order not in ORDERS:
        raise NotFound(f'there is no order "{order}"; there are {", ".join(ORDERS)}, remove')
    view = reconciler.look()
    document = view.document
    node = view.node(name)
    if document is None or document.member(name) is None:
        raise NotFound(f'there is no node "{name}"')
    if order == "start":
        reconciler.edit(lambda old: marked(old, name, stopped=False), f'an operator wants "{name}" up')
        return f'"{name}" is started'
    refused = _refusal(view, document, node, name, order, force=force)
    if refused is not None:
        raise Refused(refused)
    match order:
        case "stop":
            reconciler.edit(lambda old: marked(old, name, stopped=True), f'an operator wants "{name}" down')
            return f'"{name}" is stopped'
        case "restart":
            assert node is not None
            await reconciler.order(Restart(node.name))
            return f'"{name}" was restarted'
        case _:
            assert node is not None
            writer = view.node(document.writer)
            assert writer is not None
            destroys = node.observation.incarnation if node.observation is not None else None
            source = Upstream(writer.name, writer.spec.address)
            await reconciler.order(Clone(node.name, source, destroys, "an operator asked for it", by_operator=True))
            return f'"{name}" is made anew from "{writer.name}"'


def _refusal(view: View, document: Topology, node: NodeView | None, name: str, order: str, *, force: bool) -> str | None:
    """Return why *order* is refused, or None."""
    if document.writer is None:
        return NO_WRITER
    if name == document.writer:
        return IS_THE_WRITER.format(name)
    if node is None or node.observation is None:
        return f'"{name}" does not answer'
    writer = view.node(document.writer)
    if order == "reinit" and writer is not None and (why := without_slot(writer)) is not None:
        return f'"{name}" keeps its data: {why}'
    situation = survey(view)
    is_voter = situation is not None and situation.voters.find(name) is not None
    if situation is not None and is_voter and not force and not quorum_does_without(situation, node):
        return f'without "{name}" commits would wait, because too few other voters stream; --force does it all the same'
    return None
