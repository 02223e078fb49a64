"""What a node tells proxies of its roles, read from pg_authid again and again for as long as a proxy asks, and then forgotten.

One reader for all proxies, with a session, a task and deadlines of its own: whoever locks pg_authid, or makes ten thousand
roles, delays nothing else here.  A look is one statement that names the present content, by where each row stands and which
transaction made it, and a second one that reads it only if it is another: a password that was changed, a rename, a drop, a
membership and a rollback are all seen so, and after a restart everything is read anew, because another history may stand in
the same places.  While a look is in vain, what was seen last is told, with the reason.  Nothing of it is logged or written
anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Protocol

from noded.files.controldata import ControlData
from noded.law.backoff import Backoff
from noded.postgres.conf import CONTROL_ROLE, PROBE_ROLE, REPLICATION_ROLE
from noded.postgres.failures import FAILURES
from noded.postgres.instance import Instance
from noded.postgres.sessions import BOUNDED, ROUTES, Routes, Session, SessionError, shown
from noded.postgres.vouching import IS_ORDINARY, WITH_MIGHTY, present
from pgtopology.credentials import NONCE_BYTES, Credentials, RoleCredential, RolesAnswer, VerifierKind, make_credentials
from pgtopology.lsn import Lsn

LOOK_EVERY_S = 0.25
"""So that a change is at the proxies within half a second."""
SOONEST_S = 0.05
"""Between two looks, whoever is in a hurry."""
SHARE = 5
PAUSE_MAX_S = 1.0
"""A look is followed by a pause of at least so many times its length, within this limit: ten thousand roles of a tenant that
changes them without end cost no more than a part of a core."""
ASK_TIMEOUT_S = 2.0
CONTROL_FILE_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 10.0
"""Longer than two looks and the pause between them take."""
TOLD_AFTER_S = 5.0
"""Looks that have been in vain for so long are told to people."""
IDLE_S = 10.0
"""After the last question: then the session is closed, and what was read is forgotten."""
WAIT_S_MAX = 30.0
QUESTIONS_MAX = 1024
"""At once: four from each of 256 proxies."""
ROLES_MAX = 20_000
"""An answer of so many, each with the longest name and verifier, has 14 MB. Beyond it the eldest are told: those of a flood of
new ones are left out, not those that people log in with."""
VERIFIER_BYTES_MAX = 512
"""What PostgreSQL 18 takes; the earlier ones take megabytes of salt."""
DEFAULT_ITERATIONS = 4096
NAMED_MAX = 5
LOCK_NOT_AVAILABLE = "55P03"
OURS = tuple(name.encode() for name in (CONTROL_ROLE, REPLICATION_ROLE, PROBE_ROLE))
"""Nobody logs in as one of these through an endpoint."""

CONTENT = """
SELECT pg_catalog.md5(pg_catalog.string_agg(xmin::pg_catalog.text OPERATOR(pg_catalog.||) ctid::pg_catalog.text, ','
                                            ORDER BY ctid)) AS content,
       (SELECT pg_catalog.md5(pg_catalog.string_agg(xmin::pg_catalog.text OPERATOR(pg_catalog.||) ctid::pg_catalog.text, ','
                                                    ORDER BY ctid))
          FROM pg_catalog.pg_auth_members) AS members,
       coalesce(pg_catalog.current_setting('scram_iterations', true)::pg_catalog.int4, 0) AS iterations,
       (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
             ELSE pg_catalog.pg_current_wal_flush_lsn() END OPERATOR(pg_catalog.-) '0/0')::pg_catalog.int8 AS lsn
  FROM pg_catalog.pg_authid
"""
"""One row, and no password in it."""

ROLES = f"""{WITH_MIGHTY}
SELECT pg_catalog.textsend(rolname::pg_catalog.text) AS name, {IS_ORDINARY} AS ordinary,
       CASE WHEN rolpassword IS NULL THEN 'none'
            WHEN pg_catalog.octet_length(rolpassword) OPERATOR(pg_catalog.>) {VERIFIER_BYTES_MAX} THEN 'other'
            WHEN pg_catalog.substr(pg_catalog.textsend(rolpassword), 1, 14) OPERATOR(pg_catalog.=) 'SCRAM-SHA-256$' THEN 'scram'
            WHEN pg_catalog.substr(pg_catalog.textsend(rolpassword), 1, 3) OPERATOR(pg_catalog.=) 'md5' THEN 'md5'
            ELSE 'other' END AS kind,
       CASE WHEN pg_catalog.octet_length(rolpassword) OPERATOR(pg_catalog.>) {VERIFIER_BYTES_MAX} THEN NULL
            WHEN pg_catalog.substr(pg_catalog.textsend(rolpassword), 1, 14) OPERATOR(pg_catalog.=) 'SCRAM-SHA-256$'
            THEN pg_catalog.textsend(rolpassword) END AS verifier
  FROM pg_catalog.pg_authid
 ORDER BY oid LIMIT {ROLES_MAX + len(OURS) + 1}
"""  # noqa: S608 - constants of ours
"""The length of a value that is stored elsewhere is known without reading it. An md5 hash does not leave the server: it can be
presented as it is. Bytes, because not every name is UTF-8, and somebody may have written anything into rolpassword."""


class Row(Protocol):
    """A row of ROLES."""

    def __getitem__(self, name: str, /) -> object: ...


class CredentialReader:
    """Reads for whoever asks, while `run` runs."""

    def __init__(self, instance: Instance, on_change: Callable[[], None]) -> None:
        """*on_change* is called when `notes` are others."""
        self._instance = instance
        self._on_change = on_change
        self._session: Session = instance.sessions.fresh("endpointd roles", settings=BOUNDED)
        # A login that hangs, while pg_authid is locked, must not make those sessions wait that a failover needs.
        self._session.routes = Routes(ROUTES, Backoff(first_s=0.5, max_s=15.0, free=1))
        self._control: ControlData | None = None
        self._content: tuple[str, str | None, int] | None = None
        """What names the content that `_credentials` were read from."""
        self._credentials: Credentials | None = None
        self._lsn: Lsn | None = None
        self._seen_at: float | None = None
        self._problem: str | None = None
        self._in_vain_since: float | None = None
        self._left_out = False
        self._md5: str | None = None
        self._closed = False
        self._asking = 0
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._next: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the look is over that begins next."""
        self.notes: tuple[str, ...] = ()
        """For people: who cannot log in through an endpoint, and what cannot be read."""

    @property
    def is_full(self) -> bool:
        """Whether too many ask already."""
        return self._asking >= QUESTIONS_MAX

    async def answer(self, since: str | None, wait_s: float) -> RolesAnswer:
        """Return what a look has found that began after the question: at once if not *since*, after *wait_s* at last."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(wait_s, WAIT_S_MAX)
        self._asking += 1
        self._asked.set()
        if wait_s <= 0 or since is None or since != self._version:
            self._hurry.set()
        try:
            while True:
                look = self._next
                await asyncio.wait((look,), timeout=ANSWER_TIMEOUT_S)
                if not look.done() or self._closed or self._version != since or loop.time() >= deadline:
                    return self._tell(since)
        finally:
            self._asking -= 1

    @property
    def _version(self) -> str | None:
        return self._credentials.version if self._credentials is not None else None

    def _tell(self, since: str | None) -> RolesAnswer:
        seen_at = self._seen_at
        return RolesAnswer(
            version=self._version,
            lsn=self._lsn,
            age_ms=int((asyncio.get_running_loop().time() - seen_at) * 1000) if seen_at is not None else None,
            problem=self._problem,
            credentials=self._credentials if self._version != since else None,
        )

    async def run(self) -> None:
        """Look for as long as somebody asks, for ever."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                if not self._asking:
                    await self._rest()
                begun = loop.time()
                self._hurry.clear()
                look, self._next = self._next, loop.create_future()
                await self._look(begun)
                look.set_result(None)
                self._note(begun)
                pause_s = min(SHARE * (loop.time() - begun), PAUSE_MAX_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(begun + max(LOOK_EVERY_S, pause_s)):
                        await self._hurry.wait()
                await asyncio.sleep(max(0.0, begun + max(SOONEST_S, pause_s) - loop.time()))
        finally:
            # Whoever still asks is answered, so that the server can close.
            self._closed = True
            self._forget()
            self._next.set_result(None)

    async def _rest(self) -> None:
        """Wait until somebody asks; forget everything if that takes long."""
        self._asked.clear()
        try:
            async with asyncio.timeout(IDLE_S):
                await self._asked.wait()
        except TimeoutError:
            self._forget()
            self._tell_people(())
            await self._asked.wait()

    def _forget(self) -> None:
        self._session.drop()
        self._control = self._content = self._credentials = None
        self._lsn = self._seen_at = self._problem = self._in_vain_since = self._md5 = None

    async def _look(self, begun: float) -> None:
        try:
            if not self._instance.note_readiness():
                raise SessionError("PostgreSQL takes no connections here", lost=True)
            await self._read()
        except SessionError as error:
            locked = error.sqlstate == LOCK_NOT_AVAILABLE
            tables = "pg_authid or pg_auth_members"
            self._problem = f"somebody has locked {tables}" if locked else f"{tables} cannot be read: {_first_line(error)}"
        except FAILURES as error:
            self._problem = f"the control file cannot be read: {_first_line(error)}"
        else:
            self._seen_at, self._in_vain_since = begun, None
            self._problem = f"there are more than {ROLES_MAX} roles, and the youngest are left out" if self._left_out else None
            return
        self._in_vain_since = self._in_vain_since or begun

    async def _read(self) -> None:
        """Find out whether the content is another, and read it if so. Raises SessionError or one of FAILURES."""
        session = self._session
        if not session.is_open:
            self._control = self._content = None
        if self._control is None:
            control = await self._instance.control_data(timeout_s=CONTROL_FILE_TIMEOUT_S)
            if len(control.mock_nonce) != NONCE_BYTES:
                raise ValueError("pg_controldata did not report the mock authentication nonce")
            self._control = control
        row = await session.row(CONTENT, timeout_s=ASK_TIMEOUT_S)
        content = row["content"], row["members"], row["iterations"] or DEFAULT_ITERATIONS
        if content != self._content:
            rows = await session.rows(ROLES, timeout_s=ASK_TIMEOUT_S)
            # Twenty thousand roles take this a tenth of a second, in which the loop has other things to do.
            told = await asyncio.to_thread(compose, rows, self._control.mock_nonce, content[2])
            (self._credentials, self._left_out, self._md5), self._content = told, content
        self._lsn = Lsn(row["lsn"]) if row["lsn"] is not None else None

    def _note(self, now: float) -> None:
        notes = [self._md5] if self._md5 is not None else []
        lasts = self._in_vain_since is None or now - self._in_vain_since >= TOLD_AFTER_S
        if self._problem is not None and lasts and self._instance.running:
            notes.append(f"proxies may not know all roles as they are: {self._problem}")
        self._tell_people(tuple(notes))

    def _tell_people(self, notes: tuple[str, ...]) -> None:
        if notes != self.notes:
            self.notes = notes
            self._on_change()


def compose(rows: Sequence[Row], mock_nonce: bytes, iterations: int) -> tuple[Credentials, bool, str | None]:
    """Return what is told of *rows*, those of ROLES; whether some are left out; and a line about md5 hashes."""
    vouchable = {name.encode() for name in present(map(_name, filter(_is_ordinary, rows)), ()).roles}
    roles = [role for role in (_role(row, vouchable) for row in rows) if role.name not in OURS]
    told = make_credentials(mock_nonce, iterations, roles[:ROLES_MAX])
    return told, len(roles) > ROLES_MAX, md5_note(told.roles)


def _name(row: Row) -> bytes:
    name = row["name"]
    assert isinstance(name, bytes)
    return name


def _is_ordinary(row: Row) -> bool:
    return row["ordinary"] is True


def _role(row: Row, vouchable: Set[bytes]) -> RoleCredential:
    name, kind, verifier = _name(row), row["kind"], row["verifier"]
    text = None
    if isinstance(verifier, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            text = verifier.decode("ascii")
        kind = VerifierKind.SCRAM if text is not None else VerifierKind.OTHER
    return RoleCredential(name, str(kind), text, name in vouchable)


def md5_note(roles: Iterable[RoleCredential]) -> str | None:
    """Return a line about the roles whose passwords are md5 hashes; None if there is none."""
    names = [f'"{shown(role.name)}"' for role in roles if role.kind == VerifierKind.MD5]
    if not names:
        return None
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    whose = f"role{'s' if len(names) > 1 else ''} {', '.join(names[:NAMED_MAX])}{more}"
    return f"nobody can log in as {whose}: the password is stored as an md5 hash; set it again with ALTER ROLE ... PASSWORD"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
