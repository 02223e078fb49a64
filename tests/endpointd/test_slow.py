"""Clients and servers that do not take what they are sent: what the proxy keeps of it, and who waits."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.endpointd.conftest import Duo, Stage
from tests.endpointd.proxies import Proxy
from tests.endpointd.test_failover import connect, standing

HELLO = b"\0\0\0\x2c\0\3\0\0user\0postgres\0database\0postgres\0\0"
HELLO = len(HELLO).to_bytes(4, "big") + HELLO[4:]


async def hello(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a session as bare streams."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
    writer.write(HELLO)
    await reader.readuntil(b"Z\0\0\0\5I")
    return reader, writer


def said(kind: bytes, payload: bytes) -> bytes:
    return kind + (len(payload) + 4).to_bytes(4, "big") + payload


async def stalled(running: Proxy, direction: str) -> int:
    """Wait until the only session moves nothing any more; return how much it has moved."""
    before = -1
    async with asyncio.timeout(30):
        while True:
            now = int(getattr((await running.sessions()).sessions[0], direction))
            if now and now == before:
                return now
            before = now
            await asyncio.sleep(0.4)


async def test_copy_into_a_server_that_has_stopped_stays_with_the_client(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (_, running):
        reader, writer = await hello(running.writer_port)
        writer.write(said(b"Q", b"create table slow (t text)\0"))
        await reader.readuntil(b"Z\0\0\0\5I")
        pid_query = said(b"Q", b"select pg_backend_pid()\0")
        writer.write(pid_query)
        answer = await reader.readuntil(b"Z\0\0\0\5I")
        backend = int(answer[answer.index(b"D") + 11 : answer.index(b"C", answer.index(b"D"))])
        writer.write(said(b"Q", b"copy slow from stdin\0"))
        await reader.readuntil(b"G\0\0\0")
        before = running.rss_bytes
        pid = next(pid for pid in children_of(duo.n1.postmaster_pid) if inner_pid(pid) == backend)
        os.kill(pid, signal.SIGSTOP)
        row = said(b"d", b"x" * 9999 + b"\n")
        rows = 20_000

        async def send() -> None:
            for _ in range(rows):
                writer.write(row)
                await writer.drain()
            writer.write(said(b"c", b""))

        sending = asyncio.create_task(send())
        moved = await stalled(running, "to_server_bytes")
        assert moved < 100_000_000
        assert not sending.done()
        view = (await running.sessions()).sessions[0]
        assert view.held_bytes < 500_000
        assert running.rss_bytes - before < 2_000_000
        assert await running.metric("endpointd_held_bytes") == view.held_bytes
        os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(60):
            await sending
            await reader.readuntil(b"Z\0\0\0\5I")
        assert duo.n1.sql("select count(*) from slow") == str(rows)
        writer.close()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def inner_pid(pid: int) -> int:
    """Return the number that *pid* has for itself, in its own namespace."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    raise AssertionError("no NSpid")


async def test_an_evicted_client_that_does_not_read_is_cut_off(duo: Duo, tmp_path: Path) -> None:
    """It is told in the stream, if it ever reads; the proxy waits a few seconds for that and then closes."""
    async with standing(duo, tmp_path) as (feed, running):
        reader, writer = await hello(running.writer_port)
        writer.write(said(b"Q", b"select repeat('x', 9999) from generate_series(1, 100000)\0"))
        await stalled(running, "to_client_bytes")
        feed.publish(duo.document(epoch=2, revision=2))
        # The report does not wait for a client that does not listen.
        await feed.wait_for_report(epoch=2)
        await running.wait_for_health(sessions=0)
        assert await running.metric("endpointd_evictions_total", endpoint="writer", reason="outcome_unknown") == 1
        rest = await reader.read(-1)
        assert b"C08007\0" in rest[-600:] or len(rest) < 100_000_000
        writer.close()


async def test_a_session_in_the_middle_of_copy_is_told_and_its_rows_are_nowhere(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        duo.n1.sql("create table half (t text)")
        reader, writer = await hello(running.writer_port)
        writer.write(said(b"Q", b"copy half from stdin\0"))
        await reader.readuntil(b"G\0\0\0")
        writer.write(said(b"d", b"row\n") * 1000)
        feed.publish(duo.document(epoch=2, revision=2))
        async with asyncio.timeout(10):
            rest = await reader.read(-1)
        assert b"C08007\0" in rest
        await feed.wait_for_report(epoch=2, sessions=0)
        async with asyncio.timeout(10):
            while duo.n1.sql("select count(*) from pg_stat_activity where query like 'copy half%'") != "0":
                await asyncio.sleep(0.05)
        assert duo.n1.sql("select count(*) from half") == "0"
        writer.close()


async def test_idle_sessions_are_cheap(stage: Stage) -> None:
    """Measured with as many as the servers take; the price of one is printed."""
    await (await connect(stage.proxy.reader_port)).close()
    before = stage.proxy.rss_bytes
    sessions = [await connect(stage.proxy.reader_port) for _ in range(80)]
    each = (stage.proxy.rss_bytes - before) / len(sessions)
    print(f"{each / 1024:.1f} KiB of the proxy's memory for each idle session")
    assert each < 60_000
    for session in sessions:
        await session.close()
