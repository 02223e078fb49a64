"""Whether noded and the other nodes could log in now, found out before a failover depends on it.

The sessions that a promotion and its proof need are opened as soon as PostgreSQL takes connections, and again when they are
lost.  Every few seconds a fresh login is tried as well, of our superuser through the socket and of the replication role as
another node would come; one that fails twice in a row is a problem of this node, told in its observations (decision 0012).
The new session runs what those that are held have run: these go on with what they have looked up, and after a restart none can.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from daemonkit.logs import get_logger
from noded.postgres import conf, slots
from noded.postgres.instance import Instance
from noded.postgres.sessions import ROUTES, Route, Session, SessionError, may_work_elsewhere
from noded.postgres.walsender import Walsender, WalsenderError
from pgtopology.node import Address

ROUND_S = 0.5
TRY_S = 3.0
AGAIN_S = 0.5
"""After a login that failed for the first time: a busy moment is no problem yet."""
OPEN_TIMEOUT_S = 2.5
TRY_TIMEOUT_S = 2.0
ANYWHERE = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a server may be told to listen on
TOO_MANY_CONNECTIONS = "53300"

_OF_OURS = """
(database = 0 OR database = (SELECT datid FROM pg_stat_get_activity(pg_backend_pid()))) AND relation::int8 < 16384
"""
"""A catalog that every login reads, or one of the database that ours are in: another database's keeps nobody else out."""
LOCKS = f"""
SELECT pid, relation::int8 AS relation FROM pg_lock_status()
 WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND granted AND {_OF_OURS}
 ORDER BY pid LIMIT 1
"""  # noqa: S608 - a condition of ours
"""Who keeps everybody else from reading a catalog."""
LASTING_LOCKS = f"""
SELECT relation::int8 AS relation FROM pg_lock_status()
 WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND granted AND pid IS NULL AND {_OF_OURS}
 ORDER BY 1 LIMIT 1
"""  # noqa: S608 - a condition of ours
"""The same of a prepared transaction: sessions that are open hardly feel it, and it outlives every restart and failover."""
ELSEWHERE = """
WITH held AS MATERIALIZED (SELECT * FROM pg_lock_status() WHERE pid IS NULL AND granted)
SELECT held.relation::int8 AS relation, x.gid AS name
  FROM held LEFT JOIN (held AS own JOIN pg_prepared_xact() x ON own.transactionid = x.transaction) USING (virtualtransaction)
 WHERE held.locktype = 'relation' AND held.mode = 'AccessExclusiveLock' AND held.relation::int8 < 16384
   AND held.database NOT IN (0, (SELECT datid FROM pg_stat_get_activity(pg_backend_pid())))
 ORDER BY 1, 2 LIMIT 1
"""
"""The same of a database that ours are not in: no failover needs it. Functions, for views join what may be locked."""
_CATALOGS = {
    1259: "pg_class",
    1260: "pg_authid",
    1261: "pg_auth_members",
    1262: "pg_database",
    2619: "pg_statistic",
    2964: "pg_db_role_setting",
}

STATEMENTS: list[tuple[str, tuple[object, ...]]] = [(LOCKS, ()), (LASTING_LOCKS, ()), (ELSEWHERE, ())]
"""What the session that is asked for locks runs once at its opening."""


class Logins:
    """The logins of one node."""

    def __init__(self, instance: Instance, on_change: Callable[[], None]) -> None:
        self._instance = instance
        self._on_change = on_change
        self._failed: str | None = None
        self._login: str | None = None
        self._full = False
        self._detour = False
        """What a new session of ours asks fails in one database, and works in the next."""
        self.locked_elsewhere: str | None = None
        """Who keeps everybody out of a database that none of ours is in."""
        self.problem: str | None = None
        """Which fresh login fails, or would after a failover, and why; None while nothing runs that could take them."""
        self.spared = False
        """Whether another writer would do without what `problem` tells of: strangers have every connection, and those that it
        needs are open here; or what fails in our database works in another one."""
        self._log = get_logger()

    async def run(self) -> None:
        """Keep sessions open and try logins, for ever."""
        loop = asyncio.get_running_loop()
        due_at = 0.0
        while True:
            if not self._instance.note_readiness():
                self._failed = self._login = self.locked_elsewhere = None
                self._tell(None)
                due_at = 0.0
                await asyncio.sleep(ROUND_S / 5)
                continue
            await self._keep_open()
            if loop.time() >= due_at:
                failed = await self._try()
                if not self._instance.postmaster.ready_seen:
                    continue
                if failed is None or self._failed is not None:
                    self._login = failed
                due_at = loop.time() + (AGAIN_S if failed is not None and self._failed is None else TRY_S)
                self._failed = failed
            lasting = await self._lasting_lock()
            self.locked_elsewhere = await self._locked_elsewhere()
            held = all(session.is_open for session in self._instance.sessions.standing)
            self._tell(lasting or self._login, spared=lasting is None and (self._detour or (self._full and held)))
            await asyncio.sleep(ROUND_S)

    def _tell(self, problem: str | None, *, spared: bool = False) -> None:
        spared = spared and problem is not None
        if (problem, spared) == (self.problem, self.spared):
            return
        if problem is not None:
            self._log.error("a login fails that a failover may need", why=problem, spared=spared)
        else:
            self._log.info("logins work again")
        self.problem, self.spared = problem, spared
        self._on_change()

    async def _keep_open(self) -> None:
        sessions = self._instance.sessions
        first = [session for session in sessions.standing if session is not sessions.checkpoint]
        await asyncio.gather(*(_open(session) for session in first))
        if sessions.control.is_open:
            # Each login that nobody answers makes the pause before the next ones longer: this one waits for proof of an answer.
            await _open(sessions.checkpoint)
        if self._instance.layout.standby_signal.exists():
            await _open_walsender(sessions.walsender)

    async def _try(self) -> str | None:
        """Return what is wrong with fresh logins, or None."""
        if not (hangs := self._instance.sessions.routes.hangs).left_s(asyncio.get_running_loop().time()):
            control, replication = await asyncio.gather(self._try_control(), self._try_replication())
            self._full = self._full and replication is None
            self._detour = self._detour and replication is None
            return "; ".join(text for text in (control, replication) if text is not None) or None
        self._full = self._detour = False
        return self._failed or f'"{conf.CONTROL_ROLE}" cannot log in: logins are {hangs.reason}{await self._blocker()}'

    async def _try_control(self) -> str | None:
        sessions = self._instance.sessions
        refused = useless = None
        self._detour = False
        for route in ROUTES:
            session = sessions.fresh("endpointd login")
            session.routes = sessions.only(route)
            session.statements = [*slots.STATEMENTS, *(one for other in sessions.standing for one in other.statements)]
            try:
                await session.open(timeout_s=TRY_TIMEOUT_S)
            except SessionError as error:
                self._full = error.sqlstate == TOO_MANY_CONNECTIONS
                text = (str(error) if error.sqlstate else f"not answered ({error})").partition("\n")[0]
                if session.route is not None:
                    useless = useless or f'"{route.role}" can do nothing in database "{route.database}": {text}'
                refused = refused or text
                if may_work_elsewhere(error.sqlstate):
                    continue
                break
            finally:
                session.drop()
            self._full = False
            if sessions.routes.works(route):
                _renew(sessions.standing, route)
            if route.role == conf.CONTROL_ROLE:
                self._detour = useless is not None
                return useless and f'{useless}; database "{route.database}" serves instead'
            break
        what = useless or f'"{conf.CONTROL_ROLE}" cannot log in: {refused}'
        return f"{what}{await self._blocker()}"

    async def _try_replication(self) -> str | None:
        server = self._instance.server
        address = Address(ANYWHERE.get(server.host, server.host), server.port)
        walsender = Walsender(address, user=conf.REPLICATION_ROLE, password=server.replication_password, name="endpointd login")
        try:
            await walsender.identify(timeout_s=TRY_TIMEOUT_S)
        except WalsenderError as error:
            return f'"{conf.REPLICATION_ROLE}" cannot log in, so no node could follow this one: {error}'
        finally:
            walsender.close()
        return None

    async def _blocker(self) -> str:
        """Return who holds a lock that logins wait for, as far as a session that is open already can tell."""
        control = self._instance.sessions.control
        if not control.is_open:
            return ""
        with contextlib.suppress(SessionError):
            for row in await control.rows(LOCKS, timeout_s=TRY_TIMEOUT_S):
                if row["pid"] is not None:
                    return f" (process {row['pid']} has locked {_catalog(row['relation'])}; end that transaction)"
        return ""

    async def _lasting_lock(self) -> str | None:
        """Return which prepared transaction's lock would keep logins out, as far as a session that is open already can tell."""
        control = self._instance.sessions.control
        if control.is_open and not control.is_busy:
            with contextlib.suppress(SessionError):
                for row in await control.rows(LASTING_LOCKS, timeout_s=TRY_TIMEOUT_S):
                    return (
                        f"a prepared transaction has locked {_catalog(row['relation'])}, also after a failover: "
                        "COMMIT PREPARED or ROLLBACK PREPARED it (pg_prepared_xacts) before logins fail"
                    )
        return None

    async def _locked_elsewhere(self) -> str | None:
        """Return which prepared transaction keeps everybody out of a database that none of ours is in."""
        control = self._instance.sessions.control
        if control.is_open and not control.is_busy:
            with contextlib.suppress(SessionError):
                for row in await control.rows(ELSEWHERE, timeout_s=TRY_TIMEOUT_S):
                    named = f' "{row["name"]}"' if row["name"] is not None else ""
                    return (
                        f"the prepared transaction{named} has locked {_catalog(row['relation'])} of its database, where logins "
                        "may wait for ever: COMMIT PREPARED or ROLLBACK PREPARED it there (pg_prepared_xacts)"
                    )
        return None


def _catalog(relation: int) -> str:
    return _CATALOGS.get(relation, f"catalog {relation}")


async def _open(session: Session) -> None:
    if not session.is_open and not session.is_busy:
        with contextlib.suppress(SessionError):
            await session.open(timeout_s=OPEN_TIMEOUT_S)


async def _open_walsender(walsender: Walsender) -> None:
    with contextlib.suppress(WalsenderError):
        await walsender.open(timeout_s=OPEN_TIMEOUT_S)


def _renew(sessions: tuple[Session, ...], route: Route) -> None:
    """Let idle sessions that came in by another way than *route* come in anew."""
    for session in sessions:
        if session.is_open and session.route != route and not session.is_busy:
            session.drop()
