"""A node at rest says nothing new, however its counts, ages and positions go on; everything else it says is news."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cluster_manager.observing.news import PENDING_MS, is_news
from pgtopology.epoch import Epoch
from pgtopology.lsn import Lsn
from pgtopology.node import NodeName, Role
from pgtopology.observation import (
    Activity,
    Connections,
    Disk,
    DiskSync,
    Heartbeat,
    Horizon,
    Observation,
    Postmaster,
    PostmasterState,
    Receiver,
    RowHolder,
    Seen,
    SlotCount,
    UserSlot,
    Walsender,
)
from pgtopology.timeline import Timeline
from testkit.documents import observation

HEARTBEAT = Heartbeat(epoch=Epoch(4), acknowledged_age_ms=3, begun_age_ms=5, lsn=Lsn(100))
WALSENDER = Walsender(name="n2", slot="n2", streaming=True, flush_lsn=Lsn(90), replay_lsn=Lsn(80), sync_priority=1)
SAID = observation(
    role=Role.PRIMARY,
    timeline=Timeline(4),
    wal_end=Lsn(100),
    heartbeat=HEARTBEAT,
    walsenders=(WALSENDER,),
    disk=Disk(free_bytes=10, total_bytes=20),
)

GOES_ON: dict[str, Any] = {
    "sequence": 2,
    "wal_end": Lsn(300),
    "replayed_lsn": Lsn(200),
    "replay_lag_ms": 1.5,
    "upstream_silent_ms": 100.0,
    "behind_bytes": 8,
    "disk": Disk(free_bytes=9, total_bytes=20),
    "horizon": Horizon(xmin=700, age_xids=5, held_ms=100, kind=RowHolder.SESSION, name="psql", pid=7),
    "late_ms": 30,
    "connections": Connections(used=9, limit=100, waiting=3),
}
OTHERWISE: dict[str, Any] = {
    "slots": SlotCount(used=19, limit=20),
    "left_age_ms": 5,
    "format_version": 2,
    "node": NodeName("n2"),
    "noded_pid": 3,
    "system_identifier": "7",
    "incarnation": "a",
    "whole": True,
    "foreign": True,
    "promised": Epoch(5),
    "seen": Seen(epoch=Epoch(5)),
    "promoted_epoch": Epoch(5),
    "activity": Activity.REWINDING,
    "progress_percent": 1,
    "problem": "the disk is full",
    "quarantined": True,
    "storage_problem": "the disk is full",
    "crashes": 1,
    "refused_start": "could not map anonymous shared memory",
    "mute_ms": 200,
    "outside": ("old_space",),
    "sync": DiskSync(last_ms=400),
    "relaxations": ("role app",),
    "repairs": ("role endpointd had another password",),
    "login_problem": "nobody can log in",
    "login_spared": True,
    "role_notes": ("an md5 hash",),
    "locked_elsewhere": "a prepared transaction has locked pg_statistic",
    "postmaster": Postmaster(state=PostmasterState.RUNNING, pid=2, deaf_ms=500),
    "role": Role.STANDBY,
    "timeline": Timeline(5),
    "receiver": Receiver(running=True, streaming=True, upstream=None),
    "heartbeat": None,
    "walsenders": (),
    "synchronous_standby_names": "",
    "data_dir": "/other",
    "slots_kept": ("n2_a",),
    "slots_lacking": ("n2_a",),
    "user_slots": (UserSlot(name="barman", is_physical=True),),
    "server_version": "18.1",
    "pending_restart": True,
    "desired_version": 1,
    "loaded_version": 1,
    "restart_for": ("max_connections",),
}


def test_each_field_was_thought_of() -> None:
    assert {*GOES_ON, *OTHERWISE} == {*Observation.__struct_fields__}


def test_the_first_word_is_news() -> None:
    assert is_news(None, SAID)


@pytest.mark.parametrize("field", GOES_ON)
def test_what_goes_on_is_no_news(field: str) -> None:
    assert not is_news(SAID, msgspec.structs.replace(SAID, **{field: GOES_ON[field]}))


@pytest.mark.parametrize("field", OTHERWISE)
def test_everything_else_is(field: str) -> None:
    assert is_news(SAID, msgspec.structs.replace(SAID, **{field: OTHERWISE[field]}))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"acknowledged_age_ms": 150, "begun_age_ms": 170, "lsn": Lsn(300)}, False),
        ({"pending_ms": PENDING_MS}, False),
        ({"pending_ms": PENDING_MS + 1}, True),
        ({"acknowledged_age_ms": None}, True),
        ({"error": "a warning"}, True),
        ({"epoch": Epoch(5)}, True),
    ],
)
def test_a_heartbeat_is_news_once_it_is_waited_for(change: dict[str, Any], expected: bool) -> None:
    seen = msgspec.structs.replace(SAID, heartbeat=msgspec.structs.replace(HEARTBEAT, **change))
    assert is_news(SAID, seen) is expected


def test_a_heartbeat_still_waited_for_is_news_again() -> None:
    waits = [
        msgspec.structs.replace(SAID, heartbeat=msgspec.structs.replace(HEARTBEAT, pending_ms=pending_ms))
        for pending_ms in (400, 600)
    ]
    assert is_news(*waits)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flush_lsn": Lsn(300), "replay_lsn": None}, False),
        ({"sync_priority": 0}, True),
        ({"streaming": False}, True),
        ({"slot": None}, True),
    ],
)
def test_what_a_walsender_has_sent_is_no_news(change: dict[str, Any], expected: bool) -> None:
    seen = msgspec.structs.replace(SAID, walsenders=(msgspec.structs.replace(WALSENDER, **change),))
    assert is_news(SAID, seen) is expected
