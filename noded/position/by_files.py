"""Where the WAL of a standby ends that is not running, by its files alone.

What recovery would find is found the same way: from the latest checkpoint along the history of the newest timeline that the
directory knows (xlogrecovery.c), each record checked by PostgreSQL's own pg_waldump.  The end of the last whole record is the
answer.  It is never more than what was received; bytes of a record that never came whole, which a running standby counts,
hold no commit.  What is not exactly as expected is no answer (S6).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from daemonkit.durable import read_or_none
from noded.files.controldata import ControlData, parse_controldata
from noded.files.history import is_placeholder, parse_history
from noded.files.segments import Geometry
from noded.postgres.binaries import Binaries
from noded.postgres.tools import ToolError, run_tool
from pgtopology.lsn import Lsn, format_lsn, parse_lsn
from pgtopology.node import Position
from pgtopology.timeline import Timeline

CONTROL_TIMEOUT_S = 5.0
WALK_TIMEOUT_S = 60.0

_HEADER = struct.Struct("=IIQBB2xI")
"""XLogRecord (xlogrecord.h) as this machine writes it: total length, xid, previous record, info, resource manager, CRC."""
_XLOG = 0
_INFO_OF_MANAGER = 0xF0
_SWITCH = 0x40
"""Whatever follows this record in its segment is void."""

_LAST_RECORD = re.compile(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+): ")
_NO_RECORD = "could not find a valid record after"
_SKIPPED = "first record is after"
_NO_FILE = re.compile(r'could not (?:find|open) file "(?:[^"]*/)?([0-9A-F]{24})"')
_RECORD = re.compile(r", lsn: ([0-9A-F]+/[0-9A-F]+), prev ")


def last_whole(said: str) -> Lsn | None:
    """Return where the last whole record begins, if pg_waldump *said* that it could not read the one behind it."""
    found = _LAST_RECORD.search(said)
    return parse_lsn(found[1]) if found is not None else None


def last_listed(said: str) -> Lsn | None:
    """Return where the last of the records begins that pg_waldump listed."""
    found = _RECORD.findall(said)
    return parse_lsn(found[-1]) if found else None


async def read_wal_end(pgdata: Path, binaries: Binaries) -> Position | str:
    """Return where the WAL in *pgdata* ends, or why that cannot be told. PostgreSQL does not run there."""
    if (pgdata / "backup_label").exists():
        return "a copy of the data has not been recovered yet"
    try:
        control = parse_controldata(
            await run_tool(binaries.command("pg_controldata", str(pgdata)), timeout_s=CONTROL_TIMEOUT_S)
        )
        return await _Walk(pgdata / "pg_wal", binaries, control).end()
    except (ToolError, OSError, ValueError, struct.error) as error:
        return f"the local WAL cannot be read: {error}"


class _Walk:
    def __init__(self, wal: Path, binaries: Binaries, control: ControlData) -> None:
        self._wal = wal
        self._binaries = binaries
        self._control = control

    async def end(self) -> Position | str:
        control = self._control
        at, known = control.checkpoint, None
        for timeline, left_at in self._line():
            begun = at
            found = await self._follow(timeline, begun, left_at, may_be_empty=known is not None)
            if found is None:
                break
            known = (timeline, found)
            if left_at is None or found < left_at:
                break
            at = left_at
        if known is None:
            return "not even the latest checkpoint is in the local WAL"
        timeline, lsn = known
        if lsn < control.consistent:
            return f"the local WAL ends at {format_lsn(lsn)}, before what was replayed already"
        return Position(timeline=timeline, lsn=lsn, replayed_lsn=lsn)

    def _line(self) -> list[tuple[Timeline, Lsn | None]]:
        """Return the timelines from the checkpoint's on, each with where it is left. Raises ValueError."""
        control = self._control
        newest = max(control.checkpoint_timeline, control.consistent_timeline)
        while (self._wal / f"{newest + 1:08X}.history").exists():
            newest = Timeline(newest + 1)
        text = read_or_none(self._wal / f"{newest:08X}.history")
        if text is None and newest > 1:
            raise ValueError(f"the history of timeline {newest} is missing")
        if text is not None and is_placeholder(text):
            raise ValueError(f"nobody knows yet what timeline {newest} comes from")
        line: list[tuple[Timeline, Lsn | None]] = [*parse_history((text or b"").decode(errors="replace")), (newest, None)]
        begin = next((index for index, (timeline, _) in enumerate(line) if timeline == control.checkpoint_timeline), None)
        if begin is None:
            raise ValueError(f"timeline {newest} does not come from {control.checkpoint_timeline}")
        return line[begin:]

    async def _follow(self, timeline: Timeline, begin: Lsn, end: Lsn | None, *, may_be_empty: bool) -> Lsn | None:
        """Return where *timeline*'s whole records from *begin* on end, at most *end*; None if there is none and may be none."""
        geometry = self._control.geometry
        if begin == end:
            return end
        if may_be_empty and not (self._wal / geometry.name(timeline, begin)).exists():
            return None
        limits = ["--start", format_lsn(begin), *(["--end", format_lsn(end)] if end is not None else [])]
        try:
            said = await self._dump("--quiet", "--path", str(self._wal), "--timeline", str(timeline), *limits)
        except ToolError as error:
            said = error.output
            if not said:
                raise
        else:
            if end is None or _SKIPPED in said:
                raise ValueError(f"it was read past its end: {said.strip()}")
            return end
        if _SKIPPED in said or _NO_RECORD in said:
            if may_be_empty:
                return None
            raise ValueError(said.strip())
        if (last := last_whole(said)) is not None:
            return self._end_of(timeline, last)
        if missing := _NO_FILE.search(said):
            boundary = geometry.begin(missing[1])
            return await self._last_before(timeline, Lsn(boundary), begin)
        raise ValueError(said.strip())

    async def _last_before(self, timeline: Timeline, boundary: Lsn, begin: Lsn) -> Lsn:
        """Return the end of the last whole record before *boundary*, behind which there is no segment."""
        geometry = self._control.geometry
        first = max(int(begin), boundary - geometry.segment_bytes)
        where = ["--path", str(self._wal), "--timeline", str(timeline)]
        said = await self._dump(*where, "--start", format_lsn(Lsn(first)), "--end", format_lsn(boundary))
        last = last_listed(said)
        if last is None:
            raise ValueError(f"no record begins in the last segment before {format_lsn(boundary)}")
        return self._end_of(timeline, last)

    def _end_of(self, timeline: Timeline, start: Lsn) -> Lsn:
        geometry = self._control.geometry
        length, _, _, info, manager, _ = _HEADER.unpack(_read(self._wal, geometry, timeline, start, _HEADER.size))
        end = geometry.end_of_record(start, length)
        if manager == _XLOG and info & _INFO_OF_MANAGER == _SWITCH:
            end = Lsn(-(-end // geometry.segment_bytes) * geometry.segment_bytes)
        return end

    async def _dump(self, *arguments: str) -> str:
        return await run_tool(self._binaries.command("pg_waldump", *arguments), timeout_s=WALK_TIMEOUT_S)


def _read(wal: Path, geometry: Geometry, timeline: Timeline, start: Lsn, count: int) -> bytes:
    """Return *count* bytes of WAL from *start* on, without the page headers between them."""
    data = b""
    at = int(start)
    while len(data) < count:
        if at % geometry.block_bytes == 0:
            at = int(geometry.skip_header(Lsn(at)))
        size = min(count - len(data), geometry.block_bytes - at % geometry.block_bytes)
        with (wal / geometry.name(timeline, Lsn(at))).open("rb") as segment:
            segment.seek(at % geometry.segment_bytes)
            part = segment.read(size)
        if len(part) < size:
            raise ValueError(f"the segment of {format_lsn(Lsn(at))} is too short")
        data += part
        at += size
    return data
