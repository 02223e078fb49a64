"""A balancer as people put them in front of proxies: each connection goes to the next one, whatever it is about.

So a cancel request goes to another proxy than its session.  A thread of its own; clients may block.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence

CHUNK_BYTES = 1 << 16


class Balancer:
    """Listens on *port* of 127.0.0.1."""

    def __init__(self, targets: Sequence[int]) -> None:
        """*targets* are ports of 127.0.0.1."""
        self.targets = targets
        """Taken in turn; may be replaced."""
        self.first_packets: list[bytes] = []
        """What each connection began with, in the order in which they began."""
        self.port = 0
        self._turns = itertools.count()
        self._is_ready = threading.Event()
        self._stop: Callable[[], object] = lambda: None

    def run(self) -> None:
        """Serve until `stop`."""
        asyncio.run(self._serve())

    def wait_until_ready(self) -> None:
        """Return when it listens."""
        assert self._is_ready.wait(10)

    def stop(self) -> None:
        """End it, and every connection."""
        self._stop()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        loop, is_over = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(is_over.set)
        self._is_ready.set()
        await is_over.wait()
        server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.targets[next(self._turns) % len(self.targets)]
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", target)
        first = await reader.read(CHUNK_BYTES)
        self.first_packets.append(first)
        to_writer.write(first)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(_pump(reader, to_writer), _pump(to_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@contextlib.contextmanager
def balancer(targets: Sequence[int]) -> Iterator[Balancer]:
    """Run one in front of *targets*."""
    made = Balancer(targets)
    thread = threading.Thread(target=made.run, name="balancer", daemon=True)
    thread.start()
    made.wait_until_ready()
    try:
        yield made
    finally:
        made.stop()
        thread.join(10)
