"""Who is connected through the proxies: what a proxy tells of its sessions, and what it is asked and told to do about them.

A manager puts a question into the frames of the proxies' feeds; each proxy answers by as many pages as it takes, which it posts
back.  So operators reach every proxy through the manager, and no proxy ever sees a token by which anything can be ordered.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from pgtopology.document import FORMAT_VERSION

ANSWERS_PATH = "/v1/feed/answers"
"""Of the manager: where proxies post their pages."""
IDS_MAX = 1000
"""Sessions that one order names; a filter names as many as there are."""
PAGE_SESSIONS = 100
"""In one page: about 40 kB, a millisecond's work."""
RELAYING = "relaying"
"""The state of a session whose login is over; until then *state* says where it stands."""
LOGIN = "login"
"""Asked for as a state: every session whose login is not over."""

_SessionNumber = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class SessionId(msgspec.Struct, frozen=True, order=True):
    """One session of the cluster: its proxy, and its number there. Numbers begin anew with the proxy's process."""

    proxy: str
    number: int

    def __str__(self) -> str:
        return f"{self.proxy}:{self.number}"

    @classmethod
    def read(cls, text: str) -> SessionId:
        """Return what *text*, such as ``proxy-1:42``, names. Raises ValueError."""
        proxy, _, number = text.rpartition(":")
        if not proxy or not (number.isascii() and number.isdecimal()) or not 1 <= len(number) <= 16:
            raise ValueError(f'"{text[:80]}" is no session: expected is a proxy and a number, such as proxy-1:42')
        return cls(proxy, int(number))


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """One session at one moment."""

    session: int
    """Its number at its proxy."""
    endpoint: str
    client: str
    """Address and port of the client itself."""
    state: str
    """Where the login stands, or `relaying` when it is over."""
    doing: str | None
    """Of a session whose login is over: idle, in_transaction or busy."""
    node: str | None
    is_writer: bool | None = None
    """Whether its server was the writer when it got it; None: it has none."""
    backend_pid: int | None = None
    """Of its server's process, as pg_stat_activity shows it; None until the login is over."""
    user: str | None
    database: str | None
    application_name: str | None
    """As the client asked for it; it may have changed it since."""
    is_reused: bool | None = None
    """Whether its server's session has had another client before; None until the login is over."""
    tls: str | None = None
    """The version that the client speaks; None: plaintext."""
    engine: str | None = None
    """What moves its bytes; None until the login is over."""
    waits: str | None = None
    """Why it is held or paused, or will be ended; None if it is not."""
    age_s: float
    to_server_bytes: int
    to_client_bytes: int
    held_bytes: int

    @property
    def activity(self) -> str:
        """The one word for its state that people see and ask by."""
        return self.doing if self.state == RELAYING and self.doing is not None else self.state


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which sessions are meant: those for which all that is given holds."""

    user: _Word | None = None
    database: _Word | None = None
    endpoint: _Word | None = None
    node: _Word | None = None
    state: _Word | None = None
    """`login`, or what `activity` says."""
    numbers: Annotated[tuple[_SessionNumber, ...], msgspec.Meta(max_length=IDS_MAX)] | None = None

    def takes(self, view: SessionView) -> bool:
        """Return whether *view* is one of them."""
        return (
            (self.numbers is None or view.session in self.numbers)
            and (self.user is None or view.user == self.user)
            and (self.database is None or view.database == self.database)
            and (self.endpoint is None or view.endpoint == self.endpoint)
            and (self.node is None or view.node == self.node)
            and (
                self.state is None
                or view.activity == self.state
                or (self.state == LOGIN and view.state != RELAYING)
                or (self.state == RELAYING and view.state == RELAYING)
            )
        )


class SessionOrder(StrEnum):
    """What is to be done with the sessions that are meant."""

    SHOW = "show"
    END = "end"
    """57P01 to their clients, at once."""


class SessionQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a manager asks a proxy, in a frame of its feed. Strict: with a field left out it would mean more sessions."""

    id: str
    order: SessionOrder
    which: SessionFilter = SessionFilter()


class SessionsPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a proxy's answer; also a line of GET /v1/sessions of the manager."""

    format_version: int = FORMAT_VERSION
    question: str = ""
    proxy: str
    is_last: bool = False
    sessions: tuple[SessionView, ...]


class SessionsTold(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of GET /v1/sessions of the manager."""

    format_version: int = FORMAT_VERSION
    proxies: tuple[str, ...]
    """Who told everything."""
    silent: tuple[str, ...]
    """Who did not in time: it stands still, was cut off, or is of a version that is never asked."""


class EndSessions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What POST /v1/sessions/end carries: *ids*, or a filter, which without a field means every session there is."""

    ids: Annotated[tuple[_Word, ...], msgspec.Meta(max_length=IDS_MAX)] = ()
    which: SessionFilter | None = None


class SessionsEnded(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to it."""

    format_version: int = FORMAT_VERSION
    ended: tuple[str, ...]
    missing: tuple[str, ...] = ()
    """Of the *ids*, those that are no session of a proxy that answered."""
    silent: tuple[str, ...] = ()
    """Proxies that did not say in time what they did."""
