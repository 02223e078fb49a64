"""What the proxy says to a server in a session that no client has, and what it makes of the answers. Pure.

`DISCARD ALL` undoes what a client has done to its session, back to what that began with: the settings of its role and database
as they were at its login.  What they were is asked for right behind the login; and before the next client gets the session,
whether a login would still end in one like it, and what its parameters are.  That is by the rights of the role, since a
server lets everybody read all of it but the secrets.  Nothing is looked up by the session's search_path, which its role may
have chosen.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

from pgwire.errors import ProtocolError
from pgwire.framing import read_message
from pgwire.messages import Backend, Frontend, message, query
from pgwire.startup import NAME_BYTES_MAX

ANSWER_BYTES_MAX = 1 << 16
GOODBYE = message(Frontend.TERMINATE)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_IS, _LESS, _MORE = (f"OPERATOR(pg_catalog.{sign})" for sign in ("=", "<", ">"))
_DATABASES = 1262
"""The oid of pg_database, in every version."""

_STATE = f"""SELECT
 r.rolcanlogin AND d.datallowconn AND r.rolconnlimit {_LESS} 0 AND d.datconnlimit {_LESS} 0
 AND pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')
 AND r.rolsuper {_IS} (pg_catalog.current_setting('is_superuser') {_IS} 'on')
 AND NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger e WHERE e.evtevent {_IS} 'login'),
 COALESCE(r.rolvaliduntil {_MORE} pg_catalog.now(), true),
 pg_catalog.encode(pg_catalog.convert_to(r.rolname::pg_catalog.text, pg_catalog.getdatabaseencoding()), 'hex'),
 pg_catalog.encode(pg_catalog.convert_to(d.datname::pg_catalog.text, pg_catalog.getdatabaseencoding()), 'hex'),
 ARRAY(SELECT s::pg_catalog.text FROM pg_catalog.pg_db_role_setting s
  WHERE (s.setdatabase {_IS} 0 OR s.setdatabase {_IS} d.oid) AND (s.setrole {_IS} 0 OR s.setrole {_IS} r.oid))"""  # noqa: S608 - of constants
_FROM = f"""
FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
WHERE r.rolname {_IS} session_user AND d.datname {_IS} pg_catalog.current_database()"""
_COLUMNS = 5

RESET = query("DISCARD ALL")

ASK = query(_STATE + _FROM)
"""Whether a login would end in a session like this one, now, and with which settings it would begin."""

LOOK = query(
    f"""SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l, pg_catalog.pg_database d
 WHERE l.locktype {_IS} 'object' AND l.classid {_IS} {_DATABASES} AND l.objid {_IS} d.oid
 AND d.datname {_IS} pg_catalog.current_database()
 AND (l.mode {_IS} 'AccessExclusiveLock' OR l.mode {_IS} 'ShareLock'))"""  # noqa: S608 - of constants
)
"""Whether somebody wants this database for itself: to drop it, rename it or copy it."""


@functools.lru_cache(maxsize=64)
def can_be_asked_for(names: tuple[str, ...]) -> bool:
    """Return whether all *names* of parameters can be put into a question."""
    return all(_NAME.fullmatch(name) is not None for name in names)


@functools.lru_cache(maxsize=64)
def ask_with(names: tuple[str, ...]) -> bytes:
    """Return what asks for the same as `ASK`, and for the parameters *names* as they are."""
    values = "".join(f",\n pg_catalog.current_setting('{name}')" for name in names)
    return query(_STATE + values + _FROM)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said to a question."""

    rows: tuple[tuple[bytes | None, ...], ...]


@dataclass(frozen=True, slots=True)
class State:
    """What a session is like that begins now."""

    settings: bytes
    """Of the role and the database, and which of them each belongs to."""
    parameters: tuple[bytes, ...] = field(default=())
    """That were asked for, in that order."""


@functools.lru_cache(maxsize=128)
def read_answer(data: bytes) -> Answer | None:
    """Return what a server has said to a question, None until *data* is all of it. Mostly it is the same as before.

    Raises ProtocolError for an error and for what is no answer.
    """
    if len(data) > ANSWER_BYTES_MAX:
        raise ProtocolError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    rows: list[tuple[bytes | None, ...]] = []
    pos = 0
    while (found := read_message(data, pos, bytes_max=ANSWER_BYTES_MAX)) is not None:
        pos = found.end
        if found.kind == Backend.READY_FOR_QUERY:
            if found.payload != b"I":
                raise ProtocolError("a session that was reset is in a transaction")
            if pos < len(data):
                raise ProtocolError("a server said more than it was asked")
            return Answer(tuple(rows))
        if found.kind == Backend.DATA_ROW:
            rows.append(_fields(found.payload))
        elif found.kind not in _MEANINGLESS:
            raise ProtocolError("a server cannot answer")
    return None


_ROW_DESCRIPTION = ord("T")
_MEANINGLESS = frozenset({
    _ROW_DESCRIPTION, Backend.COMMAND_COMPLETE, Backend.NOTICE_RESPONSE, Backend.NOTIFICATION_RESPONSE,
    Backend.PARAMETER_STATUS,
})  # fmt: skip


@functools.lru_cache(maxsize=128)
def state_of(answer: Answer, *, user: str, database: str, needs_valid: bool) -> State | None:
    """Return what the session is like, if a login of *user* to *database* would end in one like it; None if not.

    *needs_valid*: the password's VALID UNTIL counts.
    """
    if len(answer.rows) != 1 or len(answer.rows[0]) < _COLUMNS:
        return None
    may, is_valid, role, name, settings, *values = answer.rows[0]
    is_same = role == _hex(user) and name == _hex(database)
    if may != b"t" or not is_same or (needs_valid and is_valid != b"t") or settings is None or None in values:
        return None
    if b"role=" in settings:
        return None  # RESET ALL leaves the role alone
    return State(settings, tuple(value for value in values if value is not None))


@functools.lru_cache(maxsize=128)
def as_reported(names: tuple[str, ...], values: tuple[bytes, ...]) -> bytes:
    """Return the messages by which a server reports parameters."""
    pairs = zip(names, values, strict=True)
    return b"".join(message(Backend.PARAMETER_STATUS, name.encode("ascii") + b"\0" + value + b"\0") for name, value in pairs)


def is_wanted_by_others(answer: Answer) -> bool:
    """Return whether the answer to `LOOK` says so, or says nothing that can be understood."""
    return answer.rows != ((b"f",),)


def _hex(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")[:NAME_BYTES_MAX].hex().encode("ascii")


def _fields(payload: bytes) -> tuple[bytes | None, ...]:
    """Return the columns of a DataRow. Raises ProtocolError."""
    fields: list[bytes | None] = []
    pos = 2
    for _ in range(int.from_bytes(payload[:2])):
        length = int.from_bytes(payload[pos : pos + 4], signed=True)
        pos += 4
        if not -1 <= length <= len(payload) - pos:
            raise ProtocolError("a row that is longer than it is")
        fields.append(payload[pos : pos + length] if length >= 0 else None)
        pos += max(0, length)
    return tuple(fields)
