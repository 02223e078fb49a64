"""Looks, on the writer, for what SQL can change that the cluster depends on: commits that are relaxed, our roles and database.

Each look is a task of its own with a session of its own, so that one that is held up, by a lock or by a database that lets
nobody in, delays no other: what was relaxed is undone within a second whatever else there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from daemonkit.logs import get_logger
from noded.housekeeping.relaxations import FUNCTIONS_EVERY_S, Relaxations
from noded.housekeeping.roles import Roles
from noded.law import promise
from noded.postgres.instance import Instance
from noded.postgres.sessions import BOUNDED, SessionError
from noded.report.gatherer import Gatherer
from pgtopology.node import Role

ROUND_S = 1.0


class Audit:
    """The looks at one node."""

    def __init__(
        self, instance: Instance, gatherer: Gatherer, passwords: Mapping[str, str], on_change: Callable[[], None]
    ) -> None:
        self._instance = instance
        self._gatherer = gatherer
        self._on_change = on_change
        self._log = get_logger()
        self.relaxations = Relaxations(instance)
        self.roles = Roles(instance, passwords)

    async def run(self) -> None:
        """Look for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._over_and_over(self._look_for_relaxations, ROUND_S))
            tasks.create_task(self._over_and_over(self.roles.look, ROUND_S))
            tasks.create_task(self._over_and_over(self._look_for_functions, FUNCTIONS_EVERY_S))

    async def _over_and_over(self, look: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            if not self._is_writer():
                self.relaxations.forget()
                self.roles.forget()
                await self._gatherer.next_round()
                continue
            before = self.relaxations.texts, self.roles.texts
            pause_s = every_s
            try:
                await look()
            except SessionError as error:
                self._log.debug("what SQL may have changed could not be looked for", error=str(error))
                pause_s = ROUND_S
            if (self.relaxations.texts, self.roles.texts) != before:
                self._on_change()
            await asyncio.sleep(pause_s)

    def _is_writer(self) -> bool:
        """Return whether PostgreSQL was promoted here, opened or not: an opening may need what is put right."""
        promoted = self._gatherer.facts.role is Role.PRIMARY and promise.may_remain_primary(self._instance.state.value)
        return promoted and self._instance.note_readiness()

    async def _look_for_relaxations(self) -> None:
        await self.relaxations.look()

    async def _look_for_functions(self) -> None:
        session = self._instance.sessions.fresh("endpointd auditor", settings=BOUNDED)
        try:
            await self.relaxations.look_for_functions(session)
        finally:
            session.drop()
