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
from noded.instance import Instance
from noded.sessions import Session, SessionError

TOLD_S = 300.0
"""How long what was undone is still told of."""
FUNCTIONS_EVERY_S = 30.0
TEXTS_MAX = 20
"""So many are told of, and undone in one round."""
TIMEOUT_S = 2.0

_SETTINGS = """
SELECT r.rolname::text AS role, d.datname::text AS database, split_part(one, '=', 2) AS value
  FROM pg_db_role_setting s
 CROSS JOIN unnest(s.setconfig) AS one
  LEFT JOIN pg_roles r ON r.oid = s.setrole
  LEFT JOIN pg_database d ON d.oid = s.setdatabase
 WHERE lower(split_part(one, '=', 1)) = 'synchronous_commit'
   AND lower(split_part(one, '=', 2)) NOT IN ('on', 'true', 'yes', '1')
   AND (s.setrole = 0 OR r.oid IS NOT NULL) AND (s.setdatabase = 0 OR d.oid IS NOT NULL)
 ORDER BY 1, 2 LIMIT 20
"""

_DATABASES = "SELECT datname::text AS name FROM pg_database WHERE datallowconn ORDER BY 1"

_FUNCTIONS = """
SELECT p.oid::regprocedure::text AS name, split_part(one, '=', 2) AS value
  FROM pg_proc p CROSS JOIN unnest(p.proconfig) AS one
 WHERE lower(split_part(one, '=', 1)) = 'synchronous_commit'
   AND lower(split_part(one, '=', 2)) NOT IN ('on', 'true', 'yes', '1')
 ORDER BY 1 LIMIT 20
"""


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One setting of a role, a database or both; with neither it is of all roles."""

    role: str | None
    database: str | None
    value: str

    @property
    def text(self) -> str:
        """For people."""
        who = [f'role "{self.role}"'] if self.role is not None else []
        who += [f'database "{self.database}"'] if self.database is not None else []
        return f"{' in '.join(who) or 'all roles'}: synchronous_commit={self.value}"

    @property
    def remedy(self) -> str:
        """The statement that undoes it."""
        if self.role is None and self.database is not None:
            return f"ALTER DATABASE {quote_identifier(self.database)} RESET synchronous_commit"
        role = quote_identifier(self.role) if self.role is not None else "ALL"
        where = f" IN DATABASE {quote_identifier(self.database)}" if self.database is not None else ""
        return f"ALTER ROLE {role}{where} RESET synchronous_commit"


def quote_identifier(name: str) -> str:
    """Return *name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class Relaxations:
    """What was found on one node, and what was undone of it lately."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._present: list[str] = []
        self._undone: dict[str, float] = {}
        self._functions: list[str] = []
        self._functions_at = float("-inf")
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
        self._functions_at = float("-inf")

    async def look(self, session: Session) -> None:
        """Do one round on the writer, over *session*. Raises SessionError."""
        now = asyncio.get_running_loop().time()
        self._undone = {text: at for text, at in self._undone.items() if now - at < TOLD_S}
        rows = await session.rows(_SETTINGS, timeout_s=TIMEOUT_S)
        found = [Relaxation(row["role"], row["database"], row["value"]) for row in rows]
        self._present = [one.text for one in found]
        if found and not self._instance.desired.relaxed_commits:
            for one in found:
                await session.rows(one.remedy, timeout_s=TIMEOUT_S)
                self._log.error("commits were relaxed by somebody, which is undone", what=one.text)
                self._present.remove(one.text)
                self._undone[one.text] = now
        if now - self._functions_at >= FUNCTIONS_EVERY_S:
            self._functions_at = now
            self._functions = await self._find_functions(session)

    async def _find_functions(self, session: Session) -> list[str]:
        """Return the functions that relax commits, of every database that can be looked into."""
        found: list[str] = []
        for row in await session.rows(_DATABASES, timeout_s=TIMEOUT_S):
            database = row["name"]
            visitor = self._instance.sessions.fresh("endpointd auditor", database=database)
            try:
                functions = await visitor.rows(_FUNCTIONS, timeout_s=TIMEOUT_S)
            except SessionError as error:
                self._log.debug("a database could not be looked into", database=database, error=str(error))
                continue
            finally:
                visitor.drop()
            found += [
                f'function {one["name"]} in database "{database}": synchronous_commit={one["value"]}' for one in functions
            ]
        for text in found:
            if text not in self._functions:
                self._log.error("a function relaxes commits", what=text)
        return found
