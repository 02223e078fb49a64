"""The part of the HTTP API that is about sessions: who is connected through which proxy, and how an operator ends some."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import msgspec
from aiohttp import web

from cluster_manager.api.acts import Acts
from cluster_manager.proxies.inquiries import Inquiries
from cluster_manager.record.journal import Journal
from daemonkit.httperrors import ApiError, json_response
from daemonkit.httpserver import needs
from daemonkit.linestream import LineStream
from daemonkit.principals import Scope
from pgtopology.codec import encode
from pgtopology.epoch import Epoch
from pgtopology.sessions import (
    ANSWERS_PATH,
    EndSessions,
    SessionFilter,
    SessionId,
    SessionOrder,
    SessionsEnded,
    SessionsTold,
)

NAMED_MAX = 20
"""Sessions that an event names; it counts them all."""
FIELDS = ("user", "database", "endpoint", "node", "state")


class SessionsApi:
    """The routes and what they need."""

    def __init__(self, inquiries: Inquiries, journal: Journal, epoch: Callable[[], Epoch]) -> None:
        self._inquiries = inquiries
        self._journal = journal
        self._epoch = epoch
        self._acts = Acts(journal, epoch)

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the paths."""
        return [
            *needs(Scope.READ, routes=[web.get("/v1/sessions", self._show)]),
            *needs(Scope.OPERATE, routes=[web.post("/v1/sessions/end", self._acts.recorded("operator.sessions", self._end))]),
            *needs(Scope.FEED, routes=[web.post(ANSWERS_PATH, self._inquiries.take)]),
        ]

    async def _show(self, request: web.Request) -> web.StreamResponse:
        """Lines: pages as the proxies tell them, then who has told everything."""
        unknown = sorted(set(request.query) - set(FIELDS))
        if unknown:
            raise ApiError(400, "bad_request", f"sessions are told apart by {', '.join(FIELDS)}, not by {unknown[0][:40]}")
        which = _filter({name: request.query[name] for name in FIELDS if name in request.query})
        async with self._inquiries.ask(SessionOrder.SHOW, which) as (inquiry, pages), await LineStream.open(request) as stream:
            async for page in pages:
                await stream.write_line(encode(msgspec.structs.replace(page, question="")))
            await stream.write_line(encode(SessionsTold(proxies=inquiry.told, silent=inquiry.silent)))
        return stream.response

    async def _end(self, request: web.Request) -> web.Response:
        try:
            body = msgspec.json.decode(await request.read(), type=EndSessions)
            ids = [SessionId.read(text) for text in body.ids]
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "bad_request", f"the body is not what {request.path} takes: {error}") from error
        if bool(ids) is (body.which is not None):
            raise ApiError(400, "bad_request", "either ids or which says what sessions are to end")
        ended: list[SessionId] = []
        silent: set[str] = set()
        if body.which is not None:
            await self._end_some(body.which, None, ended, silent)
        by_proxy: defaultdict[str, set[int]] = defaultdict(set)
        for one in ids:
            by_proxy[one.proxy].add(one.number)
        for proxy, numbers in by_proxy.items():
            await self._end_some(SessionFilter(numbers=tuple(sorted(numbers))), proxy, ended, silent)
        missing = sorted({one for one in ids if one.proxy not in silent} - set(ended))
        if ended:
            named = ", ".join(map(str, sorted(ended)[:NAMED_MAX]))
            more = f" and {len(ended) - NAMED_MAX} more" if len(ended) > NAMED_MAX else ""
            self._journal.append(
                "sessions.ended",
                f"an operator ended {len(ended)} session{'' if len(ended) == 1 else 's'}: {named}{more}",
                epoch=self._epoch(),
                count=len(ended),
            )
        told = SessionsEnded(
            ended=tuple(map(str, sorted(ended))), missing=tuple(map(str, missing)), silent=tuple(sorted(silent))
        )
        return json_response(told)

    async def _end_some(self, which: SessionFilter, proxy: str | None, ended: list[SessionId], silent: set[str]) -> None:
        proxies = None if proxy is None else (proxy,)
        async with self._inquiries.ask(SessionOrder.END, which, proxies) as (inquiry, pages):
            async for page in pages:
                ended += [SessionId(page.proxy, view.session) for view in page.sessions]
        silent.update(inquiry.silent)


def _filter(fields: dict[str, str]) -> SessionFilter:
    try:
        return msgspec.convert(fields, SessionFilter)
    except msgspec.ValidationError as error:
        raise ApiError(400, "bad_request", f"such sessions cannot be asked for: {error}") from error
