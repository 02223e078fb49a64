"""Watching a local cluster come up, run and go down, on the terminal of `up` and `down`.

What is shown comes from two places: the manager says how the cluster is, the supervisor how its processes are.  A line is
printed when what it says has changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from daemonkit.exits import Failure, Unfinished
from daemonkit.httpanswers import HttpError, HttpRefused, HttpUnavailable
from daemonkit.linesocket import PeerGone, PeerSilent, ask, order
from daemonkit.oneshot import OneShotClient
from daemonkit.processes import ended
from daemonkit.secrets import read_secret
from deployment.local.directory import read_plan
from deployment.local.layout import Layout
from deployment.local.plan import Plan
from endpointctl.api import as_failure, fetch_status
from endpointctl.render import progress_phrases
from pgtopology.codec import MessageError
from pgtopology.node import NodeState
from pgtopology.quorum import majority
from pgtopology.status import Status
from pgtopology.supervision import Answer, Order, ProgramState
from supervisor.door import find_supervisor

POLL_S = 0.1
RESTARTS_MAX = 6
"""A program that ended so often while the cluster came up will not do better by itself."""

Say = Callable[[str], None]

_SETTLED = (NodeState.RUNNING, NodeState.STREAMING)


def is_usable(status: Status, plan: Plan) -> bool:
    """Return whether both endpoints serve every node of *plan* in the durability it is meant to have."""
    if status.writer is None or not _is_durable(status, plan) or len(status.nodes) != len(plan.nodes):
        return False
    if any(node.state not in _SETTLED for node in status.nodes):
        return False
    # "healthy" may come before the last voter is counted in; whoever is told "ready" expects the full quorum.
    if plan.durability == "quorum" and not all(node.voter and node.whole for node in status.nodes):
        return False
    # One or two nodes never become healthy in the sense of surviving a loss; they are as good as they get.
    if status.state != "healthy" and len(plan.nodes) >= 3:
        return False
    serving = {proxy.name for proxy in status.proxies if proxy.epoch == status.epoch and not proxy.draining}
    return all(proxy.name in serving for proxy in plan.proxies)


def has_joined(status: Status, plan: Plan, name: str) -> bool:
    """Return whether the node called *name* does its part: it serves readers and, in a quorum, votes under the right w."""
    node = next((one for one in status.nodes if one.name == name), None)
    if node is None or node.state not in _SETTLED or not node.whole or not _is_durable(status, plan):
        return False
    if plan.durability != "quorum":
        return True
    return node.voter and status.voters.w == majority(len(status.voters.names))


def _is_durable(status: Status, plan: Plan) -> bool:
    """Return whether commits are as safe as so many nodes can make them; what an operator once reduced counts as async."""
    return status.durability == plan.durability or plan.durability == "async"


async def until_usable(layout: Layout, plan: Plan, *, timeout_s: float, say: Say) -> Status:
    """Tell what happens until the cluster is usable and return its status. Raises Unfinished or Failure."""

    def is_met(status: Status) -> bool:
        # Nodes may come and go in the meantime: what an earlier supervisor left undone is done now.
        return is_usable(status, read_plan(layout) or plan)

    return await until(layout, plan, is_met, timeout_s=timeout_s, say=say, wanted="the cluster is not usable")


async def until_joined(layout: Layout, plan: Plan, name: str, *, timeout_s: float, say: Say) -> Status:
    """Tell what happens until the added node *name* does its part. Raises Unfinished or Failure."""
    return await until(
        layout,
        plan,
        lambda status: has_joined(status, plan, name),
        timeout_s=timeout_s,
        say=say,
        wanted=f'"{name}" does not serve yet',
        needed=frozenset({name}),
    )


async def until_left(layout: Layout, name: str, *, timeout_s: float, say: Say) -> None:
    """Tell what happens until the node *name* is out of the cluster. Raises Unfinished or Failure."""
    plan = read_plan(layout)
    assert plan is not None, "a cluster that lost a node has a plan"

    def is_met(status: Status) -> bool:
        now = read_plan(layout)
        if status.writer == name:
            raise Failure(f'"{name}" has become the writer', hint="after `endpointctl switchover` it leaves by itself")
        if any(change.name == name for change in status.node_changes):
            return False
        if now is None or now.find_leaving(name) is not None:
            return False
        if now.find(name) is not None:
            raise Failure(f'"{name}" stays in the cluster', hint=f"see {layout.log('supervisor')}")
        return True

    await until(
        layout, plan, is_met, timeout_s=timeout_s, say=say, wanted=f'"{name}" is not out of the cluster', needed=frozenset()
    )


async def until(
    layout: Layout,
    plan: Plan,
    is_met: Callable[[Status], bool],
    *,
    timeout_s: float,
    say: Say,
    wanted: str,
    needed: frozenset[str] | None = None,
) -> Status:
    """Tell what happens until *is_met* and return that status; give up early if one of the *needed* programs (all) cannot run.

    Raises Unfinished, saying that what is *wanted* did not come, or Failure.
    """
    deadline = time.monotonic() + timeout_s
    told: dict[str, str] = {}
    last = "no manager has answered"
    before: Mapping[str, int] = {}

    def tell(phrases: dict[str, str]) -> None:
        for key, text in phrases.items():
            if told.get(key) != text:
                told[key] = text
                say(text)

    client = OneShotClient(plan.api, read_secret(layout.token))
    while time.monotonic() < deadline:
        before = await _require_programs(layout, needed, before)
        try:
            status = await fetch_status(client, timeout_s=2.0)
        except HttpUnavailable:
            tell({"manager": "manager: starting"})
        except HttpRefused as error:
            if error.status < 500:
                raise as_failure(error, plan.api) from error
            last = f"the manager says: {error.message or error}"
        except (HttpError, MessageError) as error:
            raise Failure(
                f"the manager does not tell its status: {error}", hint="see `endpointctl logs cluster_manager`"
            ) from error
        else:
            tell({"manager": "manager: answers", **progress_phrases(status)})
            if is_met(status):
                return status
            last = f"{status.state} ({status.diagnosis}): {status.reason}"
        await asyncio.sleep(POLL_S)
    raise Unfinished(f"{wanted} within {timeout_s:g} s: {last}", hint=f"see the logs in {layout.logs}")


async def _require_programs(layout: Layout, needed: frozenset[str] | None, before: Mapping[str, int]) -> Mapping[str, int]:
    """Raise Failure if one of the programs (all) cannot run now, or the supervisor is gone.

    *before* says how often each had ended when it was first looked at, because what happened earlier proves nothing; it is
    returned, with those that are new.
    """
    try:
        answer = await ask(layout.control_socket, Order(do="list"), Answer)
    except PeerSilent:
        return before  # frozen or busy, as it may be for a while; what is waited for has its own deadline
    except PeerGone:
        raise Failure("the supervisor has ended", hint=f"see {layout.log('supervisor')}") from None
    since = {program.name: program.restarts for program in answer.programs} | dict(before)
    for program in answer.programs:
        if needed is not None and program.name not in needed:
            continue
        ended_now = program.restarts - since[program.name]
        if program.state is ProgramState.FAILED and ended_now:
            raise Failure(f"{program.name} refuses to start: {program.reason}", hint=f"see {layout.log(program.name)}")
        if ended_now >= RESTARTS_MAX:
            said = program.reason or "it left no word"
            raise Failure(f"{program.name} keeps ending: {said}", hint=f"see {layout.log(program.name)}")
    return since


async def shut_down(layout: Layout, say: Say) -> None:
    """Have the supervisor stop everything and itself, telling its progress. Raises PeerGone, Failure."""
    supervisor = find_supervisor(layout)
    try:
        async for answer in order(layout.control_socket, Order(do="shutdown"), Answer):
            if answer.progress is not None:
                say(answer.progress)
        # Only when it has exited too is the lock on the directory free.
        if supervisor is not None:
            await ended(supervisor)
    finally:
        if supervisor is not None:
            supervisor.close()


async def hurry(layout: Layout) -> bool:
    """Make a shutdown under way harsher, and return whether the supervisor heard it; one that is gone needs none."""
    try:
        await ask(layout.control_socket, Order(do="hurry"), Answer)
    except PeerSilent:
        return False
    except PeerGone:
        return True
    return True
