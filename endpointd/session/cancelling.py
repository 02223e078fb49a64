"""Carries cancel requests to the servers of the sessions whose keys they have."""

from __future__ import annotations

import asyncio
import contextlib

from endpointd import metrics
from endpointd.servers.cancelrequest import carry_cancel
from endpointd.session.cancelkeys import Cancellable
from endpointd.session.longkeys import is_long
from endpointd.session.shared import Shared
from pgtopology.cancels import CARRY_S
from pgwire.errors import WireError
from pgwire.messages import BackendKey
from pgwire.startup import CancelRequest, decode_first_packet


async def cancel(shared: Shared, key: BackendKey, packet: bytes) -> None:
    """Carry out a client's request *packet*, whose key is *key*: here, or by whoever has the session."""
    is_known = await cancel_here(shared, key)
    if not is_known:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CARRY_S):
                is_known = await shared.cancel_elsewhere(key, packet)
    metrics.CANCELS.labels("yes" if is_known else "no").inc()


async def cancel_for_others(shared: Shared, packet: bytes) -> bool:
    """Carry out a request that came to another process or proxy; return whether one of our sessions has its key."""
    try:
        first = decode_first_packet(packet)
    except WireError:
        return False
    return isinstance(first, CancelRequest) and await cancel_here(shared, first.key)


async def cancel_here(shared: Shared, key: BackendKey) -> bool:
    """Carry out a request for one of our own sessions; return whether one has *key*."""
    if is_long(key) and shared.mint.origin_of(key) != shared.mint.origin:
        return False  # found out in a time that tells nothing of the keys there are
    if shared.pools is not None and await shared.pools.cancel(key):
        return True
    keys, engine = shared.keys, shared.engine
    found, sessions = keys.find(key), keys.sessions(key)
    if not found:
        return False
    for session in sessions:
        keys.cancels(session)
        engine.cancel_begins(session)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CARRY_S), shared.cancels:
                for each in found:
                    await _carry(shared, each)
    finally:
        for session in sessions:
            engine.cancel_ended(session)
    return True


async def cancel_at_server(shared: Shared, at: Cancellable) -> None:
    """Cancel what a server is still busy with for a session that is over: else it would go on until it has an answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CARRY_S), shared.cancels:
            await _carry(shared, at)


async def _carry(shared: Shared, at: Cancellable) -> None:
    await carry_cancel(at.address, at.key, shared.tls, dial_timeout_s=shared.board.limits.dial_timeout_s)
