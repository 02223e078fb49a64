"""Limits, bad first packets, and how the program starts and ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from daemonkit.httpclient import HttpClient, HttpRefused
from pgwire import startup
from pgwire.messages import Backend, BackendKey, decode_report
from testkit.feedserver import feed_server
from testkit.ports import free_port
from tests.endpointd.conftest import Servers, Stage
from tests.endpointd.proxies import Proxy, proxy


@asynccontextmanager
async def raw(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give a bare connection to a door."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def farewell(reader: asyncio.StreamReader) -> str:
    """Return the SQLSTATE and message of the error that is all the proxy says before it closes."""
    async with asyncio.timeout(5):
        data = await reader.read(-1)
    assert data[:1] == bytes((Backend.ERROR_RESPONSE,)), data
    report = decode_report(data[5:])
    assert report.severity == "FATAL"
    return f"{report.sqlstate} {report.message}"


def packet(code: int, body: bytes) -> bytes:
    return (len(body) + 8).to_bytes(4, "big") + code.to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (packet(2 << 16, b"x"), "0A000 unsupported frontend protocol 2.0: server supports 3.0 to 3.2"),
        (packet(3 << 16, b"user\0"), "08P01 invalid startup packet layout: expected pairs of name and value"),
        (packet(3 << 16, b"database\0a\0\0"), "28000 no PostgreSQL user name specified in startup packet"),
    ],
)
async def test_what_is_no_first_packet_is_refused(stage: Stage, sent: bytes, answer: str) -> None:
    async with raw(stage.proxy.writer_port) as (reader, writer):
        for i in range(len(sent)):
            writer.write(sent[i : i + 1])
            await writer.drain()
        assert await farewell(reader) == answer


async def test_encryption_is_declined_once_of_each_kind(stage: Stage) -> None:
    async with raw(stage.proxy.writer_port) as (reader, writer):
        writer.write(startup.GSSENC_REQUEST)
        assert await reader.readexactly(1) == b"N"
        writer.write(startup.SSL_REQUEST)
        assert await reader.readexactly(1) == b"N"
        writer.write(startup.SSL_REQUEST)
        assert await farewell(reader) == "0A000 unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2"


async def test_direct_tls_is_closed_without_a_word(stage: Stage) -> None:
    async with raw(stage.proxy.reader_port) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        async with asyncio.timeout(5):
            assert await reader.read(-1) == b""


async def test_a_stranger_cancels_nothing(stage: Stage) -> None:
    async with raw(stage.proxy.writer_port) as (reader, writer):
        writer.write(startup.encode_cancel(BackendKey(1, b"1234")))
        async with asyncio.timeout(5):
            assert await reader.read(-1) == b""


async def test_a_silent_client_is_sent_away(servers: Servers, tmp_path: Path) -> None:
    async with (
        feed_server(servers.document()) as feed,
        proxy(tmp_path / "proxy", [feed.port], limits="startup_timeout_s = 0.2") as running,
        raw(running.writer_port) as (reader, _),
    ):
        assert await farewell(reader) == "08P01 canceling connection startup due to timeout"


def options(port: int, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "postgres", "autocommit": True, **more}


async def test_one_session_too_many_is_refused_and_can_still_cancel(servers: Servers, tmp_path: Path) -> None:
    async with (
        feed_server(servers.document()) as feed,
        proxy(tmp_path / "proxy", [feed.port], limits="sessions_max = 1") as running,
    ):
        await running.wait_for_health(status="serving")
        session = await psycopg.AsyncConnection.connect(**options(running.writer_port))
        with pytest.raises(psycopg.OperationalError, match='FATAL:  too many connections for endpoint "reader"'):
            await psycopg.AsyncConnection.connect(**options(running.reader_port))
        sleeping = asyncio.create_task(session.execute("select pg_sleep(20)"))
        async with asyncio.timeout(10):
            while (await running.sessions()).sessions[0].doing != "busy":
                await asyncio.sleep(0.01)
        await session.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await sleeping
        await session.close()


async def test_sigterm_ends_idle_sessions_at_once_and_open_transactions_soon(servers: Servers, tmp_path: Path) -> None:
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        await running.wait_for_health(status="serving")
        idle = await psycopg.AsyncConnection.connect(**options(running.reader_port))
        finishing = await psycopg.AsyncConnection.connect(**options(running.writer_port))
        await finishing.execute("begin")
        endless = await psycopg.AsyncConnection.connect(**options(running.writer_port))
        await endless.execute("begin")
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", running.writer_port), timeout=1).close()
                except ConnectionRefusedError:
                    break
                await asyncio.sleep(0.01)
        await finishing.execute("commit")
        async with asyncio.timeout(10):
            assert await running.process.wait() == 0
        for session in (idle, finishing, endless):
            with pytest.raises(psycopg.errors.AdminShutdown, match="the endpoint is shutting down"):
                await session.execute("select 1")


async def start_and_fail(config: Path) -> tuple[int | None, str]:
    """Return exit code and words of a proxy that cannot start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "endpointd.daemon", "--config", config, stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    async with asyncio.timeout(20):
        _, words = await process.communicate()
    return process.returncode, words.decode()


async def test_a_taken_port_is_one_clear_line(stage: Stage) -> None:
    code, words = await start_and_fail(stage.proxy.log.parent / "endpointd.toml")
    assert code == 1
    assert "Traceback" not in words
    assert f"cannot listen on 127.0.0.1:{stage.proxy.writer_port} for endpoint writer: Address already in use" in words


async def test_wrong_settings_are_one_clear_line(stage: Stage) -> None:
    config = stage.proxy.log.parent / "wrong.toml"
    config.write_text((stage.proxy.log.parent / "endpointd.toml").read_text().replace("engine =", "engin ="))
    code, words = await start_and_fail(config)
    assert code == 2
    assert "engin" in words
    assert words.count("\n") == 1


async def test_who_is_connected_where_is_told_to_holders_of_the_token_only(stage: Stage) -> None:
    async with HttpClient(f"http://127.0.0.1:{stage.proxy.http_port}") as stranger:
        assert b'"status":"serving"' in await stranger.get("/health", timeout_s=2)
        for path in ("/v1/sessions", "/metrics"):
            with pytest.raises(HttpRefused):
                await stranger.get(path, timeout_s=2)
    async with await psycopg.AsyncConnection.connect(**options(stage.proxy.writer_port, application_name="me")):
        view = (await stage.proxy.sessions()).sessions[0]
        assert (view.endpoint, view.node, view.user, view.application_name) == ("writer", "n1", "postgres", "me")
    metrics = (await stage.proxy.get("/metrics")).decode()
    assert 'endpointd_sessions_opened_total{endpoint="writer",node="n1"} 1.0' in metrics
    assert "endpointd_writer_vouched 1.0" in metrics


async def test_an_idle_proxy_uses_hardly_any_processor(stage: Stage) -> None:
    def used_s() -> float:
        fields = Path(f"/proc/{stage.proxy.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    sessions = [await psycopg.AsyncConnection.connect(**options(stage.proxy.reader_port)) for _ in range(20)]
    before, began, reports = used_s(), time.monotonic(), len(stage.feed.reports)
    async with asyncio.timeout(20):
        while len(stage.feed.reports) < reports + 6:  # one at every half second
            await asyncio.sleep(0.05)
    assert (used_s() - before) / (time.monotonic() - began) < 0.05
    for session in sessions:
        await session.close()


async def test_before_the_first_document_clients_wait(servers: Servers, tmp_path: Path) -> None:
    async with feed_server() as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        assert (await running.health()).status == "waiting"
        connecting = [
            asyncio.create_task(psycopg.AsyncConnection.connect(**options(port)))
            for port in (running.writer_port, running.reader_port)
        ]
        async with asyncio.timeout(10):
            while (await running.health()).sessions < 2:
                await asyncio.sleep(0.01)
        feed.publish(servers.document())
        for connection in connecting:
            await (await connection).close()


async def test_the_cache_is_a_document(stage: Stage) -> None:
    cache = stage.proxy.log.parent / "topology.json"
    async with asyncio.timeout(5):
        while not cache.exists():
            await asyncio.sleep(0.01)
    assert msgspec.json.decode(cache.read_bytes())["writer"] == "n1"


async def test_a_broken_cache_is_no_obstacle(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "topology.json").write_text("{")
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        await running.wait_for_health(status="serving")


async def test_two_managers_of_which_one_is_dead(servers: Servers, tmp_path: Path) -> None:
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [free_port(), feed.port]) as running:
        await serves(running)


async def serves(running: Proxy) -> None:
    await running.wait_for_health(status="serving")
    await (await psycopg.AsyncConnection.connect(**options(running.writer_port))).close()


async def test_a_client_that_breaks_the_protocol_in_its_session_is_told(stage: Stage) -> None:
    async with raw(stage.proxy.writer_port) as (reader, writer):
        writer.write(startup.encode_startup(startup.make_startup("postgres", "postgres")))
        await reader.readuntil(b"Z\0\0\0\5I")
        writer.write(b"Q\0\0\0\0")
        assert await farewell(reader) == "08P01 invalid message length"


async def test_a_message_type_nobody_knows_is_the_servers_to_refuse(stage: Stage) -> None:
    async with raw(stage.proxy.reader_port) as (reader, writer):
        writer.write(startup.encode_startup(startup.make_startup("postgres", "postgres")))
        await reader.readuntil(b"Z\0\0\0\5I")
        writer.write(b"!\0\0\0\4")
        assert await farewell(reader) == "08P01 invalid frontend message type 33"
