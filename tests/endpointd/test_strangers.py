"""Whoever comes to the port and is no well-behaved client: told in PostgreSQL's words where that is possible, and counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import struct
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemonkit.httpclient import HttpClient, HttpError
from endpointd.session.commands import ClientSent, Close
from endpointd.session.conversation import Conversation
from endpointd.session.state import State
from pgwire import startup
from pgwire.messages import Backend, decode_negotiation, decode_report
from testkit.feedserver import document, feed_server
from tests.endpointd.conftest import Servers, Stage
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.servers import PASSWORD
from tests.endpointd.test_doors import farewell, packet, raw
from tests.endpointd.test_failover import connect


def system_keepalive_s() -> float:
    return float(Path("/proc/sys/net/ipv4/tcp_keepalive_time").read_text())


def keepalive_left_s(local_port: int, remote_port: int) -> float:
    """Return in how many seconds the kernel asks the peer of a connection of this machine whether it is there."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, timer, *_ = line.split()
        if (local[-4:], remote[-4:]) == (f"{local_port:04X}", f"{remote_port:04X}"):
            kind, when = timer.split(":")
            assert kind == "02", f"no keepalive: {line}"
            return int(when, 16) / os.sysconf("SC_CLK_TCK")
    raise AssertionError("no such connection")


async def failures(running: Proxy, reason: str, endpoint: str = "writer") -> float:
    return await running.metric("endpointd_startup_failures_total", endpoint=endpoint, reason=reason)


async def test_every_way_to_begin_wrongly_is_told_and_counted(tmp_path: Path) -> None:
    async with feed_server() as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        silently = {
            "zero length": b"\0\0\0\0",
            "shorter than its own header": b"\0\0\0\7",
            "negative length": b"\xff\xff\xff\xff",
            "one byte beyond 10,000 and the length": (10_005).to_bytes(4, "big"),
            "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
            "a goodbye, as of a client that connects and ends": b"X\0\0\0\4",
            "a cancel request without a key": packet(1234 << 16 | 5678, b"abc"),
        }
        wrong = {
            "no terminator": packet(3 << 16, b"user\0a\0"),
            "an encryption request with a tail": packet(1234 << 16 | 5679, b"tail"),
            "garbage behind an encryption request": startup.SSL_REQUEST + b"\x99garbage that was never encrypted",
            "tls behind an encryption request that was declined": startup.GSSENC_REQUEST + b"\x99\x16\x03\x01",
        }
        for count, (what, sent) in enumerate({**silently, **wrong}.items(), 1):
            async with raw(running.writer_port) as (reader, writer):
                writer.write(sent)
                async with asyncio.timeout(10):
                    answer = await reader.read(-1)
                if what in silently:
                    assert answer == b"", what
                else:
                    report = decode_report(answer.removeprefix(b"N")[5:])
                    assert (report.severity, report.sqlstate) == ("FATAL", "08P01"), what
            await running.wait_for_health(sessions=0)
            assert await failures(running, "protocol_violation") == count, what
        for version in (2 << 16, 1 << 16, 4 << 16, 1234 << 16 | 1):
            async with raw(running.writer_port) as (reader, writer):
                writer.write(packet(version, b"user\0a\0\0"))
                assert (await farewell(reader)).startswith("0A000 unsupported frontend protocol")
        await running.wait_for_health(sessions=0)
        assert await failures(running, "unsupported_version") == 4
        assert await running.metric("endpointd_connections_total", endpoint="writer") == len(silently) + len(wrong) + 4
        assert await running.metric("endpointd_bugs_total") == 0
        assert running.log.read_text().count("kind=protocol_violation") == len(silently) + len(wrong)


async def test_tls_without_asking_is_closed_and_counted(tmp_path: Path) -> None:
    async with feed_server() as feed, proxy(tmp_path / "proxy", [feed.port]) as running:
        context = ssl.create_default_context()
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            await asyncio.open_connection("127.0.0.1", running.writer_port, ssl=context, server_hostname="localhost")
        with pytest.raises(psycopg.OperationalError):
            await psycopg.AsyncConnection.connect(
                host="127.0.0.1", port=running.writer_port, user="u", sslmode="require", sslnegotiation="direct"
            )
        with pytest.raises(psycopg.OperationalError, match="server does not support SSL"):
            await psycopg.AsyncConnection.connect(host="127.0.0.1", port=running.writer_port, user="u", sslmode="require")
        async with HttpClient(f"http://127.0.0.1:{running.writer_port}") as client:
            with pytest.raises(HttpError):
                await client.get("/", timeout_s=5)
        await running.wait_for_health(sessions=0)
        assert await failures(running, "direct_tls") == 2
        assert await failures(running, "client_left") == 1


@pytest.mark.parametrize("how", ["silence", "half a packet", "a byte now and then", "a declined request and silence"])
async def test_whoever_takes_too_long_is_sent_away(tmp_path: Path, how: str) -> None:
    limits = "startup_timeout_s = 0.5"
    async with feed_server() as feed, proxy(tmp_path / "proxy", [feed.port], limits=limits) as running:
        hello = startup.encode_startup(startup.make_startup("u", "d"))
        async with raw(running.writer_port) as (reader, writer):
            dribbling: asyncio.Task[None] | None = None
            match how:
                case "half a packet":
                    writer.write(hello[:-3])
                case "a byte now and then":

                    async def dribble() -> None:
                        for byte in b"\0\0\x20\0" + bytes(8000):
                            writer.write(bytes((byte,)))
                            await asyncio.sleep(0.05)

                    dribbling = asyncio.create_task(dribble())
                case "a declined request and silence":
                    writer.write(startup.SSL_REQUEST)
                    assert await reader.readexactly(1) == b"N"
                case _:
                    pass
            assert await farewell(reader) == "08P01 canceling connection startup due to timeout"
            if dribbling is not None:
                dribbling.cancel()
        await running.wait_for_health(sessions=0)
        assert await failures(running, "startup_timeout") == 1


async def test_a_login_that_does_not_go_on_is_ended(servers: Servers, tmp_path: Path) -> None:
    limits = "login_timeout_s = 0.5"
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], limits=limits) as running:
        await running.wait_for_health(status="serving")
        async with raw(running.writer_port) as (reader, writer):
            writer.write(startup.encode_startup(startup.make_startup("scram", "postgres")))
            assert (await reader.readexactly(1))[0] == Backend.AUTHENTICATION
            size = int.from_bytes(await reader.readexactly(4), "big")
            await reader.readexactly(size - 4)
            assert await farewell(reader) == "08P01 canceling connection startup due to timeout"


async def test_a_login_has_a_time_of_its_own(servers: Servers, tmp_path: Path) -> None:
    """As long as PostgreSQL gives it, however short the time for the first packet."""
    limits = "startup_timeout_s = 0.5"
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], limits=limits) as running:
        await running.wait_for_health(status="serving")
        async with raw(running.writer_port) as (reader, writer), raw(running.writer_port) as (silent, _):
            writer.write(startup.encode_startup(startup.make_startup("scram", "postgres")))
            assert (await reader.readexactly(1))[0] == Backend.AUTHENTICATION
            assert await farewell(silent) == "08P01 canceling connection startup due to timeout"
            await asyncio.sleep(0.5)
            await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
            writer.write(b"p\0\0\0\x08nope")
            report = decode_report((await reader.read(-1))[5:])
            assert report.sqlstate == "08P01"
            assert "timeout" not in report.message


async def test_who_leaves_while_no_roles_are_known_is_noticed_and_others_are_told_why(tmp_path: Path) -> None:
    rules = ("host all all all scram-sha-256",)
    async with feed_server() as feed, proxy(tmp_path / "proxy", [feed.port], limits="hold_s = 600", rules=rules) as running:
        async with raw(running.writer_port) as (_, writer):
            writer.write(startup.encode_startup(startup.make_startup("ann", "shop")))
            async with asyncio.timeout(10):
                while (found := (await running.sessions()).sessions)[:1] == [] or found[0].waits is None:
                    await asyncio.sleep(0.01)
            assert found[0].waits == "no node has told yet which roles there are"
        await running.wait_for_health(sessions=0)
        assert await failures(running, "client_left") == 1


async def test_what_a_crowd_says_unasked_is_not_kept(tmp_path: Path) -> None:
    crowd, said = 200, startup.encode_startup(startup.make_startup("ann", "shop")) + bytes(60_000)
    async with feed_server(document()) as feed, proxy(tmp_path / "proxy", [feed.port], limits="hold_s = 600") as running:
        before = running.rss_bytes
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(crowd):
                _, writer = await stack.enter_async_context(raw(running.writer_port))
                writer.write(said)
            await running.wait_for_metric("endpointd_held", crowd, endpoint="writer")
            assert running.rss_peak_bytes - before < crowd * 80_000


@pytest.mark.parametrize(
    ("settings", "wanted_s"),
    [("", system_keepalive_s()), ("[clients]\ntcp_keepalives_idle_s = 77\ntcp_keepalives_count = 5", 77)],
    ids=["the system's", "its own"],
)
async def test_how_soon_a_silent_client_is_asked_whether_it_is_there(tmp_path: Path, settings: str, wanted_s: float) -> None:
    async with (
        feed_server() as feed,
        proxy(tmp_path / "proxy", [feed.port], more=settings) as running,
        raw(running.writer_port) as (_, writer),
    ):
        await running.wait_for_health(sessions=1)
        left_s = keepalive_left_s(running.writer_port, writer.get_extra_info("sockname")[1])
        assert wanted_s - 30 < left_s <= wanted_s + 1


@pytest.mark.parametrize(("minor", "option"), [(9, "_pq_.whatever"), (9999, "_pq_.test_protocol_negotiation")])
async def test_a_newer_minor_version_is_negotiated_by_the_server_and_once(stage: Stage, minor: int, option: str) -> None:
    async with raw(stage.proxy.writer_port) as (reader, writer):
        message = startup.make_startup("postgres", "postgres", version=3 << 16 | minor, **{option: "x"})
        writer.write(startup.encode_startup(message))
        kinds: list[int] = []
        async with asyncio.timeout(10):
            while Backend.READY_FOR_QUERY not in kinds:
                kind, size = struct.unpack(">BI", await reader.readexactly(5))
                payload = await reader.readexactly(size - 4)
                kinds.append(kind)
                if kind == Backend.NEGOTIATE_PROTOCOL_VERSION:
                    assert decode_negotiation(payload)[1] == (option,)
        assert kinds[0] == Backend.NEGOTIATE_PROTOCOL_VERSION
        assert kinds.count(Backend.NEGOTIATE_PROTOCOL_VERSION) == 1


@settings(max_examples=300)
@given(data=st.binary(max_size=80), cuts=st.lists(st.integers(1, 9), max_size=30))
def test_any_bytes_lead_to_an_answer_or_to_waiting_for_more(data: bytes, cuts: list[int]) -> None:
    conversation = Conversation()
    kinds = ("protocol_violation", "unsupported_version", "direct_tls")
    pos = 0
    for cut in [*cuts, len(data)]:
        if conversation.wants_client and pos < len(data):
            for command in conversation.handle(ClientSent(data[pos : pos + cut])):
                assert not isinstance(command, Close) or command.kind in kinds
            pos += cut
    assert conversation.state in (State.OPENING, State.IDENTIFYING, State.CANCELLING, State.CLOSED)


async def test_a_storm_of_the_same_failure_is_a_few_lines_and_a_sum(tmp_path: Path) -> None:
    async with feed_server(document()) as feed, proxy(tmp_path / "proxy", [feed.port], level="info") as running:
        for _ in range(30):
            async with raw(running.reader_port) as (reader, writer):
                writer.write(b"\0\0\0\0")
                assert await reader.read() == b""
        await running.wait_for_health(sessions=0)
        assert running.log.read_text().count("kind=protocol_violation") == 5
        assert await failures(running, "protocol_violation", "reader") == 30
        async with asyncio.timeout(30):
            while "count=25" not in running.log.read_text():
                await asyncio.sleep(0.1)


async def _farewell_or_reset(reader: asyncio.StreamReader) -> str:
    """Bytes that came after the last look at a connection turn its close into a reset, which may overtake what was said."""
    try:
        return await farewell(reader)
    except ConnectionResetError:
        return "reset"


async def test_silent_connections_keep_nobody_out_at_either_door(servers: Servers, tmp_path: Path) -> None:
    limits = "strangers_max = 20"
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], limits=limits) as running:
        await running.wait_for_health(status="serving")
        async with contextlib.AsyncExitStack() as stack:
            crowd: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
            for number in range(200):
                crowd.append(await stack.enter_async_context(raw(running.writer_port)))
                crowd[-1][1].write(b"\0\0\0" * (number % 2))
            for port in (running.writer_port, running.reader_port):
                async with await connect(port, user="scram", password=PASSWORD) as session:
                    await session.execute("select 1")
            put_out = [await _farewell_or_reset(reader) for reader, _ in crowd[:40]]
            assert "53300 sorry, too many clients already" in put_out
            assert (await running.health()).sessions <= 20
            assert await running.metric("endpointd_listener_refused_total", listener="writer", reason="crowded") >= 180
            assert await running.metric("endpointd_listener_connections", listener="writer", kind="stranger") <= 20
        await running.wait_for_log("connections are refused")


async def _first_asked(readers: list[asyncio.StreamReader]) -> asyncio.StreamReader:
    """Return one of those whom a server has asked for their part of the login, as soon as there is one."""
    async with asyncio.timeout(10):
        first = {asyncio.ensure_future(reader.readexactly(1)): reader for reader in readers}
        for answer in asyncio.as_completed(first):
            if await answer == b"R":
                break
    found = next(reader for answer, reader in first.items() if answer.done() and answer.result() == b"R")
    for answer in first:
        answer.cancel()
    await asyncio.gather(*first, return_exceptions=True)
    return found


async def test_logins_that_are_never_finished_leave_the_servers_places_free(servers: Servers, tmp_path: Path) -> None:
    limits = "logins_max = 4\nlogins_per_address_max = 3"
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], limits=limits) as running:
        await running.wait_for_health(status="serving")
        async with contextlib.AsyncExitStack() as stack:
            hello = startup.encode_startup(startup.make_startup("scram", "postgres"))
            crowd = [await stack.enter_async_context(raw(running.writer_port)) for _ in range(40)]
            for _, writer in crowd:
                writer.write(hello)
            asked = await _first_asked([reader for reader, _ in crowd])
            unfinished = "select count(*) from pg_stat_activity where backend_type = 'client backend' and usename is null"
            async with await connect(servers.n1.port) as direct:
                row = await (await direct.execute(unfinished)).fetchone()
                assert row is not None
                assert row[0] <= 3
            async with await connect(running.writer_port, user="scram", password=PASSWORD) as session:
                await session.execute("select 1")
            async with asyncio.timeout(10):
                said = await asked.read()
            assert b"canceling connection startup due to timeout" in said


async def test_logins_that_are_never_finished_do_not_hold_up_one_of_the_same_address(servers: Servers, tmp_path: Path) -> None:
    """It comes last, when sixty wait already, and is neither refused nor the last to have its turn."""
    limits = "logins_max = 16\nlogins_per_address_max = 4"
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], limits=limits) as running:
        await running.wait_for_health(status="serving")
        async with contextlib.AsyncExitStack() as stack:
            hello = startup.encode_startup(startup.make_startup("scram", "postgres"))
            crowd = [await stack.enter_async_context(raw(running.writer_port)) for _ in range(60)]
            answers = [asyncio.create_task(reader.readexactly(1)) for reader, _ in crowd]
            for _, writer in crowd:
                writer.write(hello)
            async with await connect(running.writer_port, user="scram", password=PASSWORD) as session:
                await session.execute("select 1")
            asked = sum(answer.done() and answer.result() == b"R" for answer in answers)
            assert asked < 30
            for answer in answers:
                answer.cancel()
            await asyncio.gather(*answers, return_exceptions=True)


async def test_a_crowd_behind_one_address_logs_in_by_turns(servers: Servers, tmp_path: Path) -> None:
    """Forty at once, as after a failover, where two may log in at the same time: all of them come in."""
    limits = "logins_max = 2\nlogins_per_address_max = 2"
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], limits=limits) as running:
        await running.wait_for_health(status="serving")
        sessions = await asyncio.gather(*(connect(running.writer_port, user="scram", password=PASSWORD) for _ in range(40)))
        assert await running.metric("endpointd_refusals_total", endpoint="writer", sqlstate="53300") == 0
        for session in sessions:
            await session.close()


async def test_there_is_an_end_to_how_many_wait_for_their_turn(servers: Servers, tmp_path: Path) -> None:
    limits = "logins_max = 1\nlogins_per_address_max = 1\nhold_max = 2"
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], limits=limits) as running:
        await running.wait_for_health(status="serving")
        hello = startup.encode_startup(startup.make_startup("scram", "postgres"))
        async with contextlib.AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(raw(running.writer_port)) for _ in range(12)]
            for _, writer in crowd:
                writer.write(hello)
            # One has its turn and two may wait; who they are, and who follows them, is for the machine to say.
            answers = [await asyncio.wait_for(reader.readexactly(1), 10) for reader, _ in crowd]
            assert answers.count(b"E") >= 3
            assert answers.count(b"R") >= 1
