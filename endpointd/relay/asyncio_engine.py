"""The relay engine that needs nothing but an event loop.

One Pair per session.  The client's bytes go to the server as they come.  The server's bytes go to the client in whole
messages, as long as a message is not longer than HELD_BYTES_MAX: the beginning of one that is not complete yet is held
back.  So whenever a server dies the client's stream ends between two messages, and an error can be put there.

A side that does not take what it is sent stops the reading from the other side; the kernel's windows do the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from endpointd.relay.engine import Happening, happenings_of
from endpointd.relay.facts import Doing, Facts
from endpointd.relay.relaxed import Relaxed
from endpointd.relay.safepoint import SafePoint
from endpointd.wire.link import Link
from endpointd.wire.looseend import LooseEnd
from pgwire.errors import ProtocolError
from pgwire.messages import TERMINATE

HELD_BYTES_MAX = 1 << 16
"""A longer message is passed on as it comes."""


class AsyncioEngine:
    """Moves bytes on the event loop that everything else runs on."""

    name = "asyncio"

    def __init__(self) -> None:
        self._pairs: dict[int, Pair] = {}

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
        pair = Pair(client, server, SafePoint(watch), tell, keeps_server=keeps_server)
        self._pairs[token] = pair
        pair.start(server_rest, client_rest)

    def pause(self, token: int) -> None:
        """See the seam."""
        self._pairs[token].pause()

    def resume(self, token: int) -> None:
        """See the seam."""
        self._pairs[token].resume()

    def cancel_begins(self, token: int) -> None:
        """See the seam."""
        if token in self._pairs:
            self._pairs[token].point.cancel_begins()

    def cancel_ended(self, token: int) -> None:
        """See the seam."""
        if token in self._pairs:
            self._pairs[token].point.cancel_ended()

    def close_server(self, token: int) -> None:
        """See the seam."""
        self._pairs[token].close_server()

    def halt(self, token: int) -> Facts:
        """See the seam."""
        self._pairs[token].halt()
        return self._pairs[token].facts()

    def drop(self, token: int, farewell: bytes = b"") -> None:
        """See the seam."""
        pair = self._pairs.pop(token, None)
        if pair is not None:
            pair.drop(farewell)

    def facts(self, token: int) -> Facts:
        """See the seam."""
        return self._pairs[token].facts()

    def take_server(self, token: int) -> LooseEnd | None:
        """See the seam."""
        return self._pairs[token].take_server()


class Pair:
    """Two links, joined."""

    __slots__ = (
        "_client",
        "_client_is_mid_message",
        "_goodbye_is_known",
        "_is_pausing",
        "_is_stopped",
        "_keeps_server",
        "_server",
        "_server_is_taken",
        "_tail",
        "_tell",
        "_to_client_bytes",
        "_to_server_bytes",
        "is_paused",
        "point",
    )

    def __init__(
        self,
        client: Link,
        server: Link,
        point: SafePoint,
        tell: Callable[[Happening], None],
        *,
        keeps_server: bool = False,
    ) -> None:
        self._client = client
        self._server = server
        self.point = point
        self._tell = tell
        self._to_server_bytes = 0
        self._to_client_bytes = 0
        self._tail = b""
        self._client_is_mid_message = False
        self._is_pausing = False
        self.is_paused = False
        self._is_stopped = False
        self._keeps_server = keeps_server
        self._goodbye_is_known = False
        """The server was told that the client says no more."""
        self._server_is_taken = False

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
        self._is_pausing = self.is_paused = False
        if not self._is_stopped and self._server.is_writable:
            self._client.resume_reading()

    def halt(self) -> None:
        self._is_stopped = True
        self._client.pause_reading()
        self._server.pause_reading()

    def drop(self, farewell: bytes) -> None:
        self.halt()
        if farewell and not self._client_is_mid_message:
            self._client.write(farewell)
        self._client.finish()
        if not self._server_is_taken:
            self._server.close()

    def take_server(self) -> LooseEnd | None:
        point, server = self.point, self._server
        is_clean = point.doing is Doing.IDLE and not self._tail and not server.unsent and not server.has_ended
        if not self._keeps_server or not self._is_stopped or self._goodbye_is_known or not is_clean:
            return None
        end = LooseEnd.of(server)
        self._server_is_taken = end is not None
        return end

    def close_server(self) -> None:
        self._server.close()

    def facts(self) -> Facts:
        point = self.point
        return Facts(
            engine=AsyncioEngine.name,
            to_server_bytes=self._to_server_bytes,
            to_client_bytes=self._to_client_bytes,
            held_bytes=len(self._tail) + self._client.unsent + self._server.unsent,
            doing=point.doing,
            is_awaited=point.is_awaited,
            is_streaming=point.is_streaming,
            may_have_committed=point.may_have_committed,
            client_terminated=point.client_terminated,
            client_has_ended=self._client.has_ended,
            server_said_goodbye=point.server_said_goodbye,
        )

    # The two directions

    def from_client(self, data: memoryview) -> None:
        leaves_server = self._keeps_server and data == TERMINATE and self.point.doing is Doing.IDLE
        try:
            relaxed = self.point.client_sent(data)
        except ProtocolError:
            self._stop(Happening.CLIENT_NOT_UNDERSTOOD)
            return
        if relaxed is not None:
            for happening in happenings_of(relaxed):
                self._tell(happening)
        if leaves_server:
            self._stop(Happening.CLIENT_ENDED)
            return
        self._goodbye_is_known = self.point.client_terminated
        self._to_server_bytes += len(data)
        self._server.write(bytes(data))
        if not self._server.is_writable:
            self._client.pause_reading()

    def from_server(self, data: memoryview) -> None:
        point = self.point
        try:
            unconfirmed = point.server_sent(data)
        except ProtocolError:
            self._stop(Happening.SERVER_ENDED)
            return
        if unconfirmed is not None:
            said = self._tail + bytes(data[: max(0, unconfirmed)])
            self._write_to_client(said[: len(self._tail) + unconfirmed])
            self._stop(Happening.COMMIT_IN_DOUBT if point.is_in_doubt else Happening.COMMIT_UNCONFIRMED)
            return
        boundary = point.boundary
        size = len(data)
        if boundary == size:
            self._write_to_client(self._tail + bytes(data) if self._tail else bytes(data))
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
            self._write_to_client(b"".join((self._tail, data[:boundary])))
            self._client_is_mid_message = False
            self._tail = bytes(data[boundary:])
        elif self._client_is_mid_message:
            self._write_to_client(bytes(data))
            return
        else:
            self._tail += bytes(data)
        if len(self._tail) + self.point.missing > HELD_BYTES_MAX:
            self._write_to_client(self._tail)
            self._tail = b""
            self._client_is_mid_message = True

    def _write_to_client(self, data: bytes) -> None:
        self._to_client_bytes += len(data)
        self._client.write(data)

    # What the links tell

    def client_ended(self) -> None:
        if self._is_stopped:
            return
        if self.point.doing is Doing.BUSY:
            self._goodbye_is_known = True
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
        if is_writable and not self.is_paused and not self._is_stopped:
            self._client.resume_reading()
        else:
            self._client.pause_reading()

    def _pause_if_safe(self) -> None:
        if self.is_paused:
            return
        if self.point.is_streaming:
            self._tell(Happening.STREAMING)
        elif self.point.doing is Doing.IDLE:
            self.is_paused = True
            self._client.pause_reading()
            self._tell(Happening.PAUSED)

    def _stop(self, happening: Happening) -> None:
        if self._is_stopped:
            return
        self.halt()
        self._tell(happening)


class _ClientSide:
    """What the client's link talks to."""

    __slots__ = ("broken", "ended", "received", "writable")

    def __init__(self, pair: Pair) -> None:
        self.received = pair.from_client
        self.ended = pair.client_ended
        self.broken = pair.client_broken
        self.writable = pair.client_writable


class _ServerSide:
    """What the server's link talks to."""

    __slots__ = ("broken", "ended", "received", "writable")

    def __init__(self, pair: Pair) -> None:
        self.received = pair.from_server
        self.ended = pair.server_ended
        self.broken = pair.server_ended
        self.writable = pair.server_writable
