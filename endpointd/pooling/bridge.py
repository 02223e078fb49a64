"""Gives a connection that speaks TLS a descriptor that does not: a pair of sockets, one of which the native engine gets.

Costs two more copies and the event loop; a connection in plaintext is given away itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from endpointd.wire.link import Link


def descriptor_of(link: Link) -> tuple[int, Callable[[], None]]:
    """Return a descriptor for what is said to and by *link*, and what is to be called when its owner has closed it.

    What *link* has read already is the caller's. Raises OSError.
    """
    if link.channel is None and link.can_be_let_go:
        descriptor = os.dup(link.descriptor)
        return descriptor, link.let_go()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    _Bridge(link, ours)
    return theirs.detach(), lambda: None


class _Bridge(asyncio.Protocol):
    """Between a link and our end of a pair of sockets. Both go when one does."""

    def __init__(self, link: Link, sock: socket.socket) -> None:
        self._link = link
        self._transport: asyncio.Transport | None = None
        self._before = bytearray()
        self._has_ended = False
        link.receiver = self
        loop = asyncio.get_running_loop()
        self._opening = loop.create_task(loop.create_connection(lambda: self, sock=sock))

    # The link's side

    def received(self, data: memoryview) -> None:
        """Pass on what the peer said."""
        if self._transport is None:
            self._before += data
            self._link.pause_reading()
        else:
            self._transport.write(bytes(data))

    def ended(self) -> None:
        """The peer says no more."""
        self._has_ended = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def broken(self) -> None:
        """Nobody listens there any more."""
        if self._transport is not None:
            self._transport.close()

    def writable(self, is_writable: bool) -> None:
        """The peer takes what it is sent, or does not."""
        if self._transport is None or self._transport.is_closing():
            return
        if is_writable:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # The pair's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass on what came before."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._before:
            transport.write(bytes(self._before))
            self._before.clear()
        if self._has_ended:
            transport.write_eof()
        self._link.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Pass on what the engine said."""
        self._link.write(data)

    def eof_received(self) -> bool:
        """The engine says no more."""
        self._link.finish()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The engine has closed it."""
        self._link.close()

    def pause_writing(self) -> None:
        """The engine takes no more for the moment."""
        self._link.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._link.resume_reading()
