"""Which slots a handover would lose, and who is named for rows that VACUUM must keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cluster_manager.decision.carrying import AGE_XIDS_MAX, HELD_MS_MAX, lost_with, slots_status, vacuum_horizon
from cluster_manager.decision.refusal import refusal
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.view import View
from pgtopology.lsn import Lsn
from pgtopology.node import NodeName, sync_name
from pgtopology.observation import Horizon, RowHolder, UserSlot
from tests.cluster_manager.decision.storyboard import read_view

N2, N3 = NodeName("n2"), NodeName("n3")


def view(**said: dict[str, Any]) -> View:
    """A healthy cluster whose writer is n1; what *said* gives is in the observations of those nodes."""
    healthy = read_view("")
    return replace(
        healthy,
        nodes=tuple(
            replace(node, observation=msgspec.structs.replace(node.observation, **said.get(node.name, {})))
            if node.observation is not None
            else node
            for node in healthy.nodes
        ),
    )


def physical(lsn: int | None = 1000, **fields: Any) -> UserSlot:
    return UserSlot(name="barman", is_physical=True, restart_lsn=Lsn(lsn) if lsn is not None else None, **fields)


def logical(**fields: Any) -> UserSlot:
    return UserSlot(name="s1", is_physical=False, restart_lsn=Lsn(1000), **fields)


def lost(writers: UserSlot, theirs: UserSlot | None, version: str = "18.1") -> str | None:
    copies = (theirs,) if theirs is not None else ()
    seen = view(
        n1={"user_slots": (writers,), "server_version": version}, n2={"user_slots": copies}, n3={"user_slots": (writers,)}
    )
    (slot,) = slots_status(seen)
    assert N3 not in slot.lost_with
    assert bool(lost_with(seen, N2)) == (N2 in slot.lost_with)
    return slot.lost_with.get(N2)


def test_a_physical_slot_needs_a_copy_that_begins_no_later() -> None:
    assert lost(physical(1000), physical(1000)) is None
    assert lost(physical(1000), physical(900)) is None
    assert lost(physical(None), physical(None)) is None
    assert lost(physical(1000), None) == "it has no copy of it yet"
    assert lost(physical(1000), physical(1001)) == "it keeps WAL from 0/3E9 on only, and the slot needs 0/3E8"
    assert lost(physical(1000), physical(None)) == "it keeps WAL from nowhere on only, and the slot needs 0/3E8"
    assert lost(physical(1000), physical(900, usable=False)) == "it has no copy of it yet"


def test_a_logical_slot_needs_a_copy_that_postgresql_keeps_in_step() -> None:
    assert lost(logical(failover=True), logical(failover=True)) is None
    assert lost(logical(failover=True), None) == "its copy is not in step yet"
    assert lost(logical(failover=True), logical(usable=False)) == "its copy is not in step yet"
    assert lost(logical(), None) == "it was not made with failover = true"
    assert lost(logical(), None, "15.18") == "PostgreSQL 15 cannot carry a logical slot over (17 can)"


@pytest.mark.parametrize(
    ("slot", "copy", "version", "waits"),
    [
        (logical(failover=True), None, "18.1", True),
        (logical(failover=True), logical(usable=False), "18.1", True),
        (physical(), None, "15.18", True),
        (logical(failover=True), logical(failover=True), "18.1", False),
        (logical(), None, "18.1", False),
        (logical(), None, "15.18", False),
        (physical(1000), physical(1001), "18.1", False),
        (physical(usable=False), None, "18.1", False),
    ],
    ids=str,
)
def test_a_switchover_waits_for_copies_that_will_be_there_and_for_no_others(
    slot: UserSlot, copy: UserSlot | None, version: str, waits: bool
) -> None:
    theirs = (copy,) if copy is not None else ()
    seen = view(n1={"user_slots": (slot,), "server_version": version}, n2={"user_slots": theirs}, n3={"user_slots": (slot,)})
    asked = Request(kind=RequestKind.SWITCHOVER, to=N2)
    why_not = refusal(seen, asked)
    assert (why_not is not None) == waits
    if why_not is not None:
        assert f'slot "{slot.name}" would be lost with "n2"' in why_not
        assert "--allow-slot-loss" in why_not
    assert refusal(seen, Request(kind=RequestKind.SWITCHOVER)) == why_not, "n2 is the heir"
    assert refusal(seen, replace(asked, to=N3)) is None
    assert refusal(seen, replace(asked, allow_slot_loss=True)) is None
    assert refusal(seen, Request(kind=RequestKind.FAILOVER, to=N2)) is None, "whoever asks for a failover has no time to wait"


def test_a_slot_whose_wal_is_gone_is_lost_already() -> None:
    (slot,) = slots_status(view(n1={"user_slots": (physical(usable=False),)}))
    assert slot.lost
    assert not slot.lost_with


def horizon(kind: RowHolder, name: str, **fields: Any) -> Horizon:
    return Horizon(**{"xmin": 700, "age_xids": 500, "held_ms": 2000, "kind": kind, "name": name, **fields})


def test_a_session_on_the_writer_is_named() -> None:
    told = vacuum_horizon(view(n1={"horizon": horizon(RowHolder.SESSION, "psql", pid=7)}))
    assert told is not None
    assert (told.node, told.holder, told.pid, told.age_xids, told.held_s) == ("n1", "session 7 (psql)", 7, 500, 2.0)
    assert not told.alarm
    assert vacuum_horizon(view()) is None


def test_what_a_standbys_slot_keeps_is_traced_to_the_standby() -> None:
    healthy = view()
    assert healthy.document is not None
    member = healthy.document.member("n2")
    assert member is not None
    assert member.incarnation is not None
    slot = horizon(RowHolder.SLOT, sync_name(member.name, member.incarnation))
    report = horizon(RowHolder.SESSION, "report", pid=9, held_ms=90_000)
    told = vacuum_horizon(view(n1={"horizon": slot}, n2={"horizon": report}))
    assert told is not None
    assert (told.node, told.holder, told.held_s) == ("n2", "session 9 (report)", 90.0)
    # The standby keeps nothing so old any more: its slot on the writer does.
    told = vacuum_horizon(view(n1={"horizon": slot}, n2={"horizon": horizon(RowHolder.SESSION, "x", age_xids=3)}))
    assert told is not None
    assert (told.node, told.holder) == ("n1", f'slot "{slot.name}"')


def test_rows_kept_for_long_are_an_alarm_if_there_can_be_many() -> None:
    def alarm(**fields: Any) -> bool:
        told = vacuum_horizon(view(n1={"horizon": horizon(RowHolder.PREPARED, "gid", **fields)}))
        assert told is not None
        return told.alarm

    assert alarm(held_ms=HELD_MS_MAX, age_xids=50_000)
    assert not alarm(held_ms=HELD_MS_MAX, age_xids=50)
    assert not alarm(held_ms=HELD_MS_MAX - 1, age_xids=50_000)
    assert alarm(held_ms=0, age_xids=AGE_XIDS_MAX)
