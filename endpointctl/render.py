"""How a cluster's state looks to people: the status table, warnings, the steps of a failover. Pure; prints nothing.

Plain words that also stand in --json, colours only as a help: the same view serves a terminal of any width and a log.  What
comes from elsewhere is made visible first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from daemonkit.escape import visible, visible_value
from endpointctl.listing import Column, Listing, Row, or_dash
from pgtopology.desired_nodes import Wish
from pgtopology.node import NodeState
from pgtopology.observation import SLOTS_FREE_MIN
from pgtopology.status import NodeChangeStatus, NodeStatus, ProxyStatus, SlotStatus, Status

_STATE_STYLES = {
    "healthy": "bold green",
    "bootstrapping": "cyan",
    "transition": "bold yellow",
    "degraded": "yellow",
    "at_risk": "bold yellow",
    "paused": "magenta",
    "stuck": "bold red",
}
_NODE_STYLES = {
    NodeState.RUNNING: "bold green",
    NodeState.STREAMING: "green",
    NodeState.CATCHING_UP: "yellow",
    NodeState.CLONING: "cyan",
    NodeState.REWINDING: "cyan",
    NodeState.STOPPED: "red",
    NodeState.UNREACHABLE: "bold red",
}


def status_view(status: Status, trouble: Iterable[str] = ()) -> RenderableType:
    """Return the whole status for a terminal: its sections, one below the other.

    *trouble* says which of a local cluster's programs are down, one line each; it stands below the diagnosis.
    """
    status = visible_value(status)
    told = [Text(visible(line), style="bold red") for line in trouble]
    return Group(*(part for section in SECTIONS for part in (*section(status), *(told if section is _diagnosis else ()))))


def _head(status: Status) -> list[RenderableType]:
    return [
        Text.assemble(
            (f"cluster {status.cluster}  ", "bold"),
            (status.state, _STATE_STYLES.get(status.state, "")),
            *([(", no failover possible", "bold yellow")] if len(status.voters.names) == 1 else []),
            f"  epoch {status.epoch}  timeline {or_dash(status.timeline)}  writer ",
            (status.writer or "none", "bold"),
            f"  durability {status.durability}",
        )
    ]


def _diagnosis(status: Status) -> list[RenderableType]:
    return [Text(f"{status.diagnosis}: {status.reason}")]


def _warnings(status: Status) -> list[RenderableType]:
    return [Text(line, style="bold yellow") for line in warnings(status)]


def warnings(status: Status) -> list[str]:
    """Return what must not be overlooked."""
    found: list[str] = []
    if status.durability == "async":
        found.append("durability is async: an acknowledged commit is on the writer alone and can be lost with it")
    elif status.durability == "reduced":
        found.append("durability was reduced by an operator: commits survive on fewer nodes than planned")
    if status.at_risk:
        found.append(f"at risk: {status.at_risk}")
    if (nobody := nobody_to_read_from(status)) is not None:
        found.append(nobody)
    if status.manager.store_problem:
        found.append(f"the manager cannot write the cluster's document: {status.manager.store_problem}")
    if status.manager.late_ms >= LATE_MS:
        found.append(f"the manager stood still for {status.manager.late_ms} ms within the last minute")
    found += [f"relaxed commits, which can be lost: {text}" for text in status.relaxations]
    found += slot_warnings(status.slots)
    if (horizon := status.vacuum_horizon) is not None and horizon.alarm:
        what = "catalog rows" if horizon.catalog_only else "rows"
        found.append(
            f"VACUUM keeps {what} that died within the last {horizon.age_xids} transactions, for {horizon.held_s:.0f} s "
            f"at least: {horizon.holder} on {horizon.node}"
        )
    found += status.role_notes
    found += [f"put right, because somebody changed it: {text}" for text in status.repairs]
    if status.paused:
        found.append("paused: no failover happens by itself (`endpointctl resume`)")
    return found


def nobody_to_read_from(status: Status) -> str | None:
    """Return why the reader endpoint has no replica to send new sessions to; None if it has one, or can have none."""
    replicas = [node for node in status.nodes if node.name != status.writer]
    if status.writer is None or not replicas or any(node.reader_obstacle is None for node in replicas):
        return None
    why = "; ".join(f"{node.name}: {node.reader_obstacle}" for node in replicas)
    return f"no replica may take new readers, so they go to the writer, or wait where that is not allowed ({why})"


def slot_warnings(slots: Iterable[SlotStatus]) -> list[str]:
    """Return which users' slots are lost, or would be by a handover, and why."""
    found: list[str] = []
    for slot in slots:
        if slot.lost:
            found.append(f'the {slot.kind} slot "{slot.name}" is lost: the WAL it needs is gone')
        for why in dict.fromkeys(slot.lost_with.values()):
            nodes = ", ".join(node for node, reason in slot.lost_with.items() if reason == why)
            found.append(f'the {slot.kind} slot "{slot.name}" would be lost by a handover to {nodes}: {why}')
    return found


LATE_MS = 500
"""A program that stood still for longer may have judged, or been judged, late."""

NODE_COLUMNS: tuple[tuple[Column, Callable[[NodeStatus], str | Text]], ...] = (
    (Column("node", is_head=True), lambda node: node.name),
    (Column("zone", is_head=True), lambda node: node.zone),
    (Column("role", is_head=True), lambda node: node.role),
    (Column("state", is_head=True), lambda node: Text(node_state_text(node), style=_NODE_STYLES.get(node.state, ""))),
    (Column("timeline", is_right=True), lambda node: or_dash(node.timeline)),
    (Column("lsn", is_right=True), lambda node: or_dash(node.lsn)),
    (Column("lag", is_right=True), lambda node: lag_text(node)),
    (Column("address"), lambda node: f"{node.host}:{node.port}"),
    (Column("vote"), lambda node: ("yes" if node.whole else "not whole") if node.voter else "no"),
)
"""What status shows of a node, in this order; what is a sentence is a note."""


def node_notes(node: NodeStatus) -> list[str]:
    """Return what is to be said of a node, one sentence each."""
    notes = [node.problem] if node.problem else []
    notes += [*connection_notes(node), *slot_notes(node)]
    if node.late_ms >= LATE_MS:
        notes.append(f"noded stood still for {node.late_ms} ms within the last minute")
    if node.state == "streaming" and node.reader_obstacle:
        notes.append(f"no new readers: {node.reader_obstacle}")
    return [*notes, "restart needed"] if node.pending_restart else notes


def connection_notes(node: NodeStatus) -> list[str]:
    """Return what is to be said of a node whose connections are nearly used up, or mostly wait for the quorum."""
    used, limit, waiting = node.connections or 0, node.connections_limit or 0, node.connections_waiting or 0
    found = [f"{waiting} of {limit} connections wait for the quorum"] if limit and waiting * 2 >= limit else []
    return [*found, f"{used} of {limit} connections are used"] if limit and used * 10 >= limit * 9 else found


def slot_notes(node: NodeStatus) -> list[str]:
    """Return what is to be said of a node whose replication slots are nearly used up."""
    used, limit = node.replication_slots, node.replication_slots_limit
    if used is None or limit is None or limit - used >= SLOTS_FREE_MIN:
        return []
    return [f"{used} of {limit} replication slots are used: a node made anew needs one on the writer"]


def _nodes(status: Status) -> list[RenderableType]:
    rows = [Row([cell(node) for _, cell in NODE_COLUMNS], node_notes(node)) for node in status.nodes]
    return [Listing([column for column, _ in NODE_COLUMNS], rows)]


def node_state_text(node: NodeStatus) -> str:
    """Return a node's state, with what it is busy with and how far it is."""
    text = node.state.replace("_", " ")
    busy = node.activity if node.activity not in (None, "idle", node.state) else None
    if busy:
        text = busy
    return f"{text} {node.progress_percent} %" if node.progress_percent is not None else text


def lag_text(node: NodeStatus) -> str:
    """Return a node's distance to the writer."""
    if node.lag_bytes is None:
        return "-"
    size = f"{node.lag_bytes} B" if node.lag_bytes < 10_240 else f"{node.lag_bytes / 1_048_576:.1f} MiB"
    return f"{size} {node.lag_ms} ms" if node.lag_ms is not None else size


def _quorum(status: Status) -> list[RenderableType]:
    voters = status.voters
    text = f"quorum: {len(voters.names)} of {len(status.nodes)} nodes vote, a commit is on {voters.w}; "
    without = f"{voters.promisable_without_writer} could promise without {status.writer or 'a writer'}"
    return [Text(f"{text}a failover needs {voters.needed} voters, {without}")]


def _survives(status: Status) -> list[RenderableType]:
    yes, because = status.survives, status.survives_because
    losses = (
        ("the writer's server", yes.server_crash, because.server_crash),
        ("any one host", yes.host_loss, because.host_loss),
        ("any one zone", yes.zone_loss, because.zone_loss),
    )
    hosts = {node.host for node in status.nodes}
    if len(hosts) == 1 and len(status.nodes) > 1:
        # The losses that take all of them at once; which zones they were given does not matter then.
        losses = (losses[0], *((loss, survived, "all nodes run on one host") for loss, survived, _ in losses[1:]))
    told: dict[str, list[str]] = {}
    for loss, survived, why in losses:
        told.setdefault("yes" if survived else f"no, {why}", []).append(loss)
    return [Text("survives the loss of " + "; ".join(f"{', '.join(of)}: {answer}" for answer, of in told.items()))]


def _pending(status: Status) -> list[RenderableType]:
    if status.order_pending is None:
        return []
    return [Text(f"ordered: {status.order_pending} (`endpointctl withdraw` takes it back)")]


def _node_changes(status: Status) -> list[RenderableType]:
    return [Text(_node_change(change)) for change in status.node_changes]


def _node_change(change: NodeChangeStatus) -> str:
    leaves = change.wish == Wish.LEAVING
    text = f"{change.name} {'leaves' if leaves else 'is being added'}: {change.step}"
    if change.waits_for is not None:
        text += f", {change.waits_for}"
    if change.next_try is not None:
        text += f" (failed {change.failures} times, tried again at {change.next_try}"
        text += ")" if leaves else f"; `endpointctl node remove {change.name}` takes it back)"
    return text


def _endpoints(status: Status) -> list[RenderableType]:
    doors = (("writer", status.endpoints.writer), ("reader", status.endpoints.reader))
    return [Text(f"{name}: {door.host}:{door.port} ({door.dns})") for name, door in doors]


def _proxies(status: Status) -> list[RenderableType]:
    if not status.proxies:
        return [Text("no proxy reports: the endpoints do not answer")]
    several = sum(not proxy.draining for proxy in status.proxies) > 1
    return [Text(_proxy(proxy, several=several)) for proxy in status.proxies]


def _proxy(proxy: ProxyStatus, *, several: bool) -> str:
    text = f"{proxy.name}: {proxy.sessions} sessions, routes by epoch {proxy.epoch}, {proxy.engine} engine"
    if len(proxy.pids) > 1:
        text += f", {len(proxy.pids)} processes"
    shown = (one for one in proxy.endpoints if several or one.name.startswith("pooled-"))
    text += "".join(f", {one.name} {one.host}:{one.port}" for one in shown)
    if proxy.draining:
        text += ", draining: another process has taken over"
    if proxy.relaxed_sessions:
        text += f", {proxy.relaxed_sessions} with commits that may not be covered by the quorum"
    return text


def _last_failover(status: Status) -> list[RenderableType]:
    last = status.last_failover
    if last is None:
        return []
    took = (
        f"{last.outage_ms} ms without a commit" if last.outage_ms is not None else "how long nobody could commit is not known"
    )
    cause = f"{last.cause}, " if last.kind in ("failover", "paused") else ""
    what = "failover, while it was paused" if last.kind == "paused" else last.kind.replace("_", " ")
    return [Text(f"last {what}: epoch {last.epoch}, {cause}{took}, {last.at}")]


SECTIONS: tuple[Callable[[Status], list[RenderableType]], ...] = (
    _head,
    _diagnosis,
    _warnings,
    _pending,
    _node_changes,
    _nodes,
    _quorum,
    _survives,
    _endpoints,
    _proxies,
    _last_failover,
)
"""What status says, in this order; a new line is a function of its own here."""


def progress_phrases(status: Status) -> dict[str, str]:
    """Return one phrase per thing that is worth telling while a cluster comes up; print those that changed."""
    status = visible_value(status)
    phrases: dict[str, str] = {node.name: f"{node.name}: {_state_word(node)}" for node in status.nodes}
    votes = len(status.voters.names)
    if votes:
        phrases["quorum"] = f"quorum: {votes} of {len(status.nodes)}"
    if status.writer is not None:
        phrases["writer"] = f"writer: {status.writer} (epoch {status.epoch})"
    elif status.transition is not None:
        phrases["writer"] = f"writer: none ({status.transition.kind}, {status.transition.step})"
    if status.proxies:
        phrases["proxy"] = "proxy: routes by epoch " + ", ".join(str(proxy.epoch) for proxy in status.proxies)
    return phrases


def _state_word(node: NodeStatus) -> str:
    text = node_state_text(node)
    return f"{text}, {node.problem}" if node.problem else text
