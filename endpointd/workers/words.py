"""What a proxy's main process and its workers say to each other on the line between them. Both are of one version."""

from __future__ import annotations

from typing import Literal

import msgspec

from endpointd.session.quota import Place
from endpointd.takeover.words import Standing

_ENCODED = "utf-8", "surrogateescape"


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker: how it stands. Said at every change, and now and then, so that the main process knows that its loop turns."""

    standing: Standing
    load: dict[str, int]
    """Sessions by node; none is not listed."""
    upcoming: int
    """The number that its next session will have."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker: may this session have a place?"""

    session: int
    user: bytes
    database: bytes
    """Names in whatever encoding: PostgreSQL's are bytes."""

    @classmethod
    def of(cls, session: int, user: str, database: str) -> Wanted:
        """Return the question for *session*; what is no UTF-8 in the names stands as surrogates (pgwire.startup)."""
        return cls(session=session, user=user.encode(*_ENCODED), database=database.encode(*_ENCODED))

    @property
    def names(self) -> tuple[str, str]:
        """Of the user and the database, as `of` was given them."""
        return self.user.decode(*_ENCODED), self.database.decode(*_ENCODED)


class Left(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker: this session has ended, whether it got its place or not."""

    session: int


class Told(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker: the answer to what it was asked."""

    id: int
    body: bytes


class Placed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The main process: the answer to Wanted."""

    session: int
    place: Place


class Others(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The main process: how it stands with all others."""

    load: dict[str, int]
    is_full: bool
    """Whether there is no place left at all."""


class Turn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The main process: what the worker is to do from now on."""

    do: Literal["accept", "wait", "drain", "end"]
    """drain: let go of the sockets, and end when the last session has; end: with all sessions, as at a SIGTERM."""
    main_pid: int = 0
    """Of those that drain together, by which they are known."""


class Reload(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The main process: go by other settings. No signal, which would end a worker that has just begun."""

    settings: str
    """What the main process goes by now, as a file would say it."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The main process: a question to be answered by Told."""

    id: int
    what: Literal["metrics", "sessions"]
    after: int = 0
    """Of sessions: those up to this number are left out."""
    most: int = 0
    """Of sessions: so many are told."""


FromWorker = Counted | Wanted | Left | Told
FromMain = Placed | Others | Turn | Reload | Asked
