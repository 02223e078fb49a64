"""Messages of PostgreSQL's protocol, read by a bench itself where a driver's own work would be measured too."""

from __future__ import annotations

import asyncio

from pgwire.framing import HEADER_BYTES, LENGTH_BYTES, Message, read_message

BYTES_MAX = 1 << 16


async def next_message(reader: asyncio.StreamReader) -> Message:
    """Return the next message that a server says. Raises IncompleteReadError at its end."""
    head = await reader.readexactly(HEADER_BYTES)
    rest = await reader.readexactly(int.from_bytes(head[1:]) - LENGTH_BYTES)
    found = read_message(head + rest, 0, bytes_max=BYTES_MAX)
    assert found is not None
    return found
