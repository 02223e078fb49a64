"""noded's HTTP interface: orders in, observations out.

Knows paths and shapes; what an order does is `noded.acts.orders`'s business.  A refusal is a 409 whose code says why.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from daemonkit.httperrors import ApiError, json_response
from daemonkit.httpserver import needs
from daemonkit.linestream import LineStream
from daemonkit.principals import Scope
from noded import metrics
from noded.acts.effects import Steps
from noded.acts.gate import OrderRefused
from noded.node import Node
from noded.postgres.failures import FAILURES
from noded.postgres.sessions import SessionError
from noded.report import patroni
from noded.report.credentials import WAIT_S_MAX
from noded.report.readiness import ask_readiness
from noded.report.settings_check import check_settings as check
from pgtopology.codec import MessageError, decode, encode
from pgtopology.orders import (
    CheckpointOrder,
    CheckSettings,
    CloneOrder,
    ConfigureOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseOrder,
    PromoteOrder,
    Refusal,
    RewindOrder,
    StartOrder,
    StopOrder,
    SynchronousOrder,
)

OPEN_PATHS = patroni.PATHS

_O = TypeVar("_O", bound=Order)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_routes(node: Node) -> list[web.AbstractRouteDef]:
    """Return the routes of *node*. Orders need the managers' own token, whose scope is admin here."""
    orders = node.acts.orders

    async def status(_request: web.Request) -> web.StreamResponse:
        return json_response(encode(node.reporter.compose()))

    async def events(request: web.Request) -> web.StreamResponse:
        stream = await LineStream.open(request)
        # A listener that goes away is nothing to report.
        with contextlib.suppress(ConnectionError):
            async with stream:
                async for observation in node.reporter.observations():
                    await stream.write_line(encode(observation))
        return stream.response

    async def desired(_request: web.Request) -> web.StreamResponse:
        return json_response(encode(node.instance.desired))

    async def check_settings(request: web.Request) -> web.StreamResponse:
        try:
            question = decode(await request.read(), CheckSettings)
        except MessageError as error:
            raise ApiError(400, "bad_question", str(error)) from error
        try:
            return json_response(encode(await check(node.instance, question, node.turn)))
        except (SessionError, *FAILURES) as error:
            raise ApiError(503, "unavailable", f"the settings cannot be checked now: {error}") from error

    async def readiness(_request: web.Request) -> web.StreamResponse:
        try:
            return json_response(encode(await ask_readiness(node.instance, node.housekeeping.slots.here.keys())))
        except SessionError as error:
            raise ApiError(503, "unavailable", str(error)) from error

    def restart(order: StartOrder) -> Steps[msgspec.Struct]:
        return orders.start(order, restart=True)

    shown = [
        web.get("/events", events),
        web.get("/candidacy", readiness),
        web.get("/desired", desired),
    ]
    routes = [
        *needs(Scope.READ, Scope.FEED, routes=[web.get("/status", status)]),
        *needs(Scope.FEED, routes=[web.get("/v1/roles", _roles(node))]),
        *needs(Scope.READ, routes=shown),
        web.post("/init", _order(node, InitOrder, orders.init)),
        web.post("/promise", _order(node, PromiseOrder, orders.promise)),
        web.post("/follow", _order(node, FollowOrder, orders.follow)),
        web.post("/promote", _order(node, PromoteOrder, orders.promote)),
        web.post("/clone", _order(node, CloneOrder, orders.clone)),
        web.post("/rewind", _order(node, RewindOrder, orders.rewind)),
        web.post("/start", _order(node, StartOrder, orders.start)),
        web.post("/stop", _order(node, StopOrder, orders.stop)),
        web.post("/restart", _order(node, StartOrder, restart)),
        web.post("/checkpoint", _order(node, CheckpointOrder, orders.checkpoint)),
        web.post("/settings", _order(node, SynchronousOrder, orders.put_in_force)),
        web.post("/configure", _order(node, ConfigureOrder, orders.configure)),
        web.post("/check-settings", check_settings),
    ]
    for path in patroni.PATHS:
        # HEAD is answered by aiohttp's GET route; OPTIONS is what some balancers send.
        routes += [web.get(path, _health(node)), web.options(path, _health(node))]
    return routes


def _order(node: Node, kind: type[_O], act: Callable[[_O], Steps[msgspec.Struct]]) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            order = decode(await request.read(), kind)
        except MessageError as error:
            raise ApiError(400, "bad_order", str(error)) from error
        try:
            answer = await node.hands.carry_out(act(order))
        except OrderRefused as refused:
            metrics.ORDERS.labels(request.path[1:], refused.reason.value).inc()
            seen = msgspec.to_builtins(node.instance.state.value.seen)
            raise ApiError(409, refused.reason.value, refused.message, seen=seen) from refused
        except OSError as error:
            # What could not be made durable was not done: a promise that is not on disk is no promise.
            text = f"it cannot be made durable here: {error.strerror or error}"
            raise ApiError(409, Refusal.FAILED.value, text) from error
        metrics.ORDERS.labels(request.path[1:], "done").inc()
        return json_response(encode(answer))

    return handle


def _roles(node: Node) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            wait_s = float(request.query.get("wait_s", "0"))
        except ValueError:
            wait_s = math.nan
        if not 0 <= wait_s <= WAIT_S_MAX:
            raise ApiError(400, "bad_request", f"wait_s is a number of seconds from 0 to {WAIT_S_MAX:.0f}")
        if node.credentials.is_full:
            raise ApiError(503, "unavailable", "too many ask for the roles already")
        answer = await node.credentials.answer(request.query.get("since"), wait_s)
        response = json_response(encode(answer))
        response.headers["Cache-Control"] = "no-store"
        return response

    return handle


def _health(node: Node) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            asked = request.query.get("lag") if request.path in patroni.LAG_PATHS else None
            limit = patroni.parse_lag(asked) if asked is not None else None
        except ValueError as error:
            raise ApiError(400, "bad_request", str(error)) from error
        observation = node.reporter.compose()
        status = 200 if patroni.is_yes(request.path, observation, limit) else 503
        return json_response(patroni.health(observation), status)

    return handle
