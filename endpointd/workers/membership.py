"""A worker's side of the line to its main process: its places, what it is told to do, and what it tells of itself.

When the line ends the main process has, and the worker ends too, with its sessions at their safe points.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from daemonkit.logs import get_logger
from endpointd.routing.switchboard import Switchboard
from endpointd.session.quota import Place
from endpointd.takeover.words import Standing
from endpointd.workers.crew import HANDS, Hands
from endpointd.workers.line import Line, LineLost
from endpointd.workers.words import Asked, Counted, FromMain, Left, Others, Placed, Reload, Told, Turn, Wanted

TELL_EVERY_S = 0.05
TELL_AT_LEAST_EVERY_S = 1.0


class Obedient(Protocol):
    """What the rest of the worker does for its main process."""

    def standing(self) -> Standing:
        """Return how it stands."""
        ...

    @property
    def upcoming(self) -> int:
        """The number that the next session will have."""
        ...

    def take_turn(self, turn: Turn) -> None:
        """Do what *turn* says from now on."""
        ...

    def reload(self, settings: str) -> None:
        """Go by *settings*, as a file would say them."""
        ...

    def answer(self, asked: Asked) -> Awaitable[bytes]:
        """Return the answer to *asked*."""
        ...


class Membership:
    """One worker among those of its main process. It is also where its sessions get their places (session.quota.Places)."""

    def __init__(self, line: Line[FromMain], board: Switchboard) -> None:
        self._line = line
        self._board = board
        self._wanted: dict[int, Callable[[Place], None]] = {}
        self._asked_for: set[int] = set()
        """Sessions that the main process knows of."""
        self.is_full = False
        """Whether there is no place left, in any process, as far as we have heard."""
        self._log = get_logger()

    # Places

    def take(self, session: int, user: str, database: str, told: Callable[[Place], None]) -> Place:
        """Ask for a place for *session*: *told* is called with the answer."""
        self._wanted[session] = told
        self._asked_for.add(session)
        self._say(Wanted.of(session, user, database))
        return Place.ASKED

    def give_back(self, session: int) -> None:
        """*session* has ended, whether it ever asked or not."""
        self._wanted.pop(session, None)
        if session in self._asked_for:
            self._asked_for.discard(session)
            self._say(Left(session=session))

    # The line

    async def run(self, rest: Obedient) -> None:
        """Serve the main process until it has gone."""
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell(rest))
            try:
                async for said in self._line.hear():
                    match said:
                        case Placed():
                            told = self._wanted.pop(said.session, None)
                            if told is not None:
                                told(said.place)
                        case Others():
                            self._board.load_elsewhere, self.is_full = said.load, said.is_full
                        case Turn():
                            rest.take_turn(said)
                        case Reload():
                            rest.reload(said.settings)
                        case Asked():
                            group.create_task(self._answer(rest, said))
            except LineLost as error:
                self._log.error("the main process is not understood", reason=str(error))
            telling.cancel()
        self._log.warning("the main process has gone, and this worker ends")

    def _say(self, said: msgspec.Struct) -> None:
        try:
            self._line.say(said)
        except LineLost:
            self._line.close()  # a main process that takes nothing is as good as gone

    async def _answer(self, rest: Obedient, asked: Asked) -> None:
        self._say(Told(id=asked.id, body=await rest.answer(asked)))

    async def _tell(self, rest: Obedient) -> None:
        loop = asyncio.get_running_loop()
        said, said_at = None, float("-inf")
        while True:
            counted = Counted(standing=rest.standing(), load=dict(self._board.load), upcoming=rest.upcoming)
            if counted != said or loop.time() - said_at > TELL_AT_LEAST_EVERY_S:
                self._say(counted)
                said, said_at = counted, loop.time()
            await asyncio.sleep(TELL_EVERY_S)


def read_hands() -> Hands:
    """Return what this worker was lent by the process that started it. Raises ValueError if nobody did."""
    return msgspec.json.decode(os.environ.get(HANDS, ""), type=Hands)


def lent_settings() -> Path | None:
    """Return where a worker finds its settings; None if this process is none."""
    return Path(f"/proc/self/fd/{read_hands().settings}") if HANDS in os.environ else None


async def join(hands: Hands, board: Switchboard) -> tuple[Membership, Mapping[str, list[socket.socket]]]:
    """Return the worker's line to its main process, and the sockets, by purpose. Raises OSError."""
    sockets = {purpose: [_lent(each) for each in some] for purpose, some in hands.sockets.items()}
    line: Line[FromMain] = await Line.over(_lent(hands.line), FromMain)
    return Membership(line, board), sockets


def _lent(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
