"""An HTTP server under clients that mean it ill: idle, half-open, malformed, without the right token."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from daemonkit.httpclient import HttpClient, HttpRefused, HttpUnavailable
from daemonkit.httpserver import BUDGET, HttpServer, needs
from daemonkit.principals import Scope, Verifiers, encode_verifiers, read_verifiers, verifier_of
from daemonkit.reception import REFUSED, Why
from daemonkit.secrets import SecretError

ADMIN = "the-admin-token"
DEADLINE_S = 20.0
FEW = replace(BUDGET, strangers_max=16)

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _ok(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


ROUTES = [
    web.get("/health", _ok),
    web.post("/undeclared", _ok),
    *needs(Scope.FEED, routes=[web.get("/feed", _ok)]),
    *needs(Scope.READ, Scope.FEED, routes=[web.get("/both", _ok)]),
    *needs(Scope.READ, routes=[web.get("/read", _ok)]),
    *needs(Scope.OPERATE, routes=[web.post("/operate", _ok)]),
    *needs(Scope.ADMIN, routes=[web.post("/admin", _ok)]),
]


@contextlib.asynccontextmanager
async def serving(**options: object) -> AsyncIterator[HttpServer]:
    async with HttpServer(host="127.0.0.1", port=0, token=ADMIN, routes=ROUTES, **options) as server:  # pyright: ignore[reportArgumentType]
        yield server


@contextlib.asynccontextmanager
async def crowd(port: int, count: int, greeting: bytes = b"") -> AsyncIterator[list[Peer]]:
    """*count* connections that say *greeting* and then nothing."""
    peers: list[Peer] = []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(greeting)
            peers.append((reader, writer))
        yield peers
    finally:
        for _, writer in peers:
            writer.close()


async def is_over(peer: Peer) -> bool:
    """Whether the server ends the connection of *peer*."""
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            await peer[0].read()
    return True


def refused(why: Why) -> float:
    return REFUSED.labels("http", why)._value.get()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    "greeting", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 4000, b"\x16\x03\x01"]
)
async def test_a_crowd_of_strangers_keeps_nobody_out(greeting: bytes) -> None:
    before = refused(Why.CROWDED) + refused(Why.LATE)
    async with serving(budget=FEW) as server, HttpClient(f"http://127.0.0.1:{server.port}", ADMIN) as known:
        await known.get("/read", timeout_s=5)
        async with crowd(server.port, 200, greeting) as peers:
            assert await known.get("/read", timeout_s=5) == b"ok"  # on the connection it had before
            async with HttpClient(f"http://127.0.0.1:{server.port}", ADMIN) as newcomer:
                assert await newcomer.get("/read", timeout_s=5) == b"ok"
            assert await is_over(peers[0])
    if not greeting.startswith(b"\x16"):  # those were refused for what they said; on a busy machine some are late first
        assert refused(Why.CROWDED) + refused(Why.LATE) >= before + 200 - FEW.strangers_max


async def test_a_stranger_has_so_much_time_and_a_served_one_has_it_anew() -> None:
    budget = replace(BUDGET, stranger_s=0.6)
    async with serving(budget=budget) as server, crowd(server.port, 2) as (silent, asking):
        loop = asyncio.get_running_loop()
        ended = asyncio.create_task(is_over(silent))
        while not ended.done():
            asking[1].write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(DEADLINE_S):
                assert (await asking[0].readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.1)
        asked_last = loop.time()
        assert await is_over(asking)
        assert loop.time() - asked_last >= 0.4


async def test_a_head_without_end_is_not_kept() -> None:
    async with serving() as server, crowd(server.port, 1, b"GET / HTTP/1.1\r\n") as (peer,):
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE_S):
                for number in range(1000):
                    peer[1].write(f"X-{number}: ".encode() + b"x" * 7000 + b"\r\n")
                    await peer[1].drain()
                    if peer[0].at_eof():
                        break
                await peer[0].read()
        assert peer[0].at_eof() or peer[0].exception() is not None


async def test_what_follows_a_refused_request_is_not_looked_at() -> None:
    pipelined = b"GET /read HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200
    async with serving() as server, crowd(server.port, 1, pipelined) as (peer,):
        async with asyncio.timeout(DEADLINE_S):
            assert (await peer[0].read()).count(b"HTTP/1.1 401") == 1


@pytest.mark.parametrize(
    "sent", [b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"rubbish\r\n\r\n", b"GET /read HTTP/1.1\r\nHost: x\r\n\r\n"]
)
async def test_no_answer_tells_versions(sent: bytes) -> None:
    async with serving() as server, crowd(server.port, 1, sent) as (peer,):
        async with asyncio.timeout(DEADLINE_S):
            head = (await peer[0].readuntil(b"\r\n\r\n")).decode().lower()
    assert "server: endpointd\r\n" in head
    assert "aiohttp" not in head
    assert "python" not in head


WORKER = """
import asyncio, resource, sys
from aiohttp import web
from daemonkit.httpserver import HttpServer

async def main():
    async def ok(_request):
        return web.Response(text="ok")
    failed = 0
    async with HttpServer(host="127.0.0.1", port=0, token="t", routes=[web.get("/read", ok)]) as server:
        print(server.port, flush=True)
        async def work():
            nonlocal failed
            while True:
                try:
                    files = [open("/proc/self/stat") for _ in range(20)]
                    for file in files:
                        file.close()
                except OSError:
                    failed += 1
                await asyncio.sleep(0.01)
        working = asyncio.create_task(work())
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        working.cancel()
    print(failed, flush=True)

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
asyncio.run(main())
"""


async def test_strangers_never_get_the_descriptors_of_the_program_s_own_work() -> None:
    """Of 100 descriptors; the strangers' budget alone would allow more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WORKER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            port = int(await process.stdout.readline())
            async with crowd(port, 300), HttpClient(f"http://127.0.0.1:{port}", "t") as client:
                assert await _patient_read(client) == b"ok"
                process.stdin.write(b"\n")
                lines = (await process.stdout.read()).decode().splitlines()
            assert lines[-1] == "0"
            assert any("connections are refused" in line and "descriptors" in line for line in lines)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _patient_read(client: HttpClient) -> bytes:
    """Ask until there is an answer: until its head is read, whoever has a token is a stranger who may be shown out."""
    while True:
        with contextlib.suppress(HttpUnavailable):
            return await client.get("/read", timeout_s=5)


ALLOWED = {
    Scope.SCRAPE: {"/metrics"},
    Scope.FEED: {"/feed", "/both"},
    Scope.READ: {"/metrics", "/read", "/both"},
    Scope.OPERATE: {"/metrics", "/read", "/both", "/operate"},
    Scope.ADMIN: {"/metrics", "/feed", "/read", "/both", "/operate", "/admin", "/undeclared"},
}


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_token_opens_what_its_scope_says_and_nothing_else(scope: Scope) -> None:
    verifiers = Verifiers() | verifier_of("the token", scope)
    async with serving(verifiers=verifiers) as server, HttpClient(f"http://127.0.0.1:{server.port}", "the token") as client:
        for path in ALLOWED[Scope.ADMIN]:
            ask = client.post if path in ("/operate", "/admin", "/undeclared") else client.get
            if path in ALLOWED[scope]:
                await ask(path, timeout_s=5)
                continue
            with pytest.raises(HttpRefused) as caught:
                await ask(path, timeout_s=5)
            assert (caught.value.status, caught.value.code) == (403, "forbidden"), path
            assert f"a token of scope {path.strip('/') if path != '/undeclared' else 'admin'}" in caught.value.message.replace(
                "scrape", "metrics"
            ).replace("feed or read", "both")


async def test_tokens_change_while_the_server_runs() -> None:
    async with serving() as server, HttpClient(f"http://127.0.0.1:{server.port}", "new") as client:
        with pytest.raises(HttpRefused, match="401"):
            await client.get("/read", timeout_s=5)
        server.set_verifiers(verifier_of("new", Scope.READ))
        assert await client.get("/read", timeout_s=5) == b"ok"
        server.set_verifiers(Verifiers())
        with pytest.raises(HttpRefused, match="401"):
            await client.get("/read", timeout_s=5)


def test_a_file_of_verifiers_holds_no_token_and_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "verifiers"
    file.write_text(encode_verifiers([(Scope.SCRAPE, "one"), (Scope.ADMIN, "two")]))
    file.chmod(0o600)
    assert "one" not in file.read_text()
    found = read_verifiers(file)
    assert found.scopes_of("one") == {Scope.SCRAPE}
    assert found.scopes_of("two") == set(Scope)
    assert found.scopes_of("three") == found.scopes_of("") == frozenset()
    assert found.only(Scope.SCRAPE).scopes_of("two") == frozenset()
    for wrong in ("root " + "0" * 64, "admin 12", "admin " + "g" * 64, "admin"):
        file.write_text(f"# first\n{wrong}\n")
        with pytest.raises(SecretError, match="line 2: expected one of scrape, feed, read, operate, admin"):
            read_verifiers(file)
