"""Server connections that outlive their clients, with real nodeds and PostgreSQL: what the next client gets, and what never."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from testkit.feedserver import FeedServer, feed_server
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.shop import PASSWORD, PID, RULES, places, shop, until
from tests.endpointd.test_failover import Connection, connect, value
from tests.noded.members import Cluster, Member

pytestmark = pytest.mark.integration


class Scene:
    """A writer and its noded, a standby, a feed, and a proxy that keeps connections."""

    def __init__(self, cluster: Cluster, feed: FeedServer, running: Proxy) -> None:
        self.cluster = cluster
        self.feed = feed
        self.proxy = running
        self.database = "shop"
        self.speaks_tls = False

    @property
    def writer(self) -> Member:
        return self.cluster.members[0]

    async def sql(self, statement: str) -> str:
        """Return what the writer answers its superuser, asked directly."""
        rows = await self.cluster.sql(self.writer, statement)
        return str(rows[0][0]) if rows else ""

    async def sql_slowly(self, statement: str) -> None:
        """The same of what waits for the users of a database to leave."""
        await self.cluster.sql(self.writer, statement, timeout_s=20)

    async def come(self, **options: object) -> Connection:
        given = {"user": "ann", "password": PASSWORD, "dbname": self.database, **options}
        return await connect(self.proxy.writer_port, **given)

    async def visit(self, *statements: str, **options: object) -> str:
        """Log in, do *statements*, leave when it is known that the server's end is kept, and return its pid."""
        before = await self.kept()
        connection = await self.come(**options)
        pid = await value(connection, PID)
        for statement in statements:
            await connection.execute(statement.encode())
        taken = before - await self.kept()
        await connection.close()
        await self.until_kept(before - taken + 1)
        return pid

    async def kept(self) -> int:
        return int(await self.proxy.metric("endpointd_warm_servers", node="n1"))

    async def until_kept(self, count: int) -> None:
        await self.proxy.wait_for_metric("endpointd_warm_servers", count, node="n1")

    async def discarded(self, reason: str) -> int:
        return int(await self.proxy.metric("endpointd_warm_discarded_total", reason=reason))

    async def until_gone(self, pid: str) -> None:
        """Wait until the server's process *pid* is gone."""
        await until(lambda: self.sql(f"select count(*) from pg_stat_activity where pid = {pid}"), "0")


@contextlib.asynccontextmanager
async def scene(
    directory: Path,
    *,
    warm: str = "",
    limits: str = "",
    nodes: int = 1,
    rules: Sequence[str] = RULES,
    by_socket: bool = False,
    in_proxy: str = "",
) -> AsyncIterator[Scene]:
    async with shop(nodes) as cluster:
        writer = cluster.members[0]
        more = f"[warm]\nenabled = true\n{warm}"
        if by_socket:
            by_name = writer.sockets.parent / "u"
            by_name.mkdir()
            (by_name / "n1").symlink_to(writer.sockets)
            more += f'\n[servers]\nunix_socket = "{by_name}/{{node}}"\n'
        async with (
            feed_server(places(cluster)) as feed,
            proxy(
                directory / "p", [feed.port], rules=rules, limits=limits, more=more, engine="auto", in_proxy=in_proxy
            ) as running,
        ):
            await running.wait_for_health(status="serving")
            yield Scene(cluster, feed, running)


@pytest_asyncio.fixture
async def one(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as made:
        yield made


@pytest.mark.versions
async def test_the_next_client_gets_the_same_backend_and_nobody_else_does(one: Scene) -> None:
    first = await one.visit()
    assert await one.visit() == first
    assert await one.visit(application_name="another") != first
    assert await one.visit(dbname="postgres") != first
    await one.sql(f"create role bob login password '{PASSWORD}'")
    assert await one.visit(user="bob") != first
    assert await one.visit() == first
    assert await one.proxy.metric("endpointd_server_connections_total", node="n1", origin="reused") == 2


@pytest.mark.versions
async def test_nothing_of_a_session_is_left_for_the_next(one: Scene) -> None:
    await one.sql("create role other")
    await one.sql("grant other to ann")
    left: set[str] = set()
    for _ in range(10):
        first = await one.come()
        fresh = {name: first.info.parameter_status(name) for name in REPORTED}
        left.add(await value(first, PID))
        for statement in (
            "create temp table t (i int)",
            "set timezone = 'Asia/Tokyo'",
            "set datestyle = 'German'",
            "set statement_timeout = '7s'",
            "set application_name = 'mine'",
            "set client_encoding = 'LATIN1'",
            "select pg_advisory_lock(1)",
            "listen news",
            "prepare p as select 1",
            "declare c cursor with hold for select 1",
            "set role other",
            "create temp sequence s; select nextval('s')",
        ):
            await first.execute(statement.encode())
        before = await one.kept()
        await first.close()
        await one.until_kept(before + 1)
        second = await one.come()
        if await value(second, PID) in left:
            break
        await second.close()  # a server that is too busy to be asked is given up for a new one
    else:
        pytest.fail("no connection was ever given to a second client")
    assert (await one.proxy.sessions()).sessions[-1].is_reused
    assert {name: second.info.parameter_status(name) for name in REPORTED} == fresh
    for statement in (
        "select count(*) from pg_class where relname = 't'",
        "select count(*) from pg_listening_channels()",
        "select count(*) from pg_prepared_statements",
        "select count(*) from pg_cursors",
        "select count(*) from pg_locks where locktype = 'advisory'",
        "select count(*) from pg_settings where source = 'session'",
    ):
        assert await value(second, statement) == "0", statement
    assert await value(second, "select current_user") == "ann"
    assert await value(second, "show application_name") == fresh["application_name"]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        await value(second, "select lastval()")
    await second.close()


REPORTED = (
    "TimeZone", "DateStyle", "client_encoding", "application_name", "session_authorization", "is_superuser",
    "server_version", "in_hot_standby", "IntervalStyle", "standard_conforming_strings", "search_path", "scram_iterations",
)  # fmt: skip


async def test_who_leaves_a_transaction_open_takes_its_connection_along(one: Scene) -> None:
    connection = await one.come(autocommit=False)
    pid = await value(connection, PID)
    await connection.close()
    await one.until_gone(pid)
    assert await one.kept() == 0


async def test_a_client_that_breaks_off_when_it_is_idle_leaves_its_connection(one: Scene) -> None:
    connection = await one.come()
    pid = await value(connection, PID)
    with socket.socket(fileno=os.dup(connection.fileno())) as raw:
        raw.shutdown(socket.SHUT_RDWR)
    await one.until_kept(1)
    assert await one.visit() == pid
    await connection.close()


async def refused(one: Scene, **options: object) -> str:
    """Return the words by which a login is refused."""
    with pytest.raises(psycopg.OperationalError) as caught:
        await (await one.come(**options)).close()
    return str(caught.value)


@pytest.mark.versions
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("alter role ann nologin", "is not permitted to log in"),
        ("alter role ann valid until '2020-01-01'", "password authentication failed"),
        ("alter database shop allow_connections false", "is not currently accepting connections"),
        ("revoke connect on database shop from public, ann", "permission denied for database"),
    ],
)
async def test_a_login_that_a_server_would_refuse_now_is_refused_in_its_words(one: Scene, change: str, words: str) -> None:
    await one.visit()
    await one.sql("alter database shop owner to postgres")
    await one.sql(change)
    assert words in await refused(one)
    assert await one.kept() == 0


@pytest.mark.parametrize(
    ("change", "shown", "wanted"),
    [
        ("alter role ann set work_mem = '7MB'", "work_mem", "7MB"),
        ("alter database shop set statement_timeout = '8s'", "statement_timeout", "8s"),
        ("alter role ann in database shop set timezone = 'Asia/Tokyo'", "timezone", "Asia/Tokyo"),
        ("alter role ann superuser", "is_superuser", "on"),
    ],
)
async def test_what_a_role_or_a_database_begins_with_now_counts(one: Scene, change: str, shown: str, wanted: str) -> None:
    pid = await one.visit()
    await one.sql(change)
    connection = await one.come()
    assert await value(connection, f"show {shown}") == wanted
    assert await value(connection, PID) != pid
    await connection.close()


@pytest.mark.parametrize(
    ("change", "shown", "wanted"),
    [
        ("alter role ann set work_mem = '7MB'", "work_mem", "7MB"),
        ("alter database shop set search_path = 'shop'", "search_path", "shop"),
        ("alter role ann in database shop set timezone = 'Asia/Tokyo'", "timezone", "Asia/Tokyo"),
    ],
)
async def test_what_was_altered_while_a_client_was_there_counts_for_the_next(
    one: Scene, change: str, shown: str, wanted: str
) -> None:
    there = await one.come()
    pid = await value(there, PID)
    await one.sql(change)
    await there.close()
    connection = await one.come()
    assert await value(connection, f"show {shown}") == wanted
    assert await value(connection, PID) != pid
    await connection.close()


@pytest.mark.versions
async def test_a_server_that_was_reloaded_reports_what_it_has_become(one: Scene) -> None:
    pid = await one.visit()
    assert await one.sql("show timezone") != "Asia/Tokyo"

    async def reloaded() -> str:
        """Set it, and again if it is not there any more: the node writes that file too."""
        with (one.writer.directory / "pgdata" / "postgresql.auto.conf").open("a") as file:
            file.write("timezone = 'Asia/Tokyo'\n")
        await one.sql("select pg_reload_conf()")
        return await one.sql("show timezone")

    async def told() -> str | None:
        await until(reloaded, "Asia/Tokyo")
        connection = await one.come()
        try:
            assert await value(connection, PID) == pid
            return connection.info.parameter_status("TimeZone")
        finally:
            await connection.close()
            await one.until_kept(1)

    await until(told, "Asia/Tokyo")  # that process may hear of it a moment after the one which was asked


async def test_a_role_that_begins_as_another_one_has_a_login_of_its_own_each_time(one: Scene) -> None:
    await one.sql("create role other")
    await one.sql("grant other to ann")
    await one.sql("alter role ann set role = 'other'")
    for _ in range(2):
        connection = await one.come()
        assert await value(connection, "select current_user") == "other"
        await connection.close()
    await until(lambda: one.discarded("unfit"), 2)
    assert await one.kept() == 0


async def test_a_former_password_is_of_no_use(one: Scene) -> None:
    pid = await one.visit()
    await one.sql("alter role ann password 'another'")
    await until(one.kept, 0)
    assert "password authentication failed" in await refused(one)
    assert await one.visit(password="another") != pid
    assert await one.discarded("role") == 1


async def test_databases_can_be_dropped_renamed_and_copied(one: Scene) -> None:
    await one.visit()
    await one.sql_slowly("create database copied template shop")
    await one.visit()
    await one.sql_slowly("alter database shop rename to store")
    assert 'database "shop" does not exist' in await refused(one)
    one.database = "store"
    await one.visit()
    await one.sql_slowly("drop database store")
    assert await one.discarded("database_wanted") == 3


async def test_a_role_or_database_with_a_limit_of_its_own_is_left_alone(one: Scene) -> None:
    await one.sql("alter role ann connection limit 1")
    for _ in range(2):
        connection = await one.come()
        pid = await value(connection, PID)
        await connection.close()
        await one.until_gone(pid)
    assert await one.kept() == 0


async def test_a_full_server_gets_its_connections_back(one: Scene) -> None:
    others: list[Connection] = []

    async def fill() -> None:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                others.append(await connect(one.writer.pg_port, user="ann", password=PASSWORD, dbname="shop"))

    is_in, kept = False, 0
    async with asyncio.timeout(60):
        # Once more if a connection of the node's own ended meanwhile, so that there was room without those that are kept; or if
        # these were gone, because the machine is so busy that they did not answer in time.
        while await one.discarded("server_full") == 0:
            while others:
                await others.pop().close()
            while int(await one.sql("select count(*) from pg_stat_activity where usename = 'ann'")) > 10:
                await asyncio.sleep(0.05)
            await one.visit()
            await one.visit(application_name="another")
            await fill()
            if (kept := await one.kept()) < 2:  # more if the third came in after all: it is kept too
                continue
            is_in = False
            with contextlib.suppress(psycopg.OperationalError):
                others.append(await one.come(application_name="a third"))
                await others[-1].execute("select 1")
                is_in = True
    assert is_in
    assert await one.discarded("server_full") == kept
    for each in others:
        await each.close()


async def test_one_that_was_ended_by_the_server_is_not_given_out(one: Scene) -> None:
    pid = await one.visit()
    await one.sql(f"select pg_terminate_backend({pid})")
    await one.until_kept(0)
    assert await one.visit() != pid
    assert await one.discarded("server_ended") == 1


async def test_one_that_does_not_answer_is_not_given_out(one: Scene) -> None:
    pid = await one.visit()
    os.kill(int(pid), signal.SIGSTOP)
    try:
        connection = await one.come()
        assert await value(connection, PID) != pid
        await connection.close()
    finally:
        os.kill(int(pid), signal.SIGCONT)


@pytest.mark.versions
async def test_cancel_requests_reach_their_own_client_and_no_later_one(one: Scene) -> None:
    first = await one.come()
    pid = await value(first, PID)
    stale = first.pgconn.get_cancel()
    await first.close()
    await one.until_kept(1)
    second = await one.come()
    assert await value(second, PID) == pid
    running = asyncio.create_task(value(second, "select 'slept' from pg_sleep(1)"))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(stale.cancel)
    assert await running == "slept"
    running = asyncio.create_task(value(second, "select pg_sleep(60)"))
    await until(lambda: one.sql(f"select count(*) from pg_stat_activity where pid = {pid} and state = 'active'"), "1")
    await asyncio.to_thread(second.pgconn.get_cancel().cancel)
    with pytest.raises(psycopg.errors.QueryCanceled):
        await running
    await second.close()
    await one.until_gone(pid)
    assert await one.kept() == 0, "another request may be on its way"


async def test_who_asks_for_replication_keeps_a_connection_of_its_own(one: Scene) -> None:
    await one.sql("alter role ann replication")
    connection = await one.come(replication="database")
    await connection.close()
    assert await one.visit() == await one.visit()


async def test_what_is_not_needed_goes_and_the_rest_at_its_age(tmp_path: Path) -> None:
    async with scene(tmp_path, warm="idle_min = 1\nidle_timeout_s = 0.5\nlifetime_s = 6") as one:
        many = [await one.come() for _ in range(3)]
        pids = {await value(each, PID) for each in many}
        for each in many:
            await each.close()
        await until(lambda: one.discarded("idle"), 2)
        assert await one.visit() in pids
        await until(lambda: one.discarded("age"), 1)
        assert await one.visit() not in pids


async def test_no_more_are_kept_than_may_be(tmp_path: Path) -> None:
    async with scene(tmp_path, warm="idle_max = 3\nidle_max_per_login = 2") as one:
        for _ in range(2):
            many = [await one.come(application_name=str(n // 3)) for n in range(6)]
            for each in many:
                await each.close()
            await until(one.kept, 3)
        activity = "select count(*) from pg_stat_activity where usename = 'ann'"
        await until(lambda: one.sql(activity), "3")


async def test_a_proxy_that_is_told_to_keep_none_keeps_none(one: Scene) -> None:
    await one.visit()
    one.proxy.reload(("enabled = true", "enabled = false"))
    await one.until_kept(0)
    connection = await one.come()
    pid = await value(connection, PID)
    await connection.close()
    await one.until_gone(pid)
    assert await one.kept() == 0


async def test_no_connection_to_a_former_primary_is_given_out(tmp_path: Path) -> None:
    async with scene(tmp_path, nodes=2) as one:
        await one.visit()
        one.feed.publish(places(one.cluster, epoch=2, revision=2, writer=None))
        await one.until_kept(0)
        assert await one.discarded("evicted") == 1
        one.feed.publish(places(one.cluster, epoch=3, revision=3))
        await one.proxy.wait_for_health(status="serving", epoch=3)
        await one.visit()
        assert await one.proxy.metric("endpointd_server_connections_total", node="n1", origin="reused") == 0
