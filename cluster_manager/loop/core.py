"""The loop itself: one event in, what to do about it out.

A turn decides on the whole view each time, never on what the wake-up was about.  Its plan is either one write, or orders; a
write, also an operator's edit, is asked of the store alone, and its answer decides what comes next.  What is read from the
store may have been written by somebody else: it is published once it is known to be no old copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

import msgspec

from cluster_manager.decision import refusal as refusals
from cluster_manager.decision.actions import WriteDocument
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.nodeview import NEVER_MS
from cluster_manager.decision.plan import CALM_WAKE_MS, Plan
from cluster_manager.decision.request import Request
from cluster_manager.decision.view import View, VotersSent
from cluster_manager.loop import events
from cluster_manager.loop.effects import (
    Decided,
    DocumentWritten,
    Effects,
    Note,
    Read,
    RequestGivenUp,
    Send,
    StoreNoted,
    Write,
    WriteFailed,
)
from cluster_manager.loop.known import KnownDocument
from cluster_manager.loop.nodes import Nodes
from cluster_manager.loop.orderbook import OrderBook
from cluster_manager.loop.rules import Rules
from cluster_manager.loop.settings import LoopSettings
from cluster_manager.loop.wishes import Wishes
from pgtopology.document import Topology
from pgtopology.epoch import Revision
from pgtopology.node import NodeName

STORE_RETRY_MS = 200.0
"""How long a store that did not answer is left alone."""

NO_CLUSTER = "there is no cluster yet"
NO_LEASE = "this manager does not hold the lease: another one may lead"
WITHDRAWN = "an operator withdrew it"
NOTHING_PENDING = "nothing that was asked for waits to begin"


class Loop:
    """One manager process, without its hands and ears."""

    def __init__(self, settings: LoopSettings, now_ms: float, rules: Rules | None = None) -> None:
        """It sleeps until it is woken: give `Woken` once the lease is held."""
        self._settings = settings
        self._rules = rules if rules is not None else Rules()
        self._outside = events.Outside()
        self._due_ms = NEVER_MS
        self._awaited: Read | Write | None = None
        """What the store still owes an answer to."""
        self._started_ms = now_ms
        self._known = KnownDocument(now_ms)
        self._edits: deque[tuple[Callable[[Topology], Topology], str]] = deque()
        self._hindered_since_ms: float | None = None
        self.nodes = Nodes(settings.specs)
        self.orders = OrderBook()
        self.wishes = Wishes()
        self.request: Request | None = None
        """What an operator asked for, while it has not begun."""
        self.given_up: str | None = None
        """Why the newest request was given up before anything was changed; None if it was not."""
        self.store_problem: str | None = None
        """Why the store did not do what was asked last, until it writes again."""
        self.view: View | None = None
        """What the newest plan was made from."""
        self.plan: Plan | None = None
        """The newest plan."""

    @property
    def document(self) -> Topology | None:
        """The document as this manager last read or wrote it."""
        return self._known.document

    @property
    def has_unwritten(self) -> bool:
        """Whether an edit waits, or a write is under way."""
        return bool(self._edits) or isinstance(self._awaited, Write)

    def silent_writer(self, now_ms: float) -> NodeName | None:
        """Return the published writer if its noded is silent: a connection to its PostgreSQL may tell more."""
        writer = self.document.writer if self.document is not None else None
        return writer if self.nodes.is_silent(writer, now_ms) else None

    def handle(self, event: events.Event, now_ms: float) -> Effects:
        """Take in what happened at *now_ms*, and return what is to be done about it."""
        match event:
            case events.Observed():
                restful = self.plan is not None and self.plan.is_restful
                return self._woken(now_ms) if self.nodes.take(event.observation, now_ms) or not restful else self._effects()
            case events.Turn():
                self._outside = event.outside
                return self._turn(now_ms)
            case events.Answered():
                if not self.orders.is_awaited(event.number):
                    return self._effects()
                failed = self.orders.answered(event.number, event.outcome, self.nodes, now_ms)
                return self._woken(now_ms, notes=(failed,) if failed is not None else ())
            case events.Written():
                return self._written(now_ms)
            case events.Overtaken():
                return self._overtaken(now_ms)
            case events.StoreFailed():
                return self._store_failed(event.problem, now_ms)
            case events.Loaded():
                return self._loaded(event.document, now_ms)
            case events.Woken():
                self._outside = event.outside if event.outside is not None else self._outside
                self._due_ms = min(self._due_ms, now_ms)
                return self._effects()
            case events.Late():
                self.nodes.discount(event.lag_ms, now_ms)
                return self._effects()
            case events.PortTried():
                counts = self.nodes.port_tried(event.node, event.port, now_ms)
                return self._woken(now_ms) if counts else self._effects()
            case events.Configured():
                self._settings = event.settings
                self.nodes.set_specs(event.settings.specs)
                return self._woken(now_ms, cancelled=self.orders.keep([spec.name for spec in event.settings.specs]))
            case (
                events.DesiredLoaded()
                | events.DesiredWritten()
                | events.DesiredOvertaken()
                | events.DesiredFailed()
                | events.Provisioned()
            ):
                return self._wished(event, now_ms)
            case events.Asked() | events.Withdrawn() | events.Edited() | events.Ordered() | events.NodeWished():
                return self._operated(event, now_ms)
            case _:
                assert_never(event)

    def look(self, now_ms: float) -> View:
        """Return everything a decision at this moment would depend on."""
        settings, outside, orders, known = self._settings, self._outside, self.orders, self._known
        return View(
            now_ms=now_ms,
            started_at_ms=self._started_ms,
            cluster=settings.cluster,
            specs=settings.specs,
            endpoints=settings.endpoints,
            wanted_durability=settings.durability,
            bootstrap_ordered=settings.bootstrap_ordered,
            document=known.document,
            epoch_is_ours=known.epoch_is_ours,
            epoch_began_at_ms=known.epoch_began_ms,
            transition_began_at_ms=known.transition_began_ms,
            claimed_at_ms=known.claimed_ms,
            nodes=self.nodes.views(now_ms),
            promises=dict(orders.promises),
            request=self.request,
            soft_failovers_at_ms=tuple(known.soft_failovers_ms),
            anti_flap=settings.anti_flap,
            checkpointed_at_ms=orders.checkpointed_at_ms,
            proxies_settled=outside.proxies_settled,
            proxies_seen=outside.proxies_seen,
            being_remade=orders.being_remade(now_ms),
            in_flight=orders.in_flight,
            failures=orders.failures(now_ms),
            in_force=orders.in_force,
            slots_in_force=orders.slots_in_force,
            voters_sent=orders.voters_sent,
            reader_lag_max_ms=settings.reader_lag_max_ms,
            desired=self.wishes.known,
            wall_time=outside.wall_time,
            timings=settings.timings,
        )

    # A turn

    def _turn(self, now_ms: float) -> Effects:
        """Decide, unless the store owes an answer or another manager may lead (D4)."""
        if self._awaited is not None:
            return self._effects()
        if now_ms >= self._outside.lease_until_ms:
            self._due_ms = now_ms + CALM_WAKE_MS if self._known.is_read else NEVER_MS
            return self._effects()
        if not self._known.is_read:
            return self._ask_store(Read(now_ms))
        notes: list[Note] = []
        if self.request is not None and (given_up := self._give_up(self.look(now_ms), self.request)) is not None:
            notes.append(given_up)
        view = self.look(now_ms)
        plan = self._rules.decide(view)
        self.view, self.plan = view, plan
        notes.append(Decided(view, plan))
        if not plan.is_unsure:
            told, edits = self.wishes.turn(view, now_ms)
            notes += told
            self._edits += edits if not self._edits else ()
        publish = self._take_what_is_no_old_copy(view, plan)
        write = self._next_write(plan, now_ms)
        if write is not None:
            return self._ask_store(write, publish=publish, notes=tuple(notes))
        self._due_ms = plan.wake_at_ms
        return self._effects(publish=publish, notes=tuple(notes), orders=self._next_orders(plan, now_ms))

    def _give_up(self, view: View, request: Request) -> RequestGivenUp | None:
        """Let go of an operator's request that was accepted and has not begun, if it has been hindered for too long."""
        why_not = refusals.hindrance(view, request)
        if why_not is None:
            self._hindered_since_ms = None
        elif self._hindered_since_ms is None:
            self._hindered_since_ms = view.now_ms
        elif view.now_ms - self._hindered_since_ms >= view.timings.refused_ms:
            return self._drop(view, request, why_not)
        return None

    def _drop(self, view: View, request: Request, because: str) -> RequestGivenUp:
        self.request, self.given_up = None, because
        return RequestGivenUp(view, request, because)

    def _take_what_is_no_old_copy(self, view: View, plan: Plan) -> Topology | None:
        """Return the document found in the store, once it is known to be no old copy: names would lead to a former writer.

        If too few voters are heard to know, it is the best there is.
        """
        if plan.diagnosis is Diagnosis.STORE_BEHIND:
            return None
        if plan.is_unsure and view.now_ms - view.started_at_ms < view.timings.adopt_ms:
            return None
        return self._known.take_unpublished()

    def _next_write(self, plan: Plan, now_ms: float) -> Write | None:
        """Return what the plan, or else an operator, wants written; None if that is nothing."""
        old = self.document
        wanted = next((action for action in plan.actions if isinstance(action, WriteDocument)), None)
        # An edit that was taken a moment ago waits too, until it is known that the document is not an old copy (S12).
        while wanted is None and self._edits and old is not None and not plan.is_unsure:
            change, because = self._edits.popleft()
            changed = change(old)
            if changed != old:
                wanted = WriteDocument(msgspec.structs.replace(changed, revision=Revision(old.revision + 1)), because)
        if wanted is None:
            return None
        why_not = self._rules.may_follow(old, wanted.document) if old is not None else None
        if why_not is not None:
            raise AssertionError(f"the plan breaks the rules of succession: {why_not}")
        new = self._known.beyond_all_histories(wanted.document, self._outside.wall_ms)
        return Write(new, old.revision if old is not None else None, wanted.because, now_ms)

    def _next_orders(self, plan: Plan, now_ms: float) -> tuple[Send, ...]:
        """Note those orders of the plan as begun that are not under way and whose pace allows it."""
        if self.document is None:
            return ()
        return tuple(
            self.orders.begin(action, self.document)
            for action in plan.actions
            if not isinstance(action, WriteDocument) and action.node in self.nodes and self.orders.is_due(action, now_ms)
        )

    # The store

    def _ask_store(self, store: Read | Write, *, publish: Topology | None = None, notes: tuple[Note, ...] = ()) -> Effects:
        self._awaited = store
        return self._effects(publish=publish, notes=notes, store=store)

    def _written(self, now_ms: float) -> Effects:
        """Go on from the document that was just written."""
        write, old, view, plan = self._awaited, self.document, self.view, self.plan
        assert isinstance(write, Write)
        assert view is not None
        assert plan is not None
        new, self._awaited = write.document, None
        if self._known.wrote(new, now_ms, upon_soft_evidence=plan.finding.failed and plan.finding.is_soft):
            self.request = None
        notes = (*self._note_store(None), DocumentWritten(old, write, view))
        return self._woken(now_ms, cancelled=self.orders.enter_epoch(new.epoch), publish=new, notes=notes)

    def _overtaken(self, now_ms: float) -> Effects:
        write = self._awaited
        assert isinstance(write, Write)
        notes = (*self._note_store(None), WriteFailed(write, "another manager wrote the document", by_another=True))
        return self._ask_store(Read(now_ms), notes=notes)

    def _store_failed(self, problem: str, now_ms: float) -> Effects:
        """Read, after a while: only that tells whether a write was made."""
        asked, notes = self._awaited, self._note_store(problem)
        assert asked is not None
        if isinstance(asked, Write):
            notes = (*notes, WriteFailed(asked, f"failed: {problem}"))
        return self._ask_store(Read(now_ms + STORE_RETRY_MS), notes=notes)

    def _loaded(self, document: Topology | None, now_ms: float) -> Effects:
        """Go on from a document that somebody else may have written."""
        assert isinstance(self._awaited, Read)
        self._awaited = None
        self._known.found(document, now_ms)
        if document is None:
            return self._woken(now_ms)
        cancelled = self.orders.enter_epoch(document.epoch)
        # Whoever wrote it may have orders under way that only a newer revision makes late.
        self.orders.voters_sent = VotersSent(None, document.revision)
        return self._woken(now_ms, cancelled=cancelled)

    def _note_store(self, problem: str | None) -> tuple[Note, ...]:
        before, self.store_problem = self.store_problem, problem
        return (StoreNoted(problem),) if problem != before else ()

    # Operators

    def _operated(self, event: events.Operated, now_ms: float) -> Effects:
        """Take an operator's order, or say why not."""
        document = self.document
        if now_ms >= self._outside.lease_until_ms:
            return self._effects(refused=NO_LEASE)
        if document is None:
            return self._effects(refused=NO_CLUSTER)
        if not isinstance(event, events.Asked | events.Withdrawn) and self.plan is not None and self.plan.is_unsure:
            return self._effects(refused=self.plan.reason)
        match event:
            case events.Asked():
                why_not = self._why_not_now(document) or self._rules.refusal(self.look(now_ms), event.request)
                if why_not is not None:
                    return self._effects(refused=why_not)
                self.request = replace(event.request, asked_at_ms=now_ms)
                self._hindered_since_ms = self.given_up = None
                return self._woken(now_ms)
            case events.Withdrawn():
                if self.request is None:
                    return self._effects(refused=NOTHING_PENDING)
                return self._woken(now_ms, notes=(self._drop(self.look(now_ms), self.request, WITHDRAWN),))
            case events.NodeWished():
                why_not = self.wishes.wish(event.node)
                return self._woken(now_ms) if why_not is None else self._effects(refused=why_not)
            case events.Edited():
                self._edits.append((event.change, event.because))
                return self._woken(now_ms)
            case events.Ordered():
                action = event.action
                if (action.kind, action.node) in self.orders.in_flight:
                    return self._effects(refused=f'the order "{action.kind}" to "{action.node}" is under way already')
                if action.node not in self.nodes:
                    return self._effects(refused=f'there is no node "{action.node}"')
                return self._effects(orders=(self.orders.begin(action, document),))
            case _:
                assert_never(event)

    def _wished(self, event: events.OfDesired, now_ms: float) -> Effects:
        """Have what follows for a desired node decided at once, if anything is left to do about one."""
        told = self.wishes.take(event, now_ms)
        return self._woken(now_ms, notes=told) if self.wishes.is_unfinished else self._effects(notes=told)

    def _why_not_now(self, document: Topology) -> str | None:
        """Return why nobody can ask for another writer now: what begins would be taken for what he asked."""
        begins = isinstance(self._awaited, Write) and self._awaited.document.epoch > document.epoch
        return f"epoch {document.epoch + 1} begins at this moment; ask again when there is a writer" if begins else None

    # Effects

    def _woken(
        self,
        now_ms: float,
        *,
        cancelled: tuple[int, ...] = (),
        publish: Topology | None = None,
        notes: tuple[Note, ...] = (),
    ) -> Effects:
        """Have the next turn at once, if this manager has led at all."""
        if self._known.is_read:
            self._due_ms = min(self._due_ms, now_ms)
        return self._effects(cancelled=cancelled, publish=publish, notes=notes)

    def _effects(
        self,
        *,
        cancelled: tuple[int, ...] = (),
        publish: Topology | None = None,
        notes: tuple[Note, ...] = (),
        orders: tuple[Send, ...] = (),
        store: Read | Write | None = None,
        refused: str | None = None,
    ) -> Effects:
        return Effects(
            cancelled=cancelled,
            publish=publish,
            notes=notes,
            orders=orders,
            store=store,
            desired=self.wishes.take_ask(),
            provision=self.wishes.take_orders(),
            refused=refused,
            wake_at_ms=NEVER_MS if self._awaited is not None else self._due_ms,
        )
