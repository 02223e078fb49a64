"""Endpoints listen at Unix sockets too, where libpq looks for them: other rules count there, and no TLS is spoken."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from daemonkit.unixsockets import bind_unix
from endpointd.settings import complaints, read_settings
from testkit.feedserver import feed_server
from tests.endpointd.conftest import Servers
from tests.endpointd.proxies import Proxy, proxy, successor
from tests.endpointd.shop import PASSWORD, until
from tests.endpointd.test_warm import scene

LOCAL_ALONE = ("local all all relay", "local replication all relay")


def path_of(one: Proxy, directory: Path) -> Path:
    return directory / f".s.PGSQL.{one.writer_port}"


async def asked(one: Proxy, host: Path | str, statement: str = "select 1") -> str:
    """Return what a session of psycopg's at *host* answers; libpq takes a path for the directory of a socket."""

    def ask() -> str:
        with psycopg.connect(
            host=str(host), port=one.writer_port, user="postgres", dbname="postgres", connect_timeout=10
        ) as found:
            row = found.execute(statement.encode()).fetchone()
            assert row is not None
            return str(row[0])

    return await asyncio.to_thread(ask)


async def ended(one: Proxy) -> None:
    """End it, and wait until it has."""
    one.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        await one.process.wait()


@pytest.mark.parametrize("engine", ["auto", "asyncio"])
async def test_clients_of_the_machine_come_by_a_path_and_by_rules_of_their_own(
    servers: Servers, tmp_path: Path, engine: str
) -> None:
    directory = tmp_path / "s"
    directory.mkdir()
    there = f'unix_socket_directory = "{directory}"\nunix_socket_permissions = "0770"'
    async with (
        feed_server(servers.document()) as feed,
        proxy(tmp_path / "proxy", [feed.port], in_proxy=there, rules=LOCAL_ALONE, engine=engine) as one,
    ):
        await one.wait_for_health(status="serving")
        path = path_of(one, directory)
        assert stat.S_IMODE(path.stat().st_mode) == 0o770
        assert (await asyncio.to_thread(lambda: sorted(each.name for each in directory.iterdir()))) == sorted(
            f".s.PGSQL.{port}" for port in (one.writer_port, one.reader_port)
        )
        assert len(await asked(one, directory, "select repeat('x', 3000000)")) == 3_000_000
        with psycopg.connect(host=str(directory), port=one.writer_port, user="postgres", dbname="postgres"):
            (session,) = (await one.sessions()).sessions
            assert session.client == "[local]"
        with pytest.raises(psycopg.OperationalError, match=r'no rule for connection from host "127.0.0.1"'):
            await asked(one, "127.0.0.1")
        await ended(one)
        assert not list(directory.iterdir()), "nobody listens there any more"


async def test_rules_for_addresses_let_nobody_in_who_has_none_and_the_client_is_told(servers: Servers, tmp_path: Path) -> None:
    there = f'unix_socket_directory = "{tmp_path}"'
    rules = ("host all all all relay",)
    async with (
        feed_server(servers.document()) as feed,
        proxy(tmp_path / "proxy", [feed.port], in_proxy=there, rules=rules) as one,
    ):
        await one.wait_for_health(status="serving")
        with pytest.raises(psycopg.OperationalError, match=r'no rule for connection from host "\[local\]"'):
            await asked(one, tmp_path)
        assert await asked(one, "127.0.0.1") == "1"


async def test_a_password_and_a_cancel_request_and_no_tls(tmp_path: Path) -> None:
    """Of an endpoint that has no rules of its own; TLS is declined there, and nobody has to speak it."""
    async with scene(tmp_path, rules=(), in_proxy=f'unix_socket_directory = "{tmp_path}"') as one:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await one.come(host=str(tmp_path), password="wrong")
        for _ in range(3):
            connection = await one.come(host=str(tmp_path), password=PASSWORD)
            assert not connection.pgconn.ssl_in_use
            waiting = asyncio.create_task(connection.execute("select pg_sleep(60)"))
            await until(lambda: one.sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'"), "1")
            connection.cancel()
            with pytest.raises(errors.QueryCanceled):
                await waiting
            await connection.close()
        await one.visit(host=str(tmp_path))
        await one.visit()
        assert await one.kept() == 1, "by whichever way, it is the same login"


async def test_a_successor_has_it_and_a_proxy_that_was_killed_is_followed(servers: Servers, tmp_path: Path) -> None:
    private = tmp_path / "s"
    private.mkdir(mode=0o700)
    there = f'unix_socket_directory = "{tmp_path}"\ntakeover = "{private / "proxy"}"'
    async with feed_server(servers.document()) as feed:
        async with proxy(tmp_path / "proxy", [feed.port], in_proxy=there, rules=LOCAL_ALONE) as one:
            await one.wait_for_health(status="serving")
            async with successor(one) as second:
                await ended(one)
                assert await asked(second, tmp_path) == "1"
                ports = (second.writer_port, second.reader_port, second.http_port)
                path = path_of(second, tmp_path)
                assert path.exists()
                second.process.send_signal(signal.SIGKILL)
                await second.process.wait()
            assert path.exists()
        async with proxy(tmp_path / "again", [feed.port], in_proxy=there, rules=LOCAL_ALONE, ports=ports) as third:
            await third.wait_for_health(status="serving")
            assert await asked(third, tmp_path) == "1"


async def test_where_another_program_listens_or_a_file_stands_nothing_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.1"
    with bind_unix(path, 0o700) as listening:
        listening.listen(1)
        with pytest.raises(OSError, match="another program listens there"):
            bind_unix(path, 0o700)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    bind_unix(path, 0o700).close()
    path.unlink()
    path.write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        bind_unix(path, 0o700)
    assert path.read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == [path.name], "nothing is left beside it"
    with pytest.raises(OSError, match=f"cannot listen at {tmp_path}/none/x: No such file or directory"):
        bind_unix(tmp_path / "none" / "x", 0o700)


async def test_a_directory_in_which_no_socket_can_be_is_refused(servers: Servers, tmp_path: Path) -> None:
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port]) as one:
        text = one.config.read_text()
    for directory, why in (("s", "absolute path"), (f"/{'x' * 90}", "at most")):
        one.config.write_text(text.replace("[feed]", f'unix_socket_directory = "{directory}"\n[feed]'))
        with pytest.raises(Exception, match=rf"\[proxy\], unix_socket_directory: .*{why}"):
            read_settings(one.config)
    assert not list(complaints(read_settings_of(one.config, text)))


def read_settings_of(config: Path, text: str):
    config.write_text(text)
    return read_settings(config)
