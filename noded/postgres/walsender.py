"""A replication connection: the only place where PostgreSQL tells the timeline and the end of a standby's WAL (S6).

asyncpg does not speak the replication protocol, so the few messages needed are here, over pgwire.  Without a database's name
the connection is to none: no lock on a database, no privilege on one and no setting of one concerns it.  With one it takes
replication commands and plain SQL alike.  One request at a time; after any error the connection is closed, and the next
request opens it again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path

from pgtopology.lsn import Lsn, format_lsn, parse_lsn
from pgtopology.node import Address
from pgtopology.timeline import Timeline
from pgwire.errors import WireError
from pgwire.messages import (
    TERMINATE,
    AuthenticationKind,
    Backend,
    Frontend,
    decode_authentication,
    decode_report,
    message,
    query,
    sasl_initial_response,
    sasl_response,
)
from pgwire.scram import MECHANISM, ScramClient, keys_of_password
from pgwire.startup import PROTOCOL_3_0, StartupMessage, encode_startup

MESSAGE_BYTES_MAX = 1 << 20
"""What is asked for here is a few rows; a history file is the longest."""

SETTINGS = {"idle_session_timeout": "0", "statement_timeout": "0", "lock_timeout": "0", "search_path": "pg_catalog"}
"""What users may have set otherwise for everybody."""

Row = tuple[bytes | None, ...]


class WalsenderError(Exception):
    """The server could not be asked, or refused; the text says why."""


@dataclass(frozen=True, slots=True)
class WalEnd:
    """The answer to IDENTIFY_SYSTEM."""

    system_identifier: str
    timeline: Timeline
    lsn: Lsn


def feedback(catalog_xmin: int = 0) -> bytes:
    """Return what a standby says of the rows it needs: none but, if given, those of catalogs that this full number still sees.

    Source: PostgreSQL documentation, "Streaming Replication Protocol", "Hot Standby feedback message".
    """
    return struct.pack(">cqIIII", b"h", 0, 0, 0, catalog_xmin & 0xFFFFFFFF, catalog_xmin >> 32)


def flushed(lsn: Lsn) -> bytes:
    """Return what a standby says of the WAL it has, in the words of the same chapter, "Standby status update message"."""
    return struct.pack(">cqqqqc", b"r", lsn, lsn, lsn, 0, b"\0")


class Walsender:
    """One replication connection to a server, opened at the first request."""

    def __init__(self, target: Address | Path, *, user: str, password: str, name: str, database: str | None = None) -> None:
        """*target*: a TCP address, or the path of a unix socket."""
        self._target = target
        self._database = database
        self._user = user
        self._password = password
        self._name = name
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def identify(self, *, timeout_s: float) -> WalEnd:
        """Return the newest timeline and the end of WAL on it. Raises WalsenderError."""
        rows = await self.ask("IDENTIFY_SYSTEM", timeout_s=timeout_s)
        if len(rows) != 1 or len(rows[0]) < 3:
            raise WalsenderError("unexpected answer to IDENTIFY_SYSTEM")
        identifier, timeline, lsn = (value.decode() if value is not None else "" for value in rows[0][:3])
        try:
            return WalEnd(identifier, Timeline(int(timeline)), parse_lsn(lsn))
        except ValueError as error:
            raise WalsenderError(f"unexpected answer to IDENTIFY_SYSTEM: {error}") from error

    async def in_recovery(self, *, timeout_s: float) -> bool:
        """Return whether the server is a standby. Raises WalsenderError."""
        return await self.ask("SHOW in_hot_standby", timeout_s=timeout_s) == [(b"on",)]

    async def history(self, timeline: Timeline, *, timeout_s: float) -> str:
        """Return the history file of *timeline*. Raises WalsenderError."""
        rows = await self.ask(f"TIMELINE_HISTORY {timeline}", timeout_s=timeout_s)
        return (rows[0][1] or b"").decode(errors="replace") if rows and len(rows[0]) > 1 else ""

    async def ask(self, command: str, *, timeout_s: float) -> list[Row]:
        """Return the rows that *command* gives. Raises WalsenderError."""
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                try:
                    reader, writer = self._streams or await self._open()
                    writer.write(query(command))
                    await writer.drain()
                    return await _rows(reader)
                except BaseException:
                    self.close()
                    raise
        except TimeoutError as error:
            raise WalsenderError(f"{self._target} did not answer within {timeout_s:g} s") from error
        except (OSError, EOFError, WireError) as error:
            raise WalsenderError(f"{self._target}: {str(error) or type(error).__name__}") from error

    async def speak_for(self, slot: str, lsn: Lsn, *words: bytes, timeout_s: float) -> None:
        """Use the physical *slot* for a moment, from *lsn* on, to say *words* (`feedback`, `flushed`) as its owner would.

        Raises WalsenderError, also if the slot is in use.
        """
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                try:
                    reader, writer = self._streams or await self._open()
                    writer.write(query(f'START_REPLICATION SLOT "{slot}" PHYSICAL {format_lsn(lsn)}'))
                    await _copying(reader)
                    writer.write(b"".join(message(Frontend.COPY_DATA, word) for word in words) + message(Frontend.COPY_DONE))
                    # The answer to the end of the copy comes after all that was sent before has been read.
                    await _rows(reader)
                except BaseException:
                    self.close()
                    raise
        except TimeoutError as error:
            raise WalsenderError(f"{self._target} did not answer within {timeout_s:g} s") from error
        except (OSError, EOFError, WireError) as error:
            raise WalsenderError(f"{self._target}: {str(error) or type(error).__name__}") from error

    async def open(self, *, timeout_s: float) -> None:
        """Open the connection unless it is. Raises WalsenderError."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            await self.identify(timeout_s=timeout_s)

    def close(self) -> None:
        """Close the connection, if it is open."""
        streams, self._streams = self._streams, None
        if streams is not None:
            with contextlib.suppress(OSError, RuntimeError):
                streams[1].write(TERMINATE)
                streams[1].close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self._target
        if isinstance(target, Path):
            reader, writer = await asyncio.open_unix_connection(str(target))
        else:
            reader, writer = await asyncio.open_connection(target.host, target.port)
        self._streams = (reader, writer)
        kind = "true" if self._database is None else "database"
        more = {"replication": kind, "application_name": self._name, **SETTINGS}
        startup = StartupMessage(
            PROTOCOL_3_0, (("user", self._user), ("database", self._database or self._user), *more.items())
        )
        writer.write(encode_startup(startup))
        await self._authenticate(reader, writer)
        return reader, writer

    async def _authenticate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scram = ScramClient(keys_of_password(self._password), base64.b64encode(secrets.token_bytes(18)).decode())
        while True:
            kind, payload = await _message(reader)
            match kind:
                case Backend.AUTHENTICATION:
                    asked = decode_authentication(payload)
                    match asked.kind:
                        case AuthenticationKind.OK:
                            pass
                        case AuthenticationKind.SASL if MECHANISM in asked.mechanisms:
                            writer.write(sasl_initial_response(MECHANISM, scram.first))
                        case AuthenticationKind.SASL_CONTINUE:
                            writer.write(sasl_response(scram.respond(asked.data)))
                        case AuthenticationKind.SASL_FINAL:
                            scram.finish(asked.data)
                        case _:
                            raise WalsenderError(f"{self._target} does not offer SCRAM")
                case Backend.ERROR_RESPONSE:
                    raise WalsenderError(f"{self._target}: {decode_report(payload).message}")
                case Backend.READY_FOR_QUERY:
                    return
                case _:
                    pass


async def _copying(reader: asyncio.StreamReader) -> None:
    """Return when the server has begun to stream."""
    while True:
        kind, payload = await _message(reader)
        match kind:
            case Backend.COPY_BOTH_RESPONSE:
                return
            case Backend.ERROR_RESPONSE:
                raise WalsenderError(decode_report(payload).message)
            case Backend.READY_FOR_QUERY:
                raise WalsenderError("the server does not stream")
            case _:
                pass


async def _rows(reader: asyncio.StreamReader) -> list[Row]:
    """Read the answer to one simple query to its end."""
    rows: list[Row] = []
    while True:
        kind, payload = await _message(reader)
        match kind:
            case Backend.DATA_ROW:
                rows.append(_row(payload))
            case Backend.ERROR_RESPONSE:
                raise WalsenderError(decode_report(payload).message)
            case Backend.READY_FOR_QUERY:
                return rows
            case _:
                pass


def _row(payload: bytes) -> Row:
    (count,) = struct.unpack_from(">H", payload)
    position = 2
    values: list[bytes | None] = []
    for _ in range(count):
        (size,) = struct.unpack_from(">i", payload, position)
        position += 4
        values.append(None if size < 0 else payload[position : position + size])
        position += max(size, 0)
    return tuple(values)


async def _message(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind, length = struct.unpack(">BI", await reader.readexactly(5))
    if not 4 <= length <= MESSAGE_BYTES_MAX:
        raise WalsenderError(f"a message of {length} bytes")
    return kind, await reader.readexactly(length - 4)
