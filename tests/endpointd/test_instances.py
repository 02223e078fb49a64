"""Doors that lead to one node, and replication through every kind of door; on real servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import psycopg
import pytest

from pgtopology.node import Role
from testkit.feedserver import document, feed_server, member
from testkit.ports import free_port
from tests.endpointd.conftest import Duo, Servers
from tests.endpointd.proxies import RELAYED, proxy
from tests.endpointd.servers import bin_dir
from tests.endpointd.test_clients import in_thread
from tests.endpointd.test_failover import connect, port_of, sqlstate_of, value


def doors(*nodes: str) -> tuple[str, dict[str, int]]:
    """Return tables of settings, and the port of each node's door."""
    ports = {node: free_port() for node in nodes}
    rules = f"rules = {json.dumps(RELAYED)}"
    return "\n".join(f'[[instances]]\nnode = "{node}"\nport = {port}\n{rules}' for node, port in ports.items()), ports


async def test_each_door_leads_to_its_node_through_a_failover(duo: Duo, tmp_path: Path) -> None:
    more, ports = doors("n1", "n2", "n9")
    async with (
        feed_server(duo.document(writer="n1")) as feed,
        proxy(tmp_path / "proxy", [feed.port], more=more, limits="hold_s = 1") as running,
    ):
        await running.wait_for_health(status="serving")
        assert await port_of(await connect(ports["n1"])) == duo.n1.port
        assert await port_of(await connect(ports["n2"])) == duo.n2.port
        with pytest.raises(psycopg.OperationalError, match='FATAL:  server "n9" is not available'):
            await connect(ports["n9"])
        # What is refused at the writer's door is refused here too, where it is the writer.
        with pytest.raises(psycopg.OperationalError, match="cannot be set"):
            await connect(ports["n1"], options="-c synchronous_commit=off")
        await (await connect(ports["n2"], options="-c synchronous_commit=off")).close()
        on_writer, on_replica = await connect(ports["n1"]), await connect(ports["n2"])
        assert await value(on_replica, "show transaction_read_only") == "on"
        views = {view.endpoint: view.node for view in (await running.sessions()).sessions}
        assert views == {"n1": "n1", "n2": "n2"}
        feed.publish(duo.document(epoch=2, revision=2, candidate="n2"))
        await feed.wait_for_report(epoch=2, sessions=0)
        assert await sqlstate_of(on_writer) == "57P01"
        assert await sqlstate_of(on_replica) == "57P01"
        waiting = asyncio.create_task(connect(ports["n2"]))
        await asyncio.to_thread(duo.n2.promote)
        feed.publish(duo.document(epoch=2, revision=3, writer="n2"))
        assert await value(await waiting, "show transaction_read_only") == "off"
        # n1 was not told yet that it is none: nobody is led to a primary that the document does not name.
        old = document(member("n1", duo.n1.port, role=Role.PRIMARY), member("n2", duo.n2.port, role=Role.PRIMARY),
                       writer="n2", epoch=2, revision=4)  # fmt: skip
        feed.publish(old)
        await running.wait_for_health(revision=4)
        with pytest.raises(psycopg.OperationalError, match='server "n1" is not available'):
            await connect(ports["n1"])
        # Nor if the document takes it for a replica: the server itself says what it is.
        feed.publish(duo.document(epoch=2, revision=5, writer="n2"))
        await running.wait_for_health(revision=5)
        with pytest.raises(psycopg.OperationalError, match='could not connect to server "n1"'):
            await connect(ports["n1"])


async def test_a_door_follows_its_node_to_another_place(servers: Servers, tmp_path: Path) -> None:
    more, ports = doors("n2")
    topology = servers.document()
    async with feed_server(topology) as feed, proxy(tmp_path / "proxy", [feed.port], more=more) as running:
        await running.wait_for_health(status="serving")
        assert await port_of(await connect(ports["n2"])) == servers.n2.port
        moved = msgspec.structs.replace(topology.members[1], address=topology.members[2].address)
        feed.publish(msgspec.structs.replace(topology, members=(topology.members[0], moved), revision=2))  # pyright: ignore[reportArgumentType]
        await running.wait_for_health(revision=2)
        assert await port_of(await connect(ports["n2"])) == servers.n3.port


@pytest.mark.parametrize(("node", "why"), [("writer", "is the name of an endpoint"), ("n1", "has a door already")])
async def test_doors_that_clash_are_one_clear_line(servers: Servers, tmp_path: Path, node: str, why: str) -> None:
    more, _ = doors("n1")
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], more=more) as running:
        config = tmp_path / "clash.toml"
        config.write_text(running.config.read_text() + f'[[instances]]\nnode = "{node}"\nport = 1\n')
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "endpointd.daemon", "--config", config, stderr=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        async with asyncio.timeout(20):
            _, words = await process.communicate()
        assert process.returncode == 2
        assert f'[[instances]] 2, node: "{node}" {why}' in words.decode()
        assert words.count(b"\n") == 1


@pytest.mark.parametrize("door", ["writer", "n1", "n2"])
async def test_base_backups_and_wal_pass_through(servers: Servers, tmp_path: Path, door: str) -> None:
    more, ports = doors("n1", "n2")
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "proxy", [feed.port], more=more) as running:
        await running.wait_for_health(status="serving")
        where = ["-h", "127.0.0.1", "-p", str({"writer": running.writer_port, **ports}[door]), "-U", "postgres"]

        def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
            command = [str(bin_dir() / program), *where, *words]
            return subprocess.run(command, capture_output=True, text=True, timeout=100)

        backup = await in_thread(run, "pg_basebackup", "-D", str(tmp_path / "copy"), "--no-sync", "-c", "fast", "-X", "stream")
        assert backup.returncode == 0, backup.stderr
        assert (tmp_path / "copy" / "PG_VERSION").exists()
        wal = tmp_path / "wal"
        wal.mkdir()
        end = servers.n1.sql("select pg_current_wal_lsn()")
        receiving = asyncio.create_task(in_thread(run, "pg_receivewal", "-D", str(wal), "--no-sync", "-n", "--endpos", end))
        # It begins with the segment the server is at, and ends once it has seen WAL behind the end.
        while not receiving.done():
            servers.n1.sql("select pg_logical_emit_message(true, 'test', 'behind the end')")
            await asyncio.sleep(0.05)
        received = await receiving
        assert received.returncode == 0, received.stderr
        assert list(wal.iterdir())
        for session in ("true", "database"):
            connection = await psycopg.AsyncConnection.connect(
                host="127.0.0.1", port=int(where[3]), user="postgres", dbname="postgres", replication=session, autocommit=True
            )
            await connection.execute("IDENTIFY_SYSTEM")
            await connection.close()
