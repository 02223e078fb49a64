"""Our roles and our database as they must be, put right on the writer wherever SQL has changed them.

Restoring another cluster's roles changes passwords, hardening takes rights away, and a role can be dropped or a database
renamed: none of it may keep nodes from following one another or noded from asking.  The passwords are beside us; what is
compared and written is the verifier, so that no password appears in a log.  These commits wait for no quorum: one that had to
wait for a standby that cannot log in would wait for ever, and nobody is told of them.  Decision 0012.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime

import asyncpg

from daemonkit.logs import get_logger
from noded.housekeeping.told import Told
from noded.postgres.conf import CONTROL_ROLE, DATABASE, PROBE_ROLE, REPLICATION_ROLE, quote_literal
from noded.postgres.instance import Instance
from noded.postgres.privileges import ATTRIBUTES, MEMBERSHIPS, REWIND_FUNCTIONS
from noded.postgres.sessions import Session
from pgwire.scram import derive_keys, format_verifier, make_verifier, parse_verifier

TIMEOUT_S = 2.0
MAKE_TIMEOUT_S = 20.0
"""For a new database, which is copied from template0."""
SETTINGS = {"synchronous_commit": "local", "log_statement": "none", "log_min_duration_statement": "-1"}

ITERATIONS_MAX = 100_000
"""A verifier that wants more rounds of hashing is not one of ours, and would hold us up."""

_ROLES = """
SELECT r.rolname::text AS name, r.rolcanlogin AS login, r.rolsuper AS superuser, r.rolreplication AS replication,
       r.rolconnlimit >= 0 AS limited, coalesce(r.rolvaliduntil < 'infinity', false) AS expires,
       coalesce(r.rolpassword, '') AS verifier,
       EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setrole = r.oid) AS configured
  FROM pg_authid r WHERE r.rolname = ANY($1::text[])
"""

_MAKE_BOOTSTRAP = f"""
DO $$ BEGIN
    PERFORM set_config('allow_system_table_mods', 'on', true);
    INSERT INTO pg_authid (oid, rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
                           rolbypassrls, rolconnlimit)
    VALUES (10, '{CONTROL_ROLE}', true, true, true, true, true, true, true, -1);
END $$
"""  # noqa: S608 - a name of ours
"""What initdb makes has this number for good, and since PostgreSQL 16 is who grants what a superuser grants: without it GRANT
fails (BOOTSTRAP_SUPERUSERID, pg_authid.h). SQL deletes it only where somebody has made catalogs writable."""

_DATABASE = """
SELECT d.datconnlimit = -2 AS broken, d.datallowconn AS open, d.datconnlimit >= 0 AS limited, d.datistemplate AS template,
       d.datdba = r.oid AS ours,
       EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setdatabase = d.oid) AS configured,
       EXISTS (SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = 0) AS public,
       current_database() = d.datname AS here
  FROM pg_database d LEFT JOIN pg_roles r ON r.rolname = $2::text WHERE d.datname = $1::text
"""

_FUNCTIONS = """
SELECT f AS name FROM unnest($2::text[]) AS f WHERE NOT has_function_privilege($1::text, f, 'EXECUTE')
"""

_PREPARED = """
SELECT textsend(gid) AS gid FROM pg_prepared_xact()
 WHERE dbid = (SELECT datid FROM pg_stat_get_activity(pg_backend_pid()))
"""
"""Functions alone, because a lock on any catalog is what such a transaction may hold."""

_FORMER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL) AS a JOIN pg_authid r ON r.oid = a.usesysid
 WHERE r.rolname = $1::text AND a.backend_start < $2::timestamptz
"""
FORMER_S = 70.0
"""A login that has begun may take authentication_timeout, a minute."""

_LOGIN_TRIGGERS = "SELECT quote_ident(evtname) AS name FROM pg_event_trigger WHERE evtevent = 'login'"

_RESET_IN_DATABASES = """
DO $$
DECLARE d name;
BEGIN
    FOR d IN SELECT datname FROM pg_db_role_setting s JOIN pg_database b ON b.oid = s.setdatabase
                     JOIN pg_roles r ON r.oid = s.setrole WHERE r.rolname = '{role}' LOOP
        EXECUTE format('ALTER ROLE {role} IN DATABASE %I RESET ALL', d);
    END LOOP;
END $$
"""


class Roles:
    """Our roles and database on one node, and what was put right of them lately."""

    def __init__(self, instance: Instance, passwords: Mapping[str, str]) -> None:
        self._instance = instance
        self._passwords = passwords
        self._fitting: dict[str, str] = {}
        """The verifier of each role that was found to be that of its password."""
        self._told = Told()
        self._session = instance.sessions.fresh("endpointd roles", settings=SETTINGS)
        # Kept open on a standby too: its first act as the writer may be to let everybody in again.
        instance.sessions.standing += (self._session,)
        self._replaced: tuple[float, datetime] | None = None
        """When the password of the nodeds' role was put right, on the loop's clock and on the server's."""
        self._log = get_logger()

    @property
    def texts(self) -> tuple[str, ...]:
        """What was put right lately, for people."""
        return self._told.texts

    def forget(self) -> None:
        """This node is not the writer."""
        self._told.clear()
        self._replaced = None

    async def look(self) -> None:
        """Do one round on the writer. Raises SessionError."""
        now = asyncio.get_running_loop().time()
        self._told.expire(now)
        session = self._session
        if session.route is not None and session.route.database == DATABASE:
            await self._prepared(session, now)
        await self._roles(session, now)
        await self._end_former(session, now)
        await self._memberships(session, now)
        if await self._database(session, now):
            await self._inside(session, now)
        elif self._instance.sessions.routes.in_order[0].database == DATABASE:
            session.drop()  # the next round comes in there

    async def _roles(self, session: Session, now: float) -> None:
        found = {row["name"]: row for row in await session.rows(_ROLES, list(ATTRIBUTES), timeout_s=TIMEOUT_S)}
        for role, attributes in ATTRIBUTES.items():
            row = found.get(role)
            if row is None:
                make = "ALTER" if role == CONTROL_ROLE and await self._make_bootstrap(session) else "CREATE"
                verifier = self._verifier(role)
                await session.rows(f"{make} ROLE {role} {attributes} PASSWORD {quote_literal(verifier)}", timeout_s=TIMEOUT_S)
                self._tell(f'role "{role}" was missing', now)
                continue
            wrong = _wrong(role, row)
            if wrong:
                limits = "CONNECTION LIMIT -1 VALID UNTIL 'infinity'"
                await session.rows(f"ALTER ROLE {role} {attributes} {limits}", timeout_s=TIMEOUT_S)
                self._tell(f'role "{role}" {" and ".join(wrong)}', now)
            if row["configured"]:
                await session.rows(f"ALTER ROLE {role} RESET ALL", timeout_s=TIMEOUT_S)
                await session.rows(_RESET_IN_DATABASES.format(role=role), timeout_s=TIMEOUT_S)
                self._tell(f'role "{role}" had settings of its own', now)
            if not self._fits(role, row["verifier"]):
                await session.rows(f"ALTER ROLE {role} PASSWORD {quote_literal(self._verifier(role))}", timeout_s=TIMEOUT_S)
                self._tell(f'role "{role}" had another password', now)
                if role == REPLICATION_ROLE:
                    row = await session.row("SELECT clock_timestamp() AS at", timeout_s=TIMEOUT_S)
                    self._replaced = now, row["at"]

    async def _end_former(self, session: Session, now: float) -> None:
        """End who came in as a node before the password was put right: perhaps by another one, and its word counts for commits.

        Members are back in the same moment.
        """
        if self._replaced is not None:
            replaced_at, by_server = self._replaced
            await session.rows(_FORMER, REPLICATION_ROLE, by_server, timeout_s=TIMEOUT_S)
            if now - replaced_at > FORMER_S:
                self._replaced = None

    async def _prepared(self, session: Session, now: float) -> None:
        """Roll back what somebody prepared in our database: nobody has business there, and its locks outlive every server."""
        for row in await session.rows(_PREPARED, timeout_s=TIMEOUT_S):
            try:
                gid = row["gid"].decode()
            except UnicodeDecodeError:
                continue  # asyncpg could not send it
            await session.rows(f"ROLLBACK PREPARED {quote_literal(gid)}", timeout_s=TIMEOUT_S)
            self._tell(f'a transaction was prepared in database "{DATABASE}"', now)

    async def _make_bootstrap(self, session: Session) -> bool:
        """Return whether our role was made as the one that initdb had made, because that one is gone."""
        row = await session.row("SELECT EXISTS (SELECT FROM pg_authid WHERE oid = 10) AS there", timeout_s=TIMEOUT_S)
        if not row["there"]:
            await session.rows(_MAKE_BOOTSTRAP, timeout_s=TIMEOUT_S)
        return not row["there"]

    async def _memberships(self, session: Session, now: float) -> None:
        for role, group in MEMBERSHIPS.items():
            row = await session.row(f"SELECT pg_has_role('{role}', '{group}', 'USAGE') AS has", timeout_s=TIMEOUT_S)
            if not row["has"]:
                await session.rows(f"ALTER ROLE {role} INHERIT", timeout_s=TIMEOUT_S)
                await session.rows(f"GRANT {group} TO {role}", timeout_s=TIMEOUT_S)
                self._tell(f'role "{role}" was no member of "{group}"', now)

    async def _database(self, session: Session, now: float) -> bool:
        """Put our database right; return whether *session* is in it."""
        rows = await session.rows(_DATABASE, DATABASE, CONTROL_ROLE, timeout_s=TIMEOUT_S)
        if rows and rows[0]["broken"]:
            # Somebody's DROP DATABASE did not come to its end; nothing but another one is allowed.
            await session.rows(f"DROP DATABASE {DATABASE}", timeout_s=MAKE_TIMEOUT_S)
            rows = []
        if not rows:
            await session.rows(f"CREATE DATABASE {DATABASE} TEMPLATE template0", timeout_s=MAKE_TIMEOUT_S)
            self._tell(f'database "{DATABASE}" was missing', now)
            rows = await session.rows(_DATABASE, DATABASE, CONTROL_ROLE, timeout_s=TIMEOUT_S)
        row = rows[0]
        for wrong, remedy, text in (
            (not row["open"], f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true", "let nobody in"),
            (row["limited"], f"ALTER DATABASE {DATABASE} CONNECTION LIMIT -1", "had a limit of connections"),
            (row["template"], f"ALTER DATABASE {DATABASE} IS_TEMPLATE false", "was a template"),
            (not row["ours"], f"ALTER DATABASE {DATABASE} OWNER TO {CONTROL_ROLE}", "had another owner"),
            (row["configured"], f"ALTER DATABASE {DATABASE} RESET ALL", "had settings of its own"),
            (row["public"], f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC", "was open to everybody"),
        ):
            if wrong:
                await session.rows(remedy, timeout_s=TIMEOUT_S)
                self._tell(f'database "{DATABASE}" {text}', now)
        for role in (REPLICATION_ROLE, PROBE_ROLE):
            may = await session.row(
                f"SELECT has_database_privilege('{role}', '{DATABASE}', 'CONNECT') AS may", timeout_s=TIMEOUT_S
            )
            if not may["may"]:
                await session.rows(f"GRANT CONNECT ON DATABASE {DATABASE} TO {role}", timeout_s=TIMEOUT_S)
                self._tell(f'role "{role}" could not connect to database "{DATABASE}"', now)
        return bool(row["here"])

    async def _inside(self, session: Session, now: float) -> None:
        """Put right what is each database's own; *session* is in ours."""
        rows = await session.rows(_FUNCTIONS, REPLICATION_ROLE, list(REWIND_FUNCTIONS), timeout_s=TIMEOUT_S)
        for row in rows:
            await session.rows(f"GRANT EXECUTE ON FUNCTION {row['name']} TO {REPLICATION_ROLE}", timeout_s=TIMEOUT_S)
            self._tell(f'role "{REPLICATION_ROLE}" could not call {row["name"]}', now)
        if self._instance.binaries.major >= 17:
            for row in await session.rows(_LOGIN_TRIGGERS, timeout_s=TIMEOUT_S):
                await session.rows(f"DROP EVENT TRIGGER {row['name']}", timeout_s=TIMEOUT_S)
                self._tell(f'database "{DATABASE}" had a trigger on logins', now)

    def _fits(self, role: str, text: str) -> bool:
        """Return whether *text* is a verifier of the password of *role*."""
        if text and self._fitting.get(role) == text:
            return True
        try:
            verifier = parse_verifier(text)
        except ValueError:
            return False
        if verifier.iterations > ITERATIONS_MAX:
            return False
        keys = derive_keys(self._passwords[role], verifier.salt, verifier.iterations)
        if not hmac.compare_digest(keys.server_key, verifier.server_key):
            return False
        self._fitting[role] = text
        return True

    def _verifier(self, role: str) -> str:
        return format_verifier(make_verifier(self._passwords[role], secrets.token_bytes(16)))

    def _tell(self, text: str, now: float) -> None:
        self._log.error("somebody changed what the cluster needs, which is put right", what=text)
        self._told.say(text, now)


def _wrong(role: str, row: asyncpg.Record) -> list[str]:
    attributes = ATTRIBUTES[role]
    return [
        text
        for wrong, text in (
            (not row["login"], "could not log in"),
            ("SUPERUSER" in attributes and not row["superuser"], "was no superuser"),
            ("REPLICATION" in attributes and not row["replication"], "could not replicate"),
            (row["limited"], "had a limit of connections"),
            (row["expires"], "had a password that expires"),
        )
        if wrong
    ]
