"""The files WAL is kept in: what their names say, and where in them a position lies.

Source: PostgreSQL, xlog_internal.h and xlogrecord.h.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pgtopology.lsn import Lsn
from pgtopology.timeline import FIRST_TIMELINE, Timeline

_NAME = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(\.partial)?")
_ID_BYTES = 0x1_0000_0000
"""How much WAL has the same middle part in its names."""
_ALIGNMENT = 8
_PAGE_HEADER_BYTES = 24
_FIRST_PAGE_HEADER_BYTES = 40
"""Of a segment."""


def timeline_of(name: str) -> Timeline | None:
    """Return the timeline of the segment called *name*, or None if that is not the name of one."""
    found = _NAME.fullmatch(name)
    return Timeline(int(found[1], 16)) if found is not None else None


def newest_timeline(wal: Path) -> Timeline:
    """Return the greatest timeline that has a WAL segment in *wal*.

    A promotion makes the first segment of its timeline before it removes standby.signal, and the history file after it.
    PostgreSQL, xlog.c, StartupXLOG.
    """
    found = (timeline_of(path.name) for path in wal.iterdir())
    return max((timeline for timeline in found if timeline is not None), default=FIRST_TIMELINE)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes a data directory was made with."""

    block_bytes: int
    segment_bytes: int

    def name(self, timeline: Timeline, lsn: Lsn) -> str:
        """Return the name of the segment that holds *lsn* on *timeline*."""
        number, per_id = lsn // self.segment_bytes, _ID_BYTES // self.segment_bytes
        return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"

    def begin(self, name: str) -> Lsn:
        """Return where the segment called *name* begins."""
        return Lsn(int(name[8:16], 16) * _ID_BYTES + int(name[16:24], 16) * self.segment_bytes)

    def skip_header(self, page: Lsn) -> Lsn:
        """Return where WAL begins in the page at *page*."""
        return Lsn(page + (_FIRST_PAGE_HEADER_BYTES if page % self.segment_bytes == 0 else _PAGE_HEADER_BYTES))

    def end_of_record(self, start: Lsn, length: int) -> Lsn:
        """Return where a record of *length* bytes at *start* ends and another may begin; page headers lie between its parts."""
        left = length
        at = int(start)
        while (room := self.block_bytes - at % self.block_bytes) < left:
            left -= room
            at = int(self.skip_header(Lsn(at + room)))
        return Lsn(at + -(-left // _ALIGNMENT) * _ALIGNMENT)
