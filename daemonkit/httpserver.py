"""The HTTP server inside each program: orders, status and metrics, for programs and people that hold a token.

Every path needs a token of its scope (principals.py) except the few named open; one that declares no scope needs `admin`.
Until a connection has shown a valid token it is a stranger, and strangers are few, short and small (admission.py).  The Host
header is checked before anything else, so that a page in a browser cannot reach a server on this machine through a name of its
own (DNS rebinding).  Every error has one shape: ``{"error": {"code", "message", ...detail}}``.  Nothing is logged per request:
peers poll several times a second.

A handler whose client goes away is not cancelled: an order that was begun is finished.  Streams and web sockets are ended
when the server closes, at once; other requests get a moment to finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.registry import Collector

from daemonkit.admission import Budget
from daemonkit.httperrors import BODY_BYTES_MAX, ApiError, translated
from daemonkit.linestream import LONG_LIVED, Registered, is_gone
from daemonkit.logs import get_logger
from daemonkit.principals import Scope, Verifiers, verifier_of
from daemonkit.reception import Guest, Reception, Why

CLOSE_TIMEOUT_S = 2.0
"""For requests that are being answered when the server closes."""
KEEPALIVE_TIMEOUT_S = 60.0
HOSTS_REMEMBERED_MAX = 64
SERVER = "endpointd"
"""The header of that name; the library's own gives away its version and Python's."""

BUDGET = Budget(strangers_max=128, known_max=512, stranger_s=5.0, hurried_s=1.0)
"""A manager hears 256 proxies, the command line and Prometheus; a health check is a stranger for milliseconds."""
HEAD_BYTES_MAX = 1 << 16
"""Of a stranger's request before its end has come."""
METRICS_SHARE = 10
METRICS_CREDIT_S = 2.0
"""Who asks for /metrics oftener than a tenth of the loop's time allows, for longer than this, gets the last answer again."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _Scoped(web.AbstractRouteDef):
    """A route that any of *scopes* opens."""

    route: web.AbstractRouteDef
    scopes: frozenset[Scope]

    def register(self, router: web.UrlDispatcher) -> list[web.AbstractRoute]:
        return self.route.register(router)


def needs(*scopes: Scope, routes: Sequence[web.AbstractRouteDef]) -> list[web.AbstractRouteDef]:
    """Return *routes*, for whoever holds a token of one of *scopes*."""
    return [_Scoped(route, frozenset(scopes)) for route in routes]


def require(request: web.Request, scope: Scope) -> None:
    """Raise ApiError unless the token of *request* has *scope*: for what its route alone does not tell."""
    if scope not in cast("_Connection", request.protocol).scopes:
        raise _forbidden(scope)


def _forbidden(*scopes: Scope) -> ApiError:
    name = " or ".join(sorted(scopes))
    return ApiError(403, "forbidden", f"this needs a token of scope {name}", scope=name)


class HttpServer:
    """A server that listens while the ``async with`` block runs. Raises OSError on entry if it cannot listen."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        routes: Sequence[web.AbstractRouteDef],
        token: str | None = None,
        verifiers: Verifiers | None = None,
        open_paths: Collection[str] = ("/health",),
        allowed_hosts: Collection[str] = (),
        budget: Budget = BUDGET,
        sockets: Sequence[socket.socket] = (),
        metrics: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        """*token* is one for everything; *verifiers* tell of others. Raises ValueError if there is neither.

        *sockets* are bound already, to *host* and *port*; without any it binds its own.  *metrics* renders what GET /metrics
        answers; None: what this process has.
        """
        self._host = host
        self._port = port
        self._verifiers = Verifiers()
        self._own = verifier_of(token) if token is not None else Verifiers()
        self.set_verifiers(verifiers or Verifiers())
        self._open_paths = frozenset(open_paths)
        self._allowed_hosts = frozenset({"localhost", *(name.lower().rstrip(".") for name in allowed_hosts)})
        self._good_hosts: set[str] = set()
        self._long_lived: set[asyncio.Task[object]] = set()
        self._log = get_logger()
        # The order is the law: whoever is not let in learns nothing, not even whether a path exists.
        self._app = web.Application(
            middlewares=[self._answer_errors, self._check_host, self._check_token, self._end_with_server],
            client_max_size=BODY_BYTES_MAX,
        )
        self._app[LONG_LIVED] = self._long_lived
        self._scopes: dict[tuple[web.AbstractResource | None, str], frozenset[Scope]] = {}
        rendered = _Metrics(metrics)
        for declared in (*needs(Scope.SCRAPE, routes=[web.get("/metrics", rendered.answer)]), *routes):
            scopes = declared.scopes if isinstance(declared, _Scoped) else frozenset({Scope.ADMIN})
            for route in declared.register(self._app.router):
                self._scopes[route.resource, route.method] = scopes
        self._app.on_shutdown.append(self._end_long_lived)
        self._app.on_response_prepare.append(_hide_versions)
        self._runner: web.AppRunner | None = None
        self._sockets = sockets
        self.reception = Reception("http", budget, self._welcome)
        """Where its clients come in."""

    @property
    def port(self) -> int:
        """The port that is listened on, which differs from the one asked for if that was 0."""
        return self.reception.port

    def set_verifiers(self, verifiers: Verifiers) -> None:
        """Accept the tokens that *verifiers* know from the next request on. Raises ValueError if nobody could come in then."""
        if not (self._own or verifiers):
            raise ValueError("no token would be accepted")
        self._verifiers = self._own | verifiers

    async def __aenter__(self) -> Self:
        logging.getLogger("aiohttp.server").addFilter(_is_worth_a_line)
        runner = web.AppRunner(
            self._app,
            handle_signals=False,
            access_log=None,
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            shutdown_timeout=CLOSE_TIMEOUT_S,
        )
        await runner.setup()
        self._runner = runner
        try:
            for each in self._sockets:
                self.reception.take(each)
            if not self._sockets:
                await self.reception.open(self._host, self._port)
        except BaseException:
            await runner.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reception.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _welcome(self, guest: Guest) -> asyncio.BaseProtocol:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        return _Connection(server, guest)

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give every failure its shape."""
        try:
            return await handler(request)
        except ApiError as error:
            response = error.response()
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
            if error.code in ("unauthorized", "too_many_connections"):
                response.force_close()  # whatever else came in with it is not looked at
            return response
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return translated(error, request).response()
        except Exception as error:
            if isinstance(error, ConnectionError) and is_gone(request):
                # There is nobody to answer, so this goes nowhere; the library would report an exception as a bug.
                return web.Response(status=499, reason="Client Closed Request")
            # The one broad except around one unit of work: a bug in a handler must not end the program.
            self._log.exception("request failed", method=request.method, path=request.path)
            return ApiError(500, "internal_error", "internal error").response()

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host")
        # Without the header no browser sent this, but perhaps a load balancer's health check, in HTTP/1.0.
        if host is not None and host not in self._good_hosts:
            name = _host_name(host)
            if name not in self._allowed_hosts and not _is_ip_literal(name):
                raise ApiError(403, "host_not_allowed", "the Host header names neither an address nor an allowed host")
            if len(self._good_hosts) < HOSTS_REMEMBERED_MAX:
                self._good_hosts.add(host)
        return await handler(request)

    @web.middleware
    async def _check_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = cast("_Connection", request.protocol)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        scopes = self._verifiers.scopes_of(token) if scheme == "Bearer" else frozenset[Scope]()
        connection.scopes = scopes
        if scopes and not connection.admit():
            raise ApiError(503, "too_many_connections", "too many connections are open already")
        if request.path in self._open_paths:
            try:
                return await handler(request)
            finally:
                connection.served()
        if not scopes:
            raise ApiError(401, "unauthorized", "the token is missing or wrong")
        route = request.match_info.route
        needed = self._scopes.get((route.resource, "GET" if request.method == "HEAD" else request.method))
        if needed is not None and not needed & scopes:
            raise _forbidden(*needed)
        return await handler(request)

    @web.middleware
    async def _end_with_server(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Remember requests that would otherwise hold up the end of the server: web sockets here, streams by themselves."""
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return await handler(request)
        with Registered(self._long_lived):
            return await handler(request)

    async def _end_long_lived(self, _app: web.Application) -> None:
        for task in list(self._long_lived):
            task.cancel()


@contextlib.contextmanager
def registered(collector: Collector) -> Generator[None, None, None]:
    """Let *collector* answer GET /metrics too, for the length of a block."""
    REGISTRY.register(collector)
    try:
        yield
    finally:
        REGISTRY.unregister(collector)


class _Connection(web.RequestHandler):
    """One connection: aiohttp's, and what the reception has to know of it."""

    __slots__ = ("_guest", "_head_bytes", "_head_ended", "_head_tail", "_is_known", "scopes")

    def __init__(self, server: web.Server, guest: Guest) -> None:
        no_log = cast("logging.Logger", None)
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, access_log=no_log, keepalive_timeout=KEEPALIVE_TIMEOUT_S)
        self._guest = guest
        self._is_known = False
        self.scopes: frozenset[Scope] = frozenset()
        """What the token of the request that is being answered allows."""
        self._next_head()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._guest.is_shown_out_by(self._show_out)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._guest.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_known or self._head_ended:
            return
        self._head_bytes += len(data)
        seen = self._head_tail + data
        self._head_ended = b"\r\n\r\n" in seen
        self._head_tail = seen[-3:]
        if not self._head_ended and self._head_bytes > HEAD_BYTES_MAX:
            self._show_out(Why.LATE)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, message)
        response.headers["Server"] = SERVER
        return response

    def admit(self) -> bool:
        """A valid token was shown on it; False if too many others were."""
        self._is_known = self._is_known or self._guest.admit()
        return self._is_known

    def served(self) -> None:
        """A stranger was answered, and may ask again."""
        if not self._is_known:
            self._guest.renew()
            self._next_head()

    def _next_head(self) -> None:
        self._head_bytes = 0
        self._head_ended = False
        self._head_tail = b""

    def _show_out(self, _why: Why) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Metrics:
    """GET /metrics, rendered anew as long as that takes no more than its share of the loop's time."""

    def __init__(self, render: Callable[[], Awaitable[bytes]] | None) -> None:
        self._render = render
        self._body = b""
        self._paid_until = float("-inf")
        """The moment at which what was spent on rendering has been made up for."""

    async def answer(self, _request: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time
        began = now()
        if self._paid_until <= began + METRICS_CREDIT_S or not self._body:
            self._body = generate_latest(REGISTRY) if self._render is None else await self._render()
            self._paid_until = max(self._paid_until, began) + (now() - began) * METRICS_SHARE
        return web.Response(body=self._body, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _hide_versions(_request: web.Request, response: web.StreamResponse) -> None:
    """Say nothing of the versions of what we are made of."""
    response.headers["Server"] = SERVER


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Return whether what the HTTP library logs is about us: what a client sends that is not HTTP is the client's affair."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def _host_name(host: str) -> str:
    """Return the name in a Host header, without port, brackets and final dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower().rstrip(".")


def _is_ip_literal(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
