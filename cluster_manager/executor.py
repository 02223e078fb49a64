"""Carries out what a plan asks of the nodes, and remembers the answers.

At most one order of a kind per node is under way, and the same one is not repeated faster than its pace.  What is remembered
here (promises, failures, which list is in force) belongs to one epoch and is forgotten with it; nothing of it needs to survive
the process, because every order is idempotent and every outcome can be observed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict, TypeVar, assert_never

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
from cluster_manager.decision.nodeview import NodeSpec
from cluster_manager.decision.view import Failure, Promise, SettingsSent, slots_of
from cluster_manager.observer import now_ms
from daemonkit.httpclient import HttpClient, HttpError, HttpRefused
from daemonkit.logs import get_logger
from pgtopology.codec import MessageError, decode, encode
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, Epoch, Revision
from pgtopology.node import NodeName
from pgtopology.orders import (
    Acknowledged,
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
    StopOrder,
)
from pgtopology.quorum import Voters
from pgtopology.timeline import TOLD_MAX, TimelineRecord

T = TypeVar("T")

Key = tuple[ActionKind, NodeName]

PACE_MS = {
    ActionKind.INIT: 2000.0,
    ActionKind.PROMISE: 50.0,
    ActionKind.FOLLOW: 300.0,
    ActionKind.PROMOTE: 200.0,
    ActionKind.CLONE: 2000.0,
    ActionKind.REWIND: 2000.0,
    ActionKind.STOP: 1000.0,
    ActionKind.RESTART: 1000.0,
    ActionKind.SETTINGS: 300.0,
    ActionKind.CONFIGURE: 1000.0,
    ActionKind.CHECKPOINT: 1000.0,
}
"""How soon after it ended an order of the same kind may go to the same node again."""

DEADLINE_S = {
    ActionKind.INIT: 5.0,
    ActionKind.PROMISE: 5.0,
    ActionKind.FOLLOW: 5.0,
    ActionKind.PROMOTE: 5.0,
    ActionKind.CLONE: 5.0,
    ActionKind.REWIND: 5.0,
    ActionKind.STOP: 30.0,
    ActionKind.RESTART: 60.0,
    ActionKind.SETTINGS: 8.0,
    ActionKind.CONFIGURE: 5.0,
    ActionKind.CHECKPOINT: 60.0,
}


class OrderListener(Protocol):
    """Who takes note of orders and answers."""

    def sent(self, action: NodeAction, document: Topology, now: float) -> int:
        """Take note of an order; return the number it is answered under."""
        ...

    def answered(self, number: int, outcome: str, message: str, now: float) -> None:
        """Take note of how it ended."""
        ...


class AdvanceClock(Protocol):
    """Who knows when a node's WAL was last seen to grow."""

    def wal_advanced_at_ms(self, name: NodeName) -> float:
        """Return the time on the manager's clock."""
        ...


@dataclass(slots=True)
class _Outcome:
    failures: int
    ended_ms: float
    code: str
    message: str


class Executor:
    """The manager's hands. Use as an asynchronous context manager; orders run as its own tasks."""

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        token: str,
        clock: AdvanceClock,
        changed: asyncio.Event,
        listener: OrderListener | None = None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._token = token
        self._clock = clock
        self._changed = changed
        self._listener = listener
        self._clients: dict[str, HttpClient] = {}
        self._stack = contextlib.AsyncExitStack()
        self._tasks: asyncio.TaskGroup | None = None
        self._in_flight: dict[Key, tuple[asyncio.Task[None], NodeAction]] = {}
        self._ended: dict[Key, _Outcome] = {}
        self._log = get_logger()
        self.epoch: Epoch = NO_EPOCH
        self.promises: dict[NodeName, Promise] = {}
        self.in_force: SettingsAnswer | None = None
        self.slots_in_force: frozenset[str] | None = None
        self.settings_sent: SettingsSent | None = None
        self.checkpointed_at_ms: float | None = None

    async def __aenter__(self) -> Executor:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        for task, _ in self._in_flight.values():
            task.cancel()
        if self._tasks is not None:
            await self._tasks.__aexit__(None, None, None)
        await self._stack.aclose()

    @property
    def in_flight(self) -> frozenset[Key]:
        """What is under way."""
        return frozenset(self._in_flight)

    def failures(self, now: float) -> dict[Key, Failure]:
        """Return the orders whose last outcome was not success."""
        return {
            key: Failure(count=end.failures, age_ms=now - end.ended_ms, code=end.code, message=end.message)
            for key, end in self._ended.items()
            if end.failures
        }

    def being_remade(self, now: float) -> frozenset[NodeName]:
        """Return the nodes that were told to rewind or clone, and may not have said yet that their data does not count."""
        kinds = (ActionKind.REWIND, ActionKind.CLONE)
        told = {node for kind, node in self._in_flight if kind in kinds}
        return frozenset(
            told | {node for (kind, node), end in self._ended.items() if kind in kinds and now - end.ended_ms < PACE_MS[kind]}
        )

    def enter_epoch(self, epoch: Epoch) -> None:
        """Forget what belongs to an earlier epoch, and end its orders: their answers would count for nothing."""
        if epoch == self.epoch:
            return
        self.epoch = epoch
        self.promises.clear()
        self._ended.clear()
        self.in_force = None
        self.slots_in_force = None
        self.checkpointed_at_ms = None
        self.settings_sent = None
        for task, _ in self._in_flight.values():
            task.cancel()

    def start(self, actions: Sequence[NodeAction], document: Topology, now: float) -> None:
        """Begin those of *actions* that are not under way and whose pace allows it."""
        assert self._tasks is not None
        for action in actions:
            key = (action.kind, action.node)
            if key in self._in_flight or action.node not in self._specs:
                continue
            end = self._ended.get(key)
            if end is not None and now - end.ended_ms < PACE_MS[action.kind] * (1 + min(end.failures, 4)):
                continue
            task = self._tasks.create_task(self._carry_out(key, action, document), name=f"{action.kind} {action.node}")
            self._in_flight[key] = task, action
            task.add_done_callback(lambda ended, key=key: self._let_go(key, ended))

    def _let_go(self, key: Key, ended: asyncio.Task[None]) -> None:
        """Forget an order that was cancelled before it began: nothing of it ran that could have said so itself."""
        if key in self._in_flight and self._in_flight[key][0] is ended:
            del self._in_flight[key]

    async def carry_out_now(self, action: NodeAction, document: Topology) -> None:
        """Give one order that an operator asked for, and return when it was answered. Raises HttpError, MessageError."""
        await self._order(action, document)
        self._changed.set()

    async def ask(self, name: NodeName, path: str, body: bytes | None, *, timeout_s: float) -> bytes:
        """Return what a noded answers to a question: GET without a body, else POST. Raises HttpError."""
        if name not in self._specs:
            raise HttpError(f'there is no node "{name}"')
        client = await self._client(name)
        if body is None:
            return await client.get(path, timeout_s=timeout_s)
        return await client.post(path, body, timeout_s=timeout_s)

    def set_specs(self, specs: Sequence[NodeSpec]) -> None:
        """Go on with another set of nodes; orders to those that are gone end."""
        wanted = {spec.name: spec for spec in specs}
        for key, (task, _) in self._in_flight.items():
            if key[1] not in wanted:
                task.cancel()
        self._specs = wanted

    async def _client(self, name: NodeName) -> HttpClient:
        """Return the client of the node's noded, at the address it has now."""
        url = f"http://{self._specs[name].noded}"
        client = self._clients.get(url)
        if client is None:
            client = self._clients[url] = await self._stack.enter_async_context(HttpClient(url, self._token))
        return client

    async def _carry_out(self, key: Key, action: NodeAction, document: Topology) -> None:
        epoch = document.epoch
        number = self._listener.sent(action, document, now_ms()) if self._listener is not None else 0
        outcome: _Outcome | None = None
        try:
            await self._order(action, document)
            outcome = _Outcome(0, now_ms(), "", "")
        except HttpRefused as refused:
            outcome = self._failed(key, refused.code or str(refused.status), refused.message)
        except HttpError as unavailable:
            outcome = self._failed(key, "unavailable", str(unavailable))
        except MessageError as error:
            outcome = self._failed(key, "message", str(error))
        finally:
            self._in_flight.pop(key, None)
            self._changed.set()
            if self._listener is not None:
                code = "cancelled" if outcome is None else outcome.code or "done"
                self._listener.answered(number, code, outcome.message if outcome is not None else "", now_ms())
        if self.epoch == epoch and outcome is not None:
            self._ended[key] = outcome

    def _failed(self, key: Key, code: str, message: str) -> _Outcome:
        before = self._ended.get(key)
        count = before.failures + 1 if before is not None else 1
        if before is None or (before.code, before.message) != (code, message):
            self._log.warning("order failed", order=key[0], node=key[1], code=code, reason=message)
        return _Outcome(count, now_ms(), code, message)

    async def _order(self, action: NodeAction, document: Topology) -> None:
        common = _common(action, document)
        match action:
            case Init():
                await self._post(action, InitOrder(**common), Acknowledged)
            case AskPromise():
                order = PromiseOrder(**common, stop_mode=action.stop_mode)
                answer = await self._post(action, order, PromiseAnswer)
                if self.epoch == document.epoch and answer.promised == document.epoch:
                    advanced = self._clock.wal_advanced_at_ms(action.node)
                    earlier = self.promises.get(action.node)
                    if earlier is not None:
                        # Asked again after the cut: what its WAL does since then says nothing of the old writer.
                        advanced = earlier.wal_advanced_at_ms
                    self.promises[action.node] = Promise(answer=answer, at_ms=now_ms(), wal_advanced_at_ms=advanced)
            case Follow():
                await self._post(action, FollowOrder(**common, upstream=action.upstream), Acknowledged)
            case Promote():
                await self._post(action, PromoteOrder(**common, timeline=action.timeline), Acknowledged)
            case Clone():
                self._log.info("node is made anew", node=action.node, because=action.because)
                order = CloneOrder(**common, source=action.source, destroys=action.destroys, by_operator=action.by_operator)
                await self._post(action, order, Acknowledged)
            case Rewind():
                self._log.info("node is rewound", node=action.node, because=action.because)
                order = RewindOrder(**common, source=action.source, destroys=action.destroys)
                await self._post(action, order, Acknowledged)
            case PutInForce():
                # From here on an earlier answer proves nothing.
                self.in_force = self.slots_in_force = None
                self.settings_sent = SettingsSent(action.voters, document.revision)
                order = SettingsOrder(**common, in_force=action.voters)
                answer = await self._post(action, order, SettingsAnswer)
                if self.epoch == document.epoch:
                    self.in_force = answer
                    self.slots_in_force = frozenset(slots_of(document))
            case Checkpoint():
                await self._post(action, CheckpointOrder(**common), Acknowledged)
                if self.epoch == document.epoch:
                    self.checkpointed_at_ms = now_ms()
            case Stop():
                await self._post(action, StopOrder(**common), Acknowledged)
            case Configure():
                await self._post(action, ConfigureOrder(**common, desired=document.desired), Acknowledged)
            case Restart():
                await self._post(action, StartOrder(**common), Acknowledged)
            case _:
                assert_never(action)

    async def _post(self, action: NodeAction, order: Order, answer: type[T]) -> T:
        client = await self._client(action.node)
        body = await client.post(f"/{action.kind}", encode(order), timeout_s=DEADLINE_S[action.kind])
        return decode(body, answer)


class _Common(TypedDict):
    """What all orders carry."""

    cluster: str
    node: NodeName
    system_identifier: str | None
    epoch: Epoch
    revision: Revision
    voters: Voters | None
    timelines: tuple[TimelineRecord, ...]
    slots: tuple[str, ...]
    deadline_ms: int


def _common(action: NodeAction, document: Topology) -> _Common:
    return {
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
