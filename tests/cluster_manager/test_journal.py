"""The journal: numbers, memory, files, and those who wait."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster_manager.record.journal import FILES_KEPT, Journal, encode_event
from pgtopology.epoch import Epoch
from pgtopology.event import Event

DEADLINE_S = 10.0


def journal(path: Path, *, events_max: int = 100, file_bytes_max: int = 1 << 20) -> Journal:
    return Journal(
        path / "journal.jsonl",
        clock=lambda: 12.3456,
        wall_clock=lambda: datetime(2026, 1, 2, 3, 4, 5, 678_900, UTC),
        events_max=events_max,
        file_bytes_max=file_bytes_max,
    )


def add(journal: Journal, count: int = 1) -> None:
    for _ in range(count):
        journal.append("diagnosis", "nothing to do", epoch=Epoch(7))


def numbers(events: list[Event]) -> list[int]:
    return [event.sequence for event in events]


def test_an_event_has_the_shape_of_the_contract(tmp_path: Path) -> None:
    with journal(tmp_path) as events:
        event = events.append(
            "failover.promoted", "n2 was promoted", epoch=Epoch(7), node="n2", elapsed_ms=812, timeline=3, place=tmp_path
        )
    expected = {
        "format_version": 1, "sequence": 1, "at": "2026-01-02T03:04:05.678Z", "monotonic_ms": 12345, "epoch": 7,
        "kind": "failover.promoted", "node": "n2", "elapsed_ms": 812, "message": "n2 was promoted",
        "fields": {"timeline": 3, "place": str(tmp_path)},
    }  # fmt: skip
    assert json.loads(encode_event(event)) == expected
    assert json.loads((tmp_path / "journal.jsonl").read_bytes()) == expected
    assert stat.S_IMODE((tmp_path / "journal.jsonl").stat().st_mode) == 0o600


def test_absent_values_are_null_in_the_line(tmp_path: Path) -> None:
    with journal(tmp_path) as events:
        add(events)
    line = json.loads((tmp_path / "journal.jsonl").read_bytes())
    assert (line["node"], line["elapsed_ms"], line["fields"]) == (None, None, {})


def test_since_gives_what_is_newer_in_order(tmp_path: Path) -> None:
    with journal(tmp_path) as events:
        assert events.since(0) == []
        add(events, 5)
        assert numbers(events.since(0)) == [1, 2, 3, 4, 5]
        assert numbers(events.since(3)) == [4, 5]
        assert events.since(5) == []
        assert events.since(99) == []


def test_memory_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    with journal(tmp_path, events_max=3) as events:
        add(events, 10)
        assert numbers(events.since(0)) == [8, 9, 10]


def test_numbers_and_events_go_on_after_a_restart(tmp_path: Path) -> None:
    with journal(tmp_path) as events:
        add(events, 3)
    with journal(tmp_path) as events:
        assert numbers(events.since(0)) == [1, 2, 3]
        assert events.last_sequence == 3
        add(events)
        assert numbers(events.since(2)) == [3, 4]


def test_a_line_cut_off_by_a_crash_costs_that_line_and_its_number(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with journal(tmp_path) as events:
        add(events, 3)
    path.write_bytes(path.read_bytes()[:-20])
    with journal(tmp_path) as events:
        add(events)
        assert numbers(events.since(0)) == [1, 2, 4]
    with journal(tmp_path) as events:
        assert numbers(events.since(0)) == [1, 2, 4]


def test_full_files_are_put_away_and_only_a_few_kept(tmp_path: Path) -> None:
    with journal(tmp_path, file_bytes_max=1000) as events:
        add(events, 100)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["journal.jsonl", *(f"journal.jsonl.{n}" for n in range(1, FILES_KEPT + 1))]
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())
    lines = [json.loads(line) for name in reversed(files) for line in (tmp_path / name).read_bytes().splitlines()]
    kept = [line["sequence"] for line in lines]
    assert kept == list(range(kept[0], 101))
    with journal(tmp_path) as events:
        assert events.last_sequence == 100


def test_numbers_go_on_even_if_the_current_file_is_new(tmp_path: Path) -> None:
    with journal(tmp_path) as events:
        add(events, 3)
    (tmp_path / "journal.jsonl").rename(tmp_path / "journal.jsonl.1")
    with journal(tmp_path) as events:
        assert events.last_sequence == 3


def test_a_file_that_cannot_be_written_does_not_stop_the_manager(tmp_path: Path) -> None:
    with journal(tmp_path, file_bytes_max=300) as events:
        add(events)
        (tmp_path / "journal.jsonl.1").mkdir()
        (tmp_path / "journal.jsonl.1" / "x").mkdir()
        (tmp_path / "journal.jsonl.2").write_text("")  # neither can be renamed over the other
        add(events, 5)
        assert numbers(events.since(0)) == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_costs_the_lines_that_did_not_fit_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with journal(tmp_path) as events:
        add(events)
        monkeypatch.setattr(os, "write", lambda file, line: real(file, line[:10]) if len(line) > 1 else real(file, line))
        add(events, 2)
        monkeypatch.setattr(os, "write", real)
        add(events)
        assert numbers(events.since(0)) == [1, 2, 3, 4]
    with journal(tmp_path) as events:
        assert numbers(events.since(0)) == [1, 4]


async def test_whoever_waits_is_woken_by_the_next_event(tmp_path: Path) -> None:
    with journal(tmp_path) as events:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            waiting = [group.create_task(events.wait_since(0, timeout_s=DEADLINE_S)) for _ in range(3)]
            await asyncio.sleep(0)
            add(events, 2)
        assert [numbers(task.result()) for task in waiting] == [[1, 2]] * 3


async def test_waiting_for_what_is_there_does_not_wait(tmp_path: Path) -> None:
    with journal(tmp_path) as events:
        add(events, 2)
        assert numbers(await events.wait_since(1, timeout_s=0)) == [2]


async def test_waiting_has_an_end(tmp_path: Path) -> None:
    with journal(tmp_path) as events:
        assert await events.wait_since(0, timeout_s=0.01) == []
