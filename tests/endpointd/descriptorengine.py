"""A relay engine in a thread of its own that is given descriptors: all that a native one would have.

It is slow and plain.  It is here so that the contract of engines is passed by one that shares neither transports nor thread
with its owner: what happens reaches the owner later, and what the owner has said meanwhile overtakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

from endpointd.relay.asyncio_engine import Pair
from endpointd.relay.engine import Happening
from endpointd.relay.facts import Facts
from endpointd.relay.relaxed import Relaxed
from endpointd.relay.safepoint import SafePoint
from endpointd.wire.link import DISCARD, HEAR_OUT_S, READ_BYTES, WRITE_BYTES_HIGH, Link, Receiver

TURN_S = 0.05


class DescriptorEngine:
    """Moves bytes in a thread, which lives as long as there are ends to serve."""

    name = "descriptors"

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pairs: dict[int, Pair] = {}
        self._ends: list[_End] = []
        self._selector = selectors.DefaultSelector()
        self._waker, wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._selector.register(wakened, selectors.EVENT_READ)
        self._wakened = wakened
        self._thread: threading.Thread | None = None

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
        loop = asyncio.get_running_loop()

        def deliver(happening: Happening) -> None:
            if self._pairs.get(token) is pair and (happening is not Happening.PAUSED or pair.is_paused):
                tell(happening)

        def tell_later(happening: Happening) -> None:
            loop.call_soon_threadsafe(deliver, happening)

        with self._lock:
            ends = _End(client), _End(server)
            # An end has what a pair asks of a link.
            pair = Pair(cast("Link", ends[0]), cast("Link", ends[1]), SafePoint(watch), tell_later)
            self._pairs[token] = pair
            self._ends += ends
            pair.start(server_rest, client_rest)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
        self._wake()

    def pause(self, token: int) -> None:
        """See the seam."""
        with self._acting():
            self._pairs[token].pause()

    def resume(self, token: int) -> None:
        """See the seam."""
        with self._acting():
            self._pairs[token].resume()

    def cancel_begins(self, token: int) -> None:
        """See the seam."""
        with self._acting():
            if token in self._pairs:
                self._pairs[token].point.cancel_begins()

    def cancel_ended(self, token: int) -> None:
        """See the seam."""
        with self._acting():
            if token in self._pairs:
                self._pairs[token].point.cancel_ended()

    def close_server(self, token: int) -> None:
        """See the seam."""
        with self._acting():
            self._pairs[token].close_server()

    def halt(self, token: int) -> Facts:
        """See the seam."""
        with self._acting():
            self._pairs[token].halt()
            return self._pairs[token].facts()

    def drop(self, token: int, farewell: bytes = b"") -> None:
        """See the seam."""
        with self._acting():
            pair = self._pairs.pop(token, None)
            if pair is not None:
                pair.drop(farewell)

    def facts(self, token: int) -> Facts:
        """See the seam."""
        with self._lock:
            return self._pairs[token].facts()

    @contextlib.contextmanager
    def _acting(self) -> Iterator[None]:
        with self._lock:
            yield
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"w")

    def _run(self) -> None:
        while True:
            with self._lock:
                for end in self._ends:
                    end.register(self._selector)
                self._ends = [end for end in self._ends if not end.is_closed]
                if not self._ends:
                    self._thread = None
                    return
            events = self._selector.select(TURN_S)
            with self._lock:
                for key, mask in events:
                    if key.data is None:
                        self._wakened.recv(4096)
                    else:
                        cast("_End", key.data).serve(mask)


class _End:
    """One end: a socket, and what is not sent yet."""

    def __init__(self, link: Link) -> None:
        link.pause_reading()
        assert link.unsent == 0
        self._sock = socket.socket(fileno=os.dup(link.descriptor))
        link.abort()
        self._out = bytearray()
        self._is_reading = True
        self._says_no_more = False
        self._is_closing = False
        self._close_at: float | None = None
        self._mask = 0
        self.is_closed = False
        self.receiver: Receiver = DISCARD
        self.is_writable = True
        self.has_ended = False

    @property
    def unsent(self) -> int:
        return len(self._out)

    def write(self, data: bytes) -> None:
        if not self.is_closed and not self._says_no_more and not self._is_closing:
            self._out += data
            self._send()

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True

    def end_sending(self) -> None:
        self._says_no_more = True
        self._send()

    def finish(self) -> None:
        self.receiver = DISCARD
        if self.has_ended:
            self.close()
            return
        self._is_reading = True
        self._close_at = time.monotonic() + HEAR_OUT_S
        self.end_sending()

    def close(self) -> None:
        self.receiver = DISCARD
        self._is_closing = True
        self._send()

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have the selector look for what is wanted now."""
        if self._close_at is not None and time.monotonic() >= self._close_at:
            self.close()
        reading = self._is_reading and not self.has_ended and not self._is_closing
        mask = 0 if self.is_closed else selectors.EVENT_READ * reading | selectors.EVENT_WRITE * bool(self._out)
        if mask != self._mask:
            if self._mask:
                selector.unregister(self._sock)
            if mask:
                selector.register(self._sock, mask, self)
            self._mask = mask
        if self.is_closed:
            self._sock.close()

    def serve(self, mask: int) -> None:
        """Do what the selector says is possible."""
        if mask & selectors.EVENT_WRITE:
            self._send()
        if mask & selectors.EVENT_READ and self._is_reading and not self.is_closed:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._break()
            return
        if data:
            self.receiver.received(memoryview(data))
            return
        self.has_ended = True
        self.receiver.ended()
        if self._close_at is not None:
            self.close()

    def _send(self) -> None:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
            if self._says_no_more and not self.is_closed:
                self._sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._break()
        if self._is_closing and not self._out:
            self.is_closed = True
        is_writable = len(self._out) <= WRITE_BYTES_HIGH // 2 if not self.is_writable else len(self._out) <= WRITE_BYTES_HIGH
        if is_writable is not self.is_writable:
            self.is_writable = is_writable
            self.receiver.writable(is_writable)

    def _break(self) -> None:
        self._out.clear()
        self.is_closed = True
        receiver = self.receiver
        if not self.has_ended:
            self.has_ended = True
            receiver.ended()
        receiver.broken()
