"""`node add|remove|stop|start|restart|reinit`: orders about one PostgreSQL server.

All are the manager's, which has the supervisor of a local cluster run the programs of nodes that come and stop those that go.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from daemonkit.exits import Failure, WrongUsage
from endpointctl import completing, output
from endpointctl.options import Target, command, node_name
from endpointctl.options import group as new_group

if TYPE_CHECKING:
    from deployment.local.layout import Layout
    from deployment.local.plan import Plan
    from endpointctl.local.watching import Say
    from pgtopology.supervision import Answer, Order, PlannedNode

NODE_TIMEOUT_S = 60.0
CHANGE_TIMEOUT_S = 300.0
"""A clone of a large database takes its time."""
ORDER_TIMEOUT_S = 10.0

NodeArgument = Annotated[
    str,
    typer.Argument(
        metavar="NODE",
        callback=node_name,
        help="Its name, as in status.",
        autocompletion=completing.nodes,
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Do it even if commits will wait for want of a quorum.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands to *app*."""
    group = new_group("Add, remove, stop, start, restart or remake one node.")
    for function in (add, remove):
        command(group, waits_s=CHANGE_TIMEOUT_S)(function)
    for function in (stop, start, restart, reinit):
        command(group, waits_s=NODE_TIMEOUT_S)(function)
    app.add_typer(group, name="node")


def add(
    target: Target,
    node: Annotated[str | None, typer.Argument(metavar="[NODE]", help="Its name, n1 to n16 (the first that is free).")] = None,
    zone: Annotated[str | None, typer.Option("--zone", metavar="AZ", help="Its zone (az1, az2 and az3 in turn).")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when it has its data and votes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add a node to the running local cluster.

    It copies the writer's data and becomes a voter by itself. From three nodes on, commits are kept by a quorum.
    """
    import asyncio

    from deployment.local.plan import node_number
    from deployment.local.planning import NAMES
    from pgtopology.node import NAME_PATTERN

    if node is not None and node_number(node) is None:
        raise WrongUsage(f'a node cannot be called "{node}"', hint=f"names are {NAMES}")
    if zone is not None and not re.fullmatch(NAME_PATTERN, zone):
        raise WrongUsage(f'"{zone}" is no name of a zone', hint="1 to 40 characters of a-z, 0-9 and hyphens between them")

    async def run() -> None:
        from deployment.local.directory import read_plan, require_disk_for_copy
        from endpointctl.local.watching import until_joined

        layout = _local_cluster(target)
        before = read_plan(layout)
        assert before is not None, "the local cluster has a plan"
        if node is None or before.find(node) is None:
            require_disk_for_copy(layout, before)
        elif not wait:
            # With --wait it is what an order that took too long is repeated by: the answer is then that it is done.
            await _refuse_joined(target, before, node)
        added, plan = await _add(target, layout, node, zone), read_plan(layout)
        assert plan is not None
        if wait:
            with _progress(f"adding {added.name}", as_json=as_json) as say:
                await until_joined(layout, plan, added.name, timeout_s=target.timeout_or(CHANGE_TIMEOUT_S), say=say)
        if as_json:
            _print_json({"node": added.name, "zone": added.zone, "port": added.port, "finished": wait})
        elif wait:
            output.line(f'"{added.name}" is in the cluster (durability {plan.durability})')
        else:
            output.line(f'"{added.name}" is added and gets its data; `endpointctl status` shows how far it is')

    asyncio.run(run())


async def _refuse_joined(target: Target, plan: Plan, node: str) -> None:
    """Raise WrongUsage if *node* is in the cluster and does its part; else the order was given before and is carried on."""
    from endpointctl.api import fetch_status, manager
    from endpointctl.local.watching import has_joined

    async with manager(target) as client:
        status = await fetch_status(client)
    if has_joined(status, plan, node):
        raise WrongUsage(f'"{node}" is in the cluster already', hint="without a name the first that is free is taken")


def remove(
    target: Target,
    node: NodeArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when it is out of the cluster.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Remove its data too; else that is put aside.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --purge: do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a node out of the running local cluster.

    It stops being a voter step by step, and stops. Refused for the writer, and where less than three voters would be left.
    """
    import asyncio

    from endpointctl.asking import confirm

    async def run() -> None:
        from endpointctl.local.watching import until_left

        layout = _local_cluster(target)
        known_nodes = _names(layout)
        if node not in known_nodes and not await _is_being_added(target, node):
            raise WrongUsage(f'there is no node "{node}"', hint=f"the nodes are {', '.join(known_nodes)}")
        if purge:
            confirm(f"Take {node} out of the cluster and remove {layout.node(node)} with all data?", yes=yes)
        known = _kept(layout, node)
        await _remove(target, layout, node, purge=purge)
        if wait:
            with _progress(f"removing {node}", as_json=as_json) as say:
                await until_left(layout, node, timeout_s=target.timeout_or(CHANGE_TIMEOUT_S), say=say)
        kept = sorted(_kept(layout, node) - known)
        if as_json:
            _print_json({"node": node, "finished": wait, "data_dir": kept[-1] if kept else None})
        elif not wait:
            output.line(f'"{node}" leaves the cluster; `endpointctl status` shows how far it is')
        elif kept:
            output.line(f'"{node}" is out of the cluster; its data is kept in {kept[-1]}, remove it when you like')
        else:
            output.line(f'"{node}" is out of the cluster')

    asyncio.run(run())


def stop(target: Target, node: NodeArgument, force: ForceOption = False, as_json: JsonOption = False) -> None:
    """Stop a standby's PostgreSQL, and leave it down until `node start`."""
    _order(target, node, "stop", force=force, as_json=as_json)


def start(target: Target, node: NodeArgument, as_json: JsonOption = False) -> None:
    """Start a standby that was stopped by `node stop`."""
    _order(target, node, "start", force=False, as_json=as_json)


def restart(target: Target, node: NodeArgument, force: ForceOption = False, as_json: JsonOption = False) -> None:
    """Restart a standby's PostgreSQL, for settings that need it."""
    _order(target, node, "restart", force=force, as_json=as_json)


def reinit(
    target: Target,
    node: NodeArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Throw a standby's data away and copy the writer's anew."""
    question = None if yes else f"Throw away the data of {node} and copy the writer's anew?"
    _order(target, node, "reinit", force=force, as_json=as_json, question=question)


def _order(target: Target, node: str, order: str, *, force: bool, as_json: bool, question: str | None = None) -> None:
    """Give the manager an order about *node*; with a *question*, only when it is answered with yes."""
    import asyncio

    import msgspec

    from endpointctl.api import fetch_status, manager, require_node
    from endpointctl.asking import confirm

    async def run() -> None:
        async with manager(target) as client:
            status = await fetch_status(client)
            require_node(status, node)
            if question is not None and node != status.writer:  # whom the manager refuses
                confirm(question, yes=False)
            body = msgspec.json.encode({"force": force})
            answer = await client.post(f"/v1/nodes/{node}/{order}", body, timeout_s=target.timeout_or(NODE_TIMEOUT_S))
        if as_json:
            output.json_document(answer)
        else:
            output.line(str(msgspec.json.decode(answer, type=dict[str, object])["detail"]))

    asyncio.run(run())


async def _add(target: Target, layout: Layout, node: str | None, zone: str | None) -> PlannedNode:
    """Have the manager add a node. Raises Failure."""
    import msgspec

    from daemonkit.httpanswers import HttpRefused
    from endpointctl.acting import note_act
    from endpointctl.api import manager
    from pgtopology.supervision import AddNode, NodeAdded, Order

    async with manager(target) as client:
        try:
            body = msgspec.json.encode(AddNode(name=node, zone=zone))
            return msgspec.json.decode(await client.post("/v1/nodes", body, timeout_s=ORDER_TIMEOUT_S), type=NodeAdded).node
        except HttpRefused as error:
            if error.status not in (404, 405) and error.code != "by_others":
                raise
    # It is of a version, or was started by one, that did not do this; the supervisor did.
    answer = await _tell(layout, Order(do="add", name=node, zone=zone))
    await note_act(target)
    assert answer.node is not None
    return answer.node


async def _remove(target: Target, layout: Layout, node: str, *, purge: bool) -> None:
    """Have the manager take *node* out. Raises Failure."""
    import msgspec

    from daemonkit.httpanswers import HttpRefused
    from endpointctl.acting import command_line, operator
    from endpointctl.api import manager
    from pgtopology.supervision import Order

    async with manager(target) as client:
        try:
            body = msgspec.json.encode({"purge": purge})
            answer = await client.post(f"/v1/nodes/{node}/remove", body, timeout_s=ORDER_TIMEOUT_S)
            if not msgspec.json.decode(answer, type=dict[str, object]).get("by_others"):
                return
        except HttpRefused as error:
            if error.status != 400:  # what an earlier version says of "purge"
                raise
    await _tell(layout, Order(do="remove", name=node, purge=purge, operator=operator(), command=command_line()))


def _local_cluster(target: Target) -> Layout:
    """Return where the local cluster lies. Raises WrongUsage, Failure."""
    from deployment.local.directory import read_plan
    from deployment.local.layout import Layout

    if target.api is not None:
        raise WrongUsage("nodes come and go in a local cluster", hint="name its directory with --data-dir instead of --api")
    layout = Layout(target.data_dir)
    if read_plan(layout) is None:
        raise Failure(f"no cluster in {layout.root}", hint="make one with `endpointctl up`, or name one with --data-dir")
    return layout


async def _is_being_added(target: Target, node: str) -> bool:
    """Return whether *node* is in no plan because it could not be made yet: who ordered it may take that back."""
    from endpointctl.api import fetch_status, manager

    async with manager(target) as client:
        status = await fetch_status(client)
    return any(change.name == node for change in status.node_changes)


def _names(layout: Layout) -> list[str]:
    """Return the names of the nodes, and of those that were ordered to leave and are not gone yet."""
    from deployment.local.directory import read_plan

    plan = read_plan(layout)
    assert plan is not None, "the local cluster has a plan"
    return [node.name for node in plan.everybody]


async def _tell(layout: Layout, wanted: Order) -> Answer:
    """Give the supervisor an order. Raises Failure."""
    from daemonkit.linesocket import PeerGone, PeerSilent, ask
    from pgtopology.supervision import Answer

    try:
        return await ask(layout.control_socket, wanted, Answer, timeout_s=ORDER_TIMEOUT_S)
    except PeerSilent:
        raise Failure(f"the supervisor in {layout.root} does not answer in time", hint="give the order again") from None
    except PeerGone:
        raise Failure(f"no supervisor answers in {layout.root}", hint="start the cluster with `endpointctl up`") from None


def _kept(layout: Layout, node: str) -> set[str]:
    """Return the directories that hold the data of former nodes of that name."""
    return {str(path) for path in layout.nodes.iterdir() if path.name.startswith(f"{node}.removed-")}


def _progress(doing: str, *, as_json: bool) -> AbstractContextManager[Say]:
    """Give a function that prints a line of progress: on standard error where standard output is for JSON."""
    import sys

    from endpointctl.local.foreground import progress

    return progress(output.console(sys.stderr if as_json else sys.stdout), doing)


def _print_json(outcome: dict[str, str | int | bool | None]) -> None:
    import json

    output.json_document(json.dumps({"format_version": output.FORMAT_VERSION, **outcome}))
