"""The manager as a process: what it refuses, what it shows before there is a cluster, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from daemonkit.httpclient import HttpClient, HttpRefused, HttpUnavailable
from testkit.ports import free_port

DEADLINE_S = 20.0


def write_settings(folder: Path, port: int, more: str = "") -> Path:
    token = folder / "token"
    token.write_text("secret")
    token.chmod(0o600)
    path = folder / "manager.toml"
    path.write_text(
        f"""
{more}
[cluster]
name = "test"
[http]
host = "127.0.0.1"
port = {port}
token_file = "{token}"
[dns]
host = "127.0.0.1"
port = {free_port()}
[store]
path = "{folder}/store.sqlite"
[journal]
path = "{folder}/journal.jsonl"
[nodeds]
token_file = "{token}"
[endpoints.writer]
host = "127.0.0.1"
port = 6432
[endpoints.reader]
host = "127.0.0.1"
port = 6433
[[nodes]]
name = "n1"
zone = "az1"
host = "127.0.0.1"
port = {free_port()}
noded_host = "127.0.0.1"
noded_port = {free_port()}
"""
    )
    return path


async def start(path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster_manager.daemon", "--config", str(path), stderr=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def running(folder: Path, port: int | None = None) -> AsyncIterator[HttpClient]:
    """Run a manager, and give a client once it has decided something."""
    async with running_process(folder, port) as (client, _):
        yield client


@asynccontextmanager
async def running_process(
    folder: Path, port: int | None = None
) -> AsyncIterator[tuple[HttpClient, asyncio.subprocess.Process]]:
    """Run a manager, and give a client and the process once it has decided something."""
    port = port if port is not None else free_port()
    process = await start(write_settings(folder, port))
    try:
        async with HttpClient(f"http://127.0.0.1:{port}", "secret") as client:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    try:
                        await client.get("/health", timeout_s=DEADLINE_S)
                        break
                    except (HttpUnavailable, HttpRefused):
                        await asyncio.sleep(0.05)
            yield client, process
    finally:
        process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            _, log = await process.communicate()
    assert process.returncode == 0, log.decode()


async def test_without_a_cluster_it_says_so_and_refuses_orders(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        status = json.loads(await client.get("/v1/status", timeout_s=DEADLINE_S))
        with pytest.raises(HttpRefused) as refused:
            await client.post("/v1/failover", b'{"to": "n1"}', timeout_s=DEADLINE_S)
        with pytest.raises(HttpRefused) as nothing:
            await client.post("/v1/withdraw", timeout_s=DEADLINE_S)
        with pytest.raises(HttpRefused) as unknown:
            await client.post("/v1/nodes/n9/stop", timeout_s=DEADLINE_S)
        with pytest.raises(HttpRefused) as misspelt:
            await client.post("/v1/failover", b'{"too": "n1"}', timeout_s=DEADLINE_S)
    assert (status["diagnosis"], status["writer"], status["nodes"][0]["state"]) == ("NO_CLUSTER", None, "unreachable")
    assert (refused.value.status, refused.value.message) == (409, "there is no cluster yet")
    assert (nothing.value.status, nothing.value.code) == (409, "refused")
    assert (unknown.value.status, unknown.value.code) == (404, "not_found")
    assert misspelt.value.status == 400
    assert "too" in misspelt.value.message


async def test_a_number_that_is_none_or_too_great_is_refused_with_what_is_accepted(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        for number in ("9" * 5000, str(2**63), "-1", "1e3", "\u0663", "0x1", " 1", "1.0"):
            for path in ("/v1/failovers/{}", "/v1/events?after={}"):
                with pytest.raises(HttpRefused) as refused:
                    await client.get(path.format(quote(number)), timeout_s=DEADLINE_S)
                assert refused.value.status == 400
                assert f"from 0 to {2**63 - 1}" in refused.value.message
                assert len(refused.value.message) < 200


async def test_the_greatest_number_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        assert await client.get(f"/v1/events?after={2**63 - 1}", timeout_s=DEADLINE_S) == b""
        with pytest.raises(HttpRefused) as refused:
            await client.get(f"/v1/failovers/{2**63 - 1}", timeout_s=DEADLINE_S)
        assert refused.value.status == 404


@pytest.mark.parametrize("path", ["/v1/status", "/v1/topology", "/v1/events", "/v1/explain", "/v1/history", "/metrics"])
async def test_nothing_but_health_is_told_without_the_token(tmp_path: Path, path: str) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with running(tmp_path, port):
        async with aiohttp.ClientSession() as stranger, stranger.get(base + path) as answer:
            assert answer.status == 401
        async with aiohttp.ClientSession() as stranger, stranger.get(base + "/health", headers={"Host": "evil.test"}) as answer:
            assert answer.status == 403


async def test_nodes_are_read_anew_when_asked_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    async with running_process(tmp_path) as (client, process):

        async def until_nodes(*names: str) -> None:
            async with asyncio.timeout(DEADLINE_S):
                while tuple(node["name"] for node in (await status())["nodes"]) != names:
                    await asyncio.sleep(0.02)

        async def status() -> dict[str, list[dict[str, str]]]:
            return json.loads(await client.get("/v1/status", timeout_s=DEADLINE_S))

        path = tmp_path / "manager.toml"
        one = path.read_text()
        node = one[one.index("[[nodes]]") :]
        await until_nodes("n1")
        path.write_text(one + node.replace('"n1"', '"n2"'))
        process.send_signal(signal.SIGHUP)
        await until_nodes("n1", "n2")
        path.write_text(one.replace("[[nodes]]", "[[knots]]"))
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            while b"reload failed" not in await process.stderr.readline():
                pass
        assert [node["name"] for node in (await status())["nodes"]] == ["n1", "n2"]
        path.write_text(one.replace('name = "n1"', 'name = "n3"'))
        process.send_signal(signal.SIGHUP)
        await until_nodes("n3")


async def test_a_second_manager_on_the_same_store_is_told_who_holds_it(tmp_path: Path) -> None:
    async with running(tmp_path):
        second = await start(write_settings(tmp_path, free_port()))
        async with asyncio.timeout(DEADLINE_S):
            _, log = await second.communicate()
    assert second.returncode == 1
    assert b"holds this store" in log


async def test_a_misspelt_setting_is_named_and_nothing_starts(tmp_path: Path) -> None:
    process = await start(write_settings(tmp_path, free_port(), more="[clutser]\n"))
    async with asyncio.timeout(DEADLINE_S):
        _, log = await process.communicate()
    assert process.returncode == 2
    assert b"clutser" in log
    assert log.count(b"\n") == 1


async def test_a_node_more_is_for_others_to_make_where_no_supervisor_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        with pytest.raises(HttpRefused) as refused:
            await client.post("/v1/nodes", b'{"name": "n2"}', timeout_s=DEADLINE_S)
        with pytest.raises(HttpRefused) as misspelt:
            await client.post("/v1/nodes", b'{"nam": "n2"}', timeout_s=DEADLINE_S)
        events = await client.get("/v1/events", timeout_s=DEADLINE_S)
    assert (refused.value.status, refused.value.code) == (409, "by_others")
    assert "[[nodes]]" in refused.value.message
    assert misspelt.value.status == 400
    noted = [json.loads(line) for line in events.splitlines() if b'"operator.node"' in line]
    assert noted
    assert not any(event["fields"]["accepted"] for event in noted)
