"""What the proxy tells over HTTP: is it well, and who is connected where."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from daemonkit.httpserver import json_response, needs
from daemonkit.principals import Scope
from daemonkit.version import VERSION
from endpointd.refusal import shown
from endpointd.routing.switchboard import Switchboard
from endpointd.session.registry import SessionRegistry
from endpointd.session.session import Session


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


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of GET /v1/sessions"""

    session: int
    endpoint: str
    client: str
    state: str
    doing: str | None
    node: str | None
    user: str | None
    database: str | None
    application_name: str | None
    tls: str | None = None
    """The version that the client speaks; None: plaintext."""
    age_s: float
    to_server_bytes: int
    to_client_bytes: int
    held_bytes: int


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/sessions"""

    format_version: int = 1
    sessions: tuple[SessionView, ...]


def routes(name: str, engine: str, board: Switchboard, registry: SessionRegistry) -> tuple[web.AbstractRouteDef, ...]:
    """Return what the HTTP server answers."""

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
                sessions=len(registry),
            )
        )

    async def sessions(_request: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        return json_response(Sessions(sessions=tuple(_view(session, now) for session in registry)))

    return (web.get("/health", health), *needs(Scope.READ, routes=[web.get("/v1/sessions", sessions)]))


def _view(session: Session, now: float) -> SessionView:
    startup, facts, backend = session.startup, session.facts, session.backend
    return SessionView(
        session=session.number,
        endpoint=session.door.name,
        client=session.peer,
        state=session.state,
        doing=facts.doing if facts is not None else None,
        node=backend.node if backend is not None else None,
        user=shown(startup.user) if startup is not None else None,
        database=shown(startup.database) if startup is not None else None,
        application_name=shown(startup.get("application_name") or "") if startup is not None else None,
        tls=session.tls_version,
        age_s=round(now - session.opened_at, 3),
        to_server_bytes=facts.to_server_bytes if facts is not None else 0,
        to_client_bytes=facts.to_client_bytes if facts is not None else 0,
        held_bytes=facts.held_bytes if facts is not None else 0,
    )
