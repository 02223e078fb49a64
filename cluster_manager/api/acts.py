"""Writes into the journal what operators order: who, by which command, and whether it was accepted.

Wraps the handlers of orders; a body that asks for a rehearsal (dry_run, check_only) orders nothing.  Whoever says no name is
known by the address alone.  An order that is given again and again while it is refused for the same reason is one event.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from cluster_manager.record.journal import Journal
from daemonkit.httperrors import ApiError
from pgtopology.act import read_act
from pgtopology.epoch import Epoch

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Body(msgspec.Struct, frozen=True):
    dry_run: bool = False
    check_only: bool = False


class Acts:
    """The acts of one cluster's operators; *epoch* tells the current one."""

    def __init__(self, journal: Journal, epoch: Callable[[], Epoch]) -> None:
        self._journal = journal
        self._epoch = epoch
        self._last_refused: tuple[str, ...] | None = None

    def recorded(self, kind: str, handler: Handler) -> Handler:
        """Return *handler*, whose orders are events of *kind*."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                response = await handler(request)
            except ApiError as error:
                await self._note(kind, request, refused=error.message)
                raise
            await self._note(kind, request, refused=None)
            return response

        return handle

    async def _note(self, kind: str, request: web.Request, *, refused: str | None) -> None:
        if await _is_rehearsal(request):
            return
        operator, command = read_act(request.headers)
        address = request.remote or "an unknown address"
        who = operator or f"somebody at {address}"
        what = command or f"{request.method} {request.path}"
        told = (kind, who, what, refused or "")
        if refused is not None and told == self._last_refused:
            return
        self._last_refused = told if refused is not None else None
        outcome = {"accepted": True} if refused is None else {"accepted": False, "reason": refused}
        self._journal.append(
            kind,
            f"{who}: {what}" if refused is None else f"{who}: {what} (refused: {refused})",
            epoch=self._epoch(),
            node=request.match_info.get("name"),
            operator=operator,
            command=command,
            address=address,
            **outcome,
        )


async def _is_rehearsal(request: web.Request) -> bool:
    try:
        body = msgspec.json.decode(await request.read() or b"{}", type=_Body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return body.dry_run or body.check_only
