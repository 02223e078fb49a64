"""The record of desired nodes as this manager knows it, and what it has asked of the store and of the provisioner about it.

What is due is `decision.provisioning`; here it becomes one write of the record at a time, one order at a time for each node,
and edits of the document.  Its word with the store is its own, so that nothing a failover waits for ever waits for it.
A change is acted on only when the store has confirmed it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster_manager.decision.leaving import marked, why_needed
from cluster_manager.decision.provisioning import Step, StepKind, steps
from cluster_manager.decision.tries import Desired, Tries
from cluster_manager.decision.view import View
from cluster_manager.loop.effects import LeadOut, Make, NodeNoted, Note, ProvisionerOrder, ReadDesired, WriteDesired
from cluster_manager.loop.events import DesiredFailed, DesiredLoaded, DesiredOvertaken, DesiredWritten, OfDesired, Provisioned
from cluster_manager.provision.provisioner import Answer
from pgtopology.desired_nodes import DesiredNode, DesiredNodes, Wish
from pgtopology.document import Topology
from pgtopology.node import NodeName

READ_AGAIN_MS = 1000.0
"""How long a store that did not answer is left alone."""

UNREAD = "the record of the nodes that are wanted was not read from the store yet; give the order again"

Edit = tuple[Callable[[Topology], Topology], str]


class Wishes:
    """One manager process's."""

    def __init__(self) -> None:
        self._stored: DesiredNodes | None = None
        self._is_read = False
        self._changes: dict[NodeName, DesiredNode | None] = {}
        """What is to stand in the record instead, by name; None: nothing."""
        self._awaited: ReadDesired | WriteDesired | None = None
        self._tries: dict[NodeName, Tries] = {}
        self._asked: dict[int, ProvisionerOrder] = {}
        self._numbers = 0
        self._ask: ReadDesired | WriteDesired | None = None
        self._orders: list[ProvisionerOrder] = []
        self._kept: dict[NodeName, str] = {}
        self.problem: str | None = None
        """Why the record cannot be read or written, until it can."""

    @property
    def known(self) -> tuple[Desired, ...] | None:
        """Every node of the record, what was tried for it; None until it was read."""
        if not self._is_read:
            return None
        nodes = self._stored.nodes if self._stored is not None else ()
        return tuple(Desired(node, self._tries.get(node.name, Tries())) for node in nodes)

    @property
    def is_unfinished(self) -> bool:
        """Whether anything is left to do about a node."""
        return any(one.node.is_unfinished for one in self.known or ())

    def why_kept(self, name: NodeName) -> str | None:
        """Return why the last order that the node *name* leaves ended without it; None if it did not."""
        return self._kept.get(name)

    # What happens

    def wish(self, node: DesiredNode) -> str | None:
        """Take an operator's order about *node*, given again or for the first time. Return why not, or None."""
        if not self._is_read:
            return self.problem or UNREAD
        self._kept.pop(node.name, None)
        self._tries[node.name] = self._tries.get(node.name, Tries()).at_once()
        self._change(node.name, node)
        self._write()
        return None

    def take(self, answer: OfDesired, now_ms: float) -> tuple[Note, ...]:
        """Take in what the store or the provisioner says."""
        if isinstance(answer, Provisioned):
            return self._provisioned(answer.number, answer.answer, now_ms)
        awaited, self._awaited = self._awaited, None
        match answer:
            case DesiredLoaded(record=record):
                first, self._is_read, self._stored, self.problem = not self._is_read, True, record, None
                self._write()
                return self._resumed() if first else ()
            case DesiredWritten():
                assert isinstance(awaited, WriteDesired)
                self._stored, self.problem = awaited.record, None
                self._changes = {name: to for name, to in self._changes.items() if awaited.record.find(name) != to}
                self._write()
            case DesiredOvertaken():
                self._read(now_ms)
            case DesiredFailed(problem=problem):
                self.problem = problem
                self._read(now_ms + READ_AGAIN_MS)  # only that tells whether a write was made
        return ()

    def _provisioned(self, number: int, answer: Answer, now_ms: float) -> tuple[Note, ...]:
        order = self._asked.pop(number)
        name = order.node
        if isinstance(order, LeadOut) is not (self._wish_of(name) is Wish.LEAVING):
            self._tries.pop(name, None)  # another thing is wanted meanwhile
            return ()
        before = self._tries.get(name, Tries())
        after = self._tries[name] = before.answered(answer, now_ms)
        if after.reason is None or after.reason == before.reason:
            return ()
        return (NodeNoted("node.change_failed", name, f'what was ordered about "{name}" is tried again: {after.reason}'),)

    def turn(self, view: View, now_ms: float) -> tuple[tuple[Note, ...], tuple[Edit, ...]]:
        """Take every step that is due; return what is to be told of it, and what is to be changed in the document."""
        if not self._is_read:
            if self._awaited is None:
                self._read(now_ms)
            return (), ()
        if view.document is not None and view.document.transition is not None and view.document.transition.adopts is not None:
            return self._forget_unfinished(), ()  # the store was behind, and so was this: who ordered it may have had it since
        notes: list[Note] = []
        edits: list[Edit] = []
        for step in steps(view):
            if step.node.name not in self._changes and (step.waits_for is None or step.kind is StepKind.KEEP):
                notes += self._take(step, edits)
        self._write()
        return tuple(notes), tuple(edits)

    def take_ask(self) -> ReadDesired | WriteDesired | None:
        """Return what is to be asked of the store now, once."""
        ask, self._ask = self._ask, None
        return ask

    def take_orders(self) -> tuple[ProvisionerOrder, ...]:
        """Return what is to be ordered of the provisioner now, once."""
        orders, self._orders = tuple(self._orders), []
        return orders

    # Steps

    def _take(self, step: Step, edits: list[Edit]) -> tuple[Note, ...]:
        node, name = step.node, step.node.name
        match step.kind:
            case StepKind.ADOPT:
                self._change(name, node)
            case StepKind.SETTLE:
                self._change(name, msgspec.structs.replace(node, registered=True))
                return (NodeNoted("node.made", name, f'"{name}" is made and named in the settings'),)
            case StepKind.PROVISION:
                self._order(Make(self._numbers + 1, name, node.zone))
            case StepKind.DELETE:
                self._order(LeadOut(self._numbers + 1, name, node.purge))
            case StepKind.RETIRE:
                edits.append((_retired(name), f'an operator takes "{name}" out of the cluster'))
            case StepKind.KEEP:
                reason = self._kept[name] = step.waits_for or ""
                self._change(name, msgspec.structs.replace(node, wish=Wish.WANTED, purge=False, registered=True))
                return (NodeNoted("node.change_given_up", name, f'"{name}" is not taken out: {reason}'),)
            case StepKind.FORGET:
                self._change(name, None)
                if node.wish is Wish.LEAVING:
                    return (NodeNoted("node.gone", name, f'"{name}" is out of the cluster'),)
            case StepKind.REGISTER:
                pass  # others do it
        return ()

    def _wish_of(self, name: NodeName) -> Wish | None:
        node = self._changes.get(name) or (self._stored.find(name) if self._stored is not None else None)
        return node.wish if node is not None else None

    def _order(self, order: ProvisionerOrder) -> None:
        self._numbers = order.number
        self._asked[order.number] = order
        self._tries[order.node] = self._tries.get(order.node, Tries()).asked()
        self._orders.append(order)

    def _resumed(self) -> tuple[Note, ...]:
        unfinished = [one.node for one in self.known or () if one.node.is_unfinished]
        text = {Wish.WANTED: 'the order to add "{}" is carried on', Wish.LEAVING: 'the order to take "{}" out is carried on'}
        return tuple(NodeNoted("node.change_resumed", node.name, text[node.wish].format(node.name)) for node in unfinished)

    def _forget_unfinished(self) -> tuple[Note, ...]:
        notes: list[Note] = []
        for one in self.known or ():
            if one.node.is_unfinished and one.node.name not in self._changes:
                self._change(one.node.name, None)
                text = f'the order about "{one.node.name}" is given up: the store was behind what nodes had seen'
                notes.append(NodeNoted("node.change_given_up", one.node.name, text))
        self._write()
        return tuple(notes)

    # The record

    def _change(self, name: NodeName, to: DesiredNode | None) -> None:
        self._changes[name] = to
        if to is None and all(order.node != name for order in self._asked.values()):
            self._tries.pop(name, None)

    def _read(self, not_before_ms: float) -> None:
        self._awaited = self._ask = ReadDesired(not_before_ms)

    def _write(self) -> None:
        """Have the changes written, unless the store owes an answer."""
        if self._awaited is not None or not self._changes:
            return
        stored = self._stored.nodes if self._stored is not None else ()
        kept = {node.name: node for node in stored}
        wanted = {**kept, **self._changes}
        nodes = tuple(node for node in wanted.values() if node is not None)
        if nodes == stored:
            self._changes.clear()
            return
        revision = self._stored.revision if self._stored is not None else None
        record = DesiredNodes(revision=(revision or 0) + 1, nodes=nodes)
        self._awaited = self._ask = WriteDesired(record, revision)


def _retired(name: NodeName) -> Callable[[Topology], Topology]:
    # Looked at again when it is written: another node may have been marked in the meantime.
    return lambda old: old if why_needed(old, name) is not None else marked(old, name, leaving=True)
