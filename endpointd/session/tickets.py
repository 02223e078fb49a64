"""Which logins were here before: startup packets, byte for byte, by the endpoint and the address that they came from.

A ticket lets nobody in. It says that a login is likely to be as it was, so that it may be tried on the short way
(quicklogin).  Pure, bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

from endpointd.routing.table import Door
from pgwire.startup import StartupMessage

TICKETS_MAX = 1024
PACKET_BYTES_MAX = 1 << 10
"""Of one that is worth a ticket."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A login that has succeeded, by the client's proof to us, and whose server's session was kept."""

    packet: bytes
    message: StartupMessage


class Tickets:
    """The latest of them."""

    def __init__(self) -> None:
        self._tickets: dict[tuple[Door, str, bool, bytes], Ticket] = {}
        """Who was noted or asked for last is at the end."""

    def __len__(self) -> int:
        return len(self._tickets)

    def note(self, door: Door, host: str, packet: bytes, message: StartupMessage, *, is_encrypted: bool) -> None:
        """Remember that a client at *host* has logged in at *door* with *packet*; *is_encrypted*: by TLS."""
        name = door, host, is_encrypted, packet
        self._tickets.pop(name, None)
        self._tickets[name] = Ticket(packet, message)
        if len(self._tickets) > TICKETS_MAX:
            del self._tickets[next(iter(self._tickets))]

    def find(self, door: Door, host: str, said: bytes, *, is_encrypted: bool) -> Ticket | None:
        """Return the ticket of a client at *host* who begins at *door* with what is *said*, if that packet was here."""
        name = door, host, is_encrypted, said[: int.from_bytes(said[:4])]
        ticket = self._tickets.pop(name, None)
        if ticket is not None:
            self._tickets[name] = ticket
        return ticket
