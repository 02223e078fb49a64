"""What an engine knows of a session whose bytes it moves. Values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Doing(StrEnum):
    """What a session is doing."""

    IDLE = "idle"
    IN_TRANSACTION = "in_transaction"
    """Open, but no statement is running: it is lost with the server, and certainly not committed."""
    BUSY = "busy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One session at one moment."""

    engine: str
    """The name of what moves its bytes."""
    to_server_bytes: int
    to_client_bytes: int
    held_bytes: int
    """In our memory at this moment."""
    doing: Doing
    is_awaited: bool
    """Something that the client said to its end waits for an answer."""
    is_streaming: bool
    """The server sends WAL, or what it decodes of it, for as long as it runs."""
    may_have_committed: bool
    """If it is busy, it may have committed something that its client was not told of."""
    client_terminated: bool
    """The client said Terminate."""
    client_has_ended: bool
    """The client will say no more; it may still listen."""
    server_said_goodbye: bool
    """The server's last word was an error that ends the session, or that it has streamed everything."""
