"""Has PostgreSQL take up certificates that were renewed, without a restart."""

from __future__ import annotations

import asyncio

from daemonkit.logs import get_logger
from noded.postgres.instance import Instance

STABLE_LOOKS = 3
"""Certificate and key may be replaced one after the other: a change is taken up when nothing has changed for so many looks, a
second apart.  Then proxies trust a new authority too, whose certificate this may be."""


class Certificates:
    """Of one node."""

    def __init__(self, instance: Instance, turn: asyncio.Lock) -> None:
        self._instance = instance
        self._turn = turn
        tls = instance.server.tls
        self._taken_up = self._last = tls.marks() if tls is not None else ()
        self._useless: tuple[object, ...] | None = None
        self._looks = 0

    async def look(self) -> None:
        """Look once, every second. Raises OSError."""
        instance, tls = self._instance, self._instance.server.tls
        if tls is None or (now := tls.marks()) == self._taken_up:
            return
        self._looks = self._looks + 1 if now == self._last else 0
        self._last = now
        if self._looks < STABLE_LOOKS or now == self._useless or self._turn.locked() or not instance.running:
            return
        if (why_not := tls.why_not()) is not None:
            self._useless = now
            get_logger().error("changed certificates cannot be used, the former ones stay", reason=why_not)
            return
        async with self._turn:
            if not instance.running:
                return
            self._taken_up = now
            instance.write_settings()
            instance.postmaster.reload()
        get_logger().info("changed certificates taken up", certificate=str(tls.certificate))
