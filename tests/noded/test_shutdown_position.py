"""Where a primary's WAL ends that was shut down: the arithmetic, and that PostgreSQL itself says the same."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from noded.files.controldata import ControlData
from noded.files.segments import Geometry
from noded.position.at_shutdown import position_of
from pgtopology.lsn import Lsn
from pgtopology.node import Position
from pgtopology.orders import StopMode
from pgtopology.timeline import Timeline
from tests.noded.members import Cluster, Member, running_members

DEADLINE_S = 30.0

GEOMETRY = Geometry(block_bytes=8192, segment_bytes=16 << 20)


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [
        (0x4000028, 114, 0x40000A0),  # aligned to eight bytes
        (0x4001F80, 128, 0x4002000),  # fills its page: the next page's header is not its own
        (0x4001FA0, 114, 0x4002018 + 24),  # 96 bytes here, 18 behind the header of the next page
        (0x4001FF8, 114, 0x4002018 + 112),  # only its length fits here
        (0x4FFFFA0, 114, 0x5000028 + 24),  # the first page of a segment has a longer header
        (0x4001FF8, 8 + 8168 + 16, 0x4004018 + 16),  # across a whole page
    ],
)
def test_a_record_ends_behind_the_headers_of_the_pages_it_crosses(start: int, length: int, end: int) -> None:
    assert GEOMETRY.end_of_record(Lsn(start), length) == end


def test_a_segment_is_named_after_timeline_and_number() -> None:
    assert GEOMETRY.name(Timeline(26), Lsn(0x1_0400_0028)) == "0000001A0000000100000004"


def left_by(state: str) -> ControlData:
    return ControlData(
        system_identifier="1",
        state=state,
        checkpoint=Lsn(0x4000028),
        checkpoint_timeline=Timeline(2),
        geometry=GEOMETRY,
        consistent=Lsn(0),
        consistent_timeline=Timeline(0),
    )


def segment(wal: Path, *, length: int = 114, info: int = 0x00, manager: int = 0) -> None:
    header = struct.pack("=IIQBB2xI", length, 0, 0x3000060, info, manager, 0)
    (wal / "000000020000000000000004").write_bytes(bytes(0x28) + header + bytes(90))


def test_only_a_primary_that_was_shut_down_has_its_end_in_the_control_file(tmp_path: Path) -> None:
    segment(tmp_path)
    found = position_of(tmp_path, left_by("shut down"))
    assert found is not None
    assert (found.timeline, found.lsn, found.replayed_lsn) == (2, 0x40000A0, 0x40000A0)
    for state in ("shut down in recovery", "in production", "in archive recovery", "shutting down"):
        assert position_of(tmp_path, left_by(state)) is None


@pytest.mark.parametrize("wrong", [{"length": 0}, {"length": 9000}, {"info": 0x10}, {"manager": 10}])
def test_what_is_no_shutdown_checkpoint_is_no_answer(tmp_path: Path, wrong: dict[str, int]) -> None:
    assert position_of(tmp_path, left_by("shut down")) is None  # there is no such file
    segment(tmp_path, **wrong)
    assert position_of(tmp_path, left_by("shut down")) is None


@pytest.mark.integration
async def test_postgresql_says_the_same_once_it_runs_again() -> None:
    """Also where the checkpoint crosses a page: its record is put at several distances from the end of one."""
    crossed = 0
    async with running_members(1) as cluster:
        member = cluster.members[0]
        await cluster.found()
        for timeline, distance in enumerate((None, 160, 130, 100, 64), start=2):
            if distance is not None:
                await fill_page(cluster, member, distance)
            cluster.epoch += 1
            told = (await cluster.promise(member, stop_mode=StopMode.FAST)).position
            assert told is not None
            assert await asked(cluster, member) == told
            crossed += told.lsn // 8192 != (told.lsn - 120) // 8192
            await cluster.promote(member, timeline + 1)
    assert crossed, "no checkpoint crossed a page: the distances do not fit any more"


async def asked(cluster: Cluster, member: Member) -> Position:
    """Return what the server itself says, which is still starting."""
    async with asyncio.timeout(DEADLINE_S):
        while (position := (await cluster.promise(member)).position) is None:
            await asyncio.sleep(0.05)
    return position


async def fill_page(cluster: Cluster, member: Member, distance: int) -> None:
    """Write WAL until its end is about *distance* bytes before the end of a page."""
    end = (await cluster.sql(member, "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8 AS lsn"))[0]["lsn"]
    size = (8192 - distance - 80 - end % 8192) % 8192
    await cluster.sql(member, f"SELECT pg_logical_emit_message(false, '', repeat('x', {size}))")
