"""The HTTP server and client against each other over real sockets, and against peers that misbehave."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext, suppress
from inspect import iscoroutinefunction, signature
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import uvloop
from aiohttp import WSMsgType, web

from daemonkit import httpserver
from daemonkit.httpanswers import ANSWER_BYTES_MAX, HttpError, HttpRefused, HttpTimeout, HttpUnavailable
from daemonkit.httpclient import HttpClient
from daemonkit.httperrors import ApiError, json_response
from daemonkit.httpserver import HttpServer
from daemonkit.linestream import LineStream
from daemonkit.oneshot import OneShotClient
from tests import certificates

TOKEN = "a-token"
DEADLINE_S = 10.0


class Answer(msgspec.Struct, frozen=True):
    value: int


class Site:
    """A few routes, and what happened to them."""

    def __init__(self) -> None:
        self.stream: LineStream | None = None
        self.stream_error: BaseException | None = None
        self.stream_ended = asyncio.Event()
        self.release = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self.health),
            web.get("/struct", self.struct),
            web.post("/echo", self.echo),
            web.get("/stale", self.stale),
            web.get("/bug", self.bug),
            web.get("/weather", self.weather),
            web.get("/text503", self.text503),
            web.get("/wait", self.wait),
            web.get("/finite", self.finite),
            web.get("/endless", self.endless),
            web.get("/flood", self.flood),
            web.get("/late", self.late),
            web.get("/socket", self.socket),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def struct(self, _request: web.Request) -> web.Response:
        return json_response(Answer(3), 202)

    async def echo(self, request: web.Request) -> web.Response:
        return json_response(await request.read())

    async def stale(self, _request: web.Request) -> web.Response:
        raise ApiError(409, "stale", "too old", seen={"epoch": 3})

    async def bug(self, _request: web.Request) -> web.Response:
        raise RuntimeError("a secret detail")

    async def weather(self, request: web.Request) -> web.Response:
        raise {"refused": ConnectionRefusedError, "timeout": TimeoutError}[request.query["kind"]]("of another peer")

    async def text503(self, _request: web.Request) -> web.Response:
        return web.Response(status=503, text="not now")

    async def wait(self, _request: web.Request) -> web.Response:
        await self.release.wait()
        return web.Response()

    async def finite(self, request: web.Request) -> web.StreamResponse:
        async with await LineStream.open(request) as stream:
            for line in (b"one", b"", b"two"):
                await stream.write_line(line)
        return stream.response

    async def endless(self, request: web.Request) -> web.StreamResponse:
        try:
            async with await LineStream.open(request) as stream:
                self.stream = stream
                await stream.write_line(b"first")
                await self.release.wait()
                await stream.write_line(b"second")
            return stream.response
        except BaseException as error:
            self.stream_error = error
            raise
        finally:
            self.stream_ended.set()

    async def flood(self, request: web.Request) -> web.StreamResponse:
        try:
            async with await LineStream.open(request, write_timeout_s=0.2) as stream:
                while True:
                    await stream.write_line(b"x" * 100_000)
        except ConnectionError as error:
            self.stream_error = error
            raise
        finally:
            self.stream_ended.set()

    async def late(self, request: web.Request) -> web.StreamResponse:
        try:
            while request.transport is not None and not request.transport.is_closing():
                await asyncio.sleep(0.005)
            async with await LineStream.open(request) as stream:
                return stream.response
        except ConnectionError as error:
            self.stream_error = error
            raise
        finally:
            self.stream_ended.set()

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        channel = web.WebSocketResponse()
        await channel.prepare(request)
        async for message in channel:
            await channel.send_str(message.data)
        return channel


@asynccontextmanager
async def serving(site: Site, **options: object) -> AsyncIterator[HttpServer]:
    async with HttpServer(host="127.0.0.1", port=0, token=TOKEN, routes=site.routes(), **options) as server:  # pyright: ignore[reportArgumentType]
        yield server


C = TypeVar("C", bound=HttpClient | OneShotClient)
Kind = type[HttpClient] | type[OneShotClient]
both = pytest.mark.parametrize("kind", [HttpClient, OneShotClient])
"""What every client of ours does: the one that keeps connections, and that of commands."""


@asynccontextmanager
async def opened(client: C) -> AsyncIterator[C]:
    """Give *client*, open if it is one that has to be opened."""
    async with client if isinstance(client, HttpClient) else nullcontext():
        yield client


@asynccontextmanager
async def talking(token: str | None = TOKEN, *, kind: type[C] = HttpClient) -> AsyncIterator[tuple[Site, HttpServer, C]]:
    site = Site()
    async with serving(site) as server, opened(kind(f"http://127.0.0.1:{server.port}", token)) as client:
        yield site, server, client


async def raw(port: int, text: str) -> str:
    """Send *text* as it is and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write(text.replace("\n", "\r\n").encode())
            return (await reader.read()).decode()
    finally:
        writer.close()


@asynccontextmanager
async def peer(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], kind: type[C] = HttpClient
) -> AsyncIterator[C]:
    """A server that does what *talk* does, and a client of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, opened(kind(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as client:
        yield client


@both
async def test_answers_and_bodies_pass(kind: Kind) -> None:
    async with talking(kind=kind) as (_, _, client):
        assert await client.get("/health", timeout_s=5) == b"ok"
        assert await client.get("/struct", timeout_s=5) == b'{"value":3}'
        assert await client.post("/echo", b'{"a":1}', timeout_s=5) == b'{"a":1}'
        assert await client.post("/echo", timeout_s=5) == b""


@both
async def test_a_refusal_carries_code_message_and_detail(kind: Kind) -> None:
    async with talking(kind=kind) as (_, _, client):
        with pytest.raises(HttpRefused) as caught:
            await client.get("/stale", timeout_s=5)
    assert (caught.value.status, caught.value.code, caught.value.message) == (409, "stale", "too old")
    assert msgspec.json.decode(caught.value.body) == {
        "error": {"code": "stale", "message": "too old", "seen": {"epoch": 3}}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("get", "/none", 404, "not_found"),
        ("post", "/health", 405, "method_not_allowed"),
        ("get", "/bug", 500, "internal_error"),
        ("get", "/weather?kind=refused", 500, "internal_error"),
        ("get", "/weather?kind=timeout", 500, "internal_error"),
        ("get", "/text503", 503, ""),
    ],
)
@both
async def test_every_error_has_one_shape_and_tells_no_secrets(
    method: str,
    path: str,
    status: int,
    code: str,
    kind: Kind,
) -> None:
    async with talking(kind=kind) as (_, _, client):
        with pytest.raises(HttpRefused) as caught:
            await (client.get if method == "get" else client.post)(path, timeout_s=5)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert "secret" not in str(caught.value)


@both
async def test_a_body_beyond_the_limit_is_refused(kind: Kind) -> None:
    async with talking(kind=kind) as (_, _, client):
        assert len(await client.post("/echo", b"x" * (1 << 20), timeout_s=5)) == 1 << 20
        with pytest.raises(HttpRefused) as caught:
            await client.post("/echo", b"x" * ((1 << 20) + 1), timeout_s=5)
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "ä"])
@both
async def test_without_the_token_only_open_paths_answer(token: str | None, kind: Kind) -> None:
    async with talking(token, kind=kind) as (_, _, client):
        assert await client.get("/health", timeout_s=5) == b"ok"
        for path in ("/struct", "/metrics", "/none", "/health/", "/finite"):
            with pytest.raises(HttpRefused) as caught:
                await client.get(path, timeout_s=5)
            assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        if isinstance(client, HttpClient):
            with pytest.raises(HttpRefused) as caught:
                async with client.websocket("/socket", timeout_s=5):
                    pass
            assert caught.value.status == 401


def test_an_empty_token_cannot_be_served_with() -> None:
    with pytest.raises(ValueError, match="token is empty"):
        HttpServer(host="127.0.0.1", port=0, token="", routes=[])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:6480", 200),
        ("10.1.2.3", 200),
        ("[::1]:6480", 200),
        ("[::1]", 200),
        ("manager.example:80", 200),
        ("Manager.Example.", 200),
        ("evil.example", 403),
        ("evil.example:6480", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.1", 403),
        ("", 403),
        ("[evil.example]", 403),
    ],
)
async def test_the_host_must_be_an_address_or_a_known_name(host: str, status: int) -> None:
    async with serving(Site(), allowed_hosts=("manager.example",)) as server:
        for _ in range(2):  # the second time from memory
            answer = await raw(server.port, f"GET /health HTTP/1.1\nHost: {host}\nConnection: close\n\n")
            assert answer.split()[1] == str(status)


async def test_a_health_check_without_a_host_is_answered() -> None:
    async with serving(Site()) as server:
        assert (await raw(server.port, "GET /health HTTP/1.0\n\n")).split()[1] == "200"
        assert (await raw(server.port, "GET /struct HTTP/1.0\n\n")).split()[1] == "401"


async def test_what_is_not_http_is_refused_and_not_logged_as_our_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Site()) as server:
        for request in ("nonsense\n\n", "GET /health HTTP/1.1\n\n", f"GET /{'x' * 20_000} HTTP/1.1\nHost: localhost\n\n"):
            assert (await raw(server.port, request)).split()[1] == "400"
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@both
async def test_metrics_are_served_to_the_token(kind: Kind) -> None:
    async with talking(kind=kind) as (_, _, client):
        assert b"process_resident_memory_bytes" in await client.get("/metrics", timeout_s=5)


@both
async def test_lines_arrive_at_once_and_empty_ones_are_left_out(kind: Kind) -> None:
    async with talking(kind=kind) as (site, _, client):
        assert [line async for line in client.lines("/finite", idle_timeout_s=5)] == [b"one", b"two"]
        lines = client.lines("/endless", idle_timeout_s=5)
        assert await anext(lines) == b"first"  # the server has not gone on yet
        site.release.set()
        assert [line async for line in lines] == [b"second"]


@both
async def test_a_silent_stream_is_a_timeout_and_its_server_notices(kind: Kind) -> None:
    async with talking(kind=kind) as (site, _, client):
        with pytest.raises(HttpTimeout):
            async for _ in client.lines("/endless", idle_timeout_s=0.1):
                pass
        async with asyncio.timeout(DEADLINE_S):
            while site.stream is None or not site.stream.gone:
                await asyncio.sleep(0.005)
            site.release.set()
            await site.stream_ended.wait()
        assert isinstance(site.stream_error, ConnectionResetError)


async def test_whoever_leaves_before_the_answer_is_nothing_to_report(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    async with serving(site) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET /late HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        await writer.drain()
        writer.transport.abort()
        async with asyncio.timeout(DEADLINE_S):
            await site.stream_ended.wait()
    assert isinstance(site.stream_error, ConnectionError)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@both
async def test_a_stream_that_is_refused_says_so(kind: Kind) -> None:
    async with talking(kind=kind) as (_, _, client):
        with pytest.raises(HttpRefused) as caught:
            await anext(client.lines("/stale", idle_timeout_s=5))
    assert caught.value.code == "stale"


@both
async def test_lines_are_put_together_however_they_were_cut(kind: Kind) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
        for byte in b"ab\ncd\n\n\nefg\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with peer(talk, kind) as client:
        assert [line async for line in client.lines("/", idle_timeout_s=5)] == [b"ab", b"cd", b"efg"]


@both
async def test_a_stream_cut_short_is_an_error_after_its_whole_lines(kind: Kind) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\none\ntw\r\n")
        await writer.drain()

    got: list[bytes] = []
    async with peer(talk, kind) as client:
        lines = client.lines("/", idle_timeout_s=5)
        got.append(await anext(lines))
        with pytest.raises(HttpUnavailable):
            await anext(lines)
    assert got == [b"one"]


async def test_a_reader_that_does_not_read_is_cut_off() -> None:
    async with serving(site := Site()) as server:
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", server.port))
            reader.sendall(f"GET /flood HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
            async with asyncio.timeout(DEADLINE_S):
                await site.stream_ended.wait()
    assert isinstance(site.stream_error, ConnectionAbortedError)


async def test_a_web_socket_talks_both_ways() -> None:
    async with talking() as (_, _, client), client.websocket("/socket", timeout_s=5) as channel:
        await channel.send_str("hello")
        assert (await channel.receive(timeout=5)).data == "hello"


async def test_closing_ends_streams_and_web_sockets_at_once() -> None:
    site = Site()
    async with HttpServer(host="127.0.0.1", port=0, token=TOKEN, routes=site.routes()) as server:
        client = await HttpClient(f"http://127.0.0.1:{server.port}", TOKEN).__aenter__()
        lines = client.lines("/endless", idle_timeout_s=5)
        assert await anext(lines) == b"first"
        opened = client.websocket("/socket", timeout_s=5)
        channel = await opened.__aenter__()
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 1.0
    with pytest.raises(HttpUnavailable):
        await anext(lines)
    assert (await channel.receive(timeout=5)).type in (WSMsgType.CLOSED, WSMsgType.CLOSE, WSMsgType.ERROR)
    await opened.__aexit__(None, None, None)
    await client.__aexit__(None, None, None)


@both
async def test_closing_does_not_wait_long_for_a_request(kind: Kind) -> None:
    site = Site()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpserver, "CLOSE_TIMEOUT_S", 0.2)
        await close_during_a_request(site, kind)


async def close_during_a_request(site: Site, kind: Kind) -> None:
    async with asyncio.TaskGroup() as group:
        async with serving(site) as server, opened(kind(f"http://127.0.0.1:{server.port}", TOKEN)) as client:
            request = group.create_task(attempt(client.get("/wait", timeout_s=DEADLINE_S)))
            await client.get("/health", timeout_s=5)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 5.0
    assert isinstance(request.result(), HttpUnavailable)


async def attempt(call: Awaitable[bytes]) -> bytes | HttpError:
    try:
        return await call
    except HttpError as error:
        return error


@both
async def test_a_refused_connection_is_told_from_a_timeout(kind: Kind) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, and nobody listens
        async with opened(kind(f"http://127.0.0.1:{free.getsockname()[1]}")) as client:
            with pytest.raises(HttpUnavailable) as caught:
                await client.get("/", timeout_s=5)
            assert caught.value.refused
            with pytest.raises(HttpUnavailable) as caught:
                await anext(client.lines("/", idle_timeout_s=5))
            assert caught.value.refused
            if isinstance(client, HttpClient):
                with pytest.raises(HttpUnavailable) as caught:
                    async with client.websocket("/", timeout_s=5):
                        pass
                assert caught.value.refused


@both
async def test_no_answer_in_time_is_a_timeout(kind: Kind) -> None:
    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(talk, kind) as client:
        with pytest.raises(HttpTimeout) as caught:
            await client.get("/", timeout_s=0.1)
        assert not caught.value.refused
        with pytest.raises(HttpTimeout):
            await anext(client.lines("/", idle_timeout_s=0.1))
        if isinstance(client, HttpClient):
            with pytest.raises(HttpTimeout):
                async with client.websocket("/", timeout_s=0.1):
                    pass


@both
async def test_a_connection_nobody_accepts_is_a_timeout(kind: Kind) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # the queue of connections is full: another SYN is dropped
            filler.setblocking(False)
            filler.connect_ex(address)
        async with opened(kind(f"http://127.0.0.1:{address[1]}")) as client:
            with pytest.raises(HttpTimeout):
                await client.get("/", timeout_s=0.3)
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\none",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\none",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
@both
async def test_a_broken_answer_is_no_answer(answer: bytes, kind: Kind) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with peer(talk, kind) as client:
        with pytest.raises(HttpUnavailable) as caught:
            await client.get("/", timeout_s=5)
        assert not caught.value.refused


async def test_a_port_that_is_taken_is_an_error_on_entry() -> None:
    async with serving(Site()) as server:
        with pytest.raises(OSError, match=r"(?i)address already in use"):
            async with HttpServer(host="127.0.0.1", port=server.port, token=TOKEN, routes=[]):
                pass


async def test_connections_are_kept_and_answered_without_delay() -> None:
    async with talking() as (_, _, client):
        await client.get("/health", timeout_s=5)
        began = asyncio.get_running_loop().time()
        for _ in range(50):
            await client.get("/health", timeout_s=5)
        # Nagle's algorithm against delayed acknowledgements would cost 40 ms each.
        assert asyncio.get_running_loop().time() - began < 1.5


SCENARIOS = [test for name, test in list(globals().items()) if name.startswith("test_") and not signature(test).parameters]


@pytest.mark.parametrize("scenario", [test for test in SCENARIOS if iscoroutinefunction(test)])
def test_all_of_this_holds_on_uvloop_too(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """The daemons run on uvloop where it can be imported, and its transports are other code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@both
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"", b"up to the end"),
        (b"Content-Length: 2\r\n", b"ok"),
        (b"Transfer-Encoding: chunked\r\n", b"2;name=value\r\nok\r\n3\r\nay\n\r\n0\r\nTrailer: x\r\n\r\n"),
    ],
)
async def test_a_body_is_told_by_its_length_in_chunks_or_by_the_end(head: bytes, body: bytes, kind: Kind) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)

    async with peer(talk, kind) as client:
        assert await client.get("/", timeout_s=5) == (b"okay\n" if b";" in body else body)


@both
async def test_an_answer_without_end_is_given_up(kind: Kind) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (ANSWER_BYTES_MAX + 1))
        await writer.drain()

    async with peer(talk, kind) as client:
        with pytest.raises(HttpUnavailable, match="larger than"):
            await client.get("/", timeout_s=DEADLINE_S)


@both
async def test_what_is_asked_is_one_line_whatever_is_in_the_path(kind: Kind) -> None:
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")

    async with peer(talk, kind) as client:
        assert await client.get("/v1/a b?kind=ä&x=1%20\r\nEvil: 1", timeout_s=5) == b""
    assert b"GET /v1/a%20b?kind=%C3%A4&x=1%20" in asked[0].partition(b" HTTP/1.1\r\n")[0]
    assert b"\r\nEvil" not in asked[0]


@both
async def test_a_base_url_may_have_a_path_and_a_name(kind: Kind) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, opened(kind(f"http://localhost:{port}/east/", headers={"X-Who": "me"})) as client:
        assert await client.post("/v1/acts", timeout_s=5) == b"ok"
        first, *fields = asked[0].decode().split("\r\n")
        assert first == "POST /east/v1/acts HTTP/1.1"
        assert {f"Host: localhost:{port}", "X-Who: me", "Content-Length: 0"} <= set(fields)
    async with opened(kind(f"http://localhost:{port}")) as client:
        with pytest.raises(HttpUnavailable) as caught:
            await client.get("/", timeout_s=5)
    assert caught.value.refused


def test_a_header_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="one line"):
        OneShotClient("http://127.0.0.1:1", headers={"X-Who": "me\r\nEvil: 1"})


async def test_a_manager_behind_tls_is_asked_if_its_certificate_can_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    context = certificates.load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificates.server())
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        client = OneShotClient(f"https://localhost:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(HttpUnavailable, match="certificate verify failed"):
            await client.get("/", timeout_s=5)
        (tmp_path / "ca.pem").write_text(certificates.authority().certificate_pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert await client.get("/", timeout_s=5) == b"ok"
