"""The relay engine that needs nothing but an event loop.

One Pair per session.  The client's bytes go to the server as they come.  The server's bytes go to the client in whole
messages, as long as a message is not longer than HELD_BYTES_MAX: the beginning of one that is not complete yet is held
back.  So whenever a server dies the client's stream ends between two messages, and an error can be put there.

A side that does not take what it is sent stops the reading from the other side; the kernel's windows do the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from endpointd.link import Link
from endpointd.relay.seam import Happening, Stats
from endpointd.safepoint import Doing, SafePoint
from pgwire.errors import ProtocolError

HELD_BYTES_MAX = 1 << 16
"""A longer message is passed on as it comes."""


class AsyncioEngine:
    """Moves bytes on the event loop that everything else runs on."""

    name = "asyncio"

    def __init__(self) -> None:
        self._pairs: dict[int, _Pair] = {}

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
        """See the seam."""
        pair = _Pair(client, server, point, tell)
        self._pairs[token] = pair
        pair.start(server_rest, client_rest)

    def pause(self, token: int) -> None:
        """See the seam."""
        self._pairs[token].pause()

    def resume(self, token: int) -> None:
        """See the seam."""
        self._pairs[token].resume()

    def drop(self, token: int, farewell: bytes = b"") -> None:
        """See the seam."""
        pair = self._pairs.pop(token, None)
        if pair is not None:
            pair.drop(farewell)

    def stats(self, token: int) -> Stats:
        """See the seam."""
        return self._pairs[token].stats()


class _Pair:
    """Two links, joined."""

    __slots__ = (
        "_client",
        "_client_is_mid_message",
        "_is_paused",
        "_is_pausing",
        "_is_stopped",
        "_point",
        "_server",
        "_tail",
        "_tell",
    )

    def __init__(self, client: Link, server: Link, point: SafePoint, tell: Callable[[Happening], None]) -> None:
        self._client = client
        self._server = server
        self._point = point
        self._tell = tell
        self._tail = b""
        self._client_is_mid_message = False
        self._is_pausing = False
        self._is_paused = False
        self._is_stopped = False

    def start(self, server_rest: bytes, client_rest: bytes) -> None:
        if server_rest:
            self.from_server(memoryview(server_rest))
        if client_rest and not self._is_stopped:
            self.from_client(memoryview(client_rest))
        # Each may tell at once that its side has ended.
        if not self._is_stopped:
            self._client.receiver = _ClientSide(self)
        if not self._is_stopped:
            self._server.receiver = _ServerSide(self)
        if not self._is_stopped:
            self._client.resume_reading()
            self._server.resume_reading()

    def pause(self) -> None:
        if self._is_stopped:
            return
        self._is_pausing = True
        self._pause_if_safe()

    def resume(self) -> None:
        self._is_pausing = self._is_paused = False
        if not self._is_stopped and self._server.is_writable:
            self._client.resume_reading()

    def drop(self, farewell: bytes) -> None:
        self._is_stopped = True
        if farewell and not self._client_is_mid_message:
            self._client.write(farewell)
        self._client.finish()
        self._server.close()

    def stats(self) -> Stats:
        return Stats(
            to_server_bytes=self._server.bytes_sent,
            to_client_bytes=self._client.bytes_sent,
            held_bytes=len(self._tail) + self._client.unsent + self._server.unsent,
            doing=self._point.doing,
        )

    # The two directions

    def from_client(self, data: memoryview) -> None:
        try:
            self._point.client_sent(data)
        except ProtocolError:
            self._stop(Happening.CLIENT_NOT_UNDERSTOOD)
            return
        self._server.write(bytes(data))
        if not self._server.is_writable:
            self._client.pause_reading()

    def from_server(self, data: memoryview) -> None:
        point = self._point
        try:
            unconfirmed = point.server_sent(data)
        except ProtocolError:
            self._stop(Happening.SERVER_ENDED)
            return
        if unconfirmed is not None:
            said = self._tail + bytes(data[: max(0, unconfirmed)])
            self._client.write(said[: len(self._tail) + unconfirmed])
            self._stop(Happening.COMMIT_UNCONFIRMED)
            return
        boundary = point.boundary
        size = len(data)
        if boundary == size:
            self._client.write(self._tail + bytes(data) if self._tail else bytes(data))
            self._tail = b""
            self._client_is_mid_message = False
        else:
            self._pass_on_whole_messages(data, boundary)
        if not self._client.is_writable:
            self._server.pause_reading()
        if self._is_pausing:
            self._pause_if_safe()

    def _pass_on_whole_messages(self, data: memoryview, boundary: int) -> None:
        if boundary > 0:
            self._client.write(b"".join((self._tail, data[:boundary])))
            self._client_is_mid_message = False
            self._tail = bytes(data[boundary:])
        elif self._client_is_mid_message:
            self._client.write(bytes(data))
            return
        else:
            self._tail += bytes(data)
        if len(self._tail) + self._point.missing > HELD_BYTES_MAX:
            self._client.write(self._tail)
            self._tail = b""
            self._client_is_mid_message = True

    # What the links tell

    def client_ended(self) -> None:
        if self._is_stopped:
            return
        if self._point.doing is Doing.BUSY:
            self._server.end_sending()
        else:
            self._stop(Happening.CLIENT_ENDED)

    def client_broken(self) -> None:
        self._stop(Happening.CLIENT_ENDED)

    def server_ended(self) -> None:
        self._stop(Happening.SERVER_ENDED)

    def client_writable(self, is_writable: bool) -> None:
        if is_writable and not self._is_stopped:
            self._server.resume_reading()
        else:
            self._server.pause_reading()

    def server_writable(self, is_writable: bool) -> None:
        if is_writable and not self._is_paused and not self._is_stopped:
            self._client.resume_reading()
        else:
            self._client.pause_reading()

    def _pause_if_safe(self) -> None:
        if self._is_paused:
            return
        if self._point.is_streaming:
            self._tell(Happening.STREAMING)
        elif self._point.doing is Doing.IDLE:
            self._is_paused = True
            self._client.pause_reading()
            self._tell(Happening.PAUSED)

    def _stop(self, happening: Happening) -> None:
        if self._is_stopped:
            return
        self._is_stopped = True
        self._client.pause_reading()
        self._server.pause_reading()
        self._tell(happening)


class _ClientSide:
    """What the client's link talks to."""

    __slots__ = ("broken", "ended", "received", "writable")

    def __init__(self, pair: _Pair) -> None:
        self.received = pair.from_client
        self.ended = pair.client_ended
        self.broken = pair.client_broken
        self.writable = pair.client_writable


class _ServerSide:
    """What the server's link talks to."""

    __slots__ = ("broken", "ended", "received", "writable")

    def __init__(self, pair: _Pair) -> None:
        self.received = pair.from_server
        self.ended = pair.server_ended
        self.broken = pair.server_ended
        self.writable = pair.server_writable
