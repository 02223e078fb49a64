"""A server that lets everybody in and answers every query with nothing: PostgreSQL itself has no room for ten thousand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from typing import cast

import uvloop

from pgwire.messages import (
    Authentication,
    AuthenticationKind,
    Backend,
    BackendKey,
    Frontend,
    backend_key_data,
    encode_authentication,
    message,
    parameter_status,
    ready_for_query,
)
from pgwire.startup import REFUSED, SSL_REQUEST

WELCOME = b"".join(
    (
        encode_authentication(Authentication(AuthenticationKind.OK)),
        parameter_status("server_version", "18.0"),
        parameter_status("in_hot_standby", "off"),
        parameter_status("client_encoding", "UTF8"),
        parameter_status("standard_conforming_strings", "on"),
    )
)
NOTHING = message(Backend.COMMAND_COMPLETE, b"SELECT 0\0")
READY = ready_for_query("I")


class Stub(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._is_in = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first packet."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none

    def data_received(self, data: bytes) -> None:
        """Answer; what comes is small enough to come whole."""
        if not self._is_in and data == SSL_REQUEST:
            self._transport.write(REFUSED)
        elif not self._is_in:
            self._is_in = True
            self._transport.write(WELCOME + backend_key_data(BackendKey(os.getpid(), os.urandom(4))) + READY)
        elif data[0] == Frontend.TERMINATE:
            self._transport.close()
        else:
            self._transport.write(NOTHING + READY)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    gc.disable()  # what it costs the server to hold so many is not what is measured
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(int(sys.argv[1])))
