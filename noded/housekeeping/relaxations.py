"""Finds, and undoes, what lets commits return before the quorum has them.

A role, a database or a function can carry another synchronous_commit than `on`, and PostgreSQL obeys it: `off`, `local` and
`remote_write` acknowledge commits that can be lost, and `remote_apply` counts nobody who only stores WAL.  Unless the operator
has chosen that, the settings of roles and databases are reset; functions, which belong to their authors, are only told of.
Sessions that began in the moment in between keep the value until they end.  Looked at on the writer alone: standbys follow.

Settings too large to be read are no settings: every role may have some of a gigabyte, which would hide what else it has set,
and those of all roles are read at each login, ours among them.  They are deleted unread; what cannot be looked at is told.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from daemonkit.logs import get_logger
from noded.housekeeping.told import Told
from noded.postgres import conf
from noded.postgres.instance import Instance
from noded.postgres.sessions import BOUNDED, Session, SessionError, shown

FUNCTIONS_EVERY_S = 30.0
VISITS_MAX = 4
"""So many databases are visited at a time."""
TEXTS_MAX = 20
"""So many are told of, and undone in one round."""
TIMEOUT_S = 2.0
FAILURES_MAX = 3
"""A look that failed so often in a row is told of; one may have met a lock."""
STORED_BYTES_MAX = 65_536
"""Of all settings of a role or database as they are stored, compressed; the sane ones are some hundred bytes. What is within it
is at most 16 MB when it is read."""

_OVERSIZED = f"""
SELECT textsend(r.rolname::text) AS role, textsend(d.datname::text) AS database, pg_column_size(s.setconfig) AS stored,
       s.setrole::int8 AS role_oid, s.setdatabase::int8 AS database_oid
  FROM pg_db_role_setting s
  LEFT JOIN pg_roles r ON r.oid = s.setrole
  LEFT JOIN pg_database d ON d.oid = s.setdatabase
 WHERE pg_column_size(s.setconfig) > {STORED_BYTES_MAX}
 ORDER BY s.setrole, s.setdatabase LIMIT 20
"""  # noqa: S608 - a number
"""pg_column_size() does not read what is stored out of line. Those of all roles come first."""

_DELETE = f"""
DELETE FROM pg_db_role_setting
 WHERE setrole::int8 = $1 AND setdatabase::int8 = $2 AND pg_column_size(setconfig) > {STORED_BYTES_MAX}
"""  # noqa: S608 - a number
"""ALTER ROLE ... RESET would read them."""

_SETTINGS = f"""
SELECT textsend(r.rolname::text) AS role, textsend(d.datname::text) AS database, split_part(one, '=', 2) AS value,
       s.setrole::int8 AS role_oid, s.setdatabase::int8 AS database_oid
  FROM pg_db_role_setting s
 CROSS JOIN unnest(CASE WHEN pg_column_size(s.setconfig) <= {STORED_BYTES_MAX} THEN s.setconfig END) AS one
  LEFT JOIN pg_roles r ON r.oid = s.setrole
  LEFT JOIN pg_database d ON d.oid = s.setdatabase
 WHERE lower(split_part(one, '=', 1)) = 'synchronous_commit'
   AND lower(split_part(one, '=', 2)) NOT IN ('on', 'true', 'yes', '1')
   AND (s.setrole = 0 OR r.oid IS NOT NULL) AND (s.setdatabase = 0 OR d.oid IS NOT NULL)
 ORDER BY 1, 2 LIMIT 20
"""  # noqa: S608 - a number

_DATABASES = "SELECT textsend(datname::text) AS name FROM pg_database WHERE datallowconn ORDER BY 1"

_FUNCTIONS = f"""
SELECT textsend(p.oid::regprocedure::text) AS name, split_part(one, '=', 2) AS value
  FROM pg_proc p
 CROSS JOIN unnest(CASE WHEN pg_column_size(p.proconfig) <= {STORED_BYTES_MAX} THEN p.proconfig END) AS one
 WHERE lower(split_part(one, '=', 1)) = 'synchronous_commit'
   AND lower(split_part(one, '=', 2)) NOT IN ('on', 'true', 'yes', '1')
 UNION ALL
SELECT textsend(p.oid::regprocedure::text), '? (its settings are too large to be read)'
  FROM pg_proc p WHERE pg_column_size(p.proconfig) > {STORED_BYTES_MAX}
 ORDER BY 1 LIMIT 20
"""  # noqa: S608 - a number


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One setting of a role, a database or both; with neither it is of all roles."""

    role: bytes | None
    database: bytes | None
    value: str
    role_oid: int = 0
    database_oid: int = 0

    @property
    def text(self) -> str:
        """For people."""
        return f"{_whose(self.role, self.database)}: synchronous_commit={self.value}"

    @property
    def remedy(self) -> str:
        """The statement that undoes it. PostgreSQL puts the names in: not every name can be sent to it as UTF-8."""
        role = f"(SELECT rolname FROM pg_roles WHERE oid = {self.role_oid})"  # noqa: S608 - a number
        database = f"(SELECT datname FROM pg_database WHERE oid = {self.database_oid})"  # noqa: S608 - a number
        if self.role is None and self.database is not None:
            statement, names = "ALTER DATABASE %I RESET synchronous_commit", [database]
        else:
            who, names = ("%I", [role]) if self.role is not None else ("ALL", [])
            where, more = (" IN DATABASE %I", [database]) if self.database is not None else ("", [])
            statement, names = f"ALTER ROLE {who}{where} RESET synchronous_commit", [*names, *more]
        return f"DO $$ BEGIN EXECUTE format({', '.join((conf.quote_literal(statement), *names))}); END $$"


def _whose(role: bytes | None, database: bytes | None) -> str:
    who = [f'role "{shown(role)}"'] if role is not None else []
    who += [f'database "{shown(database)}"'] if database is not None else []
    return " in ".join(who) or "all roles"


class Relaxations:
    """What was found on one node, and what was undone of it lately."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._present: list[str] = []
        self._undone = Told()
        self._functions: list[str] = []
        self._failures = 0
        self._unseen: str | None = None
        self._log = get_logger()

    @property
    def texts(self) -> tuple[str, ...]:
        """What the observation says."""
        undone = [f"{text} (undone)" for text in self._undone.texts if text not in self._present]
        unseen = (self._unseen,) if self._unseen is not None else ()
        return (*unseen, *self._present, *self._functions, *undone)[:TEXTS_MAX]

    def forget(self) -> None:
        """This node is not the writer."""
        self._present.clear()
        self._undone.clear()
        self._functions.clear()
        self._failures, self._unseen = 0, None

    async def look(self) -> None:
        """Do one round on the writer. Raises SessionError."""
        now = asyncio.get_running_loop().time()
        self._undone.expire(now)
        try:
            session = await self._session()
            await self._delete_oversized(session, now)
            await self._undo(session, now)
        except SessionError as error:
            self._failures += 1
            if self._failures >= FAILURES_MAX:
                if self._unseen is None:
                    self._log.error("whether commits are relaxed cannot be looked for", error=str(error))
                self._unseen = f"unknown, because noded cannot look: {str(error).partition(chr(10))[0]}"
            raise
        self._failures, self._unseen = 0, None

    async def _session(self) -> Session:
        """Return our session, or one that was opened earlier where what slows down every login keeps ours from being opened."""
        sessions = self._instance.sessions
        try:
            await sessions.auditor.open(timeout_s=TIMEOUT_S)
        except SessionError:
            if not sessions.checkpoint.is_open or sessions.checkpoint.is_busy:
                raise
            return sessions.checkpoint
        return sessions.auditor

    async def _delete_oversized(self, session: Session, now: float) -> None:
        for row in await session.rows(_OVERSIZED, timeout_s=TIMEOUT_S):
            ours = row["role"] in (None, conf.CONTROL_ROLE.encode()) and row["database"] in (None, conf.DATABASE.encode())
            if self._instance.desired.relaxed_commits and not ours:
                continue
            await session.rows(_DELETE, row["role_oid"], row["database_oid"], timeout_s=TIMEOUT_S)
            whose = _whose(row["role"], row["database"])
            text = f"{whose}: settings of {row['stored']} bytes as stored, too large to be read"
            self._log.error("settings too large to be read were deleted, all of this owner's", what=text)
            self._undone.say(text, now)

    async def _undo(self, session: Session, now: float) -> None:
        rows = await session.rows(_SETTINGS, timeout_s=TIMEOUT_S)
        found = [Relaxation(row["role"], row["database"], row["value"], row["role_oid"], row["database_oid"]) for row in rows]
        self._present = [one.text for one in found]
        if found and not self._instance.desired.relaxed_commits:
            for one in found:
                await session.rows(one.remedy, timeout_s=TIMEOUT_S)
                self._log.error("commits were relaxed by somebody, which is undone", what=one.text)
                self._present.remove(one.text)
                self._undone.say(one.text, now)

    async def look_for_functions(self, session: Session) -> None:
        """Visit every database of the writer, a few at a time: its users can make a visit slow. Raises SessionError."""
        names = [row["name"] for row in await session.rows(_DATABASES, timeout_s=TIMEOUT_S)]
        doors = asyncio.Semaphore(VISITS_MAX)

        async def visit(name: bytes) -> list[str]:
            async with doors:
                return await self._visit(name)

        found = [text for texts in await asyncio.gather(*map(visit, names)) for text in texts]
        for text in found:
            if text not in self._functions:
                self._log.error("a function relaxes commits", what=text)
        self._functions = found

    async def _visit(self, name: bytes) -> list[str]:
        """Return the functions in the database *name* that relax commits; none if it cannot be looked into."""
        try:
            visitor = self._instance.sessions.fresh("endpointd auditor", database=name.decode(), settings=BOUNDED)
        except UnicodeDecodeError:
            self._log.debug("a database whose name is not UTF-8 cannot be looked into", database=shown(name))
            return []
        try:
            functions = await visitor.rows(_FUNCTIONS, timeout_s=TIMEOUT_S)
        except SessionError as error:
            self._log.debug("a database could not be looked into", database=shown(name), error=str(error))
            return []
        finally:
            visitor.drop()
        return [
            f'function {shown(one["name"])} in database "{shown(name)}": synchronous_commit={one["value"]}' for one in functions
        ]
