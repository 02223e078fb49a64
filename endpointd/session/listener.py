"""A door: accepts clients and owns their sessions.

Sessions run in the task group of whoever opened the door, and every one of them is known here by number until it ends.  Until
a client has said who it is, it is a stranger in the reception's keeping (daemonkit/reception.py), each door with its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from daemonkit.admission import Budget
from daemonkit.logs import get_logger
from daemonkit.reception import Guest, Reception, Why
from endpointd import metrics, refusal
from endpointd.routing.table import Door
from endpointd.session.disconnections import Disconnections
from endpointd.session.registry import SessionRegistry
from endpointd.session.session import Session
from endpointd.session.shared import Shared
from endpointd.wire.link import Link

HURRIED_S = 2.0
"""For the first packet, while many have not sent theirs."""


LATE_S = 1.0
"""While there are few a session ends its own login in time; the reception looks a moment later."""


class Listener:
    """One endpoint's port."""

    def __init__(
        self,
        door: Door,
        host: str,
        port: int,
        shared: Shared,
        group: asyncio.TaskGroup,
        registry: SessionRegistry,
        disconnections: Disconnections,
    ) -> None:
        """*registry*: the sessions of all doors, which share the limits."""
        self.door = door
        self._host = host
        self._port = port
        self._shared = shared
        self._group = group
        self._registry = registry
        self._disconnections = disconnections
        self.reception = Reception(door.name, self._budget(), self._welcome)
        """Where its clients come in."""
        self._log = get_logger(endpoint=door.name)

    @property
    def port(self) -> int:
        """The port listened on, which differs from the one asked for if that was 0."""
        return self.reception.port

    def open(self, sockets: Iterable[socket.socket]) -> None:
        """Accept at *sockets*, which are bound to its place."""
        for each in sockets:
            self.reception.take(each)
        self._log.info("endpoint open", host=self._host, port=self.port)

    def close(self) -> None:
        """Accept nobody any more. The sessions go on."""
        self.reception.close()

    def take_up(self) -> None:
        """Go by the limits that hold now."""
        self.reception.set_budget(self._budget())

    def _budget(self) -> Budget:
        limits = self._shared.board.limits
        return Budget(
            strangers_max=limits.strangers_max,
            strangers_per_address_max=limits.strangers_per_address_max,
            known_max=limits.sessions_max + limits.hold_max,
            stranger_s=limits.startup_timeout_s + LATE_S,
            hurried_s=min(limits.startup_timeout_s, HURRIED_S),
        )

    def _welcome(self, guest: Guest) -> Link:
        link = Link(lambda link: self._begin(link, guest))
        link.on_closed(guest.leave)
        return link

    def _begin(self, link: Link, guest: Guest) -> None:
        metrics.CONNECTIONS.labels(self.door).inc()
        is_full = len(self._shared.quota) >= self._shared.board.limits.sessions_max
        unwelcome = refusal.too_many_connections(self.door.name) if is_full else None
        session = Session(self._registry.next_number(), self.door, link, self._shared, unwelcome=unwelcome, guest=guest)
        self._registry.enter(session)
        self._group.create_task(self._serve(session), name=f"session {session.number}")
        guest.is_shown_out_by(
            lambda why: session.show_out(refusal.startup_timeout() if why is Why.LATE else refusal.too_many_clients())
        )

    async def _serve(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._registry.leave(session)
            self._disconnections.note(session.disconnection)
