"""What the proxy tells over HTTP: is it well, and who is connected where."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web

from daemonkit.httperrors import ApiError, json_response
from daemonkit.httpserver import needs
from daemonkit.principals import Scope
from daemonkit.version import VERSION
from endpointd.routing.switchboard import Switchboard
from pgtopology.sessions import SessionView

NUMBER_DIGITS_MAX = 16


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """GET /health"""

    format_version: int = 1
    status: str
    """serving, or waiting while there is no document yet or nobody vouches for a writer."""
    name: str
    version: str
    engine: str
    epoch: int
    revision: int
    writer: str | None
    readers: tuple[str, ...]
    sessions: int


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/sessions"""

    format_version: int = 1
    sessions: tuple[SessionView, ...]
    next: int | None = None
    """There are more, for which `?after=` this number asks; None: these were all."""


SESSIONS_MAX = 1000
"""In one answer."""


def routes(
    name: str,
    engine: str,
    board: Switchboard,
    count: Callable[[], int],
    find: Callable[[int, int], Awaitable[Sequence[SessionView]]],
) -> tuple[web.AbstractRouteDef, ...]:
    """Return what the HTTP server answers.

    *count* returns how many sessions there are, *find* those with numbers behind the first argument, as many as the second.
    """

    async def health(_request: web.Request) -> web.Response:
        table = board.table
        return json_response(
            Health(
                status="serving" if board.is_vouched else "waiting",
                name=name,
                version=VERSION,
                engine=engine,
                epoch=table.epoch,
                revision=table.revision,
                writer=table.writer.node if table.writer is not None else None,
                readers=tuple(backend.node for backend in table.readers),
                sessions=count(),
            )
        )

    async def sessions(request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) <= NUMBER_DIGITS_MAX):
            raise ApiError(400, "bad_request", "after must be a whole number, that of a session")
        views = tuple(await find(int(after), SESSIONS_MAX + 1))
        has_more = len(views) > SESSIONS_MAX
        return json_response(
            Sessions(sessions=views[:SESSIONS_MAX], next=views[SESSIONS_MAX - 1].session if has_more else None)
        )

    return (web.get("/health", health), *needs(Scope.READ, routes=[web.get("/v1/sessions", sessions)]))
