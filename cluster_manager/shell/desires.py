"""The manager's word with the store and the provisioner about desired nodes: asks what the loop wants asked.

Beside the turns, so that a provisioner that is slow keeps no failover waiting.  The loop has one question to the store and one
order for each node under way at a time, so the tasks here are few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Self, assert_never

from cluster_manager.loop.effects import LeadOut, Make, ProvisionerOrder, ReadDesired, WriteDesired
from cluster_manager.loop.events import (
    DesiredAnswer,
    DesiredFailed,
    DesiredLoaded,
    DesiredOvertaken,
    DesiredWritten,
    Provisioned,
)
from cluster_manager.provision.provisioner import Provisioner, Unheard
from cluster_manager.shell.clock import now_ms
from cluster_manager.store.store import Store, StoreUnavailable

ANSWER_S = 30.0
"""For an answer of the provisioner, whose own deadline is shorter."""


class Desires:
    """Use as an asynchronous context manager, within which the loop is given its turns. *tell* is told the answers."""

    def __init__(self, store: Store, provisioner: Provisioner, tell: Callable[[DesiredAnswer | Provisioned], object]) -> None:
        self._store = store
        self._provisioner = provisioner
        self._tell = tell
        self._tasks = asyncio.TaskGroup()
        self._under_way: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._under_way:
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def begin(self, ask: ReadDesired | WriteDesired | None, orders: Sequence[ProvisionerOrder]) -> None:
        """Begin to ask the store, and to give the provisioner its orders."""
        if ask is not None:
            self._begin(self._ask(ask))
        for order in orders:
            self._begin(self._order(order))

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = self._tasks.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _ask(self, ask: ReadDesired | WriteDesired) -> None:
        """Have the store answer. Raises StoreError if it is lost."""
        try:
            self._tell(await self._answer(ask))
        except StoreUnavailable as error:
            self._tell(DesiredFailed(str(error)))

    async def _answer(self, ask: ReadDesired | WriteDesired) -> DesiredAnswer:
        match ask:
            case ReadDesired():
                await asyncio.sleep(max(0.0, ask.not_before_ms - now_ms()) / 1000)
                return DesiredLoaded(await self._store.read_desired())
            case WriteDesired():
                written = await self._store.write_desired(ask.record, expected=ask.expected)
                return DesiredWritten() if written else DesiredOvertaken()
            case _:
                assert_never(ask)

    async def _order(self, order: ProvisionerOrder) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                match order:
                    case Make():
                        answer = await self._provisioner.make(order.node, order.zone)
                    case LeadOut():
                        answer = await self._provisioner.lead_out(order.node, purge=order.purge)
                    case _:
                        assert_never(order)
        except TimeoutError:
            answer = Unheard(f"the provisioner does not answer within {ANSWER_S:g} s")
        self._tell(Provisioned(order.number, answer))
