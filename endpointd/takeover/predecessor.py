"""The proxy that serves when another one starts, as its successor meets it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

from daemonkit.logs import get_logger
from daemonkit.proctable import is_alive
from daemonkit.version import VERSION
from endpointd.takeover.channel import Channel, ChannelError
from endpointd.takeover.words import Answer, Order, Place, Standing, Step

ANSWER_S = 10.0
"""For what a running proxy answers at once. One that is frozen is not relieved: it would serve again when it thaws."""
READY_S = 50.0
"""For learning what the predecessor knows, and before that for the start of all workers, half a second of a processor each.
Whoever started us waits a little longer (tests/test_timing)."""
DYING_S = 1.0
POLL_S = 0.02


class TakeoverError(Exception):
    """A proxy serves that cannot be relieved; the text says why. It goes on."""


class Predecessor:
    """Who serves now, with the sockets it lends."""

    def __init__(self, channel: Channel, standing: Standing, sockets: dict[Place, list[socket.socket]]) -> None:
        self._channel = channel
        self.standing = standing
        """How it stood when it was met."""
        self._sockets = sockets
        self._log = get_logger(predecessor=standing.pid)

    def take(self, place: Place) -> list[socket.socket]:
        """Return its sockets at *place*, none if it has none there."""
        return self._sockets.pop(place, [])

    async def relieve(self, lacks: Callable[[Standing], str | None]) -> None:
        """When we stand as well as it does, have it accept nobody any more. Raises TakeoverError; then it serves on.

        *lacks* is asked what we lack for that, None if nothing.

        One that dies before is relieved by that: its sockets are ours, with whoever waits there.
        """
        try:
            await self._until_ready(lacks)
            self._channel.send(Step(step="ready"))
            async with asyncio.timeout(ANSWER_S):
                await self._channel.receive(Step)
        except TimeoutError as error:
            raise TakeoverError(f"process {self.standing.pid}, which serves, does not answer; it goes on") from error
        except ChannelError as error:
            if not await self._has_died():
                raise TakeoverError(f"process {self.standing.pid} serves on: {error}") from error
            self._log.warning("the predecessor died before it was relieved")

    async def _has_died(self) -> bool:
        """Return whether its process is gone, or goes: its sockets are closed a moment before that shows."""
        deadline = asyncio.get_running_loop().time() + DYING_S
        while is_alive(self.standing.pid):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def let_go(self) -> None:
        """Tell it that its successor serves, and close what was not taken of it."""
        try:
            self._channel.send(Step(step="serving"))
        except ChannelError as error:
            self._log.warning("the predecessor has ended by itself", reason=str(error))
        self.close()

    def close(self) -> None:
        """Leave it."""
        self._channel.close()
        for sockets in self._sockets.values():
            for each in sockets:
                each.close()
        self._sockets.clear()

    async def _until_ready(self, still_lacks: Callable[[Standing], str | None]) -> None:
        deadline = asyncio.get_running_loop().time() + READY_S
        said = None
        while (lacks := still_lacks(self.standing)) is not None:
            if lacks != said:
                said = lacks
                self._log.info("waits before it takes over", lacks=lacks)
            if asyncio.get_running_loop().time() > deadline:
                raise TakeoverError(f"within {READY_S:g} s {lacks} did not come, so process {self.standing.pid} serves on")
            await asyncio.sleep(POLL_S)


async def meet(path: Path) -> Predecessor | None:
    """Return who serves at *path*, or None if nobody does whom we could relieve. Raises TakeoverError if it does not let us."""
    try:
        channel = await Channel.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        get_logger().warning("nobody is relieved", socket=str(path), reason=error.strerror or str(error))
        return None
    try:
        if not channel.is_of_our_user:
            get_logger().warning("nobody is relieved: another user listens there", socket=str(path))
            channel.close()
            return None
        channel.send(Order(do="take_over", pid=os.getpid(), version=VERSION))
        async with asyncio.timeout(ANSWER_S):
            answer = await channel.receive(Answer)
        if answer.error is not None or answer.standing is None:
            raise TakeoverError(f"the proxy that serves at {path} is not relieved: {answer.error}")
        descriptors = channel.take_descriptors()
        lent: dict[Place, list[socket.socket]] = {}
        for place, descriptor in zip(answer.places, descriptors, strict=False):
            lent.setdefault(place, []).append(socket.socket(fileno=descriptor))
        if len(descriptors) != len(answer.places):
            raise TakeoverError(f"the proxy that serves at {path} lent {len(descriptors)} sockets of {len(answer.places)}")
    except TimeoutError as error:
        channel.close()
        raise TakeoverError(f"the proxy that serves at {path} does not answer; it goes on") from error
    except ChannelError as error:
        channel.close()
        raise TakeoverError(f"the proxy that serves at {path} goes on: {error}") from error
    except BaseException:
        channel.close()
        raise
    get_logger().info("takes over", predecessor=answer.standing.pid, its_version=answer.standing.version)
    return Predecessor(channel, answer.standing, lent)
