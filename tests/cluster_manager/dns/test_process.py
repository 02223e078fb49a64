"""The name backend with its process: documents in their order, a process that ends, a crowd that costs decisions nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Callable

import dns.exception
import dns.message
import dns.rcode
import msgspec
import pytest
import pytest_asyncio

from cluster_manager.dns import process as process_module
from cluster_manager.dns.backend import NameBackend
from cluster_manager.dns.process import DnsProcess
from cluster_manager.dns.server import LISTENER, TCP_CONNECTIONS_MAX
from daemonkit.looplag import LoopLag
from daemonkit.reception import REFUSED
from tests.cluster_manager.dns.documents import ORIGIN, document, member
from tests.cluster_manager.dns.test_server import ask, framed, last_words

DEADLINE_S = 30.0


def made(port: int = 0) -> DnsProcess:
    return DnsProcess(host="127.0.0.1", port=port, ttl_s=1)


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[DnsProcess]:
    async with made() as running:
        yield running


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.02)


async def until_answered(server: DnsProcess, address: str) -> None:
    """Ask until the writer's name is *address*; a question that got lost in a crowd is asked again, as resolvers do."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(dns.exception.Timeout):
                if last_words(await ask(server, timeout_s=1.0)) == [address]:
                    return
            await asyncio.sleep(0.02)


async def test_names_move_with_the_document(server: DnsProcess) -> None:
    backend: NameBackend = server
    assert (await ask(server)).rcode() == dns.rcode.SERVFAIL
    server.begin_with(document(writer="n3", epoch=9))
    await until_answered(server, "127.0.0.3")
    backend.update(document(writer="n1"))
    await until_answered(server, "127.0.0.1")
    backend.update(document(writer="n2", epoch=8, revision=43))
    await until_answered(server, "127.0.0.2")
    assert last_words(await ask(server, "ns", tcp=True)) == ["127.0.0.1"]


async def test_an_older_document_changes_nothing(server: DnsProcess) -> None:
    server.update(document(writer="n2", epoch=8, revision=43))
    server.update(document(writer="n1", epoch=7, revision=44))
    server.update(document(writer="n1", epoch=8, revision=42))
    server.begin_with(document(writer="n1", epoch=9))
    await until_answered(server, "127.0.0.2")
    server.update(document(writer="n3", epoch=8, revision=44))  # what came before it has been seen when it is
    await until_answered(server, "127.0.0.3")


async def test_a_document_that_cannot_be_served_leaves_the_former_names(server: DnsProcess) -> None:
    server.update(document(writer="n1"))
    for name in ("n2.example", f"{'x' * 64}.{ORIGIN}"):
        members = (msgspec.structs.replace(member("n2"), dns=name),)
        server.update(msgspec.structs.replace(document(writer=None, revision=41), members=members))
    await until_answered(server, "127.0.0.1")
    server.update(document(writer="n2", revision=41))  # the revision was not used up by what could not be served
    await until_answered(server, "127.0.0.2")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_a_process_that_ends_or_stands_still_is_replaced(
    server: DnsProcess, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "SILENT_S", 2.0)
    server.update(document(writer="n1"))
    await until_answered(server, "127.0.0.1")
    first = server.pid
    assert first is not None
    os.kill(first, number)
    await until(lambda: server.pid not in (None, first))
    await until_answered(server, "127.0.0.1")
    assert last_words(await ask(server, tcp=True)) == ["127.0.0.1"]


MANAGER = """
import asyncio, sys
from cluster_manager.dns.process import DnsProcess
async def main():
    async with DnsProcess(host="127.0.0.1", port=0, ttl_s=1) as server:
        while server.pid is None:
            await asyncio.sleep(0.01)
        print(server.port, server.pid, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_it_ends_with_a_manager_that_is_killed_and_leaves_the_port() -> None:
    manager = await asyncio.create_subprocess_exec(sys.executable, "-c", MANAGER, stdout=asyncio.subprocess.PIPE)
    assert manager.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        port, pid = map(int, (await manager.stdout.readline()).split())
        manager.kill()
        await manager.wait()

    def is_gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                return stat.read().rsplit(")", 1)[1].split()[0] in "ZX"
        except OSError:
            return True

    await until(is_gone)
    async with made(port) as again:
        assert again.port == port


async def test_closing_frees_the_port_and_ends_connections() -> None:
    async with made() as server, asyncio.timeout(DEADLINE_S):
        server.update(document(writer="n1"))
        await until_answered(server, "127.0.0.1")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(framed())
        await reader.readexactly(2)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1000)
    writer.close()
    async with made(server.port) as again:
        assert again.port == server.port


async def test_a_port_that_is_taken_is_an_error_on_entry(server: DnsProcess) -> None:
    with pytest.raises(OSError, match=r"(?i)address already in use"):
        async with made(server.port):
            pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"(?i)address already in use"):
            async with made(taken.getsockname()[1]):
                pass


async def test_connections_it_does_not_keep_are_counted_here(server: DnsProcess) -> None:
    def refused() -> float:
        return sum(
            sample.value
            for family in REFUSED.collect()
            for sample in family.samples
            if sample.name.endswith("_total") and sample.labels["listener"] == LISTENER
        )

    before = refused()
    await ask(server)
    async with asyncio.timeout(DEADLINE_S):
        opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(TCP_CONNECTIONS_MAX + 3)]
    await until(lambda: refused() >= before + 3)
    for _, writer in opened:
        writer.close()


@pytest.mark.parametrize("over", ["tcp", "udp"])
async def test_a_crowd_of_questions_takes_no_turn_of_the_loop_that_decides(server: DnsProcess, over: str) -> None:
    """Eight clients that ask as fast as they can: what stood the manager still for 23 s once."""
    async with asyncio.timeout(60):
        server.update(document(writer="n1"))
        await until_answered(server, "127.0.0.1")
        lag = LoopLag(interval_s=0.01)
        watching = asyncio.create_task(lag.watch())
        quiet_ms = await worst_lag(lag)
        question = framed(1, "_postgresql._tcp.writer", "SRV")
        (length,) = struct.unpack_from("!H", question)
        assert length == len(question) - 2
        crowd = await asyncio.create_subprocess_exec(sys.executable, "-c", CROWD, over, str(server.port), question.hex())
        try:
            attacked_ms = await worst_lag(lag)
            assert crowd.returncode is None
            assert attacked_ms <= 20 * max(quiet_ms, 10.0)
        finally:
            watching.cancel()
            crowd.kill()
            await crowd.wait()
        await until_answered(server, "127.0.0.1")


async def worst_lag(lag: LoopLag, seconds: float = 2.0) -> float:
    """Return how late the loop was in *seconds*, in milliseconds."""
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(seconds)
    return lag.worst_ms(seconds, after=began)


CROWD = """
import socket, sys, threading
port, question = int(sys.argv[2]), bytes.fromhex(sys.argv[3])
def flood_tcp():
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as client:
                threading.Thread(target=drain, args=(client,), daemon=True).start()
                while True:
                    client.sendall(question * 200)
        except OSError:
            pass
def drain(client):
    try:
        while client.recv(65536):
            pass
    except OSError:
        pass
def flood_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        while True:
            client.sendto(question[2:], ("127.0.0.1", port))
flood = {"tcp": flood_tcp, "udp": flood_udp}[sys.argv[1]]
for _ in range(7):
    threading.Thread(target=flood, daemon=True).start()
flood()
"""
