"""A door: accepts clients and owns their sessions.

Sessions run in the task group of whoever opened the door, and every one of them is known here by number until it ends.
"""

from __future__ import annotations

import asyncio
import os

from daemonkit.logs import get_logger
from endpointd import metrics, refusal
from endpointd.endings import Endings
from endpointd.house import House
from endpointd.link import Link
from endpointd.login import Surroundings
from endpointd.routing import Door
from endpointd.session import Session

BACKLOG = 1024

CROWD_MAX = 256
"""Clients beyond sessions_max that are still listened to, so that each is told in its own words, and can cancel."""


class ListenError(Exception):
    """A port cannot be listened on; the text says which and why."""


def listen_error(host: str, port: int, what: str, error: OSError) -> ListenError:
    """Return what *error* means to an operator: the loop's own words name the address in a form nobody asked for."""
    reason = os.strerror(error.errno) if error.errno is not None else str(error)
    return ListenError(f"cannot listen on {host}:{port} for {what}: {reason}")


class Listener:
    """One endpoint's port."""

    def __init__(
        self,
        door: Door,
        host: str,
        port: int,
        around: Surroundings,
        group: asyncio.TaskGroup,
        house: House,
        endings: Endings,
    ) -> None:
        """*house*: the sessions of all doors, which share the limits."""
        self.door = door
        self._host = host
        self._port = port
        self._around = around
        self._group = group
        self._house = house
        self._endings = endings
        self._server: asyncio.Server | None = None
        self._log = get_logger(endpoint=door.name)

    @property
    def port(self) -> int:
        """The port listened on, which differs from the one asked for if that was 0."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> None:
        """Listen. Raises ListenError."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Link(self._welcome), self._host, self._port, reuse_address=True, backlog=BACKLOG
            )
        except OSError as error:
            raise listen_error(self._host, self._port, f"endpoint {self.door}", error) from error
        self._log.info("endpoint open", host=self._host, port=self.port)

    def close(self) -> None:
        """Accept nobody any more. The sessions go on."""
        if self._server is not None:
            self._server.close()

    def _welcome(self, link: Link) -> None:
        metrics.CONNECTIONS.labels(self.door).inc()
        limit = self._around.board.limits.sessions_max
        unwelcome = refusal.too_many_connections(self.door.name) if len(self._house) >= limit else None
        if unwelcome is not None and len(self._house) >= limit + CROWD_MAX:
            metrics.REFUSALS.labels(self.door, unwelcome.sqlstate).inc()
            metrics.STARTUP_FAILURES.labels(self.door, unwelcome.kind).inc()
            link.write(unwelcome.encode())
            link.finish()
            return
        session = Session(self._house.next_number(), self.door, link, self._around, unwelcome=unwelcome)
        self._house.enter(session)
        self._group.create_task(self._serve(session), name=f"session {session.number}")

    async def _serve(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._house.leave(session)
            self._endings.note(session.ending)
