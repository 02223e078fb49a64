"""The orders of one manager: which are under way, how the last of each kind ended, and what was answered to them.

At most one order of a kind per node is under way, and the same one is not repeated faster than its pace.  What is remembered
(promises, failures, which list is in force) belongs to one epoch and is forgotten with it; nothing of it needs to survive the
process, because every order is idempotent and every outcome can be observed (D3).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster_manager.decision.actions import ActionKind, AskPromise, Checkpoint, NodeAction, PutInForce
from cluster_manager.decision.view import Failure, Promise, VotersSent, slots_of
from cluster_manager.loop.effects import OrderFailed, Send
from cluster_manager.loop.nodes import Nodes
from cluster_manager.loop.orders import DEADLINE_S, PACE_MS, Failed, Outcome, order_of
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.node import NodeName
from pgtopology.orders import PromiseAnswer, SynchronousAnswer

Key = tuple[ActionKind, NodeName]

REMAKING = (ActionKind.REWIND, ActionKind.CLONE)

SLOWER_MAX = 4
"""After so many failures in a row the pace becomes no slower."""


@dataclass(frozen=True, slots=True)
class _Ended:
    failures: int
    at_ms: float
    code: str = ""
    message: str = ""


class OrderBook:
    """The memory of one epoch."""

    def __init__(self) -> None:
        self.epoch: Epoch = NO_EPOCH
        self.promises: dict[NodeName, Promise] = {}
        self.in_force: SynchronousAnswer | None = None
        self.slots_in_force: frozenset[str] | None = None
        self.voters_sent: VotersSent | None = None
        self.checkpointed_at_ms: float | None = None
        self._sent: dict[Key, Send] = {}
        self._ended: dict[Key, _Ended] = {}
        self._numbers = 0

    @property
    def in_flight(self) -> frozenset[Key]:
        """What is under way."""
        return frozenset(self._sent)

    def failures(self, now_ms: float) -> dict[Key, Failure]:
        """Return the orders whose last outcome was not success."""
        return {
            key: Failure(count=end.failures, age_ms=now_ms - end.at_ms, code=end.code, message=end.message)
            for key, end in self._ended.items()
            if end.failures
        }

    def being_remade(self, now_ms: float) -> frozenset[NodeName]:
        """Return the nodes that were told to rewind or clone, and may not have said yet that their data does not count."""
        told = {node for kind, node in self._sent if kind in REMAKING}
        lately = {node for (kind, node), end in self._ended.items() if kind in REMAKING and now_ms - end.at_ms < PACE_MS[kind]}
        return frozenset(told | lately)

    def enter_epoch(self, epoch: Epoch) -> tuple[int, ...]:
        """Forget what belongs to an earlier epoch; return the orders of it, whose answers would count for nothing."""
        if epoch == self.epoch:
            return ()
        self.epoch = epoch
        self.promises.clear()
        self._ended.clear()
        self.in_force = self.slots_in_force = self.voters_sent = self.checkpointed_at_ms = None
        return self._let_go(tuple(self._sent))

    def keep(self, names: Collection[NodeName]) -> tuple[int, ...]:
        """Go on with these nodes; return the orders to others."""
        return self._let_go(tuple(key for key in self._sent if key[1] not in names))

    def _let_go(self, keys: Sequence[Key]) -> tuple[int, ...]:
        return tuple(self._sent.pop(key).number for key in keys)

    def is_due(self, action: NodeAction, now_ms: float) -> bool:
        """Return whether *action* is not under way and its pace allows it."""
        key = action.kind, action.node
        if key in self._sent:
            return False
        end = self._ended.get(key)
        return end is None or now_ms - end.at_ms >= PACE_MS[action.kind] * (1 + min(end.failures, SLOWER_MAX))

    def begin(self, action: NodeAction, document: Topology) -> Send:
        """Note that *action*, which follows from *document*, is asked of its node from now on."""
        if isinstance(action, PutInForce):
            # From here on an earlier answer proves nothing.
            self.in_force = self.slots_in_force = None
            self.voters_sent = VotersSent(action.voters, document.revision)
        self._numbers += 1
        send = Send(self._numbers, action, order_of(action, document), document, DEADLINE_S[action.kind])
        self._sent[action.kind, action.node] = send
        return send

    def is_awaited(self, number: int) -> bool:
        """Return whether the order is under way: not if it was let go, or answered before."""
        return any(send.number == number for send in self._sent.values())

    def answered(self, number: int, outcome: Outcome, nodes: Nodes, now_ms: float) -> OrderFailed | None:
        """Note how an order under way ended. Return its failure if the last of its kind did not fail like that."""
        send = next(send for send in self._sent.values() if send.number == number)
        action = send.action
        key = action.kind, action.node
        del self._sent[key]
        if isinstance(outcome, Failed):
            before = self._ended.get(key)
            count = before.failures + 1 if before is not None else 1
            self._ended[key] = _Ended(count, now_ms, outcome.code, outcome.message)
            same = before is not None and (before.code, before.message) == (outcome.code, outcome.message)
            return None if same else OrderFailed(action, outcome.code, outcome.message)
        self._ended[key] = _Ended(0, now_ms)
        if isinstance(action, AskPromise) and isinstance(outcome, PromiseAnswer):
            if outcome.promised == send.document.epoch:
                # Asked again after the cut: what its WAL does since then says nothing of the old writer.
                earlier = self.promises.get(action.node)
                advanced_ms = nodes.wal_advanced_at_ms(action.node) if earlier is None else earlier.wal_advanced_at_ms
                self.promises[action.node] = Promise(answer=outcome, at_ms=now_ms, wal_advanced_at_ms=advanced_ms)
        elif isinstance(outcome, SynchronousAnswer):
            self.in_force = outcome
            self.slots_in_force = frozenset(slots_of(send.document))
        elif isinstance(action, Checkpoint):
            self.checkpointed_at_ms = now_ms
        return None
