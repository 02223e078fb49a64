"""A position in the write-ahead log: a byte offset, written by PostgreSQL as two hexadecimal halves.

LSNs are comparable only on one timeline, or on two where one descends from the other before the position compared; this
file cannot know that, its callers must.  Source: PostgreSQL, src/backend/utils/adt/pg_lsn.c.
"""

from __future__ import annotations

import re
from typing import NewType

Lsn = NewType("Lsn", int)

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """Return the LSN that PostgreSQL wrote as *text*, for example ``0/3000148``.

    Raises ValueError if *text* is not two hexadecimal numbers of at most 32 bits with a slash between them.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f'invalid LSN "{text}": expected two hexadecimal numbers with a slash between them')
    return Lsn((int(match[1], 16) << 32) | int(match[2], 16))


def format_lsn(lsn: Lsn) -> str:
    """Return *lsn* as PostgreSQL writes it. Raises ValueError outside 0 to 2**64 - 1."""
    if not 0 <= lsn < 1 << 64:
        raise ValueError(f"LSN {lsn} is outside 0 to 2**64 - 1")
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
