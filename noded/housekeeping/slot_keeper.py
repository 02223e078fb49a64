"""Looks after the replication slots of one node, round after round, as `slot_chores` says.

On a standby it asks the writer for its slots now and then.  Everything here has a session of its own, so that a lock
somebody holds delays no observation, and every step may fail and is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Collection, Iterable
from pathlib import Path

from msgspec.structs import replace

from daemonkit.logs import get_logger
from noded.files.segments import Geometry, timeline_of
from noded.housekeeping.slot_chores import Chores, Situation, chores, lacking, left_over, lives_of_members, users_slots
from noded.law.promise import Following
from noded.postgres.conf import REPLICATION_ROLE
from noded.postgres.instance import Instance
from noded.postgres.sessions import SessionError
from noded.postgres.slots import (
    Slot,
    advance_slot,
    drop_slot,
    free_slots,
    make_slot,
    read_slots,
    read_slots_of,
    release_rows,
    take_back,
)
from noded.postgres.source import source_database, source_walsender
from noded.postgres.walsender import Walsender, WalsenderError
from pgtopology.lsn import Lsn
from pgtopology.observation import UserSlot

ASK_TIMEOUT_S = 2.0
CARRIED_MAX = 100
"""So many slots of users' are carried over."""
LACKING_S = 2.0
"""A slot that a member has lacked for so long is not made by the next round: new members' are, and so are those that somebody
dropped."""

_ROLE = "SELECT oid::int8 AS oid FROM pg_catalog.pg_authid WHERE rolname = $1"
_IN_USE = """
SELECT s.slot_name::text AS name
  FROM pg_catalog.pg_get_replication_slots() s JOIN pg_catalog.pg_stat_get_activity(NULL) a ON a.pid = s.active_pid
 WHERE s.slot_type = 'physical' AND NOT s.temporary AND a.usesysid = $1::int8::oid
"""

_REPLAYED = """
SELECT (pg_last_wal_replay_lsn() - '0/0')::int8 AS lsn, pg_size_bytes(current_setting('wal_segment_size')) AS segment,
       current_setting('max_replication_slots')::int4 AS most
"""
_NEXT_XID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS xid"
_END_WORKER = "SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL) WHERE backend_type = 'slotsync worker'"
WORKER_PACE_S = 30.0
"""Between two ends of the worker: it may be held up by something that another beginning does not mend."""
SEGMENT_NAME_LENGTH = 24

FAILURES = (SessionError, WalsenderError, ValueError)


class SlotKeeper:
    """The slots of one node."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.session = instance.sessions.fresh("endpointd slots")
        self._there: tuple[Following, dict[str, Slot]] | None = None
        self._idle_since: dict[str, float] = {}
        self._left_since: dict[str, float] = {}
        self._lacking_since: dict[str, float] = {}
        self.role_oid: int | None = None
        """The number of the nodeds' role, once it was asked for."""
        self._log = get_logger()
        self._standby = False
        self._ended_worker_at = float("-inf")
        self.here: dict[str, Slot] = {}
        """The slots of this node, as they were in the last round."""
        self.told: tuple[str, ...] = ()
        """The sync names of all members, once an order has said them."""
        self.lacking: tuple[str, ...] = ()
        """The members that could not stream from here, round after round, by name."""

    @property
    def members(self) -> frozenset[str] | None:
        """The sync names of all members but this node; None before an order has said them."""
        return frozenset(self.told) - {self._instance.state.value.sync_name or ""} if self.told else None

    @property
    def users(self) -> tuple[UserSlot, ...]:
        """The slots here that are not the cluster's own, as far as anybody has said which those are."""
        found = users_slots(self.here, self._ours) if self.told else {}
        return tuple(_told(found[name], standby=self._standby) for name in sorted(found)[:CARRIED_MAX])

    @property
    def _ours(self) -> frozenset[str]:
        """The names that are the cluster's own, of slots here or on the writer."""
        seen = [*self.here.values(), *(self._there[1].values() if self._there is not None else ())]
        return frozenset(self._instance.state.value.our_slots) | lives_of_members(seen, self.told)

    def learn(self, names: tuple[str, ...]) -> bool:
        """Take over the sync names of all members; return whether they are news."""
        news = bool(names) and names != self.told
        if news:
            self.told = names
        return news

    async def look(self, *, standby: bool, ask_writer: bool) -> None:
        """Do one round. Raises one of FAILURES, or OSError, if nothing could be found out or remembered."""
        instance, self._standby = self._instance, standby
        if ask_writer or self._stale():
            await self._remember_ours()
            self._there = await self._ask_writer() if standby else None
        self.here = here = {slot.name: slot for slot in await read_slots(self.session)}
        replayed, oldest_wal, limit = await self._wal() if standby else (None, None, None)
        state = instance.state.value
        situation = Situation(
            standby=standby,
            major=instance.binaries.major,
            here=here,
            there=self._there[1] if standby and self._there is not None else None,
            members=self.members,
            ours=self._ours,
            carried=frozenset(state.carried_slots),
            replayed=replayed,
            oldest_wal=oldest_wal,
            limit=limit,
        )
        now = asyncio.get_running_loop().time()
        self._idle_since = _since(self._idle_since, (name for name, slot in here.items() if not slot.active), now)
        self._left_since = _since(self._left_since, left_over(situation), now)
        idle_s = {name: now - since for name, since in self._idle_since.items()}
        left_s = {name: now - since for name, since in self._left_since.items()}
        todo = chores(dataclasses.replace(situation, idle_s=idle_s, left_s=left_s))
        if (carried := tuple(sorted(todo.carried))[:CARRIED_MAX]) != state.carried_slots:
            instance.state.store(replace(instance.state.value, carried_slots=carried))
        held = await self._free(todo.free)
        self._note_lacking(lacking(situation) | (held & (self.members or frozenset())), now)
        await self._do(todo)

    async def _free(self, names: Collection[str]) -> frozenset[str]:
        """End whoever holds *names* and is no member; return the slots that were held."""
        if not names:
            return frozenset()
        role = None
        if self._standby:
            with contextlib.suppress(SessionError):
                # It may have been made again since it was asked for, and no member is to be ended for that.
                await self._remember_ours()
                role = self.role_oid
        ended = await free_slots(self.session, names, role)
        for name, pid in ended.items():
            self._log.error("whoever held a slot of the cluster's own and is no member is ended", slot=name, pid=pid)
        return frozenset(ended)

    def _note_lacking(self, names: Collection[str], now: float) -> None:
        """Remember since when *names* are wanting; those that have been for too long are told."""
        self._lacking_since = _since(self._lacking_since, names, now)
        lacking = tuple(sorted(name for name, since in self._lacking_since.items() if now - since >= LACKING_S))
        if lacking != self.lacking:
            self.lacking = lacking
            self._log.warning("members could not stream from here, for want of their slots", slots=lacking)

    async def _do(self, todo: Chores) -> None:
        session = self.session
        for name in todo.drop:
            self._log.warning("slot that stands here for nobody, or in a member's place, is dropped", slot=name)
            await self._try("dropped", name, drop_slot(session, name))
        for made in todo.make:
            await self._try("made", made.name, make_slot(session, made.name, reserve=made.reserve, anew=made.anew))
        for name, lsn in todo.advance.items():
            await self._try("advanced", name, advance_slot(session, name, lsn))
        for name, lsn in todo.take_back.items():
            await self._try("taken back", name, take_back(self._walsender(), name, lsn))
        if todo.hold is not None:
            name, xid = todo.hold
            full = full_xid(int(xid), (await session.row(_NEXT_XID, timeout_s=ASK_TIMEOUT_S))["xid"])
            await self._try("made to keep catalogs", name, release_rows(self._walsender(), name, catalog_xmin=full))
        if todo.synchronise_anew:
            await self._synchronise_anew()
        for name in todo.release:
            if await self._try("relieved", name, release_rows(self._walsender(), name)):
                self._log.info("idle slot keeps no row versions any more", slot=name)

    async def _try(self, what: str, name: str, doing: Awaitable[None]) -> bool:
        """Do one thing and return whether it was done; what cannot be done to one slot must not keep the others waiting."""
        try:
            await doing
        except FAILURES as error:
            self._log.debug("slot could not be looked after", slot=name, wanted=what, error=str(error))
            return False
        return True

    def _walsender(self) -> Walsender:
        return self._instance.sessions.fresh_walsender("endpointd slots")

    async def _synchronise_anew(self) -> None:
        """End PostgreSQL's worker for logical slots, which is started again within 10 s, but not over and over."""
        now = asyncio.get_running_loop().time()
        if now - self._ended_worker_at >= WORKER_PACE_S:
            self._ended_worker_at = now
            await self.session.rows(_END_WORKER, timeout_s=ASK_TIMEOUT_S)

    def _stale(self) -> bool:
        """Return whether what the writer said is not of the one that is followed now."""
        return self._there is not None and self._there[0] != self._instance.state.value.following

    async def _ask_writer(self) -> tuple[Following, dict[str, Slot]] | None:
        following = self._instance.state.value.following
        if following is None:
            return None
        try:
            database = await source_database(self._instance, following.upstream)
            walsender = source_walsender(self._instance, following.upstream, database=database)
            with contextlib.closing(walsender):
                slots = await read_slots_of(walsender, timeout_s=ASK_TIMEOUT_S)
        except (WalsenderError, ValueError) as error:
            self._log.debug("the writer's slots are not known", error=str(error))
            return None
        return (following, {slot.name: slot for slot in slots}) if slots is not None else None

    async def _remember_ours(self) -> None:
        """Remember durably which slots nodeds use: nobody else can log in as their role."""
        # Asked anew each time: a role that was dropped and made again is another one.
        self.role_oid = (await self.session.row(_ROLE, REPLICATION_ROLE, timeout_s=ASK_TIMEOUT_S))["oid"]
        rows = await self.session.rows(_IN_USE, self.role_oid, timeout_s=ASK_TIMEOUT_S)
        state = self._instance.state.value
        if new := {row["name"] for row in rows} - set(state.our_slots):
            self._instance.state.store(replace(state, our_slots=tuple(sorted({*state.our_slots, *new}))))

    async def _wal(self) -> tuple[Lsn | None, Lsn | None, int]:
        """Return how far a standby has replayed, from where on it has all WAL up to there, and how many slots it can have."""
        row = await self.session.row(_REPLAYED, timeout_s=ASK_TIMEOUT_S)
        if row["lsn"] is None:
            return None, None, row["most"]
        numbers = await asyncio.to_thread(_segment_numbers, self._instance.layout.wal, row["segment"])
        first = row["lsn"] // row["segment"]
        while first - 1 in numbers:
            first -= 1
        return Lsn(row["lsn"]), Lsn(first * row["segment"]) if first in numbers else None, row["most"]


def _segment_numbers(wal: Path, segment_bytes: int) -> frozenset[int]:
    """Return the numbers of the whole segments in *wal*, on whatever timeline."""
    begin = Geometry(block_bytes=0, segment_bytes=segment_bytes).begin
    found = (
        path.name for path in wal.iterdir() if len(path.name) == SEGMENT_NAME_LENGTH and timeline_of(path.name) is not None
    )
    return frozenset(begin(name) // segment_bytes for name in found)


def full_xid(xid: int, following: int) -> int:
    """Return the full number of the transaction *xid*, which is older than the full number *following*."""
    epoch = following >> 32
    return ((epoch if xid <= following & 0xFFFFFFFF else epoch - 1) << 32) | xid


def _told(slot: Slot, *, standby: bool) -> UserSlot:
    in_step = not standby or slot.is_physical or slot.synced
    return UserSlot(
        name=slot.name,
        is_physical=slot.is_physical,
        active=slot.active,
        restart_lsn=slot.restart_lsn,
        failover=slot.failover,
        usable=not slot.is_lost and in_step,
    )


def _since(before: dict[str, float], names: Iterable[str], now: float) -> dict[str, float]:
    return {name: before.get(name, now) for name in names}
