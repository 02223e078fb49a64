"""How the plan of a local cluster changes when a node comes or goes.

Pure: from one plan to the next.  Whether a port is free or a node may leave is for others to find out.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from daemonkit.exits import Failure
from deployment.local.plan import LeavingNode, Plan, node_number, plan_node
from pgtopology.node import NODES_MAX
from pgtopology.supervision import PlannedNode

NAMES = f"n1 to n{NODES_MAX}"


def choose_node(plan: Plan, name: str | None, zone: str | None, *, is_in_the_way: Callable[[str], bool]) -> PlannedNode:
    """Return the node to add: the one that is there under *name*, a new one, or without a name the first that is free.

    *is_in_the_way* tells whether something lies where a node's directory would be.  Raises Failure.
    """
    leaving = {one.node.name for one in plan.leaving}
    if name is None:
        taken = {*plan.names, *leaving}
        free = [number for number in range(1, NODES_MAX + 1) if f"n{number}" not in taken and not is_in_the_way(f"n{number}")]
        if not free or len(plan.nodes) >= NODES_MAX:
            raise Failure(f"the cluster has {len(taken)} nodes, and more than {NODES_MAX} cannot be")
        return plan_node(free[0], base_port=plan.base_port, zone=zone)
    if name in leaving:
        raise Failure(f'"{name}" is being taken out', hint="wait until that is done, or add another one")
    known = plan.find(name)
    if known is not None:
        if zone not in (None, known.zone):
            raise Failure(f'"{name}" is in the cluster already, in zone {known.zone}')
        return known
    number = node_number(name)
    if number is None:
        raise Failure(f'a node cannot be called "{name}"', hint=f"names are {NAMES}")
    if is_in_the_way(name):
        raise Failure(
            f'the data of a former "{name}" lies where the new one\'s would be', hint="move it away, or add another one"
        )
    return plan_node(number, base_port=plan.base_port, zone=zone)


def with_node(plan: Plan, node: PlannedNode) -> Plan:
    """Return *plan* with *node*, in the order of the names."""
    nodes = sorted((*plan.nodes, node), key=lambda one: node_number(one.name) or 0)
    return msgspec.structs.replace(plan, nodes=tuple(nodes))


def with_leaving(plan: Plan, name: str, *, purge: bool) -> Plan:
    """Return *plan* with the order that *name* leaves; one that was given before is kept, a purge is added to it."""
    earlier = plan.find_leaving(name)
    node = plan.find(name) or (earlier.node if earlier is not None else None)
    if node is None:
        return plan
    order = LeavingNode(node=node, purge=purge or (earlier is not None and earlier.purge))
    return msgspec.structs.replace(plan, leaving=(*without_leaving(plan, name).leaving, order))


def without_node(plan: Plan, name: str) -> Plan:
    """Return *plan* without *name* among its nodes."""
    return msgspec.structs.replace(plan, nodes=tuple(node for node in plan.nodes if node.name != name))


def without_leaving(plan: Plan, name: str) -> Plan:
    """Return *plan* without any order that *name* leaves."""
    return msgspec.structs.replace(plan, leaving=tuple(one for one in plan.leaving if one.node.name != name))
