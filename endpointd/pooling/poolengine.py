"""The native pooler as the event loop has it: an engine for the sessions of pooled endpoints, which have servers in turns.

To its owner a session here looks as at any engine (relay/engine.py), but that it may have no server; a server's death is its
business only while it has one.  Pools and servers are told of by their handles.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Protocol

from endpointd.pooling import statestatements
from endpointd.pooling.bridge import give_away
from endpointd.pooling.pins import Pin
from endpointd.relay.engine import Happening
from endpointd.relay.facts import Facts
from endpointd.relay.nativeseam import GONE, HAPPENINGS, NEWS_PER_TURN, TEXT, can_go_on_with_tls, facts_of, look_through
from endpointd.relay.relaxed import Relaxed
from endpointd.wire.link import Link

_QUESTION, _PINNED, _WAITED, _LIMIT, _SERVER_GONE, _WANTS_SERVER = (1 << bit for bit in range(9, 15))
"""As native/pooler.h has them."""


class PoolHappening(StrEnum):
    """What only happens to the session of a pooled endpoint. It moves no bytes from then on."""

    WAITED_TOO_LONG = "waited_too_long"
    """For a server."""
    LIMIT = "limit"
    """It wants more than is given to one session: a statement or statements too large, or there is no memory."""


class Teller(Protocol):
    """Who is told of a session."""

    def happened(self, happening: Happening | PoolHappening) -> None:
        """Something happened."""
        ...

    def pinned(self, pin: Pin) -> None:
        """It keeps its server from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How a session stands at one moment."""

    server: int
    """The handle of the server that it has; 0: none."""
    pin: Pin | None
    waited_s: float | None
    """For a server; None if it does not wait."""
    transactions: int


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """One pool at one moment."""

    clients: int
    waiting: int
    pinned: int
    """Of the clients: they keep their servers."""
    servers: int
    idle: int
    dialled: int
    longest_wait_ms: int
    """Of those that wait at this moment."""
    waits: int
    waited_ms: int
    parses: int
    evicted: int

    def plus(self, other: PoolFacts) -> PoolFacts:
        """Return both together."""
        both = PoolFacts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))
        return replace(both, longest_wait_ms=max(self.longest_wait_ms, other.longest_wait_ms))


NO_FACTS = PoolFacts(*(0,) * len(fields(PoolFacts)))


class PoolEngine:
    """Gives servers to sessions. The seam of engines, less what only a pair has."""

    name = "pool"

    def __init__(self) -> None:
        from endpointd.relay import _native  # an installation may do without, if it has no pooled endpoints

        self.core = _native.Pooler()
        self._not_watched = _native.NOT_WATCHED
        self.can_tls = can_go_on_with_tls()
        self.on_wants_server: Callable[[int, int], None] = lambda _pool, _count: None
        self.on_server_gone: Callable[[int], None] = lambda _server: None
        self._handles: dict[int, int] = {}
        """By token, from `add` to `drop`."""
        self._tokens: dict[int, int] = {}
        self._tellers: dict[int, Teller | Callable[[], None]] = {}
        """By handle: until `drop` who is told, then who waits for the end of the client's connection."""
        self._gone: dict[int, Callable[[], None]] = {}
        self._is_listened_to = False

    def listen(self) -> None:
        """Begin to tell."""
        if not self._is_listened_to:
            self._is_listened_to = True
            asyncio.get_running_loop().add_reader(self.core.fileno(), self._tell_news)

    def close(self) -> None:
        """Tell nothing any more."""
        if self._is_listened_to:
            asyncio.get_running_loop().remove_reader(self.core.fileno())

    def add(self, token: int, pool: int, client: Link, teller: Teller, *, watch: Relaxed | None, client_rest: bytes) -> None:
        """Serve *client*, whose login is over, from *pool*. Raises OSError."""
        watched = self._not_watched if watch is None else watch.value
        handle, gone = give_away(
            client, lambda fd, tls: self.core.add_client(pool, fd, tls, watched, client_rest), can_tls=self.can_tls
        )
        self._handles[token], self._tokens[handle] = handle, token
        self._tellers[handle], self._gone[handle] = teller, gone

    def standing(self, token: int) -> Standing:
        """Return how a session stands."""
        server, pin, waited_ms, transactions = self.core.standing(self._handles[token])
        return Standing(server, Pin.of(pin), waited_ms / 1000 if waited_ms >= 0 else None, transactions)

    def is_waiting(self, token: int) -> bool:
        """Return whether a session waits for a server; one that is over does not."""
        return token in self._handles and self.standing(token).waited_s is not None

    def token_of(self, client: int) -> int | None:
        """Return the session that has the handle *client*."""
        return self._tokens.get(client)

    def pool_facts(self, pool: int) -> PoolFacts:
        """Return how a pool stands. Raises KeyError."""
        return PoolFacts(*self.core.pool_facts(pool))

    # The seam of engines

    def pause(self, token: int) -> None:
        """See Engine."""
        if token in self._handles:
            self.core.pause(self._handles[token])

    def resume(self, token: int) -> None:
        """See Engine."""
        if token in self._handles:
            self.core.resume(self._handles[token])

    def close_server(self, token: int) -> None:
        """See Engine."""
        if token in self._handles:
            self.core.close_server(self._handles[token])

    def halt(self, token: int) -> Facts:
        """See Engine."""
        return facts_of(PoolEngine.name, *self.core.halt(self._handles[token]))

    def facts(self, token: int) -> Facts:
        """See Engine."""
        return facts_of(PoolEngine.name, *self.core.facts(self._handles[token]))

    def drop(self, token: int, farewell: bytes = b"") -> None:
        """See Engine. The server, if it has one, goes back to the pool or is closed."""
        handle = self._handles.pop(token, None)
        if handle is None:
            return
        del self._tokens[handle]
        self._tellers[handle] = self._gone.pop(handle)
        self.core.drop(handle, farewell)

    def cancel_begins(self, token: int) -> int:
        """Return the handle of the server that has what a session can cancel, which nobody else is given until `cancel_ended`.

        0: it has none.
        """
        handle = self._handles.get(token)
        while handle is not None and (text := self.core.take_text(handle)) is not None:
            self._look_through(handle, text)
        return self.core.cancel_begins(handle) if handle is not None else 0

    def cancel_ended(self, token: int, server: int, *, is_over: bool) -> None:
        """The request was delivered and *is_over*, or it may still be felt."""
        self.core.cancel_ended(self._handles.get(token, 0), server, is_over)

    # News

    def _tell_news(self) -> None:
        for _ in range(NEWS_PER_TURN):
            news = self.core.next()
            if news is None:
                return
            handle, what, number, text = news
            if what == _WANTS_SERVER:
                self.on_wants_server(handle, number)
            elif what == _SERVER_GONE:
                self.on_server_gone(handle)
            elif what == GONE:
                gone = self._tellers.pop(handle)
                assert callable(gone)
                gone()
            elif handle in self._tokens:
                self._tell(handle, what, number, text)

    def _tell(self, handle: int, what: int, number: int, text: bytes | None) -> None:
        teller = self._tellers[handle]
        assert not callable(teller)
        if what == _QUESTION:
            verdict = statestatements.judge(text or b"")
            with contextlib.suppress(KeyError):
                self.core.judged(handle, text or b"", verdict)
        elif what == TEXT:
            self._look_through(handle, text or b"")
        elif what == _PINNED:
            pin = Pin.of(number)
            assert pin is not None
            teller.pinned(pin)
        elif what == _WAITED:
            teller.happened(PoolHappening.WAITED_TOO_LONG)
        elif what == _LIMIT:
            teller.happened(PoolHappening.LIMIT)
        else:
            teller.happened(HAPPENINGS[what])

    def _look_through(self, handle: int, statement: bytes) -> None:
        teller = self._tellers[handle]
        assert not callable(teller)
        for happening in look_through(self.core, handle, statement):
            teller.happened(happening)
