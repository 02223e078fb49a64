"""The order in which a cluster is stopped, and what happens to a program that does not want to stop."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from daemonkit.processes import PinnedProcess, describe_process, ended, pin
from deployment.local.plan import make_plan
from supervisor.stopping import HARSH_STOP_S, ends_within, stop_steps

PLAN = make_plan(node_count=3, base_port=6400, pg_bin="/bin")


def test_the_proxy_goes_first_then_the_manager_then_the_writer_then_the_rest() -> None:
    assert [step.names for step in stop_steps(PLAN, "n2")] == [("endpointd",), ("cluster_manager",), ("n2",), ("n1", "n3")]


def test_without_a_known_writer_all_nodes_go_at_once() -> None:
    assert [step.names for step in stop_steps(PLAN, None)] == [("endpointd",), ("cluster_manager",), ("n1", "n2", "n3")]


STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause(); signal.pause()"
WILLING = "import signal; print(flush=True); signal.pause()"


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[PinnedProcess]:
    child = subprocess.Popen([sys.executable, "-c", request.param], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    record = describe_process("child", child.pid)
    pinned = pin(record) if record is not None else None
    assert pinned is not None
    with pinned:
        yield pinned
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize("process", [STUBBORN], indirect=True)
async def test_after_the_order_to_hurry_a_stubborn_program_is_not_waited_for(process: PinnedProcess) -> None:
    harsh = asyncio.Event()
    harsh.set()
    started = time.monotonic()
    assert not await ends_within(process, 600.0, harsh)
    assert time.monotonic() - started < HARSH_STOP_S + 5.0
    process.send(signal.SIGKILL)
    await ended(process)


@pytest.mark.parametrize("process", [WILLING], indirect=True)
async def test_a_program_that_ends_is_noticed_at_once(process: PinnedProcess) -> None:
    asyncio.get_running_loop().call_soon(process.send, signal.SIGTERM)
    assert await ends_within(process, 600.0, asyncio.Event())
