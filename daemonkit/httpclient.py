"""The HTTP client of our daemons: one peer, one session, connections kept open.

Every call has a deadline; what went wrong is told apart (`httpanswers`).  No call is repeated: the caller knows whether its
request may be sent twice.  Commands, which ask once and end, have a lighter one (`oneshot`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator, Mapping
from types import TracebackType
from typing import Self

import aiohttp

from daemonkit.httpanswers import (
    ANSWER_BYTES_MAX,
    CONNECT_TIMEOUT_S,
    LINE_BYTES_MAX,
    HttpError,
    HttpRefused,
    HttpTimeout,
    HttpUnavailable,
    LineSplitter,
    Requests,
    refusal,
)

CONNECTIONS_MAX = 16
CLOSE_TIMEOUT_S = 1.0
__all__ = ["HttpClient", "HttpError", "HttpRefused", "HttpTimeout", "HttpUnavailable"]


class HttpClient(Requests):
    """A client of the server at *base_url*, open while the ``async with`` block runs."""

    def __init__(self, base_url: str, token: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        """*headers* go with every request."""
        self._base_url = base_url.rstrip("/")
        authorization = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._headers = {**(headers or {}), **authorization}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=30.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def lines(self, path: str, *, idle_timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Yield each line of the stream at *path* as soon as it is there, without its end; empty lines are left out.

        Ends when the peer ended the stream in good order. Raises HttpError, HttpTimeout if nothing came for *idle_timeout_s*.
        """
        with self._translated("GET", path):
            async with asyncio.timeout(idle_timeout_s):
                response = await self._open.get(self._base_url + path, timeout=_timeout(idle_timeout_s, total=False))
                if response.status >= 400:
                    async with response:
                        raise refusal(response.status, await _body(response))
        async with response:
            splitter = LineSplitter(f"GET {self._base_url}{path}")
            while True:
                with self._translated("GET", path):
                    async with asyncio.timeout(idle_timeout_s):
                        piece = await response.content.readany()
                if not piece:
                    break
                for line in splitter.feed(piece):
                    yield line

    @contextlib.asynccontextmanager
    async def websocket(self, path: str, *, timeout_s: float) -> AsyncGenerator[aiohttp.ClientWebSocketResponse, None]:
        """Give the web socket at *path*; *timeout_s* is for opening it. Raises HttpError on entry."""
        with self._translated("GET", path):
            async with asyncio.timeout(timeout_s):
                socket = await self._open.ws_connect(
                    self._base_url + path,
                    # The class is made in a way type checkers cannot follow.
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),  # pyright: ignore[reportCallIssue]
                    max_msg_size=LINE_BYTES_MAX,
                    autoping=True,
                )
        try:
            yield socket
        finally:
            await socket.close()

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "the client is used outside its async with block"
        return self._session

    async def _request(self, method: str, path: str, body: bytes, timeout_s: float) -> bytes:
        headers = {"Content-Type": "application/json"} if body else None
        with self._translated(method, path):
            async with self._open.request(
                method,
                self._base_url + path,
                data=body or None,
                headers=headers,
                timeout=_timeout(timeout_s),
                allow_redirects=False,
            ) as response:
                answer = await _body(response)
                if response.status >= 400:
                    raise refusal(response.status, answer)
                return answer

    @contextlib.contextmanager
    def _translated(self, method: str, path: str) -> Generator[None, None, None]:
        """Raise what aiohttp and the kernel raise as our own errors; this is the seam."""
        what = f"{method} {self._base_url}{path}"
        try:
            yield
        except TimeoutError as error:
            raise HttpTimeout(f"{what}: no answer in time") from error
        except aiohttp.WSServerHandshakeError as error:
            raise HttpRefused(error.status, "", error.message, b"") from error
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, ConnectionRefusedError)
            raise HttpUnavailable(f"{what}: {error.os_error.strerror or error.os_error}", refused=refused) from error
        except (aiohttp.ClientError, OSError) as error:
            raise HttpUnavailable(f"{what}: {error or type(error).__name__}") from error


def _timeout(timeout_s: float, *, total: bool = True) -> aiohttp.ClientTimeout:
    connect_s = min(timeout_s, CONNECT_TIMEOUT_S)
    return aiohttp.ClientTimeout(total=timeout_s if total else None, sock_connect=connect_s)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, and no more of it than we are willing to hold."""
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise HttpUnavailable(f"{response.method} {response.url}: the answer is larger than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)
