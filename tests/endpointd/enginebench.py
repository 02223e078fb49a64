"""A relay engine with one pair, over real sockets, and every engine there is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from endpointd.relay.asyncio_engine import AsyncioEngine
from endpointd.relay.choice import why_not_native
from endpointd.relay.engine import Engine, Happening
from endpointd.relay.facts import Facts
from endpointd.relay.relaxed import Relaxed
from endpointd.wire.link import Link
from endpointd.wire.tls import NETWORK_BYTES_MAX, Channel, Failure
from endpointd.wire.tls import Facts as TlsFacts
from pgwire.messages import (
    Backend,
    error_response,
    message,
    query,
)
from tests.certificates import channels, serving
from tests.endpointd.descriptorengine import DescriptorEngine

TOKEN = 7
BYE = error_response("FATAL", "57P01", "bye")
ROW = message(Backend.DATA_ROW, b"row")


class Peer:
    """The other end of one of the engine's links."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(20):
            await self._loop.sock_sendall(self.sock, data)

    async def _take(self, size: int) -> bytes:
        return await self._loop.sock_recv(self.sock, size)

    async def receive(self, size: int) -> bytes:
        data = bytearray()
        async with asyncio.timeout(20):
            while len(data) < size:
                part = await self._take(min(size - len(data), 1 << 20))
                if not part:
                    break
                data += part
        return bytes(data)

    async def receive_all(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            return await self.receive(1 << 40)
        return b"reset"

    async def say_no_more(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()


class EncryptedPeer(Peer):
    """The same, speaking TLS."""

    def __init__(self, sock: socket.socket, tls: Channel) -> None:
        super().__init__(sock)
        self._tls = tls
        self._heard = bytearray()

    async def shake_hands(self) -> None:
        await super().send(self._tls.begin())
        while self._tls.facts is None:
            assert self._tls.failure is None
            _, answer = self._tls.received(await super()._take(NETWORK_BYTES_MAX))
            await super().send(answer)

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(20):
            for pos in range(0, len(data), 1 << 20):
                await super().send(self._tls.send(data[pos : pos + (1 << 20)]))

    async def _take(self, size: int) -> bytes:
        while not self._heard and not self._tls.ended:
            data = await super()._take(NETWORK_BYTES_MAX)
            if not data:
                raise AssertionError("the end came without a goodbye")
            plain, _ = self._tls.received(data)
            self._heard += plain
        taken = bytes(self._heard[:size])
        del self._heard[:size]
        return taken

    async def say_no_more(self) -> None:
        await super().send(self._tls.say_goodbye())
        await super().say_no_more()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.send(self._tls.say_goodbye())
        super().close()


class Bench:
    """An engine with one pair."""

    def __init__(self, engine: Engine, client: Peer, server: Peer) -> None:
        self.engine = engine
        self.client = client
        self.server = server
        self.told: list[Happening] = []
        self.answer: Callable[[Happening], None] = lambda _happening: None
        self._news = asyncio.Event()

    def tell(self, happening: Happening) -> None:
        self.told.append(happening)
        self._news.set()
        self.answer(happening)

    async def wait_for(self, happening: Happening) -> None:
        async with asyncio.timeout(10):
            while happening not in self.told:
                await self._news.wait()
                self._news.clear()

    @property
    def facts(self) -> Facts:
        return self.engine.facts(TOKEN)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    async def ask(self, statement: str) -> None:
        """Have the client ask and the server hear it."""
        await self.client.send(query(statement))
        assert await self.server.receive(len(query(statement))) == query(statement)

    async def answer_with(self, data: bytes) -> None:
        """Have the server answer and the client hear it."""
        await self.server.send(data)
        assert await self.client.receive(len(data)) == data


class Encrypted(AsyncioEngine):
    """The engine that moves what TLS has decrypted: its client's end speaks TLS."""

    name = "asyncio, a client with TLS"


def speaks_tls(engine: Engine) -> bool:
    """Whether its client's end is to speak TLS."""
    return "TLS" in engine.name


async def encrypted(*, is_client: bool = False, version: ssl.TLSVersion | None = None) -> tuple[Link, Peer]:
    """Return a link that speaks TLS, as a server or as a client, and its other end."""
    serving_side = serving()
    if version is not None:
        serving_side.maximum_version = version
    client, server = channels(serving_side)
    link, plain = await connected()
    peer = EncryptedPeer(plain.sock, server if is_client else client)
    outcome: asyncio.Future[TlsFacts | Failure] = asyncio.get_running_loop().create_future()
    link.start_tls(client if is_client else server, outcome.set_result)
    await peer.shake_hands()
    assert not isinstance(await outcome, Failure)
    return link, peer


async def connected() -> tuple[Link, Peer]:
    """Return a link and its other end."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        _, link = await loop.create_connection(Link, *listening.getsockname())
        sock, _ = await loop.sock_accept(listening)
    sock.setblocking(False)
    return link, Peer(sock)


@asynccontextmanager
async def bench(
    engine: Engine,
    *,
    server_rest: bytes = b"",
    client_rest: bytes = b"",
    watch: Relaxed | None = None,
    keeps_server: bool = False,
) -> AsyncIterator[Bench]:
    encrypts = speaks_tls(engine)
    client_link, client = await (encrypted() if encrypts else connected())
    server_link, server = await (encrypted(is_client=True) if engine.name.endswith("both sides") else connected())
    made = Bench(engine, client, server)
    engine.add(
        TOKEN,
        client_link,
        server_link,
        made.tell,
        watch=watch,
        server_rest=server_rest,
        client_rest=client_rest,
        keeps_server=keeps_server,
    )
    if engine.name.startswith("native"):
        assert made.facts.engine == "native", "the pair was left to the event loop"
    try:
        yield made
    finally:
        engine.drop(TOKEN)
        client.close()
        server.close()


ENGINES: list[type[Engine]] = [AsyncioEngine, DescriptorEngine, Encrypted]
if why_not_native() is None:
    from endpointd.relay.native_engine import NativeEngine

    class EncryptedNative(NativeEngine):
        """The same, and its client's end speaks TLS."""

        name = "native, a client with TLS"

    class EncryptedTwiceNative(NativeEngine):
        """The same, and its server's end too."""

        name = "native, TLS on both sides"

    class LeavingNative(NativeEngine):
        """One that cannot take TLS along, and leaves it to the asyncio engine beside it."""

        name = "asyncio beside native, a client with TLS"

        def __init__(self) -> None:
            super().__init__()
            self._can_tls = False

    ENGINES += [NativeEngine, EncryptedNative, EncryptedTwiceNative, LeavingNative]
"""Every engine there is, by its `name`."""
