"""How a simulated manager carries out what a plan asks of the nodes, and what it remembers of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster_manager.decision.actions import (
    ActionKind,
    AskPromise,
    Checkpoint,
    Clone,
    Configure,
    Follow,
    Init,
    NodeAction,
    Promote,
    PutInForce,
    Restart,
    Rewind,
    Stop,
)
from cluster_manager.decision.view import Promise, SettingsSent, slots_of
from cluster_manager.executor import DEADLINE_S, PACE_MS
from cluster_manager.watched import Watched
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.node import NodeName
from pgtopology.orders import (
    CheckpointOrder,
    CloneOrder,
    ConfigureOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseAnswer,
    PromiseOrder,
    PromoteOrder,
    RewindOrder,
    SettingsAnswer,
    SettingsOrder,
    StartOrder,
    StopMode,
    StopOrder,
)
from pgtopology.timeline import TOLD_MAX
from tests.sim.world import Owner

if TYPE_CHECKING:
    from tests.sim.manager import SimManager


Key = tuple[ActionKind, NodeName]


@dataclass(slots=True)
class _Ended:
    failures: int
    at_ms: float
    code: str


class Executor(Owner):
    """The hands; `_wake` is the loop's."""

    def __init__(self, host: SimManager) -> None:
        super().__init__()
        self.host = host
        self.world = host.world
        self.watched = {spec.name: Watched(spec) for spec in host.specs}
        self.epoch: Epoch = NO_EPOCH
        self.promises: dict[NodeName, Promise] = {}
        self.in_flight: dict[Key, int] = {}
        self.ended: dict[Key, _Ended] = {}
        self.in_force: SettingsAnswer | None = None
        self.slots_in_force: frozenset[str] | None = None
        self.settings_sent: SettingsSent | None = None
        self.checkpointed_ms: float | None = None
        self._order = 0

    def _wake(self) -> None:
        raise NotImplementedError

    def _being_remade(self, now: float) -> frozenset[NodeName]:
        kinds = (ActionKind.REWIND, ActionKind.CLONE)
        told = {node for kind, node in self.in_flight if kind in kinds}
        lately = {node for (kind, node), end in self.ended.items() if kind in kinds and now - end.at_ms < PACE_MS[kind]}
        return frozenset(told | lately)

    def _enter_epoch(self, epoch: Epoch) -> None:
        if epoch == self.epoch:
            return
        self.epoch = epoch
        self.promises.clear()
        self.ended.clear()
        self.in_force = None
        self.slots_in_force = None
        self.settings_sent = None
        self.checkpointed_ms = None
        self.in_flight.clear()

    def _start(self, action: NodeAction, document: Topology) -> None:
        key = action.kind, action.node
        if key in self.in_flight:
            return
        end = self.ended.get(key)
        if end is not None and self.world.now - end.at_ms < PACE_MS[action.kind] * (1 + min(end.failures, 4)):
            return
        if action.node not in self.watched:
            return
        if self.host.dies(after=False, kind=action.kind):
            return
        self.world.counts[f"action {action.kind}"] += 1
        self._order += 1
        number = self.in_flight[key] = self._order
        order = _order(action, document)
        self.host.sent.append(order)
        if isinstance(order, SettingsOrder):
            self.in_force = self.slots_in_force = None
            self.settings_sent = SettingsSent(order.in_force, document.revision)
        node, net = self.host.nodes[action.node], self.host.net

        def arrive() -> None:
            noded = node.noded
            if not node.is_up:
                return
            if noded is None:
                back(("unavailable", "refused"))
            elif noded.frozen:
                noded.parked.append((noded.receive, (order, back)))
            else:
                noded.receive(order, back)

        def back(outcome: object) -> None:
            net.send(action.node, self.host.name, self, self._answered, key, number, document, action, outcome)

        net.send(self.host.name, action.node, None, arrive)
        if self.host.dies(after=True):
            return
        timeout = DEADLINE_S[action.kind] * 1000
        self.world.after(timeout, self, self._answered, key, number, document, action, ("unavailable", "timeout"))

    def _answered(self, key: Key, number: int, document: Topology, action: NodeAction, outcome: object) -> None:
        if self.in_flight.get(key) != number:
            return
        del self.in_flight[key]
        self._wake()
        if self.epoch != document.epoch:
            return
        if isinstance(outcome, tuple):
            before = self.ended.get(key)
            self.ended[key] = _Ended(before.failures + 1 if before else 1, self.world.now, outcome[0])
            return
        self.ended[key] = _Ended(0, self.world.now, "")
        if isinstance(outcome, PromiseAnswer) and action.node in self.watched and outcome.promised == document.epoch:
            advanced = self.watched[action.node].wal_advanced_ms
            earlier = self.promises.get(action.node)
            if earlier is not None:
                advanced = earlier.wal_advanced_at_ms
            self.promises[action.node] = Promise(answer=outcome, at_ms=self.world.now, wal_advanced_at_ms=advanced)
        elif isinstance(outcome, SettingsAnswer):
            self.in_force = outcome
            self.slots_in_force = frozenset(slots_of(document))
        elif isinstance(action, Checkpoint):
            self.checkpointed_ms = self.world.now


def _order(action: NodeAction, document: Topology) -> Order:
    common = {
        "cluster": document.cluster,
        "node": action.node,
        "system_identifier": document.system_identifier,
        "epoch": document.epoch,
        "revision": document.revision,
        "voters": document.voters,
        "timelines": document.timelines[-TOLD_MAX:],
        "slots": slots_of(document),
        "deadline_ms": int(DEADLINE_S[action.kind] * 1000),
    }
    match action:
        case Checkpoint():
            return CheckpointOrder(**common)
        case Init():
            return InitOrder(**common)
        case AskPromise():
            return PromiseOrder(**common, stop_mode=action.stop_mode)
        case Follow():
            return FollowOrder(**common, upstream=action.upstream)
        case Stop():
            return StopOrder(**common, mode=StopMode.FAST)
        case Restart():
            return StartOrder(**common)
        case Promote():
            return PromoteOrder(**common, timeline=action.timeline)
        case Clone():
            return CloneOrder(**common, source=action.source, destroys=action.destroys)
        case Rewind():
            return RewindOrder(**common, source=action.source, destroys=action.destroys)
        case Configure():
            return ConfigureOrder(**common, desired=document.desired)
        case PutInForce():
            return SettingsOrder(**common, in_force=action.voters)
        case _:
            raise AssertionError(f"the simulator does not know the order {action}")
