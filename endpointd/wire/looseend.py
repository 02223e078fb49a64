"""A connection that nobody's event loop reads at this moment: a relay engine has had it, and has given it back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass

from endpointd.wire.link import Link
from endpointd.wire.tls import Channel


@dataclass(frozen=True, slots=True)
class LooseEnd:
    """Its socket, which does not block, and how it speaks TLS, if it does."""

    sock: socket.socket
    channel: Channel | None = None

    async def link(self) -> Link:
        """Return a link of it. Raises OSError; the socket is closed then."""
        try:
            loop = asyncio.get_running_loop()
            _, link = await loop.create_connection(lambda: Link(channel=self.channel), sock=self.sock)
        except OSError:
            self.sock.close()
            raise
        return link

    def close(self, last_words: bytes) -> None:
        """Say *last_words*, if there is room for them, and close."""
        if self.channel is not None:
            last_words = self.channel.send(last_words) + self.channel.say_goodbye()
        with contextlib.suppress(OSError):
            self.sock.send(last_words)
        self.sock.close()
