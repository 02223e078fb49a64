"""Questions about sessions to all proxies, and the pages of their answers as they come.

A question goes out in the frames of the feed (`feed`); the pages come in by requests of their own, so that ten thousand
sessions are never in the way of a frame that vouches for the writer.  Nothing is gathered here: a page waits until whoever
asked has taken the ones before it, and the proxy waits with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Collection

from aiohttp import web

from cluster_manager.proxies.feed import Feed
from daemonkit.httperrors import ApiError, json_response
from pgtopology.codec import MessageError, decode, encode
from pgtopology.sessions import SessionFilter, SessionOrder, SessionQuestion, SessionsPage

OPEN_MAX = 8
"""Questions at once."""
ANSWER_S = 3.0
"""Proxies that have more to tell and tell nothing for so long are silent."""
TAKE_S = 5.0
"""Whoever asked takes a page within this time, or the proxy keeps the rest."""
QUEUE_MAX = 4


class Inquiry:
    """One question, while it is open."""

    def __init__(self, asked: Collection[str]) -> None:
        self.pages: asyncio.Queue[SessionsPage] = asyncio.Queue(QUEUE_MAX)
        self._owing = Counter(asked)
        """By name, how many have not told everything: during a proxy's restart two may have one name."""
        self._told: set[str] = set()

    @property
    def silent(self) -> tuple[str, ...]:
        """The proxies that have not told everything."""
        return tuple(sorted(name for name, count in self._owing.items() if count > 0))

    @property
    def told(self) -> tuple[str, ...]:
        """Those that have."""
        return tuple(sorted(self._told - set(self.silent)))

    def took(self, page: SessionsPage) -> None:
        """*page* has arrived at whoever asked."""
        if page.is_last and self._owing[page.proxy] > 0:
            self._owing[page.proxy] -= 1
            self._told.add(page.proxy)


class Inquiries:
    """All questions that are open."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._open: dict[str, Inquiry] = {}

    @contextlib.asynccontextmanager
    async def ask(
        self, order: SessionOrder, which: SessionFilter, proxies: Collection[str] | None = None
    ) -> AsyncGenerator[tuple[Inquiry, AsyncGenerator[SessionsPage, None]], None]:
        """Ask the proxies, all or those named; give the question and its pages as they come. Raises ApiError."""
        if len(self._open) >= OPEN_MAX:
            raise ApiError(503, "too_many_questions", f"{OPEN_MAX} questions to the proxies are open already; try again")
        question = SessionQuestion(id=secrets.token_hex(8), order=order, which=which)
        inquiry = self._open[question.id] = Inquiry(self._feed.ask(encode(question), proxies))
        try:
            async with contextlib.aclosing(_pages(inquiry)) as pages:
                yield inquiry, pages
        finally:
            del self._open[question.id]

    async def take(self, request: web.Request) -> web.Response:
        """Serve POST /v1/feed/answers: one page."""
        try:
            page = decode(await request.read(), SessionsPage)
        except MessageError as error:
            raise ApiError(400, "bad_request", str(error)) from error
        inquiry = self._open.get(page.question)
        if inquiry is None or page.proxy not in inquiry.silent:
            raise ApiError(410, "not_asked", "nobody waits for this answer any more")
        try:
            async with asyncio.timeout(TAKE_S):
                await inquiry.pages.put(page)
        except TimeoutError:
            raise ApiError(410, "not_asked", "whoever asked does not take the answer") from None
        return json_response(b"{}")


async def _pages(inquiry: Inquiry) -> AsyncGenerator[SessionsPage, None]:
    """Yield pages until all have told everything, or those that have not are silent."""
    while inquiry.silent:
        try:
            async with asyncio.timeout(ANSWER_S):
                page = await inquiry.pages.get()
        except TimeoutError:
            return
        inquiry.took(page)
        yield page
