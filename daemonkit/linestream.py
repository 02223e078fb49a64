"""Answers that go on: lines, each delivered at once, to a reader that may be slow or gone. They end with their server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self

from aiohttp import web

WRITE_TIMEOUT_S = 5.0
"""For a reader of a stream that does not take what it asked for."""

LONG_LIVED = web.AppKey("long_lived", set[asyncio.Task[object]])
"""An application's requests that would hold up its end."""


class Registered:
    """The current task, in a set, for the length of a block."""

    def __init__(self, tasks: set[asyncio.Task[object]]) -> None:
        self._tasks = tasks
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._task is not None:
            self._tasks.add(self._task)

    def __exit__(self, *_error: object) -> None:
        if self._task is not None:
            self._tasks.discard(self._task)


class LineStream:
    """An answer of many lines, each delivered at once (application/x-ndjson).

    ``async with await LineStream.open(request) as stream: ... await stream.write_line(line)``, then return
    ``stream.response``.  An empty line is allowed and means nothing: it shows that the sender lives, and finds out whether
    the reader does.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse, write_timeout_s: float) -> None:
        self.response = response
        self._request = request
        self._write_timeout_s = write_timeout_s
        self._registered = Registered(request.app[LONG_LIVED])

    @classmethod
    async def open(cls, request: web.Request, *, write_timeout_s: float = WRITE_TIMEOUT_S) -> LineStream:
        """Send the head of the answer to *request*."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        return cls(request, response, write_timeout_s)

    async def __aenter__(self) -> Self:
        self._registered.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._registered.__exit__()
        if kind is None and not self.gone:
            await self._in_time(self.response.write_eof())

    @property
    def gone(self) -> bool:
        """Whether the reader has closed the connection."""
        return is_gone(self._request)

    async def write_line(self, line: bytes) -> None:
        """Send *line*, which has no line end.

        Raises ConnectionError if the reader has gone, or did not take earlier lines in time and was therefore cut off.
        """
        if self.gone:
            raise ConnectionResetError("the reader has closed the stream")
        await self._in_time(self.response.write(line + b"\n"))

    async def _in_time(self, write: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await write
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionAbortedError("the reader of the stream is too slow") from error


def is_gone(request: web.Request) -> bool:
    """Return whether the client of *request* has closed the connection, or was cut off."""
    return request.transport is None or request.transport.is_closing()
