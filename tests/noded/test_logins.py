"""noded's way into its PostgreSQL: kept, tried, put right, and done without where there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import asyncpg
import pytest

from noded.housekeeping import logins
from noded.postgres.sessions import SessionError, Sessions
from pgtopology.desired import DesiredSettings
from pgtopology.node import Role
from pgtopology.orders import Acknowledged, CheckpointOrder, ConfigureOrder, StartOrder, StopOrder
from tests.noded.members import Cluster, Member, running_members
from tests.noded.test_faults import pair

pytestmark = pytest.mark.integration


@contextlib.asynccontextmanager
async def session(
    cluster: Cluster, member: Member, database: str = "postgres", **settings: str
) -> AsyncGenerator[asyncpg.Connection]:
    """Give a session of the users' superuser."""
    connection = await asyncpg.connect(
        host="127.0.0.1",
        port=member.pg_port,
        user="postgres",
        password=cluster.passwords["superuser"],
        database=database,
        ssl=False,
        server_settings=settings,
    )
    try:
        yield connection
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def locked(cluster: Cluster, member: Member, *tables: str) -> AsyncGenerator[None]:
    """Hold a lock on catalogs that nobody can log in under."""
    async with session(cluster, member) as holder:
        await holder.execute(f"BEGIN; LOCK {', '.join(tables)}")
        yield


@pytest.mark.versions
async def test_a_standby_that_lets_nobody_in_is_read_and_promoted_by_its_files() -> None:
    async with running_members(3) as cluster:
        first, second, third = cluster.members
        await cluster.found()
        for member in (second, third):
            await cluster.clone(member, first)
        cluster.voters = await cluster.voters_of([first, second, third], 2)
        await cluster.settings(first, cluster.voters)
        await cluster.sql(first, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
        async with locked(cluster, first, "pg_authid", "pg_database"):
            writer = await first.until(lambda o: o.login_problem is not None)
            assert "pg_authid" in (writer.login_problem or "") or "pg_database" in (writer.login_problem or "")
            assert writer.heartbeat is not None
            assert writer.heartbeat.lsn is not None
            end = writer.heartbeat.lsn
            for member in (second, third):
                await member.until(lambda o: o.replayed_lsn is not None and o.replayed_lsn >= end)
            # A server that starts anew finds the lock in its WAL: none of noded's sessions can be opened.
            for member in (second, third):
                await cluster.order(StopOrder, member, Acknowledged)
                await cluster.order(StartOrder, member, Acknowledged)
            told = await second.until(lambda o: o.login_problem is not None)
            assert "endpointd" in (told.login_problem or "")
            await cluster.order(StopOrder, first, Acknowledged)
        cluster.epoch += 1
        answers = [await cluster.promise(member) for member in (second, third)]
        for answer in answers:
            assert answer.position is not None, answer.unknown_because
        best = max(
            (second, third), key=lambda member: max(a.position.lsn for a in answers if a.position and a.node == member.name)
        )
        assert max(answer.position.lsn for answer in answers if answer.position is not None) >= end
        other = third if best is second else second
        await cluster.follow(other, best)
        await cluster.promote(best, 4)
        assert (await cluster.sql(best, "SELECT count(*) AS n FROM t"))[0]["n"] == 1000
        await best.until(lambda o: o.login_problem is None)


async def test_a_lock_on_roles_blinds_nobody_and_stops_no_heartbeat() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        for member in (first, second):
            await has_opened_all(cluster, member)
        async with locked(cluster, first, "pg_authid", "pg_database", "pg_db_role_setting", "pg_auth_members"):
            before = await first.until(lambda o: o.login_problem is not None)
            assert before.heartbeat is not None
            lsn = before.heartbeat.lsn
            assert lsn is not None
            after = await first.until(lambda o: o.heartbeat and o.heartbeat.lsn and o.heartbeat.lsn > lsn + 1000)
            assert after.walsenders
            assert after.heartbeat is not None
            assert after.heartbeat.error is None
            assert (await second.observe()).wal_end is not None
        await first.until(lambda o: o.login_problem is None)


@pytest.mark.parametrize("rename", [False, True])
async def test_a_role_without_rights_is_told_of_and_put_right_and_ends_nobody(rename: bool) -> None:
    async with running_members(2) as cluster:
        first, _second = await pair(cluster)
        pid = (await first.observe()).noded_pid
        if rename:
            await cluster.sql(first, "ALTER ROLE endpointd RENAME TO mine")
            await first.until(lambda o: any("was missing" in text for text in o.repairs))
        for statement in ("ALTER ROLE endpointd NOSUPERUSER NOLOGIN", "ALTER ROLE endpointd_replication PASSWORD 'x'"):
            with contextlib.suppress(asyncpg.FeatureNotSupportedError):
                await cluster.sql(first, statement)
        told = await first.until(lambda o: any("another password" in text for text in o.repairs))
        assert told.noded_pid == pid
        rows = await cluster.sql(
            first, "SELECT rolcanlogin AND rolsuper AS well FROM pg_roles WHERE rolname = 'endpointd'", timeout_s=5
        )
        assert rows[0]["well"]
        await first.until(lambda o: o.login_problem is None and o.heartbeat and o.heartbeat.error is None and o.walsenders)


async def test_orders_are_carried_out_after_our_role_was_deleted_and_made_again() -> None:
    """Sessions that were open are of a role that is gone: they live on without its rights."""
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        for member in (first, second):
            await cluster.order(CheckpointOrder, member, Acknowledged)
        async with session(cluster, first, allow_system_table_mods="on") as connection:
            await connection.execute("DELETE FROM pg_authid WHERE rolname = 'endpointd'")
        await first.until(lambda o: any("was missing" in text for text in o.repairs))
        end = (await first.observe()).wal_end or 0
        await second.until(lambda o: o.replayed_lsn is not None and o.replayed_lsn >= end)
        for member in (first, second):
            assert (await cluster.order(CheckpointOrder, member, Acknowledged)).done
        # Since PostgreSQL 16 a superuser grants in the name of the role that initdb made.
        await cluster.sql(first, "CREATE ROLE somebody")
        await cluster.sql(first, "GRANT pg_monitor TO somebody")
        await cluster.sql(first, "GRANT pg_monitor TO endpointd_probe")


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER FUNCTION pg_catalog.pg_stat_get_wal_senders() RENAME TO hidden",
        "ALTER FUNCTION pg_catalog.pg_create_physical_replication_slot(name, boolean, boolean) RENAME TO hidden",
    ],
)
async def test_what_a_new_session_cannot_ask_is_told_while_held_ones_can_and_asked_in_another_database(statement: str) -> None:
    databases = ["endpointd", "postgres", "template1"]
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        async with session(cluster, first, databases[0]) as connection:
            await connection.execute(statement)
        for member in (first, second):
            told = await member.until(lambda o: o.login_problem is not None)
            assert 'can do nothing in database "endpointd": 42' in (told.login_problem or "")
            assert told.login_spared, told.login_problem
        # A server that is started anew has no session that was held.
        await cluster.order(StopOrder, second, Acknowledged)
        await cluster.order(StartOrder, second, Acknowledged)
        await second.until(lambda o: o.role is Role.STANDBY and o.wal_end is not None and o.login_spared)
        for database in databases[1:]:
            async with session(cluster, first, database) as connection:
                await connection.execute(statement)
        for member in (first, second):
            await member.until(lambda o: o.login_problem is not None and not o.login_spared)


async def test_names_that_are_not_utf8_end_nobody_and_relax_nothing() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        pid = (await only.observe()).noded_pid
        await cluster.sql(only, "CREATE DATABASE latin ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0", timeout_s=30)
        await cluster.sql(only, "CREATE DATABASE other", timeout_s=30)
        async with session(cluster, only, "latin") as latin:
            # chr() gives single bytes there, so that the statement itself is ASCII.
            for statement in (
                "'ALTER DATABASE other RENAME TO %I', 'b' || chr(252)",
                "'ALTER DATABASE %I SET synchronous_commit = local', 'b' || chr(252)",
                "'CREATE FUNCTION %I() RETURNS void LANGUAGE sql SET synchronous_commit = off AS ''SELECT''', chr(252)",
                "'CREATE ROLE %I', 'm' || chr(252) || 'ller'",
                "'ALTER ROLE %I SET synchronous_commit = off', 'm' || chr(252) || 'ller'",
            ):
                await latin.execute(f"DO $$ BEGIN EXECUTE format({statement}); END $$")
        for name in ("m\\xfcller", "b\\xfc"):
            told = await only.until(lambda o, name=name: any(name in text and "undone" in text for text in o.relaxations))
            assert told.noded_pid == pid
        assert (await cluster.sql(only, "SELECT count(*) AS n FROM pg_db_role_setting"))[0]["n"] == 0


async def test_databases_that_let_nobody_in_do_not_delay_the_undoing() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        async with contextlib.AsyncExitStack() as held:
            for number in range(12):
                await cluster.sql(only, f"CREATE DATABASE d{number}", timeout_s=30)
                holder = await held.enter_async_context(session(cluster, only, f"d{number}"))
                await holder.execute("BEGIN; LOCK pg_class")
            loop = asyncio.get_running_loop()
            for _ in range(5):
                begun = loop.time()
                await cluster.sql(only, "ALTER ROLE postgres SET synchronous_commit = off")
                await only.until(lambda o: any('"postgres"' in text for text in o.relaxations), timeout_s=8)
                while await cluster.sql(only, "SELECT FROM pg_db_role_setting"):
                    assert loop.time() - begun < 8, "the undoing waited for the databases"
                    await asyncio.sleep(0.05)


async def test_our_sessions_keep_out_of_the_users_database() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        rows = await cluster.sql(only, "SELECT datname FROM pg_stat_activity WHERE application_name = 'endpointd heartbeat'")
        assert [row["datname"] for row in rows] == ["endpointd"]
        await cluster.sql(only, "CREATE DATABASE copy TEMPLATE postgres", timeout_s=30)
        await cluster.sql(only, "CREATE ROLE app LOGIN")
        may = await cluster.sql(only, "SELECT has_database_privilege('app', 'endpointd', 'CONNECT') AS may")
        assert not may[0]["may"]


@pytest.mark.parametrize("role", ["endpointd", "postgres"])
async def test_a_plain_role_does_not_get_in_as_noded_through_the_server(role: str) -> None:
    """A backend runs as the same user of the operating system as noded, which the kernel vouches for."""
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        async with session(cluster, only) as connection:
            try:
                await connection.execute("CREATE EXTENSION dblink")
            except asyncpg.UndefinedFileError as error:
                pytest.skip(f"this build of PostgreSQL has no dblink that can be loaded: {error}")
            await connection.execute("CREATE ROLE app LOGIN PASSWORD 'app'")
            await connection.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO app")
            await connection.execute("SET ROLE app")
            target = f"host={only.sockets} port={only.pg_port} user={role} dbname=endpointd"
            for more in ("", " password=x"):
                with pytest.raises(asyncpg.PostgresError, match="password"):
                    await connection.fetch(
                        "SELECT * FROM dblink($1, 'SELECT current_user::text') AS t(name text)", target + more
                    )


async def test_what_is_prepared_in_our_database_is_rolled_back_at_once() -> None:
    """Its locks would keep everybody out of it, also after each failover, and so whoever could roll it back."""
    async with running_members(1) as cluster:
        (first,) = cluster.members
        await cluster.found()
        desired = DesiredSettings(version=1, parameters={"max_prepared_transactions": "10"})
        await cluster.order(ConfigureOrder, first, Acknowledged, desired=desired)
        cluster.epoch = 2
        await cluster.promise(first)
        await cluster.promote(first, 3)
        inside = "SELECT FROM pg_stat_activity WHERE application_name = 'endpointd roles' AND datname = 'endpointd'"
        async with asyncio.timeout(30):
            while not await cluster.sql(first, inside):
                await asyncio.sleep(0.1)
        async with session(cluster, first, "endpointd") as connection:
            await connection.execute("BEGIN; LOCK TABLE pg_class; PREPARE TRANSACTION 'mine'")
        await first.until(lambda o: any("prepared" in text for text in o.repairs))
        assert not await cluster.sql(first, "SELECT FROM pg_prepared_xacts")
        async with session(cluster, first, "endpointd") as connection:
            await connection.execute("SELECT 1")


async def test_a_lasting_lock_counts_where_logins_of_ours_meet_it() -> None:
    """A catalog of its own is locked in one database only; those that all share are locked everywhere."""
    async with running_members(1) as cluster:
        (first,) = cluster.members
        await cluster.found()
        desired = DesiredSettings(version=1, parameters={"max_prepared_transactions": "10"})
        await cluster.order(ConfigureOrder, first, Acknowledged, desired=desired)
        cluster.epoch = 2
        await cluster.promise(first)
        await cluster.promote(first, 3)
        async with session(cluster, first, "endpointd") as ours, session(cluster, first, "postgres") as theirs:
            lock = logins.LASTING_LOCKS
            await ours.fetch(lock)
            await theirs.execute("BEGIN; LOCK TABLE pg_statistic; PREPARE TRANSACTION 'theirs'")
            assert not await ours.fetch(lock)
            assert await theirs.fetch(lock), "there it does keep logins out"
            told = await first.until(lambda o: o.locked_elsewhere is not None)
            assert 'transaction "theirs" has locked pg_statistic of its database' in str(told.locked_elsewhere)
            assert told.login_problem is None
            await theirs.execute("ROLLBACK PREPARED 'theirs'")
            await theirs.execute("BEGIN; LOCK TABLE pg_authid; PREPARE TRANSACTION 'everybodys'")
            assert await ours.fetch(lock)
            await theirs.execute("ROLLBACK PREPARED 'everybodys'")


async def has_opened_all(cluster: Cluster, member: Member) -> None:
    """Wait until the noded of *member* has every session that a promotion needs."""
    names = [f"endpointd {name}" for name in ("control", "observer", "heartbeat", "checkpoint")]
    listed = ", ".join(f"'{name}'" for name in names)
    asked = f"SELECT DISTINCT application_name AS name FROM pg_stat_activity WHERE application_name IN ({listed})"
    async with asyncio.timeout(60):
        while len(await cluster.sql(member, asked)) < len(names):
            await asyncio.sleep(0.05)


async def test_a_new_writer_lets_everybody_in_again_though_nobody_can_log_in() -> None:
    """The former one had no session left and could not; this one has what it opened as a standby."""
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await has_opened_all(cluster, second)
        async with session(cluster, first, synchronous_commit="on") as connection:
            await connection.execute("CREATE ROLE boss LOGIN SUPERUSER PASSWORD 'boss'")
            with contextlib.suppress(asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError):
                await connection.execute(
                    "ALTER ROLE postgres NOLOGIN; ALTER ROLE endpointd NOLOGIN; SELECT pg_terminate_backend(pid)"
                    " FROM pg_stat_activity WHERE usename = 'endpointd' AND backend_type = 'client backend'"
                )
        cluster.epoch = 2
        for member in (first, second):
            await cluster.promise(member)
        await cluster.follow(first, second)
        await cluster.promote(second, 3)
        await second.until(lambda o: any("could not log in" in text for text in o.repairs))
        await second.until(lambda o: o.login_problem is None)
        await first.until(lambda o: o.login_problem is None)


async def test_a_session_that_is_cut_at_any_step_of_a_statement_is_lost_and_opens_again() -> None:
    """Sessions are cut when the server goes, whatever they are doing; asyncpg does not expect that between its steps."""
    async with running_members(1) as cluster:
        (only,) = cluster.members
        await cluster.found()
        (version,) = await cluster.sql(only, "SELECT current_setting('server_version_num')::int / 10000 AS major")
        sessions = Sessions(
            socket_dir=only.sockets, port=only.pg_port, password=cluster.passwords["control"], major=int(version["major"])
        )
        session = sessions.control
        for number in range(480):
            await session.open(timeout_s=5)
            asking = asyncio.create_task(session.rows(f"SELECT {number} AS n", timeout_s=5))
            for _ in range(number % 80):
                await asyncio.sleep(0)
            session.drop()
            with contextlib.suppress(SessionError):
                assert (await asking)[0]["n"] == number
        session.drop()
