"""Whom to ask about a cancel request whose session is none of ours.

A key that we made says it: a process of our own name, which is asked at its socket, or another proxy, which a manager reaches.
One that was forged is asked about nowhere.  A key of protocol 3.0 says nothing, and anybody can make one up: those of our name
are asked, then all other proxies, but only so often that a storm of strangers' requests stays here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from endpointd.session.longkeys import KeyMint, is_long
from pgwire.messages import KEY_BYTES_MIN, BackendKey

COLLEAGUES_AT_ONCE_MAX = 64
"""Requests that processes of our name are asked about."""
PROXIES_AT_ONCE_MAX = 16
"""Requests on their way to other proxies."""
STRANGERS_PER_S = 20.0
"""Requests that may be anybody's and are asked about at other proxies; this many at once, too."""
KNOWN_PER_S = 200.0
"""Requests with keys that the cluster's proxies have made: a client that has one may send it again and again."""


class Forwarder(Protocol):
    """The way to the other proxies over one manager."""

    async def forward_cancel(self, packet: bytes, owner: bytes | None) -> bool | None:
        """Return whether the proxy with the id *owner*, or any, had the session of *packet*; None if there is no way now."""
        ...


class Allowance:
    """So many in a second, and as many at once. Pure."""

    def __init__(self, per_s: float) -> None:
        self._per_s = self._left = per_s
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        """Take one, if there is one left *now*."""
        self._left = min(self._per_s, self._left + min(now - self._at, 1.0) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Elsewhere:
    """Everybody else who may have a session."""

    def __init__(self, mint: KeyMint, colleagues: Callable[[bytes], Awaitable[bool]], forwarders: Sequence[Forwarder]) -> None:
        """*colleagues* asks those of our name."""
        self._mint = mint
        self._colleagues = colleagues
        self._forwarders = forwarders
        self._asking = asyncio.Semaphore(COLLEAGUES_AT_ONCE_MAX)
        self._forwarding = asyncio.Semaphore(PROXIES_AT_ONCE_MAX)
        self._strangers, self._known = Allowance(STRANGERS_PER_S), Allowance(KNOWN_PER_S)

    async def cancel(self, key: BackendKey, packet: bytes) -> bool:
        """Have *packet*, a request with *key*, carried out; return whether anybody had its session."""
        if is_long(key):
            origin = self._mint.origin_of(key)
            if origin is None:
                return False
            if origin.proxy == self._mint.origin.proxy:
                return await self._ask_colleagues(packet)
            return await self._forward(packet, origin.proxy, self._known)
        if await self._ask_colleagues(packet):
            return True
        # Any other long key is a server's own, told by a colleague of an earlier version.
        return len(key.secret) == KEY_BYTES_MIN and await self._forward(packet, None, self._strangers)

    async def _ask_colleagues(self, packet: bytes) -> bool:
        async with self._asking:
            return await self._colleagues(packet)

    async def _forward(self, packet: bytes, owner: bytes | None, allowance: Allowance) -> bool:
        if not allowance.take(asyncio.get_running_loop().time()):
            return False
        async with self._forwarding:
            for each in self._forwarders:
                found = await each.forward_cancel(packet, owner)
                if found is not None:
                    return found
        return False
