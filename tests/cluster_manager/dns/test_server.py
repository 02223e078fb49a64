"""The server over real sockets: UDP, TCP, a document that moves, and clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine
from inspect import iscoroutinefunction, signature
from typing import Protocol

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
import uvloop

from cluster_manager.dns import server as server_module
from cluster_manager.dns.binding import bind
from cluster_manager.dns.records import desired_records
from cluster_manager.dns.server import TCP_CONNECTIONS_MAX, DnsServer
from pgtopology.document import Topology
from tests.cluster_manager.dns.documents import ORIGIN, document

DEADLINE_S = 10.0


class Here:
    """The server on the test's own loop; a document is served at once."""

    def __init__(self, server: DnsServer, host: str, port: int) -> None:
        self.port = port
        self._host = host
        self._server = server

    def update(self, topology: Topology) -> None:
        self._server.exchange(desired_records(topology, 1, name_server=self._host))


@contextlib.asynccontextmanager
async def serving(host: str = "127.0.0.1") -> AsyncGenerator[Here]:
    tcp, udp = await bind(host, 0)
    port = int(tcp.getsockname()[1])
    async with DnsServer(tcp, udp) as server:
        yield Here(server, host, port)


class HasPort(Protocol):
    """Whom to ask."""

    @property
    def port(self) -> int: ...


async def ask(
    server: HasPort, name: str = "writer", kind: str = "A", *, tcp: bool = False, timeout_s: float = DEADLINE_S
) -> dns.message.Message:
    query = dns.message.make_query(f"{name}.{ORIGIN}", kind)
    send = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await send(query, "127.0.0.1", port=server.port, timeout=timeout_s)


def last_words(response: dns.message.Message) -> list[str]:
    return [line.split()[-1] for rrset in response.answer for line in rrset.to_text().split("\n")]


@pytest.mark.parametrize("tcp", [False, True])
async def test_the_name_moves_with_the_document(tcp: bool) -> None:
    async with serving() as server:
        assert (await ask(server, tcp=tcp)).rcode() == dns.rcode.SERVFAIL
        server.update(document(writer="n1", revision=40_000))
        assert last_words(await ask(server, tcp=tcp)) == ["127.0.0.1"]
        server.update(document(writer="n2", epoch=8, revision=43_000))
        assert last_words(await ask(server, tcp=tcp)) == ["127.0.0.2"]
        assert last_words(await ask(server, "_postgresql._tcp.writer", "SRV", tcp=tcp)) == [f"n2.{ORIGIN}."]
        assert '"node=n2 epoch=8"' in (await ask(server, kind="TXT", tcp=tcp)).answer[0].to_text()
        soa = await ask(server, "nobody", tcp=tcp)
        assert soa.rcode() == dns.rcode.NXDOMAIN
        assert soa.authority[0].to_text().split()[6] == "43"


async def test_readers_come_in_changing_order() -> None:
    async with serving() as server:
        server.update(document(writer="n1"))
        first = set[str]()
        async with asyncio.timeout(DEADLINE_S):
            while len(first) < 2:
                first.add(last_words(await ask(server, "reader"))[0])
        assert first == {"127.0.0.2", "127.0.0.3"}


async def test_what_does_not_fit_udp_is_fetched_over_tcp() -> None:
    async with serving() as server:
        server.update(document(writer="n1", nodes=100, eligible=[f"n{n}" for n in range(2, 101)]))
        assert (await ask(server, "reader")).flags & dns.flags.TC
        assert len(last_words(await ask(server, "reader", tcp=True))) == 99


async def test_the_name_server_itself_has_an_address() -> None:
    async with serving() as server:
        server.update(document(writer="n1"))
        assert last_words(await ask(server, "ns")) == ["127.0.0.1"]


async def test_rubbish_does_not_stop_the_answers() -> None:
    async with serving() as server:
        server.update(document(writer="n1"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for rubbish in (b"", b"x", b"\0" * 12, b"\xff" * 500, b"ab\1\0\0\1" + b"\xc0" * 100):
                sender.sendto(rubbish, ("127.0.0.1", server.port))
        assert last_words(await ask(server)) == ["127.0.0.1"]


async def test_a_bug_in_an_answer_costs_that_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:
        server.update(document(writer="n1"))
        with monkeypatch.context() as patch:
            patch.setattr(server_module, "answer", lambda *_arguments, **_options: 1 // 0)
            with pytest.raises((EOFError, ConnectionError)):
                await ask(server, tcp=True)
        assert last_words(await ask(server, tcp=True)) == ["127.0.0.1"]


def framed(count: int = 1, name: str = "writer", kind: str = "A") -> bytes:
    wire = dns.message.make_query(f"{name}.{ORIGIN}", kind, id=7).to_wire()
    return (struct.pack("!H", len(wire)) + wire) * count


async def send_for_ever(client: socket.socket, data: bytes) -> None:
    while True:
        await asyncio.get_running_loop().sock_sendall(client, data)


async def test_tcp_takes_many_questions_however_they_are_cut() -> None:
    async with serving() as server, asyncio.timeout(DEADLINE_S):
        server.update(document(writer="n1"))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for byte in framed():
            writer.write(bytes([byte]))
            await writer.drain()
        writer.write(framed(3))
        for _ in range(4):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            assert last_words(dns.message.from_wire(await reader.readexactly(length))) == ["127.0.0.1"]
        writer.close()


async def test_tcp_rubbish_ends_the_connection() -> None:
    async with serving() as server, asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"\0\3abc")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def ends_within(seconds: float, reader: asyncio.StreamReader) -> bool:
    """Whether the peer ends the connection within *seconds*."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_an_idle_connection_is_cut_off_and_a_trickle_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TCP_IDLE_S", 0.1)
    async with serving() as server, asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"\xff\xff")
        ended = False
        while not ended:
            writer.write(b"x")
            ended = await ends_within(0.01, reader)
        writer.close()


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TCP_UNSENT_BYTES_MAX", 10_000)
    async with serving() as server, asyncio.timeout(DEADLINE_S):
        server.update(document(writer="n1", nodes=200, eligible=[f"n{n}" for n in range(2, 201)]))
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", server.port))
        with client, pytest.raises(ConnectionError):
            await send_for_ever(client, framed(100, "reader", "TXT"))


async def test_connections_are_bounded_and_freed() -> None:
    async with serving() as server, asyncio.timeout(DEADLINE_S):
        server.update(document(writer="n1"))
        opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(TCP_CONNECTIONS_MAX)]
        for reader, writer in opened:
            writer.write(framed())
            await reader.readexactly(2)
        assert last_words(await ask(server, tcp=True)) == ["127.0.0.1"]  # a newcomer comes in, and the oldest goes for it
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await opened[0][0].readexactly(1000)
        assert last_words(await ask(server)) == ["127.0.0.1"]  # UDP goes on
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()
        assert last_words(await ask(server, tcp=True)) == ["127.0.0.1"]


async def test_ipv6_is_served_too() -> None:
    try:
        async with serving("::1") as server:
            server.update(document(writer="n1"))
            query = dns.message.make_query(f"ns.{ORIGIN}", "AAAA")
            response = await dns.asyncquery.udp(query, "::1", port=server.port, timeout=DEADLINE_S)
            assert last_words(response) == ["::1"]
    except OSError:
        pytest.skip("no IPv6 on this machine")


SCENARIOS = [test for name, test in list(globals().items()) if name.startswith("test_") and not signature(test).parameters]


@pytest.mark.parametrize("scenario", [test for test in SCENARIOS if iscoroutinefunction(test)])
def test_all_of_this_holds_on_uvloop_too(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """The daemons run on uvloop where it can be imported, and its transports are other code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
