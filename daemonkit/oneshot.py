"""The HTTP client of commands: a connection for each request, and nothing but the standard library.

A command asks the manager once or twice and ends; importing the client with which daemons keep connections (`httpclient`) would
take it longer than everything else it does.  Deadlines and errors are the same.  Of HTTP/1.1 it speaks what a server may answer
to ``Connection: close``: a body of a told length, in chunks, or up to the connection's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from daemonkit.httpanswers import (
    ANSWER_BYTES_MAX,
    CONNECT_TIMEOUT_S,
    HttpTimeout,
    HttpUnavailable,
    LineSplitter,
    Requests,
    refusal,
)

PORTS = {"http": 80, "https": 443}
HEAD_BYTES_MAX = 64 << 10
PIECE_BYTES = 64 << 10
_SAFE_IN_TARGET = "%/?&=:,;+~!$'()*@"
"""Left as they are in a path with its query; whatever else is no letter or digit is quoted."""


class OneShotClient(Requests):
    """A client of the server at *base_url* that opens a connection for each request."""

    def __init__(self, base_url: str, token: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        """*headers* go with every request. Raises ValueError for a URL that is none, or a header that is not one line."""
        self._base_url = base_url.rstrip("/")
        parts = urlsplit(self._base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or PORTS[parts.scheme]
        self._is_tls = parts.scheme == "https"
        self._prefix = parts.path
        authorization = {"Authorization": f"Bearer {token}"} if token is not None else {}
        fixed = {"Host": parts.netloc.rpartition("@")[2], "Accept": "*/*", "Connection": "close"}
        lines = [f"{name}: {value}" for name, value in {**fixed, **(headers or {}), **authorization}.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header would not be one line")
        self._headers = lines

    async def lines(self, path: str, *, idle_timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Yield each line of the stream at *path* as soon as it is there, without its end; empty lines are left out.

        Ends when the peer ended the stream in good order. Raises HttpError, HttpTimeout if nothing came for *idle_timeout_s*.
        """
        async with contextlib.AsyncExitStack() as stack:
            with self._translated("GET", path):
                async with asyncio.timeout(idle_timeout_s):
                    answer = await stack.enter_async_context(self._asked("GET", path, b""))
                    if answer.status >= 400:
                        raise refusal(answer.status, await answer.whole())
            splitter = LineSplitter(f"GET {self._base_url}{path}")
            while True:
                with self._translated("GET", path):
                    async with asyncio.timeout(idle_timeout_s):
                        piece = await anext(answer.pieces, b"")
                if not piece:
                    break
                for line in splitter.feed(piece):
                    yield line

    async def _request(self, method: str, path: str, body: bytes, timeout_s: float) -> bytes:
        with self._translated(method, path):
            async with asyncio.timeout(timeout_s), self._asked(method, path, body) as answer:
                whole = await answer.whole()
                if answer.status >= 400:
                    raise refusal(answer.status, whole)
                return whole

    @contextlib.asynccontextmanager
    async def _asked(self, method: str, path: str, body: bytes) -> AsyncGenerator[_Answer, None]:
        """Ask, and give the answer as far as its head has come."""
        reader, writer = await self._connect()
        try:
            head = [f"{method} {quote(self._prefix + path, safe=_SAFE_IN_TARGET)} HTTP/1.1", *self._headers]
            if body:
                head.append("Content-Type: application/json")
            if body or method != "GET":
                head.append(f"Content-Length: {len(body)}")
            writer.write("\r\n".join([*head, "", ""]).encode() + body)
            yield await _answer(reader)
        finally:
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first of the host's addresses that takes it. Raises OSError."""
        loop = asyncio.get_running_loop()
        failure: OSError | None = None
        for family, *_, address in await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    return await asyncio.open_connection(
                        str(address[0]),
                        self._port,
                        family=family,
                        limit=HEAD_BYTES_MAX,
                        ssl=self._is_tls or None,
                        server_hostname=self._host if self._is_tls else None,
                    )
            except OSError as error:
                failure = error
        raise failure if failure is not None else OSError("the host has no address")

    @contextlib.contextmanager
    def _translated(self, method: str, path: str) -> Generator[None, None, None]:
        """Raise what asyncio and the kernel raise as our own errors; this is the seam."""
        what = f"{method} {self._base_url}{path}"
        try:
            yield
        except TimeoutError as error:
            raise HttpTimeout(f"{what}: no answer in time") from error
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            raise HttpUnavailable(f"{what}: {error.strerror or error}", refused=refused) from error
        except EOFError as error:
            raise HttpUnavailable(f"{what}: the connection ended before the answer") from error
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise HttpUnavailable(f"{what}: the answer is not HTTP: {error}") from error


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer of which the head has come."""

    status: int
    pieces: AsyncIterator[bytes]
    """Of the body, as they come."""

    async def whole(self) -> bytes:
        """Return the body, and no more of it than we are willing to hold. Raises HttpUnavailable."""
        body = bytearray()
        async for piece in self.pieces:
            body += piece
            if len(body) > ANSWER_BYTES_MAX:
                raise HttpUnavailable(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
        return bytes(body)


async def _answer(reader: asyncio.StreamReader) -> _Answer:
    """Return the answer that *reader* begins with. Raises EOFError, ValueError."""
    first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise ValueError(f"it begins with {first[:40]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    if "chunked" in headers.get("transfer-encoding", "").lower():
        pieces = _chunks(reader)
    elif (length := headers.get("content-length")) is not None:
        pieces = _exactly(reader, int(length))
    else:
        pieces = _all(reader)
    return _Answer(int(rest[:3]), pieces)


async def _exactly(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    while length > 0:
        piece = await reader.read(min(length, PIECE_BYTES))
        if not piece:
            raise EOFError
        length -= len(piece)
        yield piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while (length := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)) > 0:
        async for piece in _exactly(reader, length):
            yield piece
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # fields behind the last chunk say nothing to us


async def _all(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(PIECE_BYTES):
        yield piece
