"""A cancel request's way to the server that it is for."""

from __future__ import annotations

import asyncio

from endpointd.wire.dial import dial
from endpointd.wire.keeper import TlsKeeper
from endpointd.wire.link import Inbox, Link
from pgtopology.node import Address
from pgwire.messages import BackendKey
from pgwire.startup import encode_cancel

CANCELS_MAX = 64
"""On their way to servers at once: a storm of them must not take the servers' connections. The others wait their turn."""


async def carry_cancel(address: Address, key: BackendKey, tls: TlsKeeper, *, dial_timeout_s: float) -> None:
    """Give the server at *address* a request, and wait until it has closed: a client may rely on that order.

    One that cannot be reached is not given any.
    """
    link = await dial(address, asyncio.timeout(dial_timeout_s), tls)
    if not isinstance(link, Link):
        return
    closed = asyncio.Event()
    link.receiver = Inbox(link, closed.set)
    link.write(encode_cancel(key))
    try:
        await closed.wait()
    finally:
        link.close()
