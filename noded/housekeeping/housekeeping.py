"""What must be looked after now and then: slots, somebody else's hand in our configuration, orphans, the log.

None of it is urgent and all of it may fail; the next round tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

from daemonkit.logrotation import rotate
from daemonkit.logs import get_logger
from daemonkit.proctable import children, stat_of
from noded.acts.effects import Failed
from noded.acts.memory import Memory
from noded.housekeeping.certificates import Certificates
from noded.housekeeping.former_readers import FormerReaders
from noded.housekeeping.horizon import HorizonWatch
from noded.housekeeping.impostors import Impostors
from noded.housekeeping.slot_chores import standby_slots
from noded.housekeeping.slot_keeper import FAILURES as SLOT_FAILURES
from noded.housekeeping.slot_keeper import SlotKeeper
from noded.law import promise
from noded.law.promise import standby_configuration, writer_configuration
from noded.postgres.conf import SYNCHRONISES
from noded.postgres.failures import FAILURES
from noded.postgres.instance import Instance
from noded.postgres.postmaster import PostmasterError
from noded.postgres.sessions import SessionError
from noded.report.gatherer import Gatherer
from pgtopology.node import Role
from pgtopology.orders import StopMode

INTERVAL_S = 1.0
SLOTS_EVERY = 5


class Housekeeping:
    """The chores of one node."""

    def __init__(
        self,
        instance: Instance,
        gatherer: Gatherer,
        memory: Memory,
        turn: asyncio.Lock,
        on_change: Callable[[], None],
        start: Callable[[], Awaitable[None]],
    ) -> None:
        self._instance = instance
        self._gatherer = gatherer
        self._memory = memory
        self._turn = turn
        self._on_change = on_change
        self._start = start
        self.slots = SlotKeeper(instance)
        self.horizon = HorizonWatch()
        self.impostors = Impostors(self.slots.session)
        self._former_readers = FormerReaders(instance.sessions.control)
        self._certificates = Certificates(instance, turn)
        self._zombies: set[int] = set()
        self._wanted_now = asyncio.Event()
        self._log = get_logger()
        self.outside: tuple[str, ...] = ()
        """Tablespaces outside the data directory, which a noded without confinement let come about."""

    def learn_slots(self, names: tuple[str, ...]) -> None:
        """Remember whose slots should exist; new ones are made soon."""
        if self.slots.learn(names):
            self._wanted_now.set()
            self._on_change()

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
            try:
                due = await self._round(due)
            except OSError as error:
                # No descriptors, no memory, a disk that fails: the machine's weather is no reason to end with PostgreSQL.
                self._log.warning("housekeeping was cut short", reason=str(error))

    async def _round(self, due: bool) -> bool:
        """Do the chores once, slots if they are *due*; return whether these still are."""
        self._reap()
        self._instance.note_settled()
        if self._instance.state.try_again():
            self._log.info("the durable state can be written again")
            self._on_change()
        await self._notice_lost_data()
        await self._restore_configuration()
        await self._catch_up_with_the_writer()
        await self._certificates.look()
        self._look_outside()
        with contextlib.suppress(SessionError):  # the next round tries again
            await self._former_readers.look(self._gatherer.facts.role)
        return not await self._keep_slots(due=due) and due

    async def keep_names(self) -> None:
        """End who stands in for a member, for ever: at once when there is somebody new, and now and then."""
        loop = asyncio.get_running_loop()
        known: frozenset[tuple[str, str | None]] = frozenset()
        looked_at = float("-inf")
        while True:
            await self._gatherer.next_round()
            facts = self._gatherer.facts
            if facts.role is not Role.PRIMARY:
                self.impostors.forget()
                continue
            counted = frozenset((sender.name, sender.slot) for sender in facts.walsenders if sender.sync_priority > 0)
            if counted <= known and loop.time() - looked_at < INTERVAL_S:
                continue
            told = self.impostors.texts
            try:
                await self.impostors.end(self.slots.role_oid, self.slots.members or ())
            except SessionError as error:
                self._log.debug("who counts for commits could not be looked at", error=str(error))
                continue
            known, looked_at = counted, loop.time()
            if self.impostors.texts != told:
                self._on_change()

    async def keep_log(self) -> None:
        """Keep PostgreSQL's log bounded, for ever. Whoever may log in may write to it, a gigabyte a statement."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await asyncio.to_thread(rotate, self._instance.layout.log)

    async def _keep_slots(self, *, due: bool) -> bool:
        """Look after the slots, *due* also after what the writer has; return whether it was done."""
        role = self._gatherer.facts.role
        if self._memory.work is not None or self._turn.locked() or role is Role.NONE or not self._instance.note_readiness():
            return False
        try:
            if due:
                await self.horizon.look(self.slots.session, asyncio.get_running_loop().time())
            await self.slots.look(standby=role is Role.STANDBY, ask_writer=due)
            if role is Role.PRIMARY:
                await self._choose_standby_slots()
        except (*SLOT_FAILURES, OSError) as error:
            self._log.debug("slots could not be looked after", error=str(error))
            return False
        return True

    async def _choose_standby_slots(self) -> None:
        """Let decoding wait for as many standbys as a commit does, and for none that is away."""
        instance, state = self._instance, self._instance.state.value
        if instance.binaries.major < SYNCHRONISES or not promise.may_remain_primary(state):
            return
        chosen = standby_slots(instance.standby_slots or (), state.in_force, state.node, self.slots.here)
        if chosen == instance.standby_slots:
            return
        async with self._turn:
            if instance.running and self._gatherer.facts.role is Role.PRIMARY and instance.state.value is state:
                instance.standby_slots = chosen
                instance.configure(writer_configuration(state))
                instance.postmaster.reload()

    async def _restore_configuration(self) -> None:
        """Undo what ALTER SYSTEM or an editor did to the file that is ours (S11)."""
        instance = self._instance
        if self._turn.locked() or self._memory.work is not None or not instance.configuration_was_changed():
            return
        async with self._turn:
            if not instance.running:
                return
            primary = self._gatherer.facts.role is Role.PRIMARY
            try:
                instance.configure((writer_configuration if primary else standby_configuration)(instance.state.value))
            except OSError as error:
                self._log.error("postgresql.auto.conf was changed by somebody else and cannot be restored", error=str(error))
                return
            self._log.warning("postgresql.auto.conf was changed by somebody else and is restored")
            instance.postmaster.reload()

    async def _catch_up_with_the_writer(self) -> None:
        """Restart a standby that PostgreSQL holds up because the writer was given more than this one started with.

        It happens when a writer is lost between the restarts that a greater max_connections needs: the node goes on with
        what its control file demands by now.
        """
        instance = self._instance
        if not self._gatherer.facts.replay_paused or self._turn.locked() or self._memory.work is not None:
            return
        async with self._turn:
            try:
                if not await instance.has_less_than_demanded():
                    return  # somebody called pg_wal_replay_pause()
                self._log.warning("postgresql is restarted, because replay needs greater settings than it was started with")
                await instance.stop(StopMode.FAST)
                await self._start()
            except (SessionError, Failed, *FAILURES) as error:
                self._memory.problem = str(error)

    async def _notice_lost_data(self) -> None:
        """A data directory that somebody removed holds nothing that counts: say so, whatever still runs in it."""
        instance, state = self._instance, self._instance.state
        if self._turn.locked() or self._memory.work is not None or self._memory.blocked is not None:
            return
        if instance.has_data() or state.value.system_identifier is None or state.value.work is not None:
            return
        async with self._turn:
            try:
                await instance.stop(StopMode.IMMEDIATE)
                state.store(promise.no_data(state.value))
            except (PostmasterError, OSError) as error:
                self._log.error("the data directory is gone", error=str(error))
                return
            self._memory.problem = f"the data directory {instance.layout.pgdata} is gone"
            instance.crashes.forget()
            self._log.error("the data directory is gone", directory=str(instance.layout.pgdata))
        self._on_change()

    def _look_outside(self) -> None:
        """Find tablespaces that copies do not carry and other servers of this machine may write to."""
        folder = self._instance.layout.pgdata / "pg_tblspc"
        found: list[str] = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found = [f"tablespace {entry.name} at {os.readlink(entry.path)}" for entry in entries if entry.is_symlink()]  # noqa: PTH115
        if (outside := tuple(sorted(found))) != self.outside:
            self.outside = outside
            self._on_change()

    def _reap(self) -> None:
        """Reap orphans of a dead postmaster; as subreaper we are their parent.

        A child that somebody here waits for is reaped by that one within moments, so only zombies of two rounds are ours.
        """
        zombies = {pid for pid in children(os.getpid()) if (stat := stat_of(pid)) is not None and stat.has_ended}
        for pid in zombies & self._zombies:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._zombies = zombies
