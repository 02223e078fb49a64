"""Carries cancel requests to the servers of the sessions whose keys they have."""

from __future__ import annotations

import asyncio
import contextlib

from endpointd import metrics
from endpointd.session.shared import Shared
from endpointd.wire.dial import dial
from endpointd.wire.link import Inbox, Link
from pgtopology.node import Address
from pgwire.errors import WireError
from pgwire.messages import BackendKey
from pgwire.startup import CancelRequest, decode_first_packet, encode_cancel

CANCEL_TIMEOUT_S = 5.0
"""PostgreSQL answers a cancel request by closing; nobody waits for it longer than this, nor for its turn."""


async def cancel(shared: Shared, key: BackendKey, packet: bytes) -> None:
    """Carry out a client's request *packet*, whose key is *key*: here, or by whoever of our name has the session."""
    is_known = await cancel_here(shared, key, packet)
    if not is_known:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT_S), shared.cancels:
                is_known = await shared.cancel_elsewhere(packet)
    metrics.CANCELS.labels("yes" if is_known else "no").inc()


async def cancel_for_colleague(shared: Shared, packet: bytes) -> bool:
    """Carry out a request that came to another process of our name; return whether one of our sessions has its key."""
    try:
        first = decode_first_packet(packet)
    except WireError:
        return False
    return isinstance(first, CancelRequest) and await cancel_here(shared, first.key, packet)


async def cancel_here(shared: Shared, key: BackendKey, packet: bytes) -> bool:
    """Carry out a request for one of our own sessions; return whether one has *key*."""
    keys, engine = shared.keys, shared.engine
    addresses, sessions = keys.find(key), keys.sessions(key)
    if not addresses:
        return False
    for session in sessions:
        engine.cancel_begins(session)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT_S), shared.cancels:
                for address in addresses:
                    await _carry(shared, packet, address)
    finally:
        for session in sessions:
            engine.cancel_ended(session)
    return True


async def cancel_at_server(shared: Shared, key: BackendKey, address: Address) -> None:
    """Cancel what a server is still busy with for a session that is over: else it would go on until it has an answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_TIMEOUT_S), shared.cancels:
            await _carry(shared, encode_cancel(key), address)


async def _carry(shared: Shared, packet: bytes, address: Address) -> None:
    """Give a cancel request to a server, and wait until it has closed: the client may rely on that order."""
    link = await dial(address, asyncio.timeout(shared.board.limits.dial_timeout_s), shared.tls)
    if not isinstance(link, Link):
        return
    closed = asyncio.Event()
    link.receiver = Inbox(link, closed.set)
    link.write(packet)
    try:
        await closed.wait()
    finally:
        link.close()
