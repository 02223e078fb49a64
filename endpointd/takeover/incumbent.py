"""The proxy at its private socket: answers its colleagues, and lets a successor take over.

It serves until its successor does.  Between `go` and `serving` nobody accepts, for as long as the successor needs to begin, and
whoever connects waits in the kernel's queue; a successor that dies before leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Protocol

from daemonkit.logs import get_logger
from daemonkit.unixsockets import bind_at
from endpointd.takeover.channel import Channel, ChannelError
from endpointd.takeover.colleagues import Colleagues, path_of
from endpointd.takeover.predecessor import TakeoverError
from endpointd.takeover.words import Answer, Order, Place, Standing, Step, agreed

CONNECTIONS_MAX = 128
ORDER_S = 5.0
READY_S = 120.0
"""For a successor to become ready; it gives up earlier by itself."""
LOOK_AFTER_S = 2.0
"""Between two looks whether the socket is still there: /tmp is cleaned at times."""


def require_private(path: Path) -> None:
    """Raise OSError if a socket at *path* could be anybody's."""
    if path.parent.stat().st_mode & 0o077:
        raise PermissionError(errno.EPERM, f"{path.parent} is open to other users; expected mode 0700")


class Estate(Protocol):
    """What is handed over, and who knows of it."""

    def sockets(self) -> Sequence[tuple[Place, socket.socket]]:
        """Return what is listened on."""
        ...

    def pause(self) -> None:
        """Accept nobody for the moment."""
        ...

    def resume(self) -> None:
        """Accept again."""
        ...

    def cede(self) -> None:
        """Let go of the sockets."""
        ...

    def standing(self) -> Standing:
        """Return how we stand."""
        ...

    def cancel(self, packet: bytes, /) -> Awaitable[bool]:
        """Carry a cancel request to the server of one of our own sessions; return whether there is one."""
        ...


class Incumbent:
    """This process at its socket: at PATH while it serves, at PATH.PID before and after."""

    def __init__(self, path: Path | None, estate: Estate, colleagues: Colleagues) -> None:
        """Without a *path* there is no socket, and nobody ever relieves us."""
        self._path = path
        self._estate = estate
        self._colleagues = colleagues
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_busy = False
        self.relieved = asyncio.Event()
        """Set when a successor serves."""
        self._log = get_logger()

    def listen(self) -> None:
        """Answer colleagues from now on. Raises TakeoverError."""
        if self._path is None:
            return
        place = self._place(self._path)
        try:
            self._listen(self._path)
        except OSError as error:
            raise TakeoverError(f"cannot listen at {place} for a successor: {error.strerror or error}") from error

    def serve(self) -> None:
        """Be the one that a successor finds. Raises TakeoverError."""
        if self._path is None:
            return
        try:
            path_of(self._path, os.getpid()).replace(self._path)
        except OSError as error:
            raise TakeoverError(f"cannot listen at {self._path} for a successor: {error.strerror or error}") from error
        self._colleagues.is_serving = True

    def _place(self, path: Path) -> Path:
        return path if self._colleagues.is_serving else path_of(path, os.getpid())

    def _listen(self, path: Path) -> None:
        require_private(path)
        aside = path_of(path, os.getpid())
        listening = bind_at(aside, 0o600)
        try:
            listening.listen(CONNECTIONS_MAX)
            aside.replace(self._place(path))
        except OSError:
            listening.close()
            raise
        self._listening, former = listening, self._listening
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept, listening)
        if former is not None:
            self._close(former)

    def close(self) -> None:
        """Answer nobody any more."""
        if self._listening is not None and self._path is not None:
            self._close(self._listening)
            self._listening = None
            with contextlib.suppress(OSError):
                self._place(self._path).unlink()
        for task in self._tasks:
            task.cancel()

    async def run(self) -> None:
        """Bring the socket back when somebody removed it, for ever."""
        while self._path is not None:
            await asyncio.sleep(LOOK_AFTER_S)
            if self._listening is None or self._place(self._path).exists():
                continue
            try:
                self._listen(self._path)
                self._log.warning("the socket for takeovers was gone", path=str(self._path))
            except OSError as error:
                self._log.debug("the socket for takeovers cannot be made", reason=str(error))

    def _close(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(listening.fileno())
        listening.close()

    def _accept(self, listening: socket.socket) -> None:
        try:
            end, _ = listening.accept()
        except OSError:
            return
        end.setblocking(False)
        if len(self._tasks) >= CONNECTIONS_MAX:
            end.close()
            return
        task = asyncio.get_running_loop().create_task(self._answer(Channel(end)), name="colleague")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, channel: Channel) -> None:
        with channel:
            try:
                if not channel.is_of_our_user:
                    return
                async with asyncio.timeout(ORDER_S):
                    order = await channel.receive(Order)
                match order.do:
                    case "look":
                        channel.send(Answer(standing=self._estate.standing()))
                    case "cancel":
                        channel.send(Answer(found=await self._estate.cancel(order.packet)))
                    case "take_over":
                        await self._hand_over(channel, order)
            except (ChannelError, TimeoutError) as error:
                self._log.debug("a colleague went away", reason=str(error))

    async def _hand_over(self, channel: Channel, order: Order) -> None:
        version, why_not = agreed(order), None
        if version is None:
            why_not = f"process {order.pid} of version {order.version} speaks another version of the takeover"
        elif self._is_busy or not self._colleagues.is_serving:
            why_not = "another process takes over already"
        if why_not is not None or version is None:
            self._log.warning("does not hand over", successor=order.pid, reason=why_not)
            channel.send(Answer(error=why_not))
            return
        self._is_busy = True
        log = get_logger(successor=order.pid, its_version=order.version)
        try:
            sockets = self._estate.sockets()
            log.info("another process starts to take over", sockets=len(sockets))
            channel.send(
                Answer(speaks=version, standing=self._estate.standing(), places=tuple(place for place, _ in sockets)),
                [each.fileno() for _, each in sockets],
            )
            async with asyncio.timeout(READY_S):
                await channel.receive(Step)
            await self._let_begin(channel)
        except (ChannelError, TimeoutError, OSError) as error:
            log.warning("the other process did not take over, this one serves on", reason=str(error) or "it is too slow")
        finally:
            self._is_busy = False

    async def _let_begin(self, channel: Channel) -> None:
        """Stand aside, and come back if the successor dies before it serves. Raises ChannelError, OSError."""
        assert self._path is not None, "somebody has come in by it"
        self._estate.pause()
        try:
            self._path.replace(path_of(self._path, os.getpid()))
            self._colleagues.is_serving = False
            channel.send(Step(step="go"))
            # It lives, or its end closes the channel: there is no time after which both might serve, or neither.
            await channel.receive(Step)
        except BaseException:
            self._estate.resume()
            with contextlib.suppress(TakeoverError):
                self.serve()
            raise
        self._estate.cede()
        self.relieved.set()
