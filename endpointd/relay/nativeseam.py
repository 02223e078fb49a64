"""What the threads in C have in common as Python has them: their news, facts as they tell them, whose TLS they go on with."""

from __future__ import annotations

import _ssl
import ssl
from typing import Protocol

from endpointd.relay.engine import Happening, happenings_of
from endpointd.relay.facts import Doing, Facts
from endpointd.relay.relaxed import Relaxed, relaxed_by
from endpointd.wire.link import Link
from endpointd.wire.tls import Channel

NEWS_PER_TURN = 1000
"""What is told in one turn of the event loop at most."""

TEXT = 1 << 0
GONE = 1 << 8
HAPPENINGS = {
    1 << 1: Happening.STREAMING,
    1 << 2: Happening.PAUSED,
    1 << 3: Happening.CLIENT_ENDED,
    1 << 4: Happening.CLIENT_NOT_UNDERSTOOD,
    1 << 5: Happening.SERVER_ENDED,
    1 << 6: Happening.COMMIT_UNCONFIRMED,
    1 << 7: Happening.COMMIT_IN_DOUBT,
}
"""As native/pair.h has them."""

_DOINGS = (Doing.IDLE, Doing.IN_TRANSACTION, Doing.BUSY)

Secret = tuple[object, ssl.SSLContext] | None
"""A connection as the _ssl module has it, and its context; None without TLS."""


class Relaxes(Protocol):
    """A thread that remembers what its clients have relaxed."""

    def relaxes(self, handle: int, relaxed: int, /) -> int:
        """Remember it; return what was not known."""
        ...


def look_through(core: Relaxes, handle: int, statement: bytes) -> tuple[Happening, ...]:
    """Return what is to be told of a *statement* that speaks of commits or warnings."""
    found = relaxed_by(statement)
    return happenings_of(Relaxed(core.relaxes(handle, found.value))) if found is not Relaxed.NONE else ()


def can_go_on_with_tls() -> bool:
    """Return whether Python's ssl module shares OpenSSL with the threads. Raises ImportError if there are none."""
    from endpointd.relay import _native  # an installation may do without

    return _native.use_openssl(getattr(_ssl, "__file__", None)) is None


def can_be_taken(link: Link, *, can_tls: bool) -> bool:
    """Return whether a thread can have the descriptor of *link*, and its TLS if it speaks that."""
    return link.can_be_let_go and (link.channel is None or can_tls)


def secret_of(channel: Channel | None) -> Secret:
    """Return what a thread goes on with of the TLS of a connection that speaks by *channel*."""
    if channel is None:
        return None
    connection = channel.connection
    return connection._sslobj, connection.context  # type: ignore[attr-defined]


def facts_of(
    engine: str,
    to_server_bytes: int,
    to_client_bytes: int,
    held_bytes: int,
    doing: int,
    is_awaited: bool,
    is_streaming: bool,
    may_have_committed: bool,
    client_terminated: bool,
    client_has_ended: bool,
    server_said_goodbye: bool,
) -> Facts:
    """Return the facts that a thread tells, of the engine called *engine*."""
    return Facts(
        engine=engine,
        to_server_bytes=to_server_bytes,
        to_client_bytes=to_client_bytes,
        held_bytes=held_bytes,
        doing=_DOINGS[doing],
        is_awaited=is_awaited,
        is_streaming=is_streaming,
        may_have_committed=may_have_committed,
        client_terminated=client_terminated,
        client_has_ended=client_has_ended,
        server_said_goodbye=server_said_goodbye,
    )
