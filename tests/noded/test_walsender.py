"""What a replication connection makes of a server's words, byte by byte."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from noded.postgres.walsender import WalEnd, Walsender
from pgtopology.lsn import Lsn
from pgtopology.timeline import Timeline
from pgwire import messages as m

WARNING = m.encode_report(m.Backend.NOTICE_RESPONSE, m.make_report("WARNING", "01000", "role password will expire soon"))


async def test_a_warning_within_the_login_is_no_answer_and_a_padded_position_is_one(tmp_path: Path) -> None:
    """Both are PostgreSQL 19's."""
    columns = (b"7711305365621355795", b"5", b"0/0402DD98", b"")
    row = m.message(
        m.Backend.DATA_ROW,
        struct.pack(">H", len(columns)) + b"".join(struct.pack(">i", len(column)) + column for column in columns),
    )

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack(">I", await reader.readexactly(4))
        await reader.readexactly(size - 4)
        content = m.encode_authentication(m.Authentication(m.AuthenticationKind.OK))
        writer.write(content + WARNING + m.parameter_status("in_hot_standby", "off") + WARNING + m.ready_for_query("I"))
        await reader.readuntil(b"IDENTIFY_SYSTEM\0")
        writer.write(WARNING + row + m.ready_for_query("I"))
        await writer.drain()
        writer.close()

    path = tmp_path / "s"
    async with await asyncio.start_unix_server(say, path):
        walsender = Walsender(path, user="u", password="p", name="test")
        assert await walsender.identify(timeout_s=10) == WalEnd(columns[0].decode(), Timeline(5), Lsn(0x402DD98))
        walsender.close()
