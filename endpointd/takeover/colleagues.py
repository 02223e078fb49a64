"""The other processes that are here for the same endpoints: those that drain, and for a moment the one that is being relieved.

The one that serves listens at PATH, every other one at PATH.PID, so that a look at the directory finds them all, whoever of
them has died meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from daemonkit.proctable import is_alive
from daemonkit.version import VERSION
from endpointd.takeover.channel import Channel, ChannelError
from endpointd.takeover.words import Answer, Order, Standing

LOOK_S = 2.0
"""For an answer at hand."""
LOOK_EVERY_S = 1.0


def path_of(path: Path, pid: int) -> Path:
    """Return where a process listens that does not serve."""
    return path.with_name(f"{path.name}.{pid}")


class Colleagues:
    """The others at *path*; None: there never are any."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.standings: tuple[Standing, ...] = ()
        """How those stand that drain, as of the last look."""
        self.is_serving = False
        """Whether PATH is our own."""

    async def cancel(self, packet: bytes) -> bool:
        """Have a cancel request carried out whose key is none of ours; return whether anybody knew it."""
        order, is_found = Order(do="cancel", pid=os.getpid(), version=VERSION, packet=packet), False
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(path, order, None)) for path in self._paths()]
            for answered in asyncio.as_completed(asked):
                answer = await answered
                if answer is not None and answer.found:
                    is_found = True
                    break  # one that stands still must not keep the client waiting
            for each in asked:
                each.cancel()
        return is_found

    async def run(self) -> None:
        """Look at those that drain, for ever."""
        while self._path is not None:
            answers = await self._ask_all(Order(do="look", pid=os.getpid(), version=VERSION), LOOK_S)
            found = [answer.standing for answer in answers if answer.standing is not None]
            self.standings = tuple(sorted((one for one in found if one.is_draining), key=lambda one: one.pid))
            await asyncio.sleep(LOOK_EVERY_S)

    def _paths(self) -> list[Path]:
        path = self._path
        if path is None:
            return []
        own = {path_of(path, os.getpid()).name, *((path.name,) if self.is_serving else ())}
        try:
            names = os.listdir(path.parent)  # noqa: PTH208 - no paths are made for what is none of ours
        except OSError:
            return []
        prefix = f"{path.name}."
        return [
            path.with_name(name)
            for name in names
            if name not in own and (name == path.name or (name.startswith(prefix) and name.removeprefix(prefix).isdecimal()))
        ]

    async def _ask_all(self, order: Order, timeout_s: float) -> list[Answer]:
        asked = [self._ask(path, order, timeout_s) for path in self._paths()]
        return [answer for answer in await asyncio.gather(*asked) if answer is not None]

    async def _ask(self, path: Path, order: Order, timeout_s: float | None) -> Answer | None:
        try:
            async with asyncio.timeout(timeout_s):
                with await Channel.connect(path) as channel:
                    if not channel.is_of_our_user:
                        return None
                    channel.send(order)
                    return await channel.receive(Answer)
        except (OSError, ChannelError) as error:  # TimeoutError is one; a process that has ended says nothing
            if isinstance(error, ConnectionRefusedError) and _is_left_behind(path):
                path.unlink(missing_ok=True)
            return None


def _is_left_behind(path: Path) -> bool:
    """Return whether the process is gone that listened at *path*, a name with its pid."""
    pid = path.name.rpartition(".")[2]
    return pid.isdecimal() and not is_alive(int(pid))
