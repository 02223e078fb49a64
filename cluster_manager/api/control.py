"""The manager's HTTP API: what operators and their tools see and may order.

Knows requests and answers; decides nothing.  Reads are made from the newest view and plan, so that what an operator is shown
is what was decided upon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web

from cluster_manager.api.acts import Acts, Handler
from cluster_manager.decision.actions import Action, WriteDocument, describe
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.not_done import NotDone, NotFound, Refused, Unanswered, Unavailable, WrongQuestion
from cluster_manager.operations import configuring
from cluster_manager.operations.drill import Drills
from cluster_manager.operations.handover import news_refusal, rehearse_switchover
from cluster_manager.operations.node_changes import NodeChanges
from cluster_manager.operations.node_orders import carry_out
from cluster_manager.proxies.feed import Feed
from cluster_manager.record.chronicle import Chronicle
from cluster_manager.record.flight_files import FlightWriter
from cluster_manager.record.journal import Journal, encode_event
from cluster_manager.record.past_writers import past_writers
from cluster_manager.report.status import make_status, pending
from cluster_manager.shell.reconciler import Reconciler
from cluster_manager.store.store import Store
from daemonkit.httperrors import ApiError, json_response
from daemonkit.httpserver import needs, require
from daemonkit.linestream import LineStream
from daemonkit.principals import Scope
from daemonkit.version import VERSION
from pgtopology.configuration import ConfigChange
from pgtopology.document import FORMAT_VERSION, Topology
from pgtopology.epoch import NO_EPOCH, NUMBER_MAX, Epoch
from pgtopology.explanation import Explanation
from pgtopology.flight import Flights, summary_of
from pgtopology.history import History
from pgtopology.node import NodeName
from pgtopology.status import ManagerStatus
from pgtopology.supervision import AddNode, NodeAdded

FOLLOW_WAIT_S = 5.0
"""An empty line is sent to those who follow when nothing has happened for so long."""

HISTORY_KINDS = (
    "bootstrap.opened",
    "failover.opened",
    "failover.judged",
    "voters.changed",
    "paused",
    "resumed",
    "store.adopted",
    "failover.held",
)

EXPLAINED_EVENTS = 40
EVENTS_PER_TURN = 200

SHOWN_MAX = 40

NO_FLIGHTS = "no failover has been recorded yet"


class FailoverBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /v1/failover carries."""

    to: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    allow_data_loss: str | None = None


class SwitchoverBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /v1/switchover carries."""

    to: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    dry_run: bool = False
    drain_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=60)] | None = None
    """How long sessions may finish what they are doing; 2 s if nothing is said."""
    allow_slot_loss: bool = False
    """Do not wait until users' replication slots that will be carried over have their copies."""


class NodeOrderBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /v1/nodes/NAME/ORDER carries."""

    force: bool = False
    """Do it even if commits will wait."""
    purge: bool = False
    """Of a node that is removed: its data too, where this manager has its programs stopped."""


class NodeOrderDone(msgspec.Struct, frozen=True):
    """The answer to a node's order."""

    detail: str
    by_others: bool | msgspec.UnsetType = msgspec.UNSET
    """Of a node that is removed: whether its programs are for others to stop. Left out otherwise: older commands read words."""
    format_version: int = FORMAT_VERSION


class Begun(msgspec.Struct, frozen=True):
    """The answer to an accepted order."""

    epoch: int
    """The order is done when there is a writer of this epoch, or of a greater one if an attempt failed."""
    format_version: int = FORMAT_VERSION


class Control:
    """The routes and what they need."""

    def __init__(
        self,
        reconciler: Reconciler,
        store: Store,
        feed: Feed,
        journal: Journal,
        chronicle: Chronicle,
        flights: FlightWriter,
        rehearsals: Drills,
        node_changes: NodeChanges,
        late_ms: Callable[[], int] = int,
    ) -> None:
        """*late_ms* says for how long the manager's loop stood still lately."""
        self._reconciler = reconciler
        self._store = store
        self._feed = feed
        self._journal = journal
        self._chronicle = chronicle
        self._flights = flights
        self._rehearsals = rehearsals
        self._node_changes = node_changes
        self._acts = Acts(journal, self._epoch)
        self._late_ms = late_ms

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the API's paths."""
        shown = [
            web.get("/v1/status", self._status),
            web.get("/v1/topology", self._topology),
            web.get("/v1/events", self._events),
            web.get("/v1/explain", self._explain),
            web.get("/v1/history", self._history),
            web.get("/v1/drill", _answered(self._drill)),
            web.get("/v1/failovers", self._failovers),
            web.get("/v1/failovers/{epoch}", self._one_failover),
            web.get("/v1/config", _answered(self._config)),
        ]
        orders = [
            web.post("/v1/failover", self._recorded("operator.failover", self._failover)),
            web.post("/v1/switchover", self._recorded("operator.switchover", self._switchover)),
            web.post("/v1/pause", self._recorded("operator.pause", self._pause)),
            web.post("/v1/nodes/{name}/{order}", self._recorded("operator.node", self._node_order)),
            web.post("/v1/resume", self._recorded("operator.resume", self._resume)),
            web.post("/v1/withdraw", self._recorded("operator.withdraw", self._withdraw)),
            web.post("/v1/acts", self._recorded("operator.command", self._act)),
        ]
        # A setting may be a command that PostgreSQL's user carries out.
        settings = [
            web.post("/v1/config", self._recorded("operator.config", self._change_config)),
            web.post("/v1/nodes", self._recorded("operator.node", self._add_node)),  # the data is copied to it
        ]
        return [
            web.get("/health", self._health),
            *needs(Scope.READ, routes=shown),
            *needs(Scope.FEED, routes=[web.get("/v1/feed", self._feed.handle)]),
            *needs(Scope.OPERATE, routes=orders),
            *needs(Scope.ADMIN, routes=settings),
        ]

    def _recorded(self, kind: str, handler: Handler) -> Handler:
        """Return *handler*, whose orders are events of *kind*, also those that are not carried out."""
        return self._acts.recorded(kind, _answered(handler))

    async def _health(self, _request: web.Request) -> web.Response:
        lease = self._store.lease
        body = {"status": "ok" if self._reconciler.plan is not None else "starting", "leader": lease.held}
        return json_response(msgspec.json.encode(body), 200 if self._reconciler.plan is not None else 503)

    async def _status(self, _request: web.Request) -> web.Response:
        plan = self._plan()
        view = self._reconciler.view
        assert view is not None
        lease = self._store.lease
        status = make_status(
            view,
            plan,
            manager=ManagerStatus(
                leader=lease.holder,
                store="embedded",
                store_problem=self._reconciler.store_problem,
                late_ms=self._late_ms(),
            ),
            last_failover=self._chronicle.last_failover,
            proxies=self._feed.proxies(),
            since=self._reconciler.states.since,
            version=VERSION,
        )
        return json_response(msgspec.structs.replace(status, order_given_up=self._reconciler.given_up))

    async def _topology(self, _request: web.Request) -> web.Response:
        document = self._reconciler.document
        if document is None:
            raise ApiError(404, "no_cluster", "there is no cluster yet")
        return json_response(document)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        after = _whole_number(request, "after", 0)
        follow = request.query.get("follow", "0") == "1"
        async with await LineStream.open(request) as stream:
            while True:
                for event in self._journal.since(after):
                    await stream.write_line(encode_event(event))
                    after = event.sequence
                    if after % EVENTS_PER_TURN == 0:
                        await asyncio.sleep(0)  # what decides is never kept waiting by who reads
                if not follow:
                    break
                if not await self._journal.wait_since(after, timeout_s=FOLLOW_WAIT_S):
                    await stream.write_line(b"")
        return stream.response

    async def _explain(self, _request: web.Request) -> web.Response:
        plan = self._plan()
        view = self._reconciler.view
        assert view is not None
        return json_response(
            Explanation(
                diagnosis=str(plan.diagnosis),
                reason=plan.reason,
                actions=tuple(_say(action) for action in plan.actions) or ("nothing to do",),
                repairs=tuple(
                    {"node": one.node, "diagnosis": str(one.diagnosis), "reason": one.reason} for one in plan.repairs
                ),
                pending=pending(view),
                in_flight=tuple(sorted(f"{kind} {node}" for kind, node in view.in_flight)),
                failures=tuple(
                    {"order": str(kind), "node": node, "code": failure.code, "message": failure.message}
                    for (kind, node), failure in sorted(view.failures.items())
                ),
                recent=tuple(self._journal.since(self._journal.last_sequence - EXPLAINED_EVENTS)),
            )
        )

    async def _history(self, _request: web.Request) -> web.Response:
        events = tuple(event for event in self._journal.since(0) if event.kind in HISTORY_KINDS)
        return json_response(History(events, past_writers(self._reconciler.document, events)))

    async def _drill(self, request: web.Request) -> web.Response:
        return json_response(await self._rehearsals.drill(request.query.get("lose")))

    async def _failovers(self, _request: web.Request) -> web.Response:
        await self._flights.flush()
        flights = await asyncio.to_thread(self._flights.files.load)
        return json_response(Flights(failovers=tuple(summary_of(flight) for flight in flights)))

    async def _one_failover(self, request: web.Request) -> web.Response:
        wanted = request.match_info["epoch"]
        epoch = _number(wanted, 'an epoch, or "latest",') if wanted != "latest" else None
        await self._flights.flush()
        flight = await asyncio.to_thread(self._flights.files.find, epoch)
        if flight is None:
            raise ApiError(404, "not_found", f"there is no record of epoch {wanted}" if epoch is not None else NO_FLIGHTS)
        return json_response(flight)

    async def _failover(self, request: web.Request) -> web.Response:
        body = await _body(request, FailoverBody)
        name = self._reconciler.cluster
        if body.allow_data_loss is not None:
            require(request, Scope.ADMIN)
        if body.allow_data_loss is not None and body.allow_data_loss != name:
            raise ApiError(400, "bad_request", f'--allow-data-loss (allow_data_loss) takes the cluster\'s name, "{name}"')
        kind = RequestKind.FAILOVER if body.allow_data_loss is None else RequestKind.DATA_LOSS
        self._reconciler.ask(Request(kind=kind, to=NodeName(body.to) if body.to is not None else None))
        document = self._reconciler.document
        return json_response(Begun(document.epoch + 1 if document is not None else 1), 202)

    async def _switchover(self, request: web.Request) -> web.Response:
        body = await _body(request, SwitchoverBody)
        asked = Request(
            kind=RequestKind.SWITCHOVER,
            to=NodeName(body.to) if body.to is not None else None,
            drain_ms=round(body.drain_timeout_s * 1000) if body.drain_timeout_s is not None else None,
            allow_slot_loss=body.allow_slot_loss,
        )
        told = await self._rehearsals.sessions_of_writer()
        if body.dry_run:
            return json_response(rehearse_switchover(self._reconciler.look(), asked, self._journal.since(0), told))
        if (why_not := news_refusal(asked, told)) is not None:
            raise Refused(why_not)
        self._reconciler.ask(asked)
        document = self._reconciler.document
        return json_response(Begun(document.epoch + 1 if document is not None else 1), 202)

    async def _withdraw(self, _request: web.Request) -> web.Response:
        """Take back the failover or switchover that was accepted and has not begun."""
        self._reconciler.withdraw()
        return json_response(Begun(self._epoch()), 202)

    async def _node_order(self, request: web.Request) -> web.Response:
        body = await _body(request, NodeOrderBody)
        name, order = request.match_info["name"], request.match_info["order"]
        if order in ("reinit", "remove"):
            require(request, Scope.ADMIN)  # a copy of the data goes
        if order == "remove":
            out = await self._node_changes.take_out(name, purge=body.purge)
            return json_response(NodeOrderDone(out.text, by_others=out.by_others), 202)
        done = await carry_out(self._reconciler, name, order, force=body.force)
        return json_response(NodeOrderDone(done), 202)

    async def _add_node(self, request: web.Request) -> web.Response:
        wanted = await _body(request, AddNode)
        node = await self._node_changes.add(wanted.name, wanted.zone)
        return json_response(NodeAdded(node=node), 202)

    async def _config(self, _request: web.Request) -> web.Response:
        return json_response(await configuring.show(self._reconciler))

    async def _change_config(self, request: web.Request) -> web.Response:
        return json_response(await configuring.change(self._reconciler, await _body(request, ConfigChange)))

    async def _act(self, _request: web.Request) -> web.Response:
        """Take note of what an operator does elsewhere: its recording is all there is to do."""
        return json_response(Begun(self._epoch()), 202)

    def _epoch(self) -> Epoch:
        document = self._reconciler.document
        return document.epoch if document is not None else NO_EPOCH

    async def _pause(self, _request: web.Request) -> web.Response:
        return self._set_paused(True)

    async def _resume(self, _request: web.Request) -> web.Response:
        return self._set_paused(False)

    def _set_paused(self, paused: bool) -> web.Response:
        def change(document: Topology) -> Topology:
            return msgspec.structs.replace(document, paused=paused)

        self._reconciler.edit(change, "the operator's order")
        document = self._reconciler.document
        return json_response(Begun(document.epoch if document is not None else 0), 202)

    def _plan(self) -> Plan:
        plan = self._reconciler.plan
        if plan is None:
            raise ApiError(503, "starting", "the manager has not decided anything yet")
        return plan


STATUSES: dict[type[NotDone], int] = {WrongQuestion: 400, NotFound: 404, Refused: 409, Unanswered: 502, Unavailable: 503}
"""What HTTP says of what was not done; a kind that is not here counts as the one above it."""

B = TypeVar("B")


def _answered(handler: Handler) -> Handler:
    """Return *handler*, which answers with an error what was not done."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except NotDone as why:
            status = next(STATUSES[kind] for kind in type(why).__mro__ if kind in STATUSES)
            raise ApiError(status, why.code, str(why)) from why

    return handle


async def _body(request: web.Request, kind: type[B]) -> B:
    """Return the request's body. Raises ApiError if it is not a *kind*."""
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, "bad_request", f"the body is not what {request.path} takes: {error}") from error


def _say(action: Action) -> str:
    return f"{describe(action)}: {action.because}" if isinstance(action, WriteDocument) else describe(action)


def _whole_number(request: web.Request, name: str, default: int) -> int:
    return _number(request.query.get(name, str(default)), name)


def _number(text: str, what: str) -> int:
    """Return the number in *text*. Raises ApiError with what is accepted."""
    if text.isascii() and text.isdecimal() and len(text) <= len(str(NUMBER_MAX)) and int(text) <= NUMBER_MAX:
        return int(text)
    shown = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
    raise ApiError(400, "bad_request", f'{what} must be a whole number from 0 to {NUMBER_MAX}, not "{shown}"')
