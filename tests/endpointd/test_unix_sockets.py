"""Servers on the same machine are logged in to over their Unix sockets, if that is wanted and there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from endpointd.settings import complaints, read_settings
from tests.endpointd.shop import PASSWORD
from tests.endpointd.test_failover import value
from tests.endpointd.test_warm import scene

pytestmark = [pytest.mark.integration, pytest.mark.versions]

BY_SOCKET = "select inet_server_port() is null"


async def test_who_has_proven_itself_is_logged_in_over_the_servers_socket(tmp_path: Path) -> None:
    rules = ("host all all 127.0.0.1/32 scram-sha-256",)
    async with scene(tmp_path, rules=rules, by_socket=True) as one:
        for _ in range(2):
            connection = await one.come()
            assert await value(connection, BY_SOCKET) == "True"
            await connection.close()
            await one.until_kept(1)
        # Where there is no such socket it is TCP, as before.
        there = one.writer.sockets / f".s.PGSQL.{one.writer.pg_port}"
        there.rename(there.with_name("away"))
        connection = await one.come(application_name="another")
        assert await value(connection, BY_SOCKET) == "False"
        await connection.close()
        there.with_name("away").rename(there)
        text = one.proxy.config.read_text()
        path = next(line for line in text.splitlines() if line.startswith("unix_socket"))
        one.proxy.reload((path, ""), ("enabled = true", "enabled = false"))
        await one.until_kept(0)
        connection = await one.come()
        assert await value(connection, BY_SOCKET) == "False"
        await connection.close()


async def test_who_proves_itself_to_the_server_does_so_by_the_lines_for_hosts(tmp_path: Path) -> None:
    async with scene(tmp_path, rules=("host all all 127.0.0.1/32 relay",), by_socket=True) as one:
        connection = await one.come(password=PASSWORD)
        assert await value(connection, BY_SOCKET) == "False"
        await connection.close()


async def test_a_directory_that_depends_on_where_the_proxy_was_started_is_refused(tmp_path: Path) -> None:
    async with scene(tmp_path, by_socket=True) as one:
        settings = read_settings(one.proxy.config)
        assert settings.servers.unix_socket is not None
        one.proxy.config.write_text(one.proxy.config.read_text().replace(settings.servers.unix_socket, "auto"))
        with pytest.raises(Exception, match=r"unix_socket: it is an absolute path"):
            read_settings(one.proxy.config)
        assert not list(complaints(settings))
