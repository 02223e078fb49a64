"""Since when the oldest rows are kept, and which holder is named."""

from __future__ import annotations

from typing import Any

from noded.housekeeping.horizon import CATALOG_AGE_MIN, HorizonWatch, horizon_of, oldest_of
from pgtopology.observation import Horizon, RowHolder


def row(**fields: Any) -> Horizon:
    known = {"kind": "slot", "name": b"n2_aaaaaa", "pid": None, "xmin": 700, "age": 5, "held_ms": None, "catalog_only": False}
    return horizon_of({**known, **fields})


def test_a_slot_has_kept_its_rows_for_as_long_as_it_was_seen_to() -> None:
    watch = HorizonWatch()
    watch.take(row(), 10.0)
    watch.take(row(age=50), 12.0)
    told = watch.report(13.0)
    assert told is not None
    assert (told.held_ms, told.age_xids, told.kind) == (3000, 50, RowHolder.SLOT)
    watch.take(row(xmin=701), 14.0)
    assert (moved := watch.report(14.5)) is not None
    assert moved.held_ms == 500
    watch.take(None, 15.0)
    assert watch.report(16.0) is None


def test_a_session_says_itself_for_how_long() -> None:
    watch = HorizonWatch()
    watch.take(row(kind="session", name=b"caf\xe9", pid=7, held_ms=60_000), 10.0)
    told = watch.report(11.0)
    assert told is not None
    assert (told.held_ms, told.pid, told.name) == (60_000, 7, "caf\ufffd")


def test_catalog_rows_come_first_only_when_they_are_very_old() -> None:
    catalogs = row(catalog_only=True, age=CATALOG_AGE_MIN)
    assert oldest_of([row(age=5), row(catalog_only=True, age=900)]) == row(age=5)
    assert oldest_of([row(age=5), catalogs]) == catalogs
    assert oldest_of([catalogs]) == catalogs
    assert oldest_of([]) is None
