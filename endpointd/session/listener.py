"""A door: accepts clients and owns their sessions.

Sessions run in the task group of whoever opened the door, and every one of them is known here by number until it ends.  Until
a client has said who it is, it is a stranger in the reception's keeping (daemonkit/reception.py), each door with its own.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterable

from daemonkit.admission import Budget, address_group
from daemonkit.logs import get_logger
from daemonkit.reception import Guest, Reception
from endpointd import metrics, refusal
from endpointd.refusal import Refusal
from endpointd.routing.table import Door
from endpointd.rules import is_inside, read_networks
from endpointd.session.cancelling import cancel_at_server
from endpointd.session.disconnections import Disconnections
from endpointd.session.introduction import Introduction
from endpointd.session.pooledsession import PooledSession
from endpointd.session.quicklogin import Desk, Peer
from endpointd.session.registry import SessionRegistry
from endpointd.session.replay import Replay
from endpointd.session.session import Session
from endpointd.session.shared import Shared
from endpointd.settings import Settings
from endpointd.wire.link import Link
from endpointd.wire.sockets import Keepalive
from pgwire.proxyheader import Header

HURRIED_S = 2.0
"""For the first packet, while many have not sent theirs."""


LATE_S = 1.0
"""While there are few a session ends its own login in time; the reception looks a moment later."""


class Listener:
    """One endpoint's port."""

    def __init__(
        self,
        door: Door,
        settings: Settings,
        shared: Shared,
        group: asyncio.TaskGroup,
        registry: SessionRegistry,
        disconnections: Disconnections,
    ) -> None:
        """*registry*: the sessions of all doors, which share the limits."""
        self.door = door
        place = dict(settings.endpoints)[door.name]
        self._host = place.host
        self._shared = shared
        self._group = group
        self._registry = registry
        self._disconnections = disconnections
        self._introduced_by = read_networks(place.proxy_protocol_from)
        """Whose connections begin with a header that says whose they are."""
        self._unnamed = itertools.count(1)
        self._keepalive = _keepalive(settings)
        sorry = refusal.too_many_clients().encode()
        self.reception = Reception(
            door.name, self._budget(), self._welcome, self._counted_as, sorry=sorry, at_first=self._at_first
        )
        """Where its clients come in."""
        self._leaves: Refusal | None = None
        """Why nobody is served any more."""
        self._log = get_logger(endpoint=door.name)
        self._accepted = metrics.CONNECTIONS.labels(door)
        self._desk = Desk(door, shared, self._seat, next_number=registry.next_number, begun=self._begun, over=self._over)

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

    def drain(self, why: Refusal) -> None:
        """Refuse those who are no sessions yet, also those who become one."""
        self._leaves = why
        self._desk.refuse(why)

    def take_up(self, settings: Settings) -> None:
        """Go by *settings* for whoever comes from now on, and by the limits that hold now."""
        place = dict(settings.endpoints).get(self.door.name)
        if place is not None:
            self._introduced_by = read_networks(place.proxy_protocol_from)
        self._keepalive = _keepalive(settings)
        self.reception.set_budget(self._budget())

    def _budget(self) -> Budget:
        limits = self._shared.board.limits
        return Budget(
            strangers_max=limits.strangers_max,
            strangers_per_address_max=limits.strangers_per_address_max,
            known_max=limits.sessions_max + limits.hold_max,
            stranger_s=max(limits.startup_timeout_s, limits.login_timeout_s) + LATE_S,
            hurried_s=min(limits.startup_timeout_s, HURRIED_S),
        )

    def _counted_as(self, host: str) -> str:
        """Until a balancer has said whose a connection is, it is in nobody's company."""
        return f"{host} {next(self._unnamed)}" if is_inside(host, self._introduced_by) else address_group(host)

    def _at_first(self, guest: Guest, connection: socket.socket, peer: object) -> bool:
        """Have a client that was here before served on the short way; nobody else speaks for it there."""
        match peer:
            case (str(host), int(port), *_) if not is_inside(host, self._introduced_by):
                return self._desk.take(guest, connection, (host, port), self._keepalive)
            case _:
                return False

    def _begun(self, session: Session) -> None:
        self._accepted.inc()
        self._registry.enter(session)

    def _seat(self, guest: Guest, connection: socket.socket, peer: Peer, replay: Replay) -> None:
        def opened(link: Link) -> None:
            link.speaks_for(*peer)
            self._begin(link, guest, replay)

        self.reception.receive(guest, connection, lambda guest: self._link(guest, opened))

    def _welcome(self, guest: Guest) -> Link:
        return self._link(guest, lambda link: self._opened(link, guest))

    def _link(self, guest: Guest, opened: Callable[[Link], None]) -> Link:
        link = Link(opened, self._keepalive)
        link.on_closed(guest.leave)
        return link

    def _opened(self, link: Link, guest: Guest) -> None:
        if not is_inside(link.host, self._introduced_by):
            self._begin(link, guest)
            return

        def introduced(header: Header | None, rest: bytes, why: Refusal | None) -> None:
            if header is not None and header.client is not None:
                link.speaks_for(*header.client)
            guest.comes_from(link.host)
            session = self._begin(link, guest)
            if why is not None:
                session.end(why)
            elif rest:
                link.receiver.received(memoryview(rest))

        introduction = Introduction(link, self._shared.board.limits.startup_timeout_s, introduced)
        guest.is_shown_out_by(lambda _why: introduction.give_up())

    def _begin(self, link: Link, guest: Guest, replay: Replay | None = None) -> Session:
        self._accepted.inc()
        unwelcome = refusal.too_many_connections(self.door.name) if self._shared.places.is_full else None
        number = self._registry.next_number()
        kind = PooledSession if self.door.is_pooled else Session
        session = kind(number, self.door, self._shared, self._over, peer=link.peer)
        session.attend(link, guest, unwelcome=unwelcome, replay=replay)
        self._registry.enter(session)
        self._group.create_task(session.run(), name=f"login of session {number}")
        guest.is_shown_out_by(session.show_out)
        if self._leaves is not None:
            session.drain(self._leaves)
        return session

    def _over(self, session: Session) -> None:
        self._registry.leave(session)
        if not self._disconnections.ignores(session.ended_as, had_session=session.had_relay):
            self._disconnections.note(session.disconnection)
        left = session.left_work
        if left is not None:
            self._group.create_task(cancel_at_server(self._shared, left), name=f"cancel of session {session.number}")


def _keepalive(settings: Settings) -> Keepalive:
    clients = settings.clients
    return Keepalive(clients.tcp_keepalives_idle_s, clients.tcp_keepalives_interval_s, clients.tcp_keepalives_count)
