"""A connection that no link and no relay engine has at this moment: its bare socket, which is cheap to have and to give away.

An engine gives one back when its client has left.  What is asked through it is short, and so are the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from endpointd.wire.link import Link
from endpointd.wire.tls import Channel

ANSWER_BYTES = 1 << 14
"""What one read takes at most."""


class LooseEnd:
    """Its socket, which does not block, and how it speaks TLS, if it does."""

    __slots__ = ("_is_heard", "_told", "channel", "sock")

    def __init__(self, sock: socket.socket, channel: Channel | None = None) -> None:
        self.sock = sock
        self.channel = channel
        self._told: Callable[[bytes | None], None] | None = None
        self._is_heard = False

    @classmethod
    def of(cls, link: Link) -> LooseEnd | None:
        """Return what *link* was a link of; None if something of it cannot be given away."""
        if not link.can_be_let_go:
            return None
        try:
            sock = socket.socket(fileno=os.dup(link.descriptor))
        except OSError:  # there are no descriptors left
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
        self._told = told
        if not self._is_heard:
            self._is_heard = True
            asyncio.get_running_loop().add_reader(self.sock.fileno(), self._hear)

    def hush(self) -> None:
        """Leave what comes where it is."""
        self._told = None
        if self._is_heard:
            self._is_heard = False
            asyncio.get_running_loop().remove_reader(self.sock.fileno())

    def say(self, words: bytes) -> bool:
        """Say *words*. False: they cannot be said, or not all of them at once, and it is good for nothing any more."""
        data = words if self.channel is None else self.channel.send(words)
        try:
            return self.sock.send(data) == len(data)
        except OSError:
            return False

    def close(self, last_words: bytes) -> None:
        """Say *last_words*, if there is room for them, and close."""
        self.hush()
        if self.channel is not None:
            last_words = self.channel.send(last_words) + self.channel.say_goodbye()
        with contextlib.suppress(OSError):
            self.sock.send(last_words)
        self.sock.close()

    def _hear(self) -> None:
        try:
            data = self.sock.recv(ANSWER_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        channel, told = self.channel, self._told
        assert told is not None
        if not data:
            told(None)
        elif channel is None:
            told(data)
        else:
            plain, answer = channel.received(data)
            heard = bytes(plain)
            if answer:
                with contextlib.suppress(OSError):  # then the next read says so
                    self.sock.send(answer)
            if channel.failure is not None or channel.ended:
                told(None)
            elif heard:
                told(heard)
