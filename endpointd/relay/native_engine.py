"""The relay engine in C: one thread of its own that is given descriptors (native/, docs/decisions/0041).

What the thread finds out stands in a list until the event loop asks for it; a descriptor says that there is something.  One
thing stays with Python: what a statement relaxes is found by the expressions of relaxed.py, and the thread hands over those few
statements that speak of such a setting.

A connection that speaks TLS takes OpenSSL's part of it along (native/tls.h).  What cannot be given away is served by the
asyncio engine, on the event loop of the same process: a link that has something unsent, or TLS where Python's ssl module
shares no library with anybody.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from endpointd.relay import _native
from endpointd.relay.asyncio_engine import AsyncioEngine
from endpointd.relay.engine import Happening
from endpointd.relay.facts import Facts
from endpointd.relay.nativeseam import (
    GONE,
    HAPPENINGS,
    NEWS_PER_TURN,
    TEXT,
    can_be_taken,
    can_go_on_with_tls,
    facts_of,
    look_through,
    secret_of,
)
from endpointd.relay.relaxed import Relaxed
from endpointd.wire.link import Link
from endpointd.wire.looseend import LooseEnd
from endpointd.wire.tls import Channel


class NativeEngine:
    """Moves bytes in a thread, and what cannot be given away on the event loop."""

    name = "native"

    def __init__(self) -> None:
        self._core = _native.Core()
        self.takes_tls = can_go_on_with_tls()
        self._others = AsyncioEngine()
        self._pairs: dict[int, _Pair] = {}
        """By token, from `add` to `drop`."""
        self._ends: dict[int, _Pair | Callable[[], None]] = {}
        """By handle: until `drop` what is told of, then who waits for the end of the client's connection."""
        self._is_listened_to = False

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
        """See the seam."""
        self._listen()
        handle = self._take(client, server, watch, keeps_server, server_rest, client_rest)
        if handle is None:
            self._others.add(
                token,
                client,
                server,
                tell,
                watch=watch,
                server_rest=server_rest,
                client_rest=client_rest,
                keeps_server=keeps_server,
            )
            return
        self._pairs[token] = self._ends[handle] = _Pair(handle, tell, client.let_go(), server.channel)
        server.let_go()

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
        """See the seam."""
        self._listen()
        channels = [end.channel for end in (client, server) if end.channel is not None]
        if channels and not (self.takes_tls and all(channel.can_be_let_go for channel in channels)):
            return False
        client.hush()
        server.hush()
        watched = _native.NOT_WATCHED if watch is None else watch.value
        ends = (client.sock.fileno(), secret_of(client.channel), server.sock.fileno(), secret_of(server.channel))
        try:
            handle = self._core.add(*ends, watched, True, welcome, b"", client_rest)
        except OSError:
            return False
        self._pairs[token] = self._ends[handle] = _Pair(handle, tell, gone, server.channel)
        client.sock.detach()
        server.sock.detach()
        return True

    def _listen(self) -> None:
        if not self._is_listened_to:
            self._is_listened_to = True
            asyncio.get_running_loop().add_reader(self._core.fileno(), self._tell_news)

    def _take(
        self, client: Link, server: Link, watch: Relaxed | None, keeps_server: bool, server_rest: bytes, client_rest: bytes
    ) -> int | None:
        """Return the handle of a new pair that has descriptors of its own; None if that cannot be."""
        if not all(can_be_taken(link, can_tls=self.takes_tls) for link in (client, server)):
            return None
        descriptors: list[int] = []
        try:
            descriptors += [os.dup(client.descriptor)]
            descriptors += [os.dup(server.descriptor)]
            watched = _native.NOT_WATCHED if watch is None else watch.value
            return self._core.add(
                descriptors[0],
                secret_of(client.channel),
                descriptors[1],
                secret_of(server.channel),
                watched,
                keeps_server,
                b"",
                server_rest,
                client_rest,
            )
        except OSError:  # there are no descriptors left, or no memory; or this Python keeps its connections elsewhere
            for each in descriptors:
                os.close(each)
            return None

    def pause(self, token: int) -> None:
        """See the seam."""
        pair = self._pairs.get(token)
        if pair is None:
            self._others.pause(token)
        else:
            self._core.pause(pair.handle)

    def resume(self, token: int) -> None:
        """See the seam."""
        pair = self._pairs.get(token)
        if pair is None:
            self._others.resume(token)
        else:
            self._core.resume(pair.handle)

    def cancel_begins(self, token: int) -> None:
        """See the seam."""
        pair = self._pairs.get(token)
        if pair is None:
            self._others.cancel_begins(token)
            return
        while token in self._pairs and (text := self._core.take_text(pair.handle)) is not None:
            self._look_through(pair, text)
        if token in self._pairs:
            self._core.cancel_begins(pair.handle)

    def cancel_ended(self, token: int) -> None:
        """See the seam."""
        pair = self._pairs.get(token)
        if pair is None:
            self._others.cancel_ended(token)
        else:
            self._core.cancel_ended(pair.handle)

    def close_server(self, token: int) -> None:
        """See the seam."""
        pair = self._pairs.get(token)
        if pair is None:
            self._others.close_server(token)
        else:
            self._core.close_server(pair.handle)

    def halt(self, token: int) -> Facts:
        """See the seam."""
        pair = self._pairs.get(token)
        return self._others.halt(token) if pair is None else facts_of(NativeEngine.name, *self._core.halt(pair.handle))

    def drop(self, token: int, farewell: bytes = b"") -> None:
        """See the seam."""
        pair = self._pairs.pop(token, None)
        if pair is None:
            self._others.drop(token, farewell)
            return
        self._ends[pair.handle] = pair.gone
        self._core.drop(pair.handle, farewell)

    def facts(self, token: int) -> Facts:
        """See the seam."""
        pair = self._pairs.get(token)
        return self._others.facts(token) if pair is None else facts_of(NativeEngine.name, *self._core.facts(pair.handle))

    def take_server(self, token: int) -> LooseEnd | None:
        """See the seam."""
        pair = self._pairs.get(token)
        if pair is None:
            return self._others.take_server(token)
        descriptor = self._core.take_server(pair.handle)
        return LooseEnd(socket.socket(fileno=descriptor), pair.channel) if descriptor is not None else None

    def _tell_news(self) -> None:
        """Tell what has happened, one thing after the other: each may bring about that the next is no news any more."""
        for _ in range(NEWS_PER_TURN):
            news = self._core.next()
            if news is None:
                return
            handle, what, text = news
            end = self._ends.get(handle)
            if what == GONE:
                del self._ends[handle]
                assert callable(end)
                end()
            elif isinstance(end, _Pair):
                if what == TEXT:
                    self._look_through(end, text or b"")
                else:
                    end.tell(HAPPENINGS[what])

    def _look_through(self, pair: _Pair, statement: bytes) -> None:
        for happening in look_through(self._core, pair.handle, statement):
            pair.tell(happening)


class _Pair:
    """What the event loop keeps of a pair that the thread serves."""

    __slots__ = ("channel", "gone", "handle", "tell")

    def __init__(
        self, handle: int, tell: Callable[[Happening], None], gone: Callable[[], None], channel: Channel | None
    ) -> None:
        self.handle = handle
        self.tell = tell
        self.gone = gone
        self.channel = channel
        """The server's, by whose connection the thread speaks until it gives that back."""
