"""Where a conversation stands."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """One word each, as the proxy shows them."""

    OPENING = "opening"
    ENCRYPTING = "encrypting"
    """TLS shakes hands with the client."""
    IDENTIFYING = "identifying"
    """The rules are asked."""
    PROVING = "proving"
    """The client proves to us who it is."""
    DENIED = "denied"
    """It did not convince, and is not told yet."""
    CONNECTING = "connecting"
    ANSWERING = "answering"
    """A server has the startup packet, and has not said anything that counts."""
    LOGGING_IN = "logging_in"
    """We prove to the server who the client is."""
    AUTHENTICATING = "authenticating"
    SETTLING = "settling"
    """The server is content with the client and tells of itself."""
    RELAYING = "relaying"
    POOLED = "pooled"
    """The login is over, and it has no server, as it needs none now."""
    WAITING = "waiting"
    """It needs a server, and its pool has none for it yet."""
    CANCELLING = "cancelling"
    CLOSED = "closed"


WITHOUT_SERVER = frozenset(
    {
        State.OPENING,
        State.ENCRYPTING,
        State.IDENTIFYING,
        State.PROVING,
        State.DENIED,
        State.CONNECTING,
        State.CANCELLING,
    }
)
