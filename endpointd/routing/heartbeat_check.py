"""Asks the writer's own noded for its heartbeat while no manager vouches for the writer (S14).

So all managers may be gone and writes go on, and a proxy that was started from its cached document serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from daemonkit.httpclient import HttpClient, HttpError
from daemonkit.logs import get_logger
from endpointd.routing.freshness import HEARTBEAT_VALID_S, heartbeat_until
from endpointd.routing.switchboard import Switchboard
from pgtopology.codec import MessageError, decode
from pgtopology.document import Topology
from pgtopology.node import Member
from pgtopology.observation import Observation

SILENCE_S = 0.2
"""A lease that will run out in so short a time was not renewed twice: the managers are silent. Asking begins before it is over,
so that a manager that dies does not make the writers wait."""

ASK_EVERY_S = 0.15
"""Several times within a heartbeat's validity, so that one lost answer does not stop the writers."""


class HeartbeatCheck:
    """Asks when the managers are silent."""

    def __init__(self, board: Switchboard, token: Callable[[], str]) -> None:
        self._board = board
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._log = get_logger()
        self._reason = ""

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            topology = self._board.topology
            member = topology.member(topology.writer) if topology is not None and topology.writer is not None else None
            ask_in_s = self._ask_at - self._loop.time()
            if topology is None or member is None:
                await self._board.wait_for_change(60.0)
            elif ask_in_s > 0:
                await asyncio.sleep(ask_in_s)
            else:
                await self._ask(topology, member)

    @property
    def _ask_at(self) -> float:
        return self._board.freshness.lease_until - SILENCE_S

    async def _ask(self, topology: Topology, member: Member) -> None:
        """Ask the noded of *member* until a manager vouches again or the document changes."""
        async with HttpClient(f"http://{member.noded}", self._token()) as client:
            while self._board.topology == topology and self._ask_at <= self._loop.time():
                asked_at = self._loop.time()
                try:
                    seen = decode(await client.get("/status", timeout_s=HEARTBEAT_VALID_S), Observation)
                    answer = heartbeat_until(seen, topology, asked_at)
                except (HttpError, MessageError) as error:
                    answer = str(error)
                if not isinstance(answer, str):
                    self._say("")
                    # What was asked about may have been replaced while the answer was on its way.
                    if self._board.topology == topology:
                        self._board.vouch(heartbeat_until=answer)
                else:
                    self._say(answer)
                await asyncio.sleep(max(0.0, asked_at + ASK_EVERY_S - self._loop.time()))

    def _say(self, reason: str) -> None:
        if reason != self._reason:
            if reason:
                self._log.warning("the writer's node does not vouch for it", reason=reason)
            else:
                self._log.info(
                    "the writer's node vouches for it", node=self._board.topology.writer if self._board.topology else None
                )
        self._reason = reason
