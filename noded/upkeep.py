"""What must be looked after now and then: slots, somebody else's hand in our configuration, orphans, the log.

None of it is urgent and all of it may fail; the next round tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from daemonkit.logs import get_logger
from noded import processes
from noded.copies import FAILURES
from noded.instance import Instance
from noded.observe import Gatherer
from noded.postmaster import rotate_log
from noded.promise import standby_configuration, writer_configuration
from noded.reporter import Doing
from noded.sessions import SessionError
from noded.slots import UnlistedSlots, advance_slots, ensure_slots
from pgtopology.node import Role
from pgtopology.orders import StopMode

INTERVAL_S = 1.0
SLOTS_EVERY = 5


class Upkeep:
    """The chores of one node."""

    def __init__(self, instance: Instance, gatherer: Gatherer, doing: Doing, turn: asyncio.Lock) -> None:
        self._instance = instance
        self._gatherer = gatherer
        self._doing = doing
        self._turn = turn
        self._unlisted = UnlistedSlots()
        self._zombies: set[int] = set()
        self._wanted_now = asyncio.Event()
        self._log = get_logger()
        self.slots: frozenset[str] | None = None
        """The sync names of all members but this node, once an order has said them."""

    def learn_slots(self, names: tuple[str, ...]) -> None:
        """Remember whose slots should exist; new ones are made soon."""
        slots = frozenset(names) - {self._instance.state.value.sync_name or ""}
        if names and slots != self.slots:
            self.slots = slots
            self._wanted_now.set()

    async def run(self) -> None:
        """Do the chores for ever."""
        rounds = 0
        due = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._wanted_now.wait()
            due = due or self._wanted_now.is_set() or rounds % SLOTS_EVERY == 0
            self._wanted_now.clear()
            rounds += 1
            self._reap()
            await self._restore_configuration()
            await self._catch_up_with_the_writer()
            rotate_log(self._instance.layout.log)
            due = due and not await self._keep_slots()

    async def _keep_slots(self) -> bool:
        """Return whether it was done."""
        if self._doing.work is not None or not self._instance.note_readiness():
            return False
        observer = self._instance.sessions.observer
        try:
            if self.slots is not None:
                await ensure_slots(observer, self.slots)
                for name in await self._unlisted.drop(observer, self.slots, asyncio.get_running_loop().time()):
                    self._log.info("slot of no member dropped", slot=name)
            if self._gatherer.facts.role is Role.STANDBY:
                await advance_slots(observer)
        except SessionError as error:
            self._log.debug("slots could not be looked after", error=str(error))
            return False
        return True

    async def _restore_configuration(self) -> None:
        """Undo what ALTER SYSTEM or an editor did to the file that is ours (S11)."""
        instance = self._instance
        if self._turn.locked() or self._doing.work is not None or not instance.configuration_was_changed():
            return
        async with self._turn:
            if not instance.running:
                return
            primary = self._gatherer.facts.role is Role.PRIMARY
            self._log.warning("postgresql.auto.conf was changed by somebody else and is restored")
            instance.configure((writer_configuration if primary else standby_configuration)(instance.state.value))
            instance.postmaster.reload()

    async def _catch_up_with_the_writer(self) -> None:
        """Restart a standby that PostgreSQL holds up because the writer was given more than this one started with.

        It happens when a writer is lost between the restarts that a greater max_connections needs: the node goes on with
        what its control file demands by now.
        """
        instance = self._instance
        if not self._gatherer.facts.replay_paused or self._turn.locked() or self._doing.work is not None:
            return
        async with self._turn:
            try:
                if not await instance.has_less_than_demanded():
                    return  # somebody called pg_wal_replay_pause()
                self._log.warning("postgresql is restarted, because replay needs greater settings than it was started with")
                await instance.stop(StopMode.FAST)
                await instance.start()
            except (SessionError, *FAILURES) as error:
                self._doing.problem = str(error)

    def _reap(self) -> None:
        """Reap orphans of a dead postmaster; as subreaper we are their parent.

        A child that somebody here waits for is reaped by that one within moments, so only zombies of two rounds are ours.
        """
        zombies = {pid for pid in processes.children(os.getpid()) if processes.is_zombie(pid)}
        for pid in zombies & self._zombies:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._zombies = zombies
