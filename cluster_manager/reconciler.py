"""The manager's loop: look, decide, write or order, and look again.

Owns the document of this process: it is read from the store once and changed only by this loop's writes.  A write is awaited
and its outcome decides what comes next; orders to nodes run beside the loop.  The loop runs at its own pace: it is woken by
arrivals, answers and the plan's own alarm, and decides on the whole view each time, never on what the wake-up was about.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from cluster_manager.chronicle import Chronicle
from cluster_manager.decision.actions import NodeAction, WriteDocument
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.members import node_state
from cluster_manager.decision.nodeview import NodeSpec
from cluster_manager.decision.plan import Plan, decide
from cluster_manager.decision.refusal import hindrance, refusal
from cluster_manager.decision.request import Request
from cluster_manager.decision.timings import Timings
from cluster_manager.decision.view import SettingsSent, View
from cluster_manager.executor import Executor
from cluster_manager.observer import Observer, now_ms
from cluster_manager.settings import FAILOVERS_REMEMBERED, ManagerSettings
from cluster_manager.store.store import Store, StoreUnavailable
from daemonkit.httpclient import HttpError, HttpRefused
from daemonkit.httpserver import ApiError
from daemonkit.logs import get_logger
from pgtopology.codec import MessageError, decode
from pgtopology.document import Topology
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import NodeName, NodeState
from pgtopology.succession import may_follow

STORE_RETRY_S = 0.2

T = TypeVar("T")


class Reconciler:
    """Drives the cluster towards what the document and the operator want."""

    def __init__(
        self,
        settings: ManagerSettings,
        store: Store,
        observer: Observer,
        executor: Executor,
        chronicle: Chronicle,
        publish: Callable[[Topology], None],
        proxies_settled: Callable[[Epoch], bool],
        proxies_seen: Callable[[], tuple[Epoch, Revision]],
        timings: Timings | None = None,
    ) -> None:
        self._settings = settings
        self._specs = settings.specs()
        self._store = store
        self._observer = observer
        self._executor = executor
        self._chronicle = chronicle
        self._publish = publish
        self._proxies_settled = proxies_settled
        self._proxies_seen = proxies_seen
        self._timings = timings if timings is not None else Timings()
        self._document: Topology | None = None
        self._unpublished: Topology | None = None
        self._started_ms = now_ms()
        self._epoch_is_ours = False
        self._epoch_began_ms = self._started_ms
        self._claimed_ms = self._started_ms
        self._transition_began_ms = self._started_ms
        self._request: Request | None = None
        self._hindered_since_ms: float | None = None
        self.given_up: str | None = None
        """Why the newest order of an operator was given up before anything was changed; None if it was not."""
        self._soft_failovers_ms: deque[float] = deque(maxlen=FAILOVERS_REMEMBERED)
        self._edits: list[tuple[Callable[[Topology], Topology], str]] = []
        self._log = get_logger()
        self.store_problem: str | None = None
        """Why the store did not do what was asked last, until it does."""
        self.plan: Plan | None = None
        """The newest plan."""
        self.view: View | None = None
        """What it was made from."""
        self.since: dict[NodeName, tuple[NodeState, str]] = {}
        """Since when, in wall time, each node has been in its state."""
        self._told_states: dict[NodeName, NodeState] = {}

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return self._settings.cluster.name

    @property
    def specs(self) -> tuple[NodeSpec, ...]:
        """The nodes of the settings."""
        return self._specs

    @property
    def document(self) -> Topology | None:
        """The document as this manager last read or wrote it."""
        return self._document

    async def run(self) -> None:
        """Reconcile until cancelled."""
        await self._read()
        while True:
            self._observer.changed.clear()
            self._executor.enter_epoch(self._document.epoch if self._document is not None else Epoch(0))
            self._observer.writer = self._document.writer if self._document is not None else None
            if self._request is not None:
                self._give_up(self.look(), self._request)
            view = self.look()
            plan = decide(view)
            self.view, self.plan = view, plan
            self._publish_what_was_read(view, plan)
            self._note_states(view)
            self._chronicle.planned(view, plan)
            self._chronicle.observed(view)
            if await self._write(view, plan):
                continue
            if self._document is not None:
                orders = [action for action in plan.actions if not isinstance(action, WriteDocument)]
                self._executor.start(orders, self._document, view.now_ms)
            await self._rest(plan)

    def set_nodes(self, settings: ManagerSettings) -> None:
        """Go on with the nodes of *settings*, and with table [failover]; everything else in it needs a restart."""
        self._settings = settings
        self._specs = settings.specs()
        self._observer.set_specs(self._specs)
        self._executor.set_specs(self._specs)

    async def order(self, action: NodeAction) -> None:
        """Give a node an order that an operator asked for. Raises ApiError if there is no cluster or the node refuses."""
        if self._document is None:
            raise ApiError(409, "refused", "there is no cluster yet")
        try:
            await self._executor.carry_out_now(action, self._document)
        except HttpRefused as error:
            raise ApiError(409, error.code or "refused", error.message) from error
        except (HttpError, MessageError) as error:
            raise ApiError(502, "unavailable", str(error)) from error

    async def ask_node(self, name: NodeName, path: str, body: bytes | None, kind: type[T], *, timeout_s: float) -> T:
        """Return what the noded of *name* answers to a question that orders nothing. Raises ApiError."""
        try:
            return decode(await self._executor.ask(name, path, body, timeout_s=timeout_s), kind)
        except HttpRefused as error:
            raise ApiError(error.status, error.code or "refused", error.message) from error
        except (HttpError, MessageError) as error:
            raise ApiError(502, "unavailable", f'"{name}" does not say: {error}') from error

    def ask(self, request: Request) -> None:
        """Take an operator's order. Raises ApiError if it cannot be carried out now."""
        view = self.look()
        why_not = refusal(view, request)
        if why_not is not None:
            raise ApiError(409, "refused", why_not)
        self._request = replace(request, asked_at_ms=view.now_ms)
        self._hindered_since_ms = self.given_up = None
        self._observer.changed.set()

    def _give_up(self, view: View, request: Request) -> None:
        """Let go of an operator's order that was accepted and has not begun, if it has been hindered for too long."""
        why_not = hindrance(view, request)
        if why_not is None:
            self._hindered_since_ms = None
        elif self._hindered_since_ms is None:
            self._hindered_since_ms = view.now_ms
        elif view.now_ms - self._hindered_since_ms >= view.timings.refused_ms:
            self._request, self.given_up = None, why_not
            self._chronicle.given_up(view, request, why_not)

    def edit(self, change: Callable[[Topology], Topology], because: str) -> None:
        """Have *change* applied to the document between two decisions. Raises ApiError without a document."""
        if self._document is None:
            raise ApiError(409, "refused", "there is no cluster yet")
        if self.plan is not None and self.plan.is_unsure:
            raise ApiError(409, "refused", self.plan.reason)
        self._edits.append((change, because))
        self._observer.changed.set()

    def look(self) -> View:
        """Return everything a decision at this moment would depend on."""
        now = now_ms()
        return View(
            now_ms=now,
            started_at_ms=self._started_ms,
            cluster=self._settings.cluster.name,
            specs=self._specs,
            endpoints=self._settings.document_endpoints(),
            wanted_durability=self._settings.wanted_durability(),
            bootstrap_ordered=self._settings.cluster.bootstrap,
            document=self._document,
            epoch_is_ours=self._epoch_is_ours,
            epoch_began_at_ms=self._epoch_began_ms,
            transition_began_at_ms=self._transition_began_ms,
            claimed_at_ms=self._claimed_ms,
            nodes=self._observer.views(now),
            promises=dict(self._executor.promises),
            request=self._request,
            soft_failovers_at_ms=tuple(self._soft_failovers_ms),
            anti_flap=self._settings.failover.anti_flap(),
            checkpointed_at_ms=self._executor.checkpointed_at_ms,
            proxies_settled=self._proxies_settled(self._document.epoch if self._document is not None else Epoch(0)),
            proxies_seen=self._proxies_seen(),
            being_remade=self._executor.being_remade(now),
            in_flight=self._executor.in_flight,
            failures=self._executor.failures(now),
            in_force=self._executor.in_force,
            slots_in_force=self._executor.slots_in_force,
            settings_sent=self._executor.settings_sent,
            reader_lag_max_ms=self._settings.endpoints.reader.max_lag_ms,
            wall_time=wall_time(),
            timings=self._timings,
        )

    async def _write(self, view: View, plan: Plan) -> bool:
        """Write what the plan, or else an operator, wants written. Return whether to decide anew at once."""
        write = next((action for action in plan.actions if isinstance(action, WriteDocument)), None)
        if write is None:
            # An order that was taken a moment ago waits too, until it is known that the document is not an old copy (S12).
            if not self._edits or self._document is None or plan.is_unsure:
                return False
            change, because = self._edits.pop(0)
            changed = change(self._document)
            if changed == self._document:
                return True
            revision = Revision(self._document.revision + 1)
            write = WriteDocument(msgspec.structs.replace(changed, revision=revision), because)
        old, new = self._document, write.document
        why_not = may_follow(old, new) if old is not None else None
        if why_not is not None:
            raise AssertionError(f"the plan breaks the rules of succession: {why_not}")
        began_ms = now_ms()
        try:
            result = await self._store.write(new, expected=old.revision if old is not None else None)
        except StoreUnavailable as error:
            self._note_store(str(error))
            self._chronicle.write_failed(new, write.because, began_ms, now_ms(), f"failed: {error}")
            await asyncio.sleep(STORE_RETRY_S)
            await self._read()
            return True
        self._note_store(None)
        if not result:
            self._log.warning("another manager wrote the document", revision=new.revision)
            self._chronicle.write_failed(new, write.because, began_ms, now_ms(), "another manager wrote the document")
            await self._read()
            return True
        now = now_ms()
        self._document = new
        if new.candidate is not None and (old is None or new.candidate != old.candidate):
            self._claimed_ms = now
        if new.transition is not None and (old is None or old.transition is None):
            self._transition_began_ms = now
        if old is None or new.epoch > old.epoch:
            self._epoch_is_ours = True
            self._epoch_began_ms = now
            self._request = None
            if plan.finding.failed and plan.finding.is_soft:
                self._soft_failovers_ms.append(now)
        self._unpublished = None
        self._publish(new)
        self._chronicle.written(old, new, view, write.because, began_ms, now)
        return True

    async def _read(self) -> None:
        """Take the document from the store, as one that somebody else may have written."""
        before = self._document
        while True:
            try:
                self._document = await self._store.read()
            except StoreUnavailable as error:
                self._note_store(str(error))
                await asyncio.sleep(STORE_RETRY_S)
                continue
            break
        self._epoch_is_ours = False
        self._epoch_began_ms = self._claimed_ms = now_ms()
        if before is None or before.transition is None:
            self._transition_began_ms = self._epoch_began_ms
        self._unpublished = self._document
        if self._document is not None:
            # Whoever wrote it may have orders under way that only a newer revision makes late.
            self._executor.enter_epoch(self._document.epoch)
            self._executor.settings_sent = SettingsSent(None, self._document.revision)

    def _publish_what_was_read(self, view: View, plan: Plan) -> None:
        """Publish the document found in the store once it is known to be no old copy: names would lead to a former writer.

        If too few voters are heard to know, it is the best there is.
        """
        document = self._unpublished
        if document is None or plan.diagnosis is Diagnosis.STORE_BEHIND:
            return
        if not plan.is_unsure or view.now_ms - view.started_at_ms >= view.timings.adopt_ms:
            self._unpublished = None
            self._publish(document)

    async def _rest(self, plan: Plan) -> None:
        """Wait for news, at most until the plan's own alarm."""
        self._observer.every_word_counts = not plan.is_restful
        delay_s = max(0.0, (plan.wake_at_ms - now_ms()) / 1000)
        try:
            async with asyncio.timeout(delay_s):
                await self._observer.changed.wait()
        except TimeoutError:
            return

    def _note_store(self, problem: str | None) -> None:
        """Say once what is wrong with the store, and when it is over."""
        if problem != self.store_problem:
            self.store_problem = problem
            if problem is not None:
                self._log.error("the store did not do what was asked; it is tried again", error=problem)
            else:
                self._log.info("the store works again")

    def _note_states(self, view: View) -> None:
        """Remember since when each node is as it is, and tell of changes; those of a transition are told when it is over."""
        settled = view.document is None or view.document.transition is None
        for node in view.nodes:
            state = node_state(node, view)
            if node.name not in self.since or self.since[node.name][0] is not state:
                self.since[node.name] = state, view.wall_time
            told = self._told_states.setdefault(node.name, state)
            if settled and told is not state:
                self._log.info("node state changed", node=node.name, old=str(told), new=str(state))
                self._told_states[node.name] = state


def wall_time() -> str:
    """Return the wall time for people."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
