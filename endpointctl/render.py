"""How values look to people: the status table, event lines, failover steps. Pure; prints nothing.

Plain words that also stand in --json, colours only as a help: the same table serves a terminal and a log.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pgtopology.event import Event
from pgtopology.explanation import Explanation
from pgtopology.history import PastWriter
from pgtopology.node import NodeState
from pgtopology.status import NodeStatus, Status

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


def status_view(status: Status) -> RenderableType:
    """Return the whole status for a terminal."""
    head = Text.assemble(
        (f"cluster {status.cluster}  ", "bold"),
        (status.state, _STATE_STYLES.get(status.state, "")),
        f"  epoch {status.epoch}  timeline {_or_dash(status.timeline)}  writer ",
        (status.writer or "none", "bold"),
        f"  durability {status.durability}",
    )
    lines: list[RenderableType] = [head, Text(f"{status.diagnosis}: {status.reason}")]
    lines += [Text(line, style="bold yellow") for line in warnings(status)]
    lines.append(_nodes_table(status.nodes))
    lines += [Text(line) for line in _foot(status)]
    return Group(*lines)


def warnings(status: Status) -> list[str]:
    """Return what must not be overlooked."""
    found: list[str] = []
    if status.durability == "async":
        found.append("durability is async: an acknowledged commit is on the writer alone and can be lost with it")
    elif status.durability == "reduced":
        found.append("durability was reduced by an operator: commits survive on fewer nodes than planned")
    if status.at_risk:
        found.append(f"at risk: {status.at_risk}")
    if status.manager.store_problem:
        found.append(f"the manager cannot write the cluster's document: {status.manager.store_problem}")
    found += [f"relaxed commits, which can be lost: {text}" for text in status.relaxations]
    if status.paused:
        found.append("paused: no failover happens by itself (`endpointctl resume`)")
    return found


def _nodes_table(nodes: Iterable[NodeStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("node", "zone", "role", "state"):
        table.add_column(title, no_wrap=True)
    for title in ("timeline", "lsn", "lag"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("address", "vote", "note"):
        table.add_column(title, no_wrap=title != "note")
    for node in nodes:
        table.add_row(
            node.name,
            node.zone,
            node.role,
            Text(node_state_text(node), style=_NODE_STYLES.get(node.state, "")),
            _or_dash(node.timeline),
            _or_dash(node.lsn),
            lag_text(node),
            f"{node.host}:{node.port}",
            ("yes" if node.whole else "not whole") if node.voter else "no",
            _note(node),
        )
    return table


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


def _note(node: NodeStatus) -> str:
    return node.problem or ("restart needed" if node.pending_restart else "")


def _foot(status: Status) -> list[str]:
    voters, writer, reader = status.voters, status.endpoints.writer, status.endpoints.reader
    quorum = f"quorum: {len(voters.names)} of {len(status.nodes)} nodes vote, a commit is on {voters.w}; "
    quorum += f"a failover needs {voters.needed} voters, {voters.promisable} can promise now"
    doors = f"writer: {writer.host}:{writer.port} ({writer.dns})   reader: {reader.host}:{reader.port} ({reader.dns})"
    proxies = [
        f"{proxy.name}: {proxy.sessions} sessions, routes by epoch {proxy.epoch}, {proxy.engine} engine"
        + (f", {proxy.relaxed_sessions} with commits that may not be covered by the quorum" if proxy.relaxed_sessions else "")
        for proxy in status.proxies
    ]
    lines = [quorum, doors, *(proxies or ["no proxy reports: the endpoints do not answer"])]
    if status.last_failover is not None:
        last = status.last_failover
        lines.append(f"last failover: epoch {last.epoch}, {last.cause}, {last.outage_ms} ms without a writer, {last.at}")
    return lines


def progress_phrases(status: Status) -> dict[str, str]:
    """Return one phrase per thing that is worth telling while a cluster comes up; print those that changed."""
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


def event_line(event: Event) -> str:
    """Return one event as one line."""
    words = [
        event.at,
        f"{event.sequence:>5}",
        f"epoch {event.epoch}",
        f"{event.kind:<22}",
        f"{event.node or '-':<4}",
        f"{event.elapsed_ms:>6} ms" if event.elapsed_ms is not None else " " * 9,
        event.message,
    ]
    return "  ".join(words).rstrip()


def history_table(writers: Iterable[PastWriter]) -> Table:
    """Return the timelines and who led on them, the newest last."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("epoch", "timeline", "from", "at lsn", "writer", "since", "kind", "cause", "outage"):
        table.add_column(title, no_wrap=title != "cause", justify="right" if title in ("epoch", "timeline") else "left")
    for one in writers:
        table.add_row(
            str(one.epoch),
            str(one.timeline),
            str(one.parent),
            one.fork_lsn,
            one.node if one.opened else f"{one.node} (never opened)",
            _or_dash(one.at),
            _or_dash(one.kind),
            _or_dash(one.cause),
            f"{one.outage_ms} ms" if one.outage_ms is not None else "-",
        )
    return table


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def explanation_lines(explanation: Explanation) -> list[str]:
    """Return the manager's explanation as lines, its events one a line."""
    told = msgspec.to_builtins(explanation)
    for name in ("format_version", "recent"):
        del told[name]
    events = [f"  {event_line(event)}" for event in explanation.recent]
    return [*outline(told), "recent:" if events else "recent: none", *events]


def outline(document: object, indent: int = 0) -> list[str]:
    """Return a JSON document as indented lines, for answers whose shape is for people."""
    space = "  " * indent
    match document:
        case dict():
            lines: list[str] = []
            for key, value in document.items():
                if isinstance(value, dict | list | tuple) and value:
                    lines += [f"{space}{key}:", *outline(value, indent + 1)]
                else:
                    lines.append(f"{space}{key}: {_scalar(value)}")
            return lines
        case list() | tuple():
            lines = []
            for item in document:
                first, *rest = outline(item, indent + 1) or [f"{space}  -"]
                lines += [f"{space}- {first.strip()}", *rest]
            return lines
        case _:
            return [f"{space}{_scalar(document)}"]


def _scalar(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple() | dict():
            return "none"
        case _:
            return str(value)
