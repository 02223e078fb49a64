"""What a verification may do to the cluster in the middle: hand the writer over, or kill its PostgreSQL."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import msgspec

from daemonkit.exits import Failure
from deployment.local.layout import Layout
from deployment.local.postmaster import postmaster_of
from endpointctl.api import REQUEST_TIMEOUT_S, fetch_status, manager, wait_for_status
from endpointctl.options import Target
from endpointctl.rehearsing import FINISHED_TIMEOUT_S


async def switch_over(target: Target, say: Callable[[str], None]) -> None:
    """Order a switchover and wait for its end. Raises Failure if it is refused."""
    async with manager(target) as client:
        before = await fetch_status(client)
        answer = await client.post("/v1/switchover", b"{}", timeout_s=REQUEST_TIMEOUT_S)
        epoch = msgspec.json.decode(answer, type=dict[str, int]).get("epoch", before.epoch + 1)
        after = await wait_for_status(
            client,
            lambda status: status.epoch >= epoch and status.writer is not None,
            timeout_s=target.timeout_or(FINISHED_TIMEOUT_S),
            wanted=f"finished (epoch {epoch})",
        )
        say(f"switchover: {before.writer} -> {after.writer} (epoch {after.epoch})")


async def kill_writer(target: Target, say: Callable[[str], None]) -> None:
    """Kill the writer's postmaster and wait for the next writer. Raises Failure if it is not found on this machine."""
    async with manager(target) as client:
        before = await fetch_status(client)
        if before.writer is None:
            raise Failure("there is no writer to kill at this moment")
        pid = postmaster_of(Layout(target.data_dir).pgdata(before.writer))
        if pid is None:
            raise Failure(f'PostgreSQL of "{before.writer}" does not run on this machine')
        os.kill(pid, signal.SIGKILL)
        after = await wait_for_status(
            client,
            lambda status: status.epoch > before.epoch and status.writer is not None,
            timeout_s=target.timeout_or(FINISHED_TIMEOUT_S),
            wanted=f"failed over (an epoch after {before.epoch})",
        )
        say(f"killed PostgreSQL of {before.writer}: {before.writer} -> {after.writer} (epoch {after.epoch})")
