"""Balancers in front of an endpoint that say, by the PROXY protocol, whose connection it is: a real one, and hand-made ones."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from endpointd.settings import SettingsError, read_settings
from pgwire import startup
from testkit.feedserver import feed_server
from testkit.ports import free_port
from tests.endpointd.conftest import Servers
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.test_doors import farewell, raw
from tests.endpointd.test_failover import connect, value

BALANCER = "127.0.0.9"
TRUSTED = f'proxy_protocol_from = ["{BALANCER}/32", "2001:db8::/32"]'
HELLO = startup.encode_startup(startup.make_startup("ann", "shop"))
NOBODY = ("host all nobody all relay",)
V1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 5432\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH4s4sHH", 0x21, 0x11, 17, b"\xc0\0\2\7", bytes(4), 56324, 5432) + b"\4\0\2xx"


def refused(host: str) -> str:
    return f'28000 endpoint "writer" has no rule for connection from host "{host}", user "ann", database "shop", no encryption'


@contextlib.asynccontextmanager
async def balanced(port: int, *said: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give a connection from the balancer's address, on which it has *said* that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(BALANCER, 0))
    try:
        for each in said:
            writer.write(each)
            await writer.drain()
        yield reader, writer
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def trusting(tmp_path: Path, *, limits: str = "", more: str = TRUSTED) -> AsyncIterator[Proxy]:
    """Run a proxy without servers, whose rules let nobody in whom these tests send."""
    async with (
        feed_server() as feed,
        proxy(tmp_path / "proxy", [feed.port], limits=limits, at_writer=more, rules=NOBODY) as running,
    ):
        yield running


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("is_cut", [False, True], ids=["in one go", "byte by byte"])
async def test_the_address_told_is_the_clients(tmp_path: Path, header: bytes, is_cut: bool) -> None:
    said = header + HELLO
    pieces = [said[at : at + 1] for at in range(len(said))] if is_cut else [said]
    async with trusting(tmp_path) as running:
        async with balanced(running.writer_port, *pieces) as (reader, _):
            assert await farewell(reader) == refused("192.0.2.7")
        await running.wait_for_log("client=192.0.2.7:56324")


@pytest.mark.parametrize(
    "header",
    [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0"],
    ids=["v1", "local", "unspec"],
)
async def test_a_header_without_an_address_leaves_the_balancers_own(tmp_path: Path, header: bytes) -> None:
    async with trusting(tmp_path) as running, balanced(running.writer_port, header + HELLO) as (reader, _):
        assert await farewell(reader) == refused(BALANCER)


async def test_a_balancer_that_says_nothing_of_it_is_told_so(tmp_path: Path) -> None:
    async with trusting(tmp_path) as running:
        async with balanced(running.writer_port, HELLO) as (reader, _):
            assert await farewell(reader) == "08P01 a PROXY protocol header is expected"
        async with balanced(running.writer_port, b"PROXY TCP4 nonsense\r\n" + HELLO) as (reader, _):
            assert await farewell(reader) == "08P01 malformed PROXY protocol header"
        await running.wait_for_health(sessions=0)
        metric = "endpointd_startup_failures_total"
        assert await running.metric(metric, endpoint="writer", reason="protocol_violation") == 2
        assert await running.metric("endpointd_bugs_total") == 0


async def test_a_header_from_anybody_else_is_no_packet(tmp_path: Path) -> None:
    async with trusting(tmp_path) as running:
        for header in (V1, V2):
            async with raw(running.writer_port) as (reader, writer):
                writer.write(header + HELLO)
                async with asyncio.timeout(10):
                    assert await reader.read(-1) == b""
        async with raw(running.writer_port) as (reader, writer):
            writer.write(HELLO)
            assert await farewell(reader) == refused("127.0.0.1")


async def test_other_endpoints_trust_nobody_and_a_reload_changes_whom(tmp_path: Path) -> None:
    async with trusting(tmp_path) as running:
        async with balanced(running.reader_port, HELLO) as (reader, _):
            assert f'host "{BALANCER}"' in await farewell(reader)
        running.reload((f'"{BALANCER}/32", ', ""))
        await running.wait_for_log("settings read anew")
        async with balanced(running.writer_port, HELLO) as (reader, _):
            assert await farewell(reader) == refused(BALANCER)


@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 192", V2[:-1]], ids=["silence", "half a line", "all but a byte"])
async def test_a_header_that_does_not_come_to_its_end_is_not_waited_for(tmp_path: Path, said: bytes) -> None:
    async with (
        trusting(tmp_path, limits="startup_timeout_s = 0.3") as running,
        balanced(running.writer_port, said) as (reader, _),
    ):
        assert await farewell(reader) == "08P01 canceling connection startup due to timeout"


async def test_who_leaves_before_its_end_is_forgotten(tmp_path: Path) -> None:
    async with trusting(tmp_path) as running:
        for abruptly in (False, True):
            async with balanced(running.writer_port, b"PROXY") as (_, writer):
                await running.wait_for_metric("endpointd_listener_connections", 1, listener="writer", kind="stranger")
                if abruptly:
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await running.wait_for_metric("endpointd_listener_connections", 0, listener="writer", kind="stranger")
        await running.wait_for_metric("endpointd_startup_failures_total", 2, endpoint="writer", reason="client_left")


async def test_strangers_are_counted_under_the_address_told(tmp_path: Path) -> None:
    async with trusting(tmp_path, limits="strangers_per_address_max = 1") as running:
        other = V1.replace(b"192.0.2.7", b"192.0.2.8")
        async with balanced(running.writer_port, V1) as (first, _), balanced(running.writer_port, other) as (second, writer):
            async with balanced(running.writer_port, V1):
                assert await farewell(first) == "53300 sorry, too many clients already"
            writer.write(HELLO)
            assert await farewell(second) == refused("192.0.2.8")


async def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    async with trusting(tmp_path) as running:
        text = running.config.read_text()
    running.config.write_text(text.replace(BALANCER, "balancer"))
    with pytest.raises(SettingsError, match='proxy_protocol_from of endpoint writer, "balancer/32" is no network'):
        read_settings(running.config)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed (Debian: apt-get install haproxy)")
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
async def test_a_real_balancer_is_understood(servers: Servers, tmp_path: Path, version: str) -> None:
    rules = (f"host all all {BALANCER}/32 reject", "host all all all relay")
    settings = f'{TRUSTED}\nclient_address = "application_name"'
    async with (
        feed_server(servers.document()) as feed,
        proxy(tmp_path / "proxy", [feed.port], at_writer=settings, rules=rules) as running,
        haproxy(tmp_path, running.writer_port, version) as port,
    ):
        await running.wait_for_health(status="serving")
        async with await connect(port, application_name="till") as session, await connect(servers.n1.port) as direct:
            told = await value(session, "select application_name from pg_stat_activity where pid = pg_backend_pid()")
            assert told == "till [127.0.0.1]"
            (view,) = (await running.sessions()).sessions
            assert view.client.startswith("127.0.0.1:")
            running_query = asyncio.create_task(value(session, "select pg_sleep(60)"))
            async with asyncio.timeout(20):
                sleeps = "select count(*) from pg_stat_activity where application_name like 'till%' and wait_event = 'PgSleep'"
                while await value(direct, sleeps) != "1":
                    await asyncio.sleep(0.01)
                await session.cancel_safe()
                with pytest.raises(Exception, match="canceling statement due to user request"):
                    await running_query


@contextlib.asynccontextmanager
async def haproxy(directory: Path, server_port: int, version: str) -> AsyncIterator[int]:
    """Run HAProxy in front of *server_port*, which it reaches from BALANCER's address, and return its port."""
    port = free_port()
    settings = directory / "haproxy.cfg"
    settings.write_text(f"""
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen writer
    bind 127.0.0.1:{port}
    server one 127.0.0.1:{server_port} source {BALANCER} {version}
""")
    process = await asyncio.create_subprocess_exec("haproxy", "-db", "-f", str(settings))
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield port
    finally:
        process.terminate()
        await process.wait()
