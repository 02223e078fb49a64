"""What is done to containers under load, and how each is undone. Each is done to the primary and to a replica."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from testkit.ledger import Recorder
from tests.compose.stack import Stack

ACKNOWLEDGEMENTS = 50
"""Before each fault, during it and after it: enough to be sure that writes flow."""
STOP_S = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that happens to a node's container."""

    name: str
    do: Callable[[Stack, str], object]
    undo: Callable[[Stack, str], object] | None
    """None: the engine brings the container back by itself."""
    stops_cleanly: bool = False
    """The container must end by itself with status 0, PostgreSQL with a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a fault cost."""

    fault: str
    victim: str
    outage_s: float
    """The longest time without an acknowledged insert."""
    moved_to: str | None
    """The new writer, if there is one."""
    healthy_s: float
    """From the undoing until every node worked again."""


def _stop(stack: Stack, node: str) -> None:
    stack.docker("stop", "-t", str(STOP_S), stack.container(node))


def _start(stack: Stack, node: str) -> None:
    stack.docker("start", stack.container(node))


def _end_noded(stack: Stack, node: str) -> None:
    """Kill the noded itself: its container ends, PostgreSQL with it, and the engine starts it anew."""
    stack.execute(node, "kill -9 $(cat /proc/1/task/1/children)")


def _cluster_state(stack: Stack, node: str) -> str:
    """Return what the data of a stopped node says of its end."""
    program = ("--entrypoint", "pg_controldata", stack.image, "/var/lib/endpointd/node/pgdata")
    text = stack.docker("run", "--rm", "--network", "none", "--volumes-from", stack.container(node), *program)
    return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Database cluster state"))


FAULTS = (
    Fault(name="docker kill", do=lambda stack, node: stack.docker("kill", stack.container(node)), undo=_start),
    Fault(
        name="docker pause",
        do=lambda stack, node: stack.docker("pause", stack.container(node)),
        undo=lambda stack, node: stack.docker("unpause", stack.container(node)),
    ),
    Fault(name="network disconnect", do=lambda s, node: s.disconnect(node), undo=lambda s, node: s.connect(node)),
    Fault(
        name="docker restart",
        do=lambda stack, node: stack.docker("restart", "-t", str(STOP_S), stack.container(node)),
        undo=None,
    ),
    Fault(name="docker stop (SIGTERM)", do=_stop, undo=_start, stops_cleanly=True),
    Fault(name="kill -9 of noded", do=_end_noded, undo=None),
)


def inflict(stack: Stack, recorder: Recorder, fault: Fault, *, on_primary: bool) -> Outcome:
    """Do *fault* to a node of a healthy cluster, see writes go on, undo it and wait for health.

    Raises TimeoutError if writes or health do not return, AssertionError if the container did not end as it should.
    """
    before = stack.wait_healthy()
    writer = before["writer"]
    victim = writer if on_primary else next(node["name"] for node in before["nodes"] if node["name"] != writer)
    recorder.wait_for_more(ACKNOWLEDGEMENTS, timeout_s=30.0)
    begun = time.monotonic()
    fault.do(stack, victim)
    if on_primary and fault.undo is not None:
        stack.wait(lambda now: now["writer"] not in (None, victim), "another writer", timeout_s=30.0)
    recorder.wait_for_more(ACKNOWLEDGEMENTS, timeout_s=30.0)
    if fault.stops_cleanly:
        code = stack.docker("inspect", "--format", "{{.State.ExitCode}}", stack.container(victim))
        assert code == "0", f"{victim} ended with status {code} when it was told to stop"
        state = _cluster_state(stack, victim)
        assert state in ("shut down", "shut down in recovery"), f'PostgreSQL of {victim} is left "{state}"'
    undone = time.monotonic()
    if fault.undo is not None:
        fault.undo(stack, victim)
    after = stack.wait_healthy()
    healthy_s = time.monotonic() - undone
    recorder.wait_for_more(ACKNOWLEDGEMENTS, timeout_s=30.0)
    return Outcome(
        fault=fault.name,
        victim=f"{victim} ({'primary' if on_primary else 'replica'})",
        outage_s=recorder.outage_s(begun),
        moved_to=after["writer"] if after["writer"] != writer else None,
        healthy_s=healthy_s,
    )
