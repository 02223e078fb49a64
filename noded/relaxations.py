"""Finds, and undoes, what lets commits return before the quorum has them.

A role, a database or a function can carry another synchronous_commit than `on`, and PostgreSQL obeys it: `off`, `local` and
`remote_write` acknowledge commits that can be lost, and `remote_apply` counts nobody who only stores WAL.  Unless the operator
has chosen that, the settings of roles and databases are reset; functions, which belong to their authors, are only told of.
Sessions that began in the moment in between keep the value until they end.  Looked at on the writer alone: standbys follow.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from daemonkit.logs import get_logger
from noded import conf
from noded.instance import Instance
from noded.sessions import Session, SessionError, shown

TOLD_S = 300.0
"""How long what was undone is still told of."""
FUNCTIONS_EVERY_S = 30.0
VISITS_MAX = 4
"""So many databases are visited at a time."""
TEXTS_MAX = 20
"""So many are told of, and undone in one round."""
TIMEOUT_S = 2.0

_SETTINGS = """
SELECT textsend(r.rolname::text) AS role, textsend(d.datname::text) AS database, split_part(one, '=', 2) AS value,
       s.setrole::int8 AS role_oid, s.setdatabase::int8 AS database_oid
  FROM pg_db_role_setting s
 CROSS JOIN unnest(s.setconfig) AS one
  LEFT JOIN pg_roles r ON r.oid = s.setrole
  LEFT JOIN pg_database d ON d.oid = s.setdatabase
 WHERE lower(split_part(one, '=', 1)) = 'synchronous_commit'
   AND lower(split_part(one, '=', 2)) NOT IN ('on', 'true', 'yes', '1')
   AND (s.setrole = 0 OR r.oid IS NOT NULL) AND (s.setdatabase = 0 OR d.oid IS NOT NULL)
 ORDER BY 1, 2 LIMIT 20
"""

_DATABASES = "SELECT textsend(datname::text) AS name FROM pg_database WHERE datallowconn ORDER BY 1"

_FUNCTIONS = """
SELECT textsend(p.oid::regprocedure::text) AS name, split_part(one, '=', 2) AS value
  FROM pg_proc p CROSS JOIN unnest(p.proconfig) AS one
 WHERE lower(split_part(one, '=', 1)) = 'synchronous_commit'
   AND lower(split_part(one, '=', 2)) NOT IN ('on', 'true', 'yes', '1')
 ORDER BY 1 LIMIT 20
"""


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
        who = [f'role "{shown(self.role)}"'] if self.role is not None else []
        who += [f'database "{shown(self.database)}"'] if self.database is not None else []
        return f"{' in '.join(who) or 'all roles'}: synchronous_commit={self.value}"

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


class Relaxations:
    """What was found on one node, and what was undone of it lately."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._present: list[str] = []
        self._undone: dict[str, float] = {}
        self._functions: list[str] = []
        self._log = get_logger()

    @property
    def texts(self) -> tuple[str, ...]:
        """What the observation says."""
        undone = [f"{text} (undone)" for text in self._undone if text not in self._present]
        return (*self._present, *self._functions, *undone)[:TEXTS_MAX]

    def forget(self) -> None:
        """This node is not the writer."""
        self._present.clear()
        self._undone.clear()
        self._functions.clear()

    async def look(self, session: Session) -> None:
        """Do one round on the writer, over *session*. Raises SessionError."""
        now = asyncio.get_running_loop().time()
        self._undone = {text: at for text, at in self._undone.items() if now - at < TOLD_S}
        rows = await session.rows(_SETTINGS, timeout_s=TIMEOUT_S)
        found = [Relaxation(row["role"], row["database"], row["value"], row["role_oid"], row["database_oid"]) for row in rows]
        self._present = [one.text for one in found]
        if found and not self._instance.desired.relaxed_commits:
            for one in found:
                await session.rows(one.remedy, timeout_s=TIMEOUT_S)
                self._log.error("commits were relaxed by somebody, which is undone", what=one.text)
                self._present.remove(one.text)
                self._undone[one.text] = now

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
            visitor = self._instance.sessions.fresh("endpointd auditor", database=name.decode())
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
