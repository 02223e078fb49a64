"""A connection that no link and no relay engine has at this moment: its bare socket, which is cheap to have and to give away.

An engine gives one back when its client has left.  What is asked through it is short, and so are the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from endpointd.wire.link import HEAR_OUT_S, Link
from endpointd.wire.tls import Channel

ANSWER_BYTES = 1 << 14
"""What one read takes at most."""


class LooseEnd:
    """Its socket, which does not block, and how it speaks TLS, if it does."""

    __slots__ = ("_told", "channel", "sock")

    def __init__(self, sock: socket.socket, channel: Channel | None = None) -> None:
        self.sock = sock
        self.channel = channel
        self._told: Callable[[bytes | None], None] | None = None

    @classmethod
    def of(cls, link: Link) -> LooseEnd | None:
        """Return what *link* was a link of; None if something of it cannot be given away."""
        if not link.can_be_let_go:
            return None
        try:
            descriptor = os.dup(link.descriptor)
        except OSError:  # there are none left
            return None
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            return None
        channel = link.channel
        link.let_go()
        return cls(sock, channel)

    async def link(self) -> Link:
        """Return a link of it. Raises OSError; the socket is closed then."""
        self.hush()
        try:
            loop = asyncio.get_running_loop()
            _, link = await loop.create_connection(lambda: Link(channel=self.channel), sock=self.sock)
        except BaseException:
            self.sock.close()
            raise
        return link

    def hear(self, told: Callable[[bytes | None], None]) -> None:
        """Call *told* with what the peer says, and with None when it has ended or is not understood, until `hush`."""
        if self._told is None:
            asyncio.get_running_loop().add_reader(self.sock.fileno(), self._hear)
        self._told = told

    def hush(self) -> None:
        """Leave what comes where it is."""
        if self._told is not None:
            asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self._told = None

    def say(self, words: bytes) -> bool:
        """Say *words*. False: they cannot be said, or not all of them at once, and it is good for nothing any more."""
        data = words if self.channel is None else self.channel.send(words)
        return len(data) > 0 and self._send(data)

    def start_tls(self, channel: Channel, answer: bytes) -> bool:
        """Say *answer*, and speak TLS behind it, as a server. False: see `say`.

        Nothing can be said before what was agreed on is known, and nothing is told before.
        """
        self.channel = channel
        return self._send(answer + channel.begin())

    def close(self, last_words: bytes) -> None:
        """Say *last_words*, if there is room for them, and close."""
        self.hush()
        self._send(self._ending(last_words))
        self.sock.close()

    def _ending(self, last_words: bytes) -> bytes:
        """Return *last_words* for the network, and what says in TLS that they are the last."""
        return last_words if self.channel is None else self.channel.send(last_words) + self.channel.say_goodbye()

    def _send(self, data: bytes) -> bool:
        try:
            return self.sock.send(data) == len(data)
        except OSError:
            return False

    def finish(self, last_words: bytes, gone: Callable[[], None]) -> None:
        """Say *last_words* and that no more will come, hear the peer out for HEAR_OUT_S at most, close, and call *gone*."""
        self._send(self._ending(last_words))
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

        def close() -> None:
            deadline.cancel()
            self.hush()
            self.sock.close()
            gone()

        deadline = asyncio.get_running_loop().call_later(HEAR_OUT_S, close)
        self.channel = None
        self.hear(lambda data: close() if data is None else None)

    def _hear(self) -> None:
        """Take all there is: an event loop may not come again for what stands before a reset."""
        while (told := self._told) is not None:
            try:
                data = self.sock.recv(ANSWER_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            channel = self.channel
            if not data:
                told(None)
                return
            if channel is None:
                told(data)
                continue
            plain, answer = channel.received(data)
            heard = bytes(plain)
            is_answered = not answer or self._send(answer)
            if not is_answered or channel.failure is not None or channel.ended:
                told(None)
                return
            if heard:
                told(heard)
