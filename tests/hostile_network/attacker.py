"""The attacker, a process of its own: `python -m tests.hostile_network.attacker LISTENER WAY PORT...`

Keeps a crowd at ports of this machine and replaces whoever is sent away, so many a second at most.  Says "ready" when the crowd
has stood once, or all of it has been tried; ends when its standard input does, or after LIFE_S.  Its connections end with a
reset, so that it leaves no ports waiting behind.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import sys
from typing import cast

import uvloop

from tests.hostile_network.attacks import LISTENERS, Attack, Way, attack_on

HOST = "127.0.0.1"
TICK_S = 0.01
DATAGRAMS_PER_S = 10_000
LIFE_S = 600.0
READY_S = 6.0
"""After so long the crowd is as large as it gets: more are sent away than come."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset."""


class Crowd:
    """All connections there are now."""

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0
        self.most = 0


class Member(asyncio.Protocol):
    """One of the crowd."""

    def __init__(self, crowd: Crowd, attack: Attack) -> None:
        self._crowd = crowd
        self._attack = attack
        self._transport: asyncio.Transport | None = None
        self._may_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._crowd.open += 1
        self._crowd.most = max(self._crowd.most, self._crowd.open)
        self._transport.write(self._attack.greeting)
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._crowd.open -= 1

    def data_received(self, data: bytes) -> None:
        pass

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._go_on()

    def _go_on(self) -> None:
        if self._attack.again and self._may_write and self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._attack.again)
            asyncio.get_running_loop().call_later(TICK_S / 10, self._go_on)


async def crowd_at(ports: list[int], attack: Attack, stopped: asyncio.Event) -> None:
    """Keep the crowd until *stopped*."""
    loop = asyncio.get_running_loop()
    crowd = Crowd()
    opening: set[asyncio.Task[None]] = set()

    async def join(port: int) -> None:
        try:
            async with asyncio.timeout(5.0):
                await loop.create_connection(lambda: Member(crowd, attack), HOST, port)
        except (OSError, TimeoutError):
            pass

    said = False
    began = loop.time()
    while not stopped.is_set():
        for _ in range(max(0, int(min(loop.time() - began, TICK_S * 10) * attack.new_per_s))):
            began = loop.time()
            if crowd.open + len(opening) >= attack.connections:
                break
            task = loop.create_task(join(ports[crowd.opened % len(ports)]))
            crowd.opened += 1
            opening.add(task)
            task.add_done_callback(opening.discard)
        if not said and crowd.opened >= min(attack.connections, READY_S * attack.new_per_s):
            said = True
            print("ready", flush=True)
        try:
            async with asyncio.timeout(TICK_S):
                await stopped.wait()
        except TimeoutError:
            pass
    print(f"{crowd.opened} opened, {crowd.most} at once", flush=True)
    if not crowd.most:
        sys.exit("nobody got in")  # an attack that did not take place proves nothing


async def datagrams_to(ports: list[int], attack: Attack, stopped: asyncio.Event) -> None:
    """Send datagrams until *stopped*."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        print("ready", flush=True)
        while not stopped.is_set():
            for _ in range(int(DATAGRAMS_PER_S * TICK_S)):
                try:
                    sender.sendto(attack.again, (HOST, ports[0]))
                    sent += 1
                except OSError:
                    break
            await asyncio.sleep(TICK_S)
    print(f"{sent} datagrams", flush=True)


async def main(listener: str, way: str, ports: list[int]) -> None:
    """Attack."""
    attack = attack_on(next(one for one in LISTENERS if one.name == listener), Way(way))
    assert attack is not None
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 4096) else stopped.set())
    loop.call_later(LIFE_S, stopped.set)
    await (datagrams_to if attack.is_udp else crowd_at)(ports, attack, stopped)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8000, hard), hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], [int(port) for port in sys.argv[3:]]))
