"""Keeps whom proxies may vouch for in step with the roles and databases there are.

A role that becomes a superuser, or could, is taken out within a second, and a new one comes in: names stand in pg_hba.conf and
pg_ident.conf, which this server reads again.  Before the first look after a start nobody is in.
"""

from __future__ import annotations

import asyncio

from daemonkit.logs import get_logger
from noded.postgres.instance import Instance
from noded.postgres.sessions import BOUNDED, SessionError
from noded.postgres.vouching import DATABASES, ORDINARY_ROLES, present

LOOK_EVERY_S = 1.0
ASK_TIMEOUT_S = 2.0


class VouchingWatch:
    """Of one node."""

    def __init__(self, instance: Instance, turn: asyncio.Lock) -> None:
        self._instance = instance
        self._turn = turn
        self._session = instance.sessions.fresh("endpointd vouching", settings=BOUNDED)

    async def run(self) -> None:
        """Look for ever; where proxies vouch for nobody, there is nothing to look at."""
        while self._instance.server.vouching is not None:
            if self._instance.note_readiness():
                try:
                    await self._look()
                except (SessionError, OSError) as error:
                    get_logger().debug("whom proxies may vouch for could not be looked up", error=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        """Raises SessionError, OSError."""
        instance = self._instance
        roles = await self._session.rows(ORDINARY_ROLES, timeout_s=ASK_TIMEOUT_S)
        databases = await self._session.rows(DATABASES, timeout_s=ASK_TIMEOUT_S)
        there = present((row["name"] for row in roles), (row["name"] for row in databases))
        if there == instance.present:
            return
        async with self._turn:
            if instance.running:
                before, instance.present = instance.present, there
                try:
                    instance.write_settings()
                except OSError:
                    instance.present = before
                    raise
                instance.postmaster.reload()
