"""What a relay engine is.

An engine moves the bytes of pairs of links, each known by a token, and watches where a session's safe points are.  It decides
nothing: it tells the pair's owner what happened and waits for `drop` or `resume`.  An engine holds at most a bounded number
of bytes per pair, however slow a side is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from endpointd.link import Link
from endpointd.safepoint import Doing, SafePoint


class Happening(StrEnum):
    """What an engine tells the owner of a pair. Except for PAUSED and STREAMING, the pair moves no bytes from then on."""

    CLIENT_ENDED = "client_ended"
    """The client went away; or it says no more, and nothing that it said waits for an answer. Until then the server is told
    that no more comes, and what it answers still reaches the client: PostgreSQL does the same for a client that half-closes."""
    CLIENT_NOT_UNDERSTOOD = "client_not_understood"
    """The client sent what is no message. What it said before has been passed on."""
    SERVER_ENDED = "server_ended"
    COMMIT_UNCONFIRMED = "commit_unconfirmed"
    """The server said that a commit's wait was cancelled (S15). What it said next is held back for ever."""
    PAUSED = "paused"
    """The session has reached a safe point, and nothing of its client moves until `resume`."""
    STREAMING = "streaming"
    """The session is to pause and will not reach a safe point, for it streams as long as its server runs. May be told again."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a pair has done and does."""

    to_server_bytes: int
    to_client_bytes: int
    held_bytes: int
    """In our memory at this moment."""
    doing: Doing


class Engine(Protocol):
    """Moves bytes."""

    @property
    def name(self) -> str:
        """As in settings and status."""
        ...

    def add(
        self,
        token: int,
        client: Link,
        server: Link,
        point: SafePoint,
        tell: Callable[[Happening], None],
        *,
        server_rest: bytes = b"",
        client_rest: bytes = b"",
    ) -> None:
        """Move bytes between *client* and *server* from now on.

        *point* has seen everything both sides said so far, without the rests, which were read and not moved yet.  *tell* is
        called synchronously and may call back.
        """
        ...

    def pause(self, token: int) -> None:
        """Stop taking from the client at the next safe point, at once if this is one, and tell PAUSED then.

        Until then STREAMING is told whenever it is found that there will be none.
        """
        ...

    def resume(self, token: int) -> None:
        """Go on; take back a pause that was not reached."""
        ...

    def drop(self, token: int, farewell: bytes = b"") -> None:
        """End the pair: give the client *farewell* if it can be put between two messages, and close both links.

        It cannot be only when the client has the beginning of a message that is too long to be held back.  What either side
        was given before still reaches it.
        """
        ...

    def stats(self, token: int) -> Stats:
        """Return what the pair has done and does."""
        ...
