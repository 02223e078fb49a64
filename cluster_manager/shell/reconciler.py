"""The manager's loop on asyncio: carries out what `loop.core` asks for, and gives it what happens.

Decides nothing and remembers nothing of the cluster.  The store is asked by the task that gives the turns, so that its answer
comes before the next decision; orders to nodes run beside it, and what they, the nodes and operators say may come at any time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TypeVar, assert_never

from cluster_manager.decision.actions import NodeAction
from cluster_manager.decision.nodeview import NodeSpec
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request
from cluster_manager.decision.tries import Desired
from cluster_manager.decision.view import View
from cluster_manager.loop import effects, events
from cluster_manager.loop.core import Loop
from cluster_manager.loop.effects import Effects, Note, Read, Write
from cluster_manager.loop.events import Event, Outside
from cluster_manager.loop.orders import Failed
from cluster_manager.not_done import NotDone, NotFound, Refused, Unanswered, Unavailable, WrongQuestion
from cluster_manager.provision.external import ExternalProvisioner
from cluster_manager.provision.provisioner import Provisioner
from cluster_manager.record.chronicle import Chronicle
from cluster_manager.report.node_states import NodeStates
from cluster_manager.settings import ManagerSettings
from cluster_manager.shell.clock import now_ms, wall_ms, wall_time
from cluster_manager.shell.desires import Desires
from cluster_manager.shell.executor import Executor, OrderListener
from cluster_manager.shell.observer import Observer
from cluster_manager.store.store import Store, StoreUnavailable
from daemonkit.httpclient import HttpError, HttpRefused
from daemonkit.logs import get_logger
from pgtopology.codec import MessageError, decode
from pgtopology.desired_nodes import DesiredNode
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, Epoch, Revision
from pgtopology.node import NodeName

REFUSALS: dict[int, type[NotDone]] = {400: WrongQuestion, 404: NotFound}
"""What a noded's status says of a question; others of its kind are plain refusals."""

T = TypeVar("T")


class Reconciler:
    """Drives the cluster towards what the document and the operator want. Its `observer` and `executor` are run by others."""

    def __init__(
        self,
        settings: ManagerSettings,
        noded_token: str,
        store: Store,
        chronicle: Chronicle,
        publish: Callable[[Topology], None],
        proxies_settled: Callable[[Epoch], bool],
        proxies_seen: Callable[[], tuple[Epoch, Revision]],
        listener: OrderListener | None = None,
        provisioner: Provisioner | None = None,
    ) -> None:
        """Without a *provisioner* others make the machines of nodes."""
        self._settings = settings
        self._store = store
        self._chronicle = chronicle
        self._publish = publish
        self._proxies_settled = proxies_settled
        self._proxies_seen = proxies_seen
        self._loop = Loop(settings.for_loop(), now_ms())
        self._is_due = asyncio.Event()
        self._wake_at_ms = math.inf
        self._log = get_logger()
        self.observer = Observer(settings.specs(), noded_token, self._tell, lambda: self._loop.silent_writer(now_ms()))
        self.executor = Executor(settings.specs(), noded_token, self._tell, listener)
        self._desires = Desires(store, provisioner if provisioner is not None else ExternalProvisioner(), self._tell)
        self.states = NodeStates()
        self.plan: Plan | None = None
        """The newest plan."""
        self.view: View | None = None
        """What it was made from."""

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return self._settings.cluster.name

    @property
    def specs(self) -> tuple[NodeSpec, ...]:
        """The nodes of the settings."""
        return self._settings.specs()

    @property
    def document(self) -> Topology | None:
        """The document as this manager last read or wrote it."""
        return self._loop.document

    @property
    def given_up(self) -> str | None:
        """Why the newest order of an operator was given up before anything was changed; None if it was not."""
        return self._loop.given_up

    @property
    def store_problem(self) -> str | None:
        """Why the store did not do what was asked last, until it does."""
        return self._loop.store_problem

    async def run(self) -> None:
        """Give turns until cancelled. The lease must be held."""
        async with self._desires:
            await self._give_turns()

    async def _give_turns(self) -> None:
        self.wake()
        while True:
            await self._rest()
            self._is_due.clear()
            todo = self._turn()
            while todo.store is not None:
                todo = self._tell(await self._ask_store(todo.store))

    def wake(self) -> None:
        """Something changed that a decision may depend on."""
        self._tell(events.Woken())

    def set_nodes(self, settings: ManagerSettings) -> None:
        """Go on with what the settings say of the cluster, its nodes and table [failover]; the rest needs a restart."""
        self._settings = settings
        self.observer.set_specs(self.specs)
        self.executor.set_specs(self.specs)
        self._tell(events.Configured(settings.for_loop()))

    def look(self) -> View:
        """Return everything a decision at this moment would depend on."""
        self._discount()
        return self._loop.look(now_ms())

    def ask(self, request: Request) -> None:
        """Take an operator's request. Raises Refused if it cannot be carried out now."""
        self._demand(events.Asked(request))

    def withdraw(self) -> None:
        """Let go of the operator's request that has not begun. Raises Refused if there is none."""
        self._demand(events.Withdrawn())

    def wish(self, node: DesiredNode) -> None:
        """Have *node* in the cluster, or out of it. Raises Refused if that cannot be taken down now."""
        self._demand(events.NodeWished(node))

    def desired(self, name: str) -> Desired | None:
        """Return what is wanted of the node *name* and what was tried, as the store has it; None if that is nothing."""
        return next((one for one in self._loop.wishes.known or () if one.node.name == name), None)

    @property
    def knows_desired(self) -> bool:
        """Whether the record of desired nodes was read."""
        return self._loop.wishes.known is not None

    def why_kept(self, name: str) -> str | None:
        """Return why the node *name*, which was to leave, stays; None if it does not."""
        return self._loop.wishes.why_kept(NodeName(name))

    def edit(self, change: Callable[[Topology], Topology], because: str) -> None:
        """Have *change* applied to the document between two decisions. Raises Refused without a document."""
        self._demand(events.Edited(change, because))

    async def order(self, action: NodeAction) -> None:
        """Give a node an order that an operator asked for. Raises NotDone."""
        number = self._demand(events.Ordered(action)).orders[0].number
        outcome = await self.executor.outcome(number)
        if outcome is None:
            raise Unavailable("another epoch began before it was answered, or the node left")
        if isinstance(outcome, Failed):
            raise Refused(outcome.message, code=outcome.code) if outcome.is_refusal else Unanswered(outcome.message)

    async def ask_node(self, name: NodeName, path: str, body: bytes | None, kind: type[T], *, timeout_s: float) -> T:
        """Return what the noded of *name* answers to a question that orders nothing. Raises NotDone."""
        try:
            return decode(await self.executor.ask(name, path, body, timeout_s=timeout_s), kind)
        except HttpRefused as error:
            kind_of_refusal = REFUSALS.get(error.status, Refused if error.status < 500 else Unavailable)
            raise kind_of_refusal(error.message, code=error.code) from error
        except (HttpError, MessageError) as error:
            raise Unanswered(f'"{name}" does not say: {error}') from error

    def _demand(self, event: Event) -> Effects:
        """Give the loop what an operator wants. Raises Refused with the reason why not."""
        self._tell(events.Woken(self._outside()))  # the store may have been asked for so long that the last turn's is old
        todo = self._tell(event)
        if todo.refused is not None:
            raise Refused(todo.refused)
        return todo

    def _tell(self, event: Event) -> Effects:
        """Give the loop an event now, and carry out what it asks for, but for what it asks of the store."""
        todo = self._loop.handle(event, now_ms())
        self.executor.cancel(todo.cancelled)
        if todo.publish is not None:
            self._publish(todo.publish)
        for note in todo.notes:
            self._note(note)
        for send in todo.orders:
            self.executor.send(send)
        self._desires.begin(todo.desired, todo.provision)
        self._wake_at_ms = todo.wake_at_ms
        if todo.wake_at_ms <= now_ms():
            self._is_due.set()
        return todo

    def _turn(self) -> Effects:
        self._discount()
        return self._tell(events.Turn(self._outside()))

    def _outside(self) -> Outside:
        document = self._loop.document
        return Outside(
            lease_until_ms=now_ms() + self._store.lease.remaining_ms,
            proxies_settled=self._proxies_settled(document.epoch if document is not None else NO_EPOCH),
            proxies_seen=self._proxies_seen(),
            wall_time=wall_time(),
            wall_ms=wall_ms(),
        )

    def _discount(self) -> None:
        """Take off what this process was too late to hear."""
        missed_ms = self.observer.missed_ms(now_ms())
        if missed_ms > 0:
            self._tell(events.Late(missed_ms))

    async def _ask_store(self, wanted: Read | Write) -> Event:
        """Return what the store answers. Raises StoreError if it is lost."""
        try:
            match wanted:
                case Read():
                    await asyncio.sleep(max(0.0, wanted.not_before_ms - now_ms()) / 1000)
                    return events.Loaded(await self._store.read())
                case Write():
                    written = await self._store.write(wanted.document, expected=wanted.expected)
                    return events.Written() if written else events.Overtaken()
                case _:
                    assert_never(wanted)
        except StoreUnavailable as error:
            return events.StoreFailed(str(error))

    async def _rest(self) -> None:
        """Wait until a turn is due."""
        delay_s = (self._wake_at_ms - now_ms()) / 1000
        if delay_s <= 0:
            return
        try:
            async with asyncio.timeout(delay_s if delay_s < math.inf else None):
                await self._is_due.wait()
        except TimeoutError:
            return

    def _note(self, note: Note) -> None:
        """Tell people."""
        match note:
            case effects.Decided():
                self.view, self.plan = note.view, note.plan
                self.states.note(note.view)
                self._chronicle.planned(note.view, note.plan)
                self._chronicle.observed(note.view)
            case effects.DocumentWritten(write=write):
                self._chronicle.written(note.old, write.document, note.view, write.because, write.began_ms, now_ms())
            case effects.WriteFailed(write=write):
                if note.by_another:
                    self._log.warning("another manager wrote the document", revision=write.document.revision)
                self._chronicle.write_failed(write.document, write.because, write.began_ms, now_ms(), note.why)
            case effects.RequestGivenUp():
                self._chronicle.given_up(note.view, note.request, note.because)
            case effects.OrderFailed(action=action):
                self._log.warning("order failed", order=action.kind, node=action.node, code=note.code, reason=note.message)
            case effects.NodeNoted():
                self._chronicle.node_noted(note.kind, note.node, note.text, self._loop.document)
            case effects.StoreNoted(problem=None):
                self._log.info("the store works again")
            case effects.StoreNoted():
                self._log.error("the store did not do what was asked; it is tried again", error=note.problem)
            case _:
                assert_never(note)
