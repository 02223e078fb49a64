"""Time that noded itself slept through is no evidence against PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from noded.postgres.doorway import Doorway
from noded.report.attention import STRETCH_MAX_S, Attention
from noded.report.ports import Deafness

PORT = 5432


def test_a_stall_counts_as_no_more_than_one_stretch() -> None:
    clock = [100.0]
    attention = Attention(lambda: clock[0])
    began = attention.now()
    for _ in range(10):
        clock[0] += 0.2
        attention.now()
    assert round(attention.now() - began, 6) == 2.0
    clock[0] += 692.61
    assert round(attention.now() - began, 6) == round(2.0 + STRETCH_MAX_S, 6)


class Door:
    """A server in a thread of its own, which goes on while the loop stands still; it answers a knock once it is let."""

    def __init__(self, folder: Path) -> None:
        self.knocked = threading.Event()
        self.may_answer = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / f".s.PGSQL.{PORT}"))
        self._socket.listen()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._socket.accept()
                with peer, contextlib.suppress(BrokenPipeError):  # whoever knocked may have gone
                    peer.recv(8)
                    self.knocked.set()
                    self.may_answer.wait()
                    peer.sendall(b"N")

    def close(self) -> None:
        self.may_answer.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextlib.contextmanager
def a_door(folder: Path) -> Iterator[Door]:
    door = Door(folder)
    thread = threading.Thread(target=door.serve, daemon=True)
    thread.start()
    try:
        yield door
    finally:
        door.close()
        thread.join(5.0)


def _deafness(folder: Path) -> Deafness:
    return Deafness(Doorway(folder / f".s.PGSQL.{PORT}"), Attention(), lambda: True)


async def test_an_answer_that_came_while_the_loop_stood_still_is_heard(tmp_path: Path) -> None:
    with a_door(tmp_path) as door:
        deafness = _deafness(tmp_path)
        knocking = asyncio.create_task(deafness.run())
        assert await asyncio.to_thread(door.knocked.wait, 10.0)
        door.may_answer.set()
        time.sleep(2.0)  # noqa: ASYNC251 - this is the stall
        door.knocked.clear()
        async with asyncio.timeout(10.0):
            while not door.knocked.is_set():  # the next one
                assert deafness.milliseconds() == 0
                await asyncio.sleep(0.01)
        knocking.cancel()


async def test_a_door_that_stays_shut_is_counted(tmp_path: Path) -> None:
    with a_door(tmp_path) as door:
        deafness = _deafness(tmp_path)
        knocking = asyncio.create_task(deafness.run())
        async with asyncio.timeout(20.0):
            while deafness.milliseconds() < 1500:
                await asyncio.sleep(0.05)
            door.may_answer.set()
            while deafness.milliseconds() > 0:
                await asyncio.sleep(0.05)
        knocking.cancel()
