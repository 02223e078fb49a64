"""Replication slots as PostgreSQL has them: read, made, freed, advanced, dropped, and relieved of the row versions they hold.

They are read by the function behind the view: the view joins pg_database, which a client can lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

import msgspec

from noded.postgres.sessions import Session, SessionError
from noded.postgres.walsender import Walsender, feedback, flushed
from pgtopology.lsn import Lsn, format_lsn, parse_lsn

TIMEOUT_S = 2.0

READ = "SELECT coalesce(json_agg(s), '[]')::text AS slots FROM pg_catalog.pg_get_replication_slots() AS s"
_MAKE = "SELECT pg_create_physical_replication_slot(name, $2) FROM unnest($1::text[]) AS name"

_DROP = "SELECT pg_drop_replication_slot(name) FROM unnest($1::text[]) AS name"
_FREE = """
SELECT s.slot_name::text AS name, s.active_pid AS pid, pg_terminate_backend(s.active_pid, 200)
  FROM pg_get_replication_slots() s LEFT JOIN pg_stat_get_activity(NULL) a ON a.pid = s.active_pid
 WHERE s.slot_name::text = ANY($1::text[]) AND s.active_pid <> pg_backend_pid()
   AND (s.slot_type <> 'physical' OR s.temporary
        OR a.usesysid <> $2::int8::oid AND a.usesysid <> (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid())))
"""
"""By what the slot is and who holds it at that moment, not by what was read before. 200 ms: a backend that ends takes a few."""

STATEMENTS: list[tuple[str, tuple[object, ...]]] = [(READ, ()), (_MAKE, ([], True)), (_DROP, ([],)), (_FREE, ([], None))]
"""What a writer needs before anybody can follow it; done to no slot, it does nothing."""


class Slot(msgspec.Struct, frozen=True, kw_only=True, rename={"name": "slot_name", "restart": "restart_lsn"}):
    """One slot; what a version of PostgreSQL does not tell has its default."""

    name: str
    slot_type: str
    temporary: bool = False
    active: bool = False
    active_pid: int | None = None
    xmin: str | None = None
    """The oldest row versions that it keeps, as a number without its epoch; also long after whoever asked for it has gone."""
    catalog_xmin: str | None = None
    restart: str | None = None
    """From where on it keeps WAL; None if it keeps none yet."""
    confirmed_flush_lsn: str | None = None
    wal_status: str | None = None
    two_phase: bool = False
    invalidation_reason: str | None = None
    failover: bool = False
    """From PostgreSQL 17 on: its owner wants it carried over to the next writer."""
    synced: bool = False
    """PostgreSQL itself keeps it as a copy of the writer's."""

    @property
    def is_physical(self) -> bool:
        """Whether it is for WAL as it is, not for decoded changes."""
        return self.slot_type == "physical"

    @property
    def is_for_standbys(self) -> bool:
        """Whether a standby may rest on it: it is for WAL as it is, and outlives the session that made it."""
        return self.is_physical and not self.temporary

    @property
    def is_lost(self) -> bool:
        """Whether it can never be used again."""
        return self.wal_status == "lost" or self.invalidation_reason is not None

    @property
    def restart_lsn(self) -> Lsn | None:
        """*restart* as a number."""
        return parse_lsn(self.restart) if self.restart is not None else None

    @property
    def holds_rows(self) -> bool:
        """Whether VACUUM spares row versions for it."""
        return self.xmin is not None or self.catalog_xmin is not None


_decoder = msgspec.json.Decoder(tuple[Slot, ...])


def decode_slots(text: str | bytes) -> tuple[Slot, ...]:
    """Return what `READ` gave. Raises ValueError."""
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise ValueError(f"unexpected slots: {error}") from error


async def read_slots(session: Session) -> tuple[Slot, ...]:
    """Return all slots of the server. Raises SessionError, ValueError."""
    return decode_slots((await session.row(READ, timeout_s=TIMEOUT_S))["slots"])


async def read_slots_of(server: Walsender, *, timeout_s: float) -> tuple[Slot, ...] | None:
    """Return the slots of another server, or None if it is a standby. Raises WalsenderError, ValueError."""
    if await server.in_recovery(timeout_s=timeout_s):
        return None
    rows = await server.ask(READ, timeout_s=timeout_s)
    return decode_slots(rows[0][0] or b"[]") if rows else ()


async def ensure_slots(session: Session, names: Collection[str]) -> None:
    """See to it that each of *names* has a slot that a standby can use at once; what stands in the way goes.

    What cannot be done for one keeps no other waiting. Raises SessionError, ValueError if nothing can be found out.
    """
    slots = {slot.name: slot for slot in await read_slots(session)}
    wrong = [name for name in names if name in slots and not slots[name].is_for_standbys]
    if any(slots[name].active for name in wrong):
        await free_slots(session, wrong)
    for name in sorted(names):
        if name not in slots or name in wrong or (slots[name].is_lost and not slots[name].active):
            with contextlib.suppress(SessionError):
                await make_slot(session, name, anew=name in slots)


async def free_slots(session: Session, names: Collection[str], member_role: int | None = None) -> dict[str, int]:
    """End whoever holds one of *names* and is no member; return the processes. Raises SessionError.

    Members stream from lasting physical slots. Whoever holds another kind is none, and whoever holds theirs is none if it is
    not of the role whose oid is *member_role*: None leaves such holders alone.
    """
    rows = await session.rows(_FREE, list(names), member_role, timeout_s=TIMEOUT_S)
    return {row["name"]: row["pid"] for row in rows}


async def make_slot(session: Session, name: str, *, reserve: bool = True, anew: bool = False) -> None:
    """Make the physical slot *name*; *anew*: drop it first. Raises SessionError."""
    if anew:
        await drop_slot(session, name)
    try:
        await session.rows(_MAKE, [name], reserve, timeout_s=TIMEOUT_S)
    except SessionError as error:
        if not str(error).startswith("42710"):  # duplicate_object: its owner made it at this moment
            raise


async def drop_slot(session: Session, name: str) -> None:
    """Drop the slot *name*, unless somebody uses it or it is gone. Raises SessionError."""
    try:
        await session.rows(_DROP, [name], timeout_s=TIMEOUT_S)
    except SessionError as error:
        if not str(error).startswith("42704"):  # undefined_object
            raise


async def advance_slot(session: Session, name: str, to: Lsn) -> None:
    """Let the slot *name* keep WAL from *to* on only. Raises SessionError."""
    await session.rows("SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)", name, format_lsn(to), timeout_s=TIMEOUT_S)


async def release_rows(walsender: Walsender, name: str, *, catalog_xmin: int = 0) -> None:
    """Let the idle physical slot *name* keep no row versions any more, and all the WAL it keeps. Raises WalsenderError.

    SQL can only drop it and make it anew, which would let go of WAL that its owner may still need (L9). Its owner's own
    feedback, which says that it holds no snapshot, takes nothing else away. Refused by PostgreSQL if the owner is back.
    *catalog_xmin*: it keeps rows of catalogs from there on, as a full number.
    """
    words = (feedback(), feedback(catalog_xmin)) if catalog_xmin else (feedback(),)
    await _speak_for(walsender, name, *words)


async def take_back(walsender: Walsender, name: str, to: Lsn) -> None:
    """Let the idle physical slot *name* keep WAL from *to* on, which is there, further back than before. Raises WalsenderError.

    SQL moves a slot onwards only; PostgreSQL believes its owner.
    """
    await _speak_for(walsender, name, flushed(to))


async def _speak_for(walsender: Walsender, name: str, *words: bytes) -> None:
    with contextlib.closing(walsender):
        end = await walsender.identify(timeout_s=TIMEOUT_S)
        await walsender.speak_for(name, end.lsn, *words, timeout_s=TIMEOUT_S)
