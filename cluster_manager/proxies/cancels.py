"""Takes cancel requests from the proxy they came to to the proxy that has their session.

The key says which one that is, if the client's protocol has room for it; else all others are asked.  Nothing is known here of
keys: proxies let none through that is forged, and few that could be.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web

from cluster_manager.proxies.feed import Feed
from daemonkit.httperrors import ApiError, json_response
from daemonkit.httpserver import needs
from daemonkit.principals import Scope
from pgtopology.cancels import CANCELLED_PATH, CANCELS_PATH, CARRY_S, CancelAnswer, CancelDone, CancelQuestion, CancelWish
from pgtopology.codec import MessageError, decode, encode

OPEN_MAX = 64
"""Requests at once."""

M = TypeVar("M")


@dataclass(slots=True)
class _Open:
    """A request that is being carried out somewhere."""

    owing: int = 0
    """How many have not said whether they had the session."""
    found: bool = False
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


class Cancels:
    """All requests that are on their way."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._open: dict[str, _Open] = {}

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the paths."""
        return needs(Scope.FEED, routes=[web.post(CANCELS_PATH, self._carry), web.post(CANCELLED_PATH, self._take)])

    async def _carry(self, request: web.Request) -> web.Response:
        """Have a request carried out, and say whether somebody had its session."""
        wish = _read(await request.read(), CancelWish)
        if len(self._open) >= OPEN_MAX:
            raise ApiError(503, "too_many_cancels", f"{OPEN_MAX} cancel requests are under way already")
        question = CancelQuestion(id=secrets.token_hex(8), packet=wish.packet)
        one = self._open[question.id] = _Open()
        try:
            one.owing = self._feed.ask_to_cancel(question, asker=wish.proxy, owner=wish.owner)
            if one.owing:
                async with asyncio.timeout(CARRY_S):
                    await one.is_over.wait()
        except TimeoutError:
            pass
        finally:
            del self._open[question.id]
        return json_response(encode(CancelDone(found=one.found)))

    async def _take(self, request: web.Request) -> web.Response:
        """Take what one proxy says."""
        answer = _read(await request.read(), CancelAnswer)
        one = self._open.get(answer.id)
        if one is None:
            raise ApiError(410, "not_asked", "nobody waits for this answer any more")
        one.owing -= 1
        one.found = one.found or answer.found
        if one.found or one.owing <= 0:
            one.is_over.set()
        return json_response(b"{}")


def _read(data: bytes, kind: type[M]) -> M:
    try:
        return decode(data, kind)
    except MessageError as error:
        raise ApiError(400, "bad_request", str(error)) from error
