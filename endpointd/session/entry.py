"""Whether one client may have a server, and a place among the sessions."""

from __future__ import annotations

from collections.abc import Callable

from daemonkit.reception import Guest
from endpointd import refusal
from endpointd.refusal import Refusal
from endpointd.routing.table import Door
from endpointd.session.quota import Place
from endpointd.session.shared import Shared
from endpointd.session.startupsettings import refused_at_startup
from pgwire.startup import StartupMessage


class Entry:
    """One client's, at one door."""

    def __init__(self, number: int, door: Door, shared: Shared, guest: Guest, unwelcome: Refusal | None) -> None:
        """*unwelcome*: the answer to whatever the client will want; *guest*: the client as the reception knows it."""
        self._number = number
        self._door = door
        self._shared = shared
        self._guest = guest
        self._unwelcome = unwelcome

    def why_no_server(self, message: StartupMessage) -> Refusal | None:
        """Return why the client may not have any server, or None."""
        topology = self._shared.board.topology
        if self._unwelcome is not None:
            return self._unwelcome
        if not self._guest.admit():
            return refusal.too_many_connections(self._door.name)
        if self._door.unpooled == Door.WRITER and topology is not None and topology.promises_commits:
            return refused_at_startup(message)
        return None

    def why_no_writer(self, message: StartupMessage) -> Refusal | None:
        """Return why the client may not have the writer, or None.

        Only with a server is it known of a reader's or an instance's door that it leads there, and by which document.
        """
        topology = self._shared.board.topology
        return refused_at_startup(message) if topology is not None and topology.promises_commits else None

    def take_place(self, message: StartupMessage, told: Callable[[Place], None]) -> Refusal | Place:
        """Count the client among those of its user and database, now that it is known to be who it says; or refuse it."""
        return self.as_refusal(self._shared.places.take(self._number, message.user, message.database, told), message)

    def as_refusal(self, place: Place, message: StartupMessage) -> Refusal | Place:
        """Return *place*, or what its client is told if there is none."""
        match place:
            case Place.FULL:
                return refusal.too_many_connections(self._door.name)
            case Place.USER_FULL:
                return refusal.too_many_for_user(message.user)
            case Place.DATABASE_FULL:
                return refusal.too_many_for_database(message.database)
            case _:
                return place
