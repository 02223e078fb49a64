"""What clients see when the writer moves, dies, starts, or is not vouched for. Each test has servers of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from endpointd.session.session import NEW_SESSION_S
from pgtopology.document import TransitionKind
from pgtopology.node import Role
from pgwire.messages import (
    Authentication,
    AuthenticationKind,
    Backend,
    decode_authentication,
    decode_report,
    query,
    sasl_initial_response,
    sasl_response,
)
from pgwire.scram import MECHANISM, ScramClient, keys_of_password
from pgwire.startup import encode_startup, make_startup
from testkit.feedserver import FeedServer, document, feed_server, member
from tests.endpointd.conftest import Duo
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.servers import PASSWORD, Postgres, bin_dir, psql
from tests.endpointd.test_doors import raw


@asynccontextmanager
async def standing(duo: Duo, tmp_path: Path, **options: Any) -> AsyncIterator[tuple[FeedServer, Proxy]]:
    """Give a proxy that serves n1 as the writer."""
    async with feed_server() as feed:
        feed.publish(duo.document(writer="n1", noded_port=feed.port))
        async with proxy(tmp_path / "proxy", [feed.port], **options) as running:
            await running.wait_for_health(status="serving")
            yield feed, running


Connection = psycopg.AsyncConnection[Any]


async def connect(port: int, **options: Any) -> Connection:
    """Return a connection through a door."""
    return await psycopg.AsyncConnection.connect(
        **{"host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "postgres", "autocommit": True, **options}
    )


async def value(connection: Connection, statement: str) -> str:
    """Return the one value that *statement* gives."""
    row = await (await connection.execute(statement.encode())).fetchone()
    assert row is not None
    return str(row[0])


async def sqlstate_of(connection: Connection, statement: str = "select 1") -> str | None:
    """Return the SQLSTATE with which *statement* fails."""
    with pytest.raises(psycopg.Error) as caught:
        async with asyncio.timeout(10):
            await connection.execute(statement.encode())
    return caught.value.sqlstate


async def ended_by(connection: Connection) -> str | None:
    """Return the SQLSTATE that ends *connection*, within moments: eviction comes after the table has changed."""
    async with asyncio.timeout(10):
        while True:
            try:
                await connection.execute("select 1")
            except psycopg.Error as error:
                return error.sqlstate
            await asyncio.sleep(0.01)


async def port_of(connecting: Connection) -> int:
    """Return the port of the server a connection leads to, and close it."""
    async with connecting:
        return int(await value(connecting, "show port"))


async def held(running: Proxy, count: int) -> None:
    """Wait until *count* clients wait for a server."""
    async with asyncio.timeout(10):
        while sum(view.state == "connecting" for view in (await running.sessions()).sessions) != count:
            await asyncio.sleep(0.01)


async def doing(running: Proxy, what: str) -> None:
    """Wait until a session does *what*."""
    async with asyncio.timeout(10):
        while all(view.doing != what for view in (await running.sessions()).sessions):
            await asyncio.sleep(0.01)


async def test_a_failover_ends_sessions_holds_newcomers_and_lets_them_in_at_the_new_writer(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        idle = await connect(running.writer_port)
        in_transaction = await connect(running.writer_port)
        await in_transaction.execute("begin; create table lost (i int)")
        busy = await connect(running.writer_port)
        waiting = asyncio.create_task(sqlstate_of(busy, "select pg_sleep(30)"))
        reader = await connect(running.reader_port)
        assert await value(reader, "show port") == str(duo.n2.port)
        await doing(running, "busy")
        os.kill(duo.n1.postmaster_pid, signal.SIGSTOP)
        try:
            feed.publish(duo.document(epoch=2, revision=2))
            await feed.wait_for_report(epoch=2, sessions=1)
            assert await waiting == "08007"
            assert await sqlstate_of(idle) == "57P01"
            assert await sqlstate_of(in_transaction) == "57P01"
            newcomers = [
                asyncio.create_task(connect(running.writer_port)),
                asyncio.create_task(connect(running.writer_port, user="scram", password=PASSWORD)),
            ]
            await held(running, 2)
            assert await value(reader, "select 1") == "1"
            feed.publish(duo.document(epoch=2, revision=3, candidate="n2"))
            await feed.wait_for_report(revision=3)
            assert await sqlstate_of(reader) == "57P01"
            await asyncio.to_thread(duo.n2.promote)
            began = time.monotonic()
            feed.publish(duo.document(epoch=2, revision=4, writer="n2"))
            for newcomer in newcomers:
                assert await port_of(await newcomer) == duo.n2.port
            assert time.monotonic() - began < 0.5
        finally:
            os.kill(duo.n1.postmaster_pid, signal.SIGCONT)


SLOW_COMMIT = """
begin;
create temp table slow (i int);
create function pg_temp.slowly() returns trigger language plpgsql as $$ begin perform pg_sleep(30); return null; end $$;
create constraint trigger late after insert on slow deferrable initially deferred
    for each row execute function pg_temp.slowly();
insert into slow values (1)
"""
"""What makes the COMMIT behind it take its time."""


@pytest.mark.parametrize("kind", [TransitionKind.FAILOVER, TransitionKind.SWITCHOVER])
async def test_whoever_is_in_a_block_is_told_that_nothing_was_committed_unless_it_commits(
    duo: Duo, tmp_path: Path, kind: TransitionKind
) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        simple = await connect(running.writer_port)
        await simple.execute("begin")
        committing = await connect(running.writer_port)
        await committing.execute(SLOW_COMMIT)
        extended = await connect(running.writer_port)
        await extended.execute("begin")
        prepared = await connect(running.writer_port)
        await prepared.execute("commit", prepare=True)
        await prepared.execute(SLOW_COMMIT)

        async def ended(work: Awaitable[object]) -> str | None:
            with pytest.raises(psycopg.Error) as caught:
                await work
            return caught.value.sqlstate

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            told = [
                tasks.create_task(ended(work))
                for work in (
                    simple.execute("select pg_sleep(30)"),
                    extended.execute("select pg_sleep(%s)", [30]),
                    committing.execute("commit"),
                    prepared.execute("commit", prepare=True),
                )
            ]
            while sum(view.doing == "busy" for view in (await running.sessions()).sessions) != len(told):
                await asyncio.sleep(0.01)
            feed.publish(duo.document(epoch=2, revision=2, kind=kind))
        assert [one.result() for one in told] == ["57P01", "57P01", "08007", "08007"]
        await asyncio.gather(*(one.close() for one in (simple, extended, committing, prepared)))


async def test_a_switchover_lets_transactions_finish_for_a_while(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        quick = await connect(running.writer_port)
        await quick.execute("begin")
        endless = await connect(running.writer_port)
        await endless.execute("begin")
        feed.publish(duo.document(epoch=2, revision=2, kind=TransitionKind.SWITCHOVER))
        async with asyncio.timeout(5):
            while (await running.health()).writer is not None:
                await asyncio.sleep(0.01)
        await quick.execute("create table kept (i int)")
        assert (await feed.wait_for_report(revision=2)).epoch == 1
        await quick.execute("commit")
        assert await sqlstate_of(quick) == "57P01"
        assert duo.n1.sql("select count(*) from kept") == "0"
        await feed.wait_for_report(epoch=2, sessions=0)
        assert await sqlstate_of(endless) == "57P01"


async def test_a_switchover_does_not_wait_for_replication_and_leaves_its_end_to_the_server(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        wal = tmp_path / "wal"
        wal.mkdir()
        command = (str(bin_dir() / "pg_receivewal"), "-D", str(wal), "--no-sync", "-n", "-w")
        where = ("-h", "127.0.0.1", "-p", str(running.writer_port), "-U", "postgres")
        receiver = await asyncio.create_subprocess_exec(*command, *where, stderr=asyncio.subprocess.PIPE)
        try:
            streaming = "select count(*) from pg_stat_replication where application_name = 'pg_receivewal'"
            async with asyncio.timeout(10):
                while duo.n1.sql(streaming) != "1":
                    await asyncio.sleep(0.01)
            feed.publish(duo.document(epoch=2, revision=2, kind=TransitionKind.SWITCHOVER, drain_ms=60_000))
            await feed.wait_for_report(epoch=2)
            assert receiver.returncode is None
            assert duo.n1.sql(streaming) == "1", "it is still sent WAL"
            segment = duo.n1.sql("select pg_walfile_name(pg_current_wal_lsn())")
            await asyncio.to_thread(duo.n1.stop)
            assert receiver.stderr is not None
            async with asyncio.timeout(20):
                said = (await receiver.stderr.read()).decode()
            assert "replication stream was terminated before stop point" in said, "as a server says that ends in good order"
            assert "FATAL" not in said
            control = await asyncio.to_thread(
                subprocess.check_output, [bin_dir() / "pg_controldata", duo.n1.data], env={"LC_ALL": "C"}, text=True
            )
            checkpoint = control.partition("Latest checkpoint location:")[2].split()[0]
            behind = int(checkpoint.partition("/")[2], 16) % (16 << 20) + 100
            sent = (duo.n1.data / "pg_wal" / segment).read_bytes()[:behind]
            assert (wal / f"{segment}.partial").read_bytes()[:behind] == sent, "it has the server's last record"
        finally:
            if receiver.returncode is None:
                receiver.kill()
            await receiver.wait()


class HalfwayIn:
    """A client that is in the middle of its login by SCRAM."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._scram = ScramClient(keys_of_password(PASSWORD), "a-client-s-own-nonce")

    async def begin(self) -> None:
        """Say who it is, and hear what is asked of it."""
        self._writer.write(encode_startup(make_startup("scram", "postgres")))
        assert (await self._authentication()).kind == AuthenticationKind.SASL

    async def prove(self) -> None:
        """Answer, to the end of the login."""
        self._writer.write(sasl_initial_response(MECHANISM, self._scram.first))
        self._writer.write(sasl_response(self._scram.respond((await self._authentication()).data)))
        self._scram.finish((await self._authentication()).data)
        assert (await self._authentication()).kind == AuthenticationKind.OK
        await self.hear(Backend.READY_FOR_QUERY)

    async def ask(self) -> None:
        """Have a statement done."""
        self._writer.write(query("select 1"))
        await self.hear(Backend.READY_FOR_QUERY)

    async def hear(self, wanted: int) -> bytes:
        """Return the payload of the next message of this kind."""
        while True:
            kind, payload = await self._message()
            if kind == wanted:
                return payload
            assert kind != Backend.ERROR_RESPONSE, payload

    async def _authentication(self) -> Authentication:
        return decode_authentication(await self.hear(Backend.AUTHENTICATION))

    async def _message(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            kind = (await self._reader.readexactly(1))[0]
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            return kind, await self._reader.readexactly(size - 4)


async def test_a_login_under_way_when_a_switchover_begins_comes_to_its_end_and_has_its_say(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running), raw(running.writer_port) as (reader, writer):
        client, loop = HalfwayIn(reader, writer), asyncio.get_running_loop()
        await client.begin()
        feed.publish(duo.document(epoch=2, revision=2, kind=TransitionKind.SWITCHOVER))
        began = loop.time()
        assert (await feed.wait_for_report(revision=2)).epoch == 1, "no report calls the old writer left while somebody logs in"
        try:
            await client.prove()
            await client.ask()
        except AssertionError:
            if loop.time() - began < NEW_SESSION_S:
                raise
            pytest.skip("this machine was too busy for a login and a query within the time that a switchover gives them")
        assert decode_report(await client.hear(Backend.ERROR_RESPONSE)).sqlstate == "57P01"
        await feed.wait_for_report(epoch=2, sessions=0)


async def test_a_login_that_does_not_go_on_holds_no_switchover_up_for_long(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running), raw(running.writer_port) as (reader, writer):
        client = HalfwayIn(reader, writer)
        await client.begin()
        feed.publish(duo.document(epoch=2, revision=2, kind=TransitionKind.SWITCHOVER))
        await feed.wait_for_report(epoch=2, sessions=0)
        assert decode_report(await client.hear(Backend.ERROR_RESPONSE)).sqlstate == "57P01"


async def test_a_failover_waits_for_no_login(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running), raw(running.writer_port) as (reader, writer):
        client = HalfwayIn(reader, writer)
        await client.begin()
        feed.publish(duo.document(epoch=2, revision=2))
        assert (await feed.wait_for_report(revision=2)).epoch == 2
        assert decode_report(await client.hear(Backend.ERROR_RESPONSE)).sqlstate == "57P01"


async def test_a_writer_that_does_not_answer_is_waited_for(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (_, running):
        await asyncio.to_thread(duo.n1.stop)
        newcomers = [asyncio.create_task(connect(running.writer_port)) for _ in range(5)]
        await held(running, 5)
        await asyncio.to_thread(duo.n1.start, wait=False)
        for newcomer in newcomers:
            assert await port_of(await newcomer) == duo.n1.port


async def test_waiting_ends_with_a_refusal(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path, limits="hold_s = 0.5\nhold_max = 1") as (feed, running):
        await asyncio.to_thread(duo.n1.stop)
        with pytest.raises(psycopg.OperationalError, match='FATAL:  could not connect to server "n1"'):
            await connect(running.writer_port)
        feed.publish(duo.document(epoch=2, revision=2))
        await running.wait_for_health(writer=None)
        waiting = asyncio.create_task(connect(running.writer_port))
        await held(running, 1)
        with pytest.raises(psycopg.OperationalError, match="too many connections are waiting"):
            await connect(running.writer_port)
        with pytest.raises(psycopg.OperationalError, match='no primary is available for endpoint "writer"'):
            await waiting
        assert await port_of(await connect(running.reader_port)) == duo.n2.port


async def test_a_client_that_leaves_while_it_waits_is_forgotten(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        feed.publish(duo.document(epoch=2, revision=2))
        await running.wait_for_health(writer=None)
        # A bare socket: a driver whose connecting is cancelled closes its own only when it is collected.
        _, client = await asyncio.open_connection("127.0.0.1", running.writer_port)
        client.write(encode_startup(make_startup("postgres", "postgres")))
        await held(running, 1)
        client.close()
        await running.wait_for_health(sessions=0)


async def test_a_standby_taken_for_the_writer_is_not_given_to_clients(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        feed.publish(duo.document(epoch=2, revision=2))
        feed.publish(duo.document(epoch=2, revision=3, writer="n2"))
        await running.wait_for_health(writer="n2")
        waiting = asyncio.create_task(connect(running.writer_port))
        with pytest.raises(psycopg.OperationalError, match="no primary is available"):
            await connect(running.writer_port, user="scram", password=PASSWORD)
        await held(running, 1)
        await asyncio.to_thread(duo.n2.promote)
        connection = await waiting
        assert await value(connection, "show in_hot_standby") == "off"


async def test_a_server_that_is_starting_up_is_waited_for(duo: Duo, tmp_path: Path) -> None:
    """A standby that takes no sessions answers as a server does that is starting: 57P03."""
    await asyncio.to_thread(duo.n2.stop)
    with (duo.n2.data / "postgresql.auto.conf").open("a") as conf:
        conf.write("hot_standby = off\n")
    await asyncio.to_thread(duo.n2.start, wait=False)
    async with asyncio.timeout(10):
        while b"57P03" not in (await asyncio.to_thread(raw_startup, duo.n2.port)):
            await asyncio.sleep(0.05)
    async with standing(duo, tmp_path) as (feed, running):
        feed.publish(duo.document(epoch=2, revision=2))
        feed.publish(duo.document(epoch=2, revision=3, writer="n2"))
        await running.wait_for_health(writer="n2")
        waiting = [asyncio.create_task(connect(running.writer_port)) for _ in range(3)]
        await held(running, 3)
        feed.publish(duo.document(epoch=3, revision=4))
        feed.publish(duo.document(epoch=3, revision=5, writer="n1"))
        for newcomer in waiting:
            assert await port_of(await newcomer) == duo.n1.port


def raw_startup(port: int) -> bytes:
    """Return the first words of a server."""
    outcome = psql("127.0.0.1", port, "\\set VERBOSITY verbose")
    return b"57P03" if "not accepting connections" in outcome.stderr else outcome.stderr.encode()


async def test_readers_pass_over_a_replica_that_is_gone_and_fall_back_to_the_writer(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (_, running):
        session = await connect(running.reader_port)
        assert await value(session, "show port") == str(duo.n2.port)
        await asyncio.to_thread(duo.n2.stop, signal.SIGQUIT)
        await running.wait_for_health(sessions=0)
        assert await sqlstate_of(session) == "57P01"
        fallen_back = await connect(running.reader_port)
        assert await value(fallen_back, "show port") == str(duo.n1.port)
        report = await running.sessions()
        assert [view.node for view in report.sessions] == ["n1"]


async def test_without_fallback_readers_wait_and_are_refused(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path, fallback_to_writer=False, limits="hold_s = 0.3") as (feed, running):
        feed.publish(document(member("n1", duo.n1.port, role=Role.PRIMARY), writer="n1", revision=2))
        await running.wait_for_health(readers=())
        with pytest.raises(psycopg.OperationalError, match="no replica is available"):
            await connect(running.reader_port)


@pytest.mark.parametrize("how", ["idle", "busy"])
async def test_a_server_that_dies_is_told_with_an_sqlstate(duo: Duo, tmp_path: Path, how: str) -> None:
    async with standing(duo, tmp_path) as (_, running):
        session = await connect(running.writer_port)
        pid = session.info.backend_pid
        if how == "busy":
            outcome = asyncio.create_task(sqlstate_of(session, "select pg_sleep(30)"))
            await doing(running, "busy")
            kill_backend(duo.n1, pid)
            assert await outcome == "08007"
        else:
            kill_backend(duo.n1, pid)
            await running.wait_for_health(sessions=0)
            assert await sqlstate_of(session) == "57P01"


def kill_backend(server: Postgres, pid: int) -> None:
    """Kill a backend of ours as the kernel would; it is a child of the postmaster, whatever number its namespace gives it."""
    children = {
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if stat.read_text().rpartition(")")[2].split()[1] == str(server.postmaster_pid)
    }
    assert pid in children
    os.kill(pid, signal.SIGKILL)


async def test_the_words_of_a_server_that_ends_a_session_are_passed_on(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (_, running):
        session = await connect(running.writer_port)
        duo.n1.sql(f"select pg_terminate_backend({session.info.backend_pid})")
        await running.wait_for_health(sessions=0)
        with pytest.raises(psycopg.errors.AdminShutdown, match="due to administrator command"):
            await session.execute("select 1")


async def test_a_server_that_dies_in_the_middle_of_rows_is_told_between_two_messages(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.writer_port)
        packet = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
        writer.write((len(packet) + 4).to_bytes(4, "big") + packet)
        await reader.readuntil(b"Z\0\0\0\5I")
        query = b"select repeat('x', 30000) from generate_series(1, 100000)\0"
        writer.write(b"Q" + (len(query) + 4).to_bytes(4, "big") + query)
        await reader.readexactly(1_000_000)
        feed.publish(duo.document(epoch=2, revision=2))
        rest = await reader.read(-1)
        assert len(rest) > 1000
        assert rest.rindex(b"C08007\0") > len(rest) - 500
        rest = rest.removesuffix(b"Z\0\0\0\5E")  # the end of an answer, for it was waited for
        # Where the error stands in the stream is where a message begins.
        stream_offset = rest.rindex(b"E\0\0")
        assert rest[stream_offset + 1 : stream_offset + 5] == (len(rest) - stream_offset - 1).to_bytes(4, "big")


async def test_a_commit_whose_wait_was_cancelled_is_not_acknowledged(duo: Duo, tmp_path: Path) -> None:
    """S15: the row is on one node only; the client must not take it for committed."""
    duo.n1.sql("create table s15 (i int)")
    duo.n1.sql("alter system set synchronous_standby_names = 'nobody'")
    duo.n1.sql("select pg_reload_conf()")
    async with standing(duo, tmp_path) as (_, running):
        session = await connect(running.writer_port)
        insert = asyncio.create_task(session.execute("insert into s15 values (1)"))
        pid = session.info.backend_pid
        async with asyncio.timeout(10):
            while duo.n1.sql(f"select wait_event from pg_stat_activity where pid = {pid}") != "SyncRep":
                await asyncio.sleep(0.02)
        await session.cancel_safe()
        with pytest.raises(psycopg.errors.TransactionResolutionUnknown, match="not confirmed by the quorum"):
            await insert
        assert duo.n1.sql("select count(*) from s15") == "1"


async def test_without_a_lease_writers_wait_until_the_writers_node_vouches(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, running):
        session = await connect(running.writer_port)
        asked = feed.status_requests
        feed.lease_ms = 0
        await running.wait_for_health(status="waiting")
        newcomer = asyncio.create_task(connect(running.writer_port))
        await held(running, 1)
        kept_waiting = asyncio.create_task(value(session, "select 1"))
        async with asyncio.timeout(5):
            while feed.status_requests < asked + 3:
                await asyncio.sleep(0.01)
        assert not kept_waiting.done()
        feed.heartbeat_age_ms = 601
        requests = feed.status_requests
        async with asyncio.timeout(5):
            while feed.status_requests < requests + 3:
                await asyncio.sleep(0.01)
        assert (await running.health()).status == "waiting"
        feed.heartbeat_age_ms = 50
        assert await kept_waiting == "1"
        assert await port_of(await newcomer) == duo.n1.port
        feed.lease_ms = 600
        await running.wait_for_health(status="serving")
        async with asyncio.timeout(5):
            while feed.status_requests != (requests := feed.status_requests):
                await asyncio.sleep(0.3)


async def test_sessions_that_nobody_vouches_for_end_when_the_waiting_is_over(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path, limits="hold_s = 0.5") as (feed, running):
        session = await connect(running.writer_port)
        feed.lease_ms = 0
        await running.wait_for_health(status="waiting")
        assert await sqlstate_of(session) == "57P01"


async def test_a_restarted_proxy_serves_from_its_cache_while_all_managers_are_dead(duo: Duo, tmp_path: Path) -> None:
    async with standing(duo, tmp_path) as (feed, _):
        noded_port = feed.port
    async with feed_server() as node:
        # The manager is gone: only the noded's status is answered, on another port than the feed's.
        assert node.port != noded_port
        cache = tmp_path / "proxy" / "topology.json"
        cache.write_bytes(cache.read_bytes().replace(str(noded_port).encode(), str(node.port).encode()))
        node.topology = duo.document(writer="n1")
        node.heartbeat_age_ms = 10
        node.lease_ms = -1
        async with proxy(tmp_path / "proxy", [noded_port]) as running:
            assert await port_of(await connect(running.reader_port)) == duo.n2.port
            assert await port_of(await connect(running.writer_port)) == duo.n1.port


async def test_of_two_managers_the_one_with_the_lease_counts(duo: Duo, tmp_path: Path) -> None:
    topology = duo.document(writer="n1")
    async with feed_server(topology) as first, feed_server(topology) as second:
        second.lease_ms = 0
        async with proxy(tmp_path / "proxy", [first.port, second.port]) as running:
            await running.wait_for_health(status="serving")
            first.lease_ms, second.lease_ms = 0, 600
            newer = duo.document(writer="n1", revision=2)
            second.publish(newer)
            await running.wait_for_health(revision=2)
            session = await connect(running.writer_port)
            assert await value(session, "select 1") == "1"
            # An old document is not taken from anybody.
            first.publish(duo.document(writer="n1", revision=1))
            await second.wait_for_report(revision=2)
            assert (await running.health()).revision == 2
