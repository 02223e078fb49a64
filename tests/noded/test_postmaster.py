"""One real postmaster under noded's watch."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from noded.files.layout import Layout
from noded.postgres.binaries import find_binaries
from noded.postgres.postmaster import Postmaster
from noded.postgres.tools import run_tool
from pgtopology.orders import StopMode
from testkit.ports import free_port

pytestmark = pytest.mark.integration

DEADLINE_S = 30.0


async def test_a_reload_right_after_the_start_does_not_end_it(tmp_path: Path) -> None:
    named = os.environ.get("ENDPOINTD_TEST_PG_BIN")
    binaries = find_binaries(Path(named) if named else None, prefer_bundled=True)
    layout = Layout(tmp_path / "n1")
    layout.log.parent.mkdir(parents=True)
    data = str(layout.pgdata)
    await run_tool(binaries.command("initdb", "-D", data, "--auth=reject", "--no-sync"), timeout_s=60)
    settings = {"listen_addresses": "127.0.0.1", "port": str(free_port()), "unix_socket_directories": "", "fsync": "off"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    postmaster = Postmaster(layout, lambda: None)
    postmaster.start(binaries.command("postgres", "-D", data, *options))
    postmaster.reload()  # the program is hardly loaded
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not postmaster.is_ready():
                assert postmaster.exit_status is None, f"it ended: {postmaster.exit_status}"
                await asyncio.sleep(0.005)
            while "received SIGHUP" not in layout.log.read_text():
                await asyncio.sleep(0.005)
    finally:
        await postmaster.stop(StopMode.IMMEDIATE)
