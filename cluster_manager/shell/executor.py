"""The manager's hands: sends orders and questions to nodeds over HTTP, and tells the loop what was answered.

Which order goes to whom, how often and what its answer means is the loop's; an order that is cancelled is not heard of again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from cluster_manager.decision.actions import Clone, NodeAction, Rewind
from cluster_manager.decision.nodeview import NodeSpec
from cluster_manager.loop.effects import Send
from cluster_manager.loop.events import Answered
from cluster_manager.loop.orders import ANSWERS, Failed, Outcome
from cluster_manager.shell.clock import now_ms
from daemonkit.httpclient import HttpClient, HttpError, HttpRefused
from daemonkit.logs import get_logger
from pgtopology.codec import MessageError, decode, encode
from pgtopology.document import Topology
from pgtopology.node import NodeName


class OrderListener(Protocol):
    """Who takes note of orders and answers."""

    def sent(self, action: NodeAction, document: Topology, now: float) -> int:
        """Take note of an order; return the number it is answered under."""
        ...

    def answered(self, number: int, outcome: str, message: str, now: float) -> None:
        """Take note of how it ended."""
        ...


class Executor:
    """Use as an asynchronous context manager; orders run as its own tasks. *tell* is told how each ended."""

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        token: str,
        tell: Callable[[Answered], object],
        listener: OrderListener | None = None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._token = token
        self._tell = tell
        self._listener = listener
        self._clients: dict[str, HttpClient] = {}
        self._stack = contextlib.AsyncExitStack()
        self._tasks: asyncio.TaskGroup | None = None
        self._sent: dict[int, asyncio.Task[Outcome]] = {}
        self._log = get_logger()

    async def __aenter__(self) -> Executor:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.cancel(tuple(self._sent))
        if self._tasks is not None:
            await self._tasks.__aexit__(None, None, None)
        await self._stack.aclose()

    def set_specs(self, specs: Sequence[NodeSpec]) -> None:
        """Go on with another set of nodes."""
        self._specs = {spec.name: spec for spec in specs}

    def send(self, send: Send) -> None:
        """Begin to give an order."""
        assert self._tasks is not None
        action = send.action
        if isinstance(action, Clone):
            self._log.info("node is made anew", node=action.node, because=action.because)
        elif isinstance(action, Rewind):
            self._log.info("node is rewound", node=action.node, because=action.because)
        task = self._tasks.create_task(self._give(send), name=f"{action.kind} {action.node}")
        self._sent[send.number] = task
        task.add_done_callback(lambda ended: self._ended(send, ended))

    def cancel(self, numbers: Sequence[int]) -> None:
        """Wait no longer for the answers to these orders."""
        for number in numbers:
            if (task := self._sent.get(number)) is not None:
                task.cancel()

    async def outcome(self, number: int) -> Outcome | None:
        """Return how the order *number*, which was sent just now, ends; None if it is cancelled."""
        task = self._sent[number]
        await asyncio.wait((task,))
        return None if task.cancelled() else task.result()

    async def ask(self, name: NodeName, path: str, body: bytes | None, *, timeout_s: float) -> bytes:
        """Return what a noded answers to a question: GET without a body, else POST. Raises HttpError."""
        if name not in self._specs:
            raise HttpError(f'there is no node "{name}"')
        client = await self._client(name)
        if body is None:
            return await client.get(path, timeout_s=timeout_s)
        return await client.post(path, body, timeout_s=timeout_s)

    async def _client(self, name: NodeName) -> HttpClient:
        """Return the client of the node's noded, at the address it has now."""
        url = f"http://{self._specs[name].noded}"
        client = self._clients.get(url)
        if client is None:
            client = self._clients[url] = await self._stack.enter_async_context(HttpClient(url, self._token))
        return client

    async def _give(self, send: Send) -> Outcome:
        """Give one order, and return how it ended; how also when it is cancelled is told to the listener."""
        number = self._listener.sent(send.action, send.document, now_ms()) if self._listener is not None else 0
        code, message = "cancelled", ""
        try:
            outcome = await self._answer(send)
            code, message = (outcome.code, outcome.message) if isinstance(outcome, Failed) else ("done", "")
            return outcome
        finally:
            if self._listener is not None:
                self._listener.answered(number, code, message, now_ms())

    async def _answer(self, send: Send) -> Outcome:
        action = send.action
        try:
            answer = await self.ask(action.node, f"/{action.kind}", encode(send.order), timeout_s=send.deadline_s)
            return decode(answer, ANSWERS[action.kind])
        except HttpRefused as refused:
            return Failed(refused.code or str(refused.status), refused.message, is_refusal=True)
        except HttpError as unavailable:
            return Failed("unavailable", str(unavailable))
        except MessageError as error:
            return Failed("message", str(error))

    def _ended(self, send: Send, ended: asyncio.Task[Outcome]) -> None:
        del self._sent[send.number]
        if not ended.cancelled() and ended.exception() is None:
            self._tell(Answered(send.number, ended.result()))
