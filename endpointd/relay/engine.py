"""What a relay engine is.

An engine has the two ends of a session from `add` to `drop`: it moves the bytes between them and follows what the session is
doing.  It decides nothing.  It tells what happened, answers for facts, and waits for `resume` or `drop`.  It holds at most a
bounded number of bytes per pair, however slow a side is.

Only tokens, ends, bytes and values cross this seam, so an engine may work in a thread or a process of its own that is given
the ends' descriptors.  What it finds there it tells on the event loop, one thing after the other, and never what a later
`resume` or `drop` has overtaken; and what it is asked or told here holds when the call returns.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, runtime_checkable

from endpointd.relay.facts import Facts
from endpointd.relay.relaxed import Relaxed
from endpointd.wire.link import Link
from endpointd.wire.looseend import LooseEnd


class Happening(StrEnum):
    """What an engine tells the owner of a pair. A pair that says how it ended moves no bytes from then on."""

    CLIENT_ENDED = "client_ended"
    """The client went away; or it says no more, and nothing that it said waits for an answer. Until then the server is told
    that no more comes, and what it answers still reaches the client: PostgreSQL does the same for a client that half-closes."""
    CLIENT_NOT_UNDERSTOOD = "client_not_understood"
    """The client sent what is no message. What it said before has been passed on."""
    SERVER_ENDED = "server_ended"
    COMMIT_UNCONFIRMED = "commit_unconfirmed"
    """The server said that a commit's wait was cancelled (S15). What it said next is held back for ever."""
    COMMIT_IN_DOUBT = "commit_in_doubt"
    """The server said that something succeeded which may have been cancelled, to a client that hides the warning (S15). The
    success is held back for ever."""

    # The pair goes on:
    PAUSED = "paused"
    """The session has reached a safe point, and nothing of its client moves until `resume`."""
    STREAMING = "streaming"
    """The session is to pause and will not reach a safe point, for it streams as long as its server runs. May be told again."""
    COMMITS_RELAXED = "commits_relaxed"
    """A client that is watched spoke of another synchronous_commit than on, for the first time."""
    WARNINGS_HIDDEN = "warnings_hidden"
    """A client that is watched spoke of a client_min_messages that hides warnings, for the first time."""


def happenings_of(relaxed: Relaxed) -> tuple[Happening, ...]:
    """Return what an owner is told of what its client has *relaxed*."""
    told = ((Relaxed.COMMITS, Happening.COMMITS_RELAXED), (Relaxed.WARNINGS, Happening.WARNINGS_HIDDEN))
    return tuple(happening for each, happening in told if each in relaxed)


class SessionEngine(Protocol):
    """What the owner of a session asks of whatever moves its bytes."""

    def pause(self, token: int) -> None:
        """Stop taking from the client at the next safe point, at once if this is one, and tell PAUSED then.

        Until then STREAMING is told whenever it is found that there will be none.
        """
        ...

    def resume(self, token: int) -> None:
        """Go on; take back a pause that was not reached."""
        ...

    def close_server(self, token: int) -> None:
        """Close the server's end of a pair that is paused. The client's waits for `drop`."""
        ...

    def halt(self, token: int) -> Facts:
        """Move nothing more of a pair, and return what is known of the session from then on: a farewell may rest on it."""
        ...

    def drop(self, token: int, farewell: bytes = b"") -> None:
        """End the pair: give the client *farewell* if it can be put between two messages, and close both ends.

        It cannot be only when the client has the beginning of a message that is too long to be held back.  What either side
        was given before still reaches it.  A pair that is over is no error.
        """
        ...

    def facts(self, token: int) -> Facts:
        """Return what is known of the session at this moment, also between its end and `drop`."""
        ...


class Engine(SessionEngine, Protocol):
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
        tell: Callable[[Happening], None],
        *,
        watch: Relaxed | None = None,
        server_rest: bytes = b"",
        client_rest: bytes = b"",
        keeps_server: bool = False,
    ) -> None:
        """Move bytes between *client* and *server*, which are the engine's from now on.

        The login is over: the server has said that it is ready, and the client has said nothing that it has to answer.  The
        rests were read and not moved yet.  *watch* is None unless the client's statements can commit; else it is what it is
        known to have relaxed already.  *tell* may be called within this and every other call, and may call back.
        *keeps_server*: the server is not told of a client that says goodbye when it is idle, if the engine can give it back
        (KeepingEngine).
        """
        ...

    def cancel_begins(self, token: int) -> None:
        """A cancel request for this session is about to be sent to its server. A session that is over is no error."""
        ...

    def cancel_ended(self, token: int) -> None:
        """The request was delivered, or given up."""
        ...


@runtime_checkable
class KeepingEngine(Engine, Protocol):
    """An engine that can give a server's end back when the client has left, for another client."""

    def take_server(self, token: int) -> LooseEnd | None:
        """Return the server's end of a pair that has told CLIENT_ENDED, which is the caller's again; None if it has to go.

        It is given back only if the session is idle, nothing is on its way to the server, and the server does not know of any
        end.  `drop` then ends the client's side alone.
        """
        ...


@runtime_checkable
class BareEngine(KeepingEngine, Protocol):
    """An engine that needs no links."""

    @property
    def takes_tls(self) -> bool:
        """Whether ends may speak TLS."""
        ...

    def add_bare(
        self,
        token: int,
        client: LooseEnd,
        server: LooseEnd,
        tell: Callable[[Happening], None],
        gone: Callable[[], None],
        *,
        welcome: bytes,
        watch: Relaxed | None = None,
        client_rest: bytes = b"",
    ) -> bool:
        """Do what `add` does, with *keeps_server*, behind our own last words of the login, *welcome*.

        *gone* is called when nothing of the client's connection is left.  False: it cannot, both are the caller's still, and
        nothing was said.
        """
        ...
