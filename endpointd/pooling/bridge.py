"""Gives a connection to the native engine: itself, or where its TLS cannot move there, one of a pair of sockets.

What goes over the pair costs two more copies and the event loop.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import cast

from endpointd.relay.nativeseam import Secret, can_be_taken, secret_of
from endpointd.wire.link import Link

Take = Callable[[int, Secret], int]
"""Takes a descriptor, and OpenSSL's connection if there is one; returns a handle."""


def give_away(link: Link, take: Take, *, can_tls: bool) -> tuple[int, Callable[[], None]]:
    """Have *take* take the socket of *link*, or one end of a pair whose other end passes on what *link* says.

    Returns what *take* returns, the handle, and what is to be called when the engine has closed it.  Raises what *take* raises.
    What *link* has read already is the caller's.
    """
    if can_be_taken(link, can_tls=can_tls):
        descriptor = os.dup(link.descriptor)
        try:
            handle = take(descriptor, secret_of(link.channel))
        except OSError:  # perhaps this Python keeps its connections elsewhere
            os.close(descriptor)
            if link.channel is None:
                raise
        except BaseException:
            os.close(descriptor)
            raise
        else:
            return handle, link.let_go()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    try:
        handle = take(theirs.fileno(), None)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    theirs.detach()
    _Bridge(link, ours)
    return handle, lambda: None


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
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods alone
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
