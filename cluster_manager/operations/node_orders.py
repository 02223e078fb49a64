"""What an operator may order of one node: stop, start, restart, reinit, remove.

Knows which order is refused and why; the orders themselves are the loop's, the marks that outlive this process the
document's.  The writer is never touched: it hands over first.
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision.actions import Clone, Restart
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.repair import quorum_does_without, without_slot
from cluster_manager.decision.situation import survey
from cluster_manager.decision.view import View
from cluster_manager.not_done import NotFound, Refused
from cluster_manager.shell.reconciler import Reconciler
from pgtopology.document import Topology
from pgtopology.node import NodeName
from pgtopology.orders import Upstream

ORDERS = ("stop", "start", "restart", "reinit", "remove")

VOTERS_MIN = 3
"""With fewer voters any failure blocks, so a quorum does not shrink below this by removing a node (L12)."""


async def carry_out(reconciler: Reconciler, name: str, order: str, *, force: bool) -> str:
    """Carry out *order* on the node *name* and return what was done. Raises NotDone if it is refused."""
    if order not in ORDERS:
        raise NotFound(f'there is no order "{order}"; there are {", ".join(ORDERS)}')
    view = reconciler.look()
    document = view.document
    node = view.node(name)
    if document is None or document.member(name) is None:
        raise NotFound(f'there is no node "{name}"')
    if order == "start":
        reconciler.edit(lambda old: _marked(old, name, stopped=False), f'an operator wants "{name}" up')
        return f'"{name}" is started'
    refused = _refusal(view, document, node, name, order, force=force)
    if refused is not None:
        raise Refused(refused)
    match order:
        case "stop":
            reconciler.edit(lambda old: _marked(old, name, stopped=True), f'an operator wants "{name}" down')
            return f'"{name}" is stopped'
        case "restart":
            assert node is not None
            await reconciler.order(Restart(node.name))
            return f'"{name}" was restarted'
        case "reinit":
            assert node is not None
            writer = view.node(document.writer)
            assert writer is not None
            destroys = node.observation.incarnation if node.observation is not None else None
            source = Upstream(writer.name, writer.spec.address)
            await reconciler.order(Clone(node.name, source, destroys, "an operator asked for it", by_operator=True))
            return f'"{name}" is made anew from "{writer.name}"'
        case _:
            # Looked at again when it is written: another node may have been marked in the meantime.
            reconciler.edit(
                lambda old: old if why_needed(old, name) is not None else _marked(old, name, leaving=True),
                f'an operator takes "{name}" out of the cluster',
            )
            return f'"{name}" leaves the cluster'


def _refusal(view: View, document: Topology, node: NodeView | None, name: str, order: str, *, force: bool) -> str | None:
    """Return why *order* is refused, or None."""
    if document.writer is None:
        return "there is no writer at this moment"
    if name == document.writer:
        return f'"{name}" is the writer; hand over first (endpointctl switchover)'
    if order == "remove":
        return why_needed(document, name)
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


def why_needed(document: Topology, name: str) -> str | None:
    """Return why the node *name* cannot be taken out, or None: the writer, or too few would be left beside those that leave."""
    if name == document.writer:
        return f'"{name}" is the writer; hand over first (endpointctl switchover)'
    voters = document.voters
    if voters is None or len(voters.members) < 2:
        return None
    staying = {member.name for member in document.members if not member.leaving and member.name != name}
    # A voter that left would be missed by the others, and a node on its way to become one by those who wait for it.
    left = staying & set(voters.names) if voters.find(NodeName(name)) is not None else staying
    if len(left) < VOTERS_MIN:
        return f"with fewer than {VOTERS_MIN} voters any failure would stop the cluster; add a node first"
    return None


def _marked(document: Topology, name: str, **marks: bool) -> Topology:
    members = tuple(msgspec.structs.replace(member, **marks) if member.name == name else member for member in document.members)
    return msgspec.structs.replace(document, members=members)
