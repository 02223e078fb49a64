"""How the record of a failover reads: a head, the phases of the outage, the election, and the story in order. Pure.

Times are milliseconds since the detection, on the manager's clock; what came before it has a minus.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from daemonkit.escape import visible_value
from endpointctl.listing import Column, Listing, Row
from pgtopology.flight import Election, Flight, NodeSnapshot, OrderTold, Snapshot, kind_of

BAR_CELLS = 40


def flight_view(flight: Flight) -> RenderableType:
    """Return the whole record for a terminal."""
    flight = visible_value(flight)
    parts: list[RenderableType] = [*_head(flight), Text("")]
    if flight.phases:
        parts += [_phases(flight), Text("")]
    for election in flight.elections:
        parts += [*_election(election), Text("")]
    seen = next((one for one in flight.snapshots if one.step == "detected"), None)
    if seen is not None:
        parts += [Text("What was known of the nodes when it was detected", style="bold"), _nodes(seen), Text("")]
    parts += [Text("What happened (milliseconds since the detection)", style="bold"), *map(Text, story_lines(flight))]
    return Group(*parts)


def _head(flight: Flight) -> list[Text]:
    epochs = f"epoch {flight.epoch}" if flight.epoch == flight.last_epoch else f"epochs {flight.epoch} to {flight.last_epoch}"
    way = f"{flight.from_node or 'nobody'} -> {flight.writer or 'nobody yet'}"
    lines = [
        Text.assemble(
            (f"{kind_of(flight).replace('_', ' ')} of {epochs}: {way}", "bold"), f"  {flight.cause}, {flight.detected_at}"
        ),
        Text(flight.reason),
    ]
    if flight.outage_ms is not None:
        text = f"outage {flight.outage_ms:.1f} ms from the last acknowledged commit"
        if flight.since_detection_ms is not None:
            text += f", {flight.since_detection_ms:.1f} ms of it since the detection"
        lines.append(Text(text))
    else:
        lines.append(Text("it has not ended" if not flight.ended else "how long it took is not known", style="yellow"))
    if flight.rejoined_ms is not None and flight.from_node is not None:
        lines.append(Text(f'"{flight.from_node}" was back in its place {flight.rejoined_ms / 1000:.2f} s after the detection'))
    elif flight.ended and flight.from_node is not None:
        lines.append(Text(f'"{flight.from_node}" has not come back', style="yellow"))
    if len(flight.managers) > 1:
        lines += [Text(f"manager {one.manager} {one.note}", style="yellow") for one in flight.managers[1:]]
    return lines


def _phases(flight: Flight) -> Listing:
    total = sum(phase.ms for phase in flight.phases)
    rows = [Row((phase.name, f"{phase.ms:.1f}", _bar(phase.ms, total))) for phase in flight.phases]
    columns = (Column("phase", is_head=True), Column("ms", is_right=True, is_head=True), Column(""))
    return Listing(columns, [*rows, Row((Text("outage", style="bold"), Text(f"{total:.1f}", style="bold"), ""))])


def _bar(ms: float, total_ms: float) -> Text:
    return Text("█" * (round(BAR_CELLS * ms / total_ms) if total_ms else 0), style="cyan")


def _election(election: Election) -> list[Text]:
    lines = [
        Text.assemble((f'"{election.elected}" was elected in epoch {election.epoch}', "bold"), f": {election.because}"),
        Text(
            f"{election.n} voters, a commit is on {election.w}: a safe set is {election.n} - {election.w} + 1 = "
            f"{election.needed}; {election.counted} counted"
        ),
    ]
    for vote in election.votes:
        passed = election.passed_over.get(vote.node)
        text = f"  {vote.node}: {'counts' if vote.counts else 'does not count'}, {vote.why}"
        if vote.counts and passed is not None:
            text += f"; passed over: {passed}"
        lines.append(Text(text))
    return lines


NODE_COLUMNS = (
    Column("node", is_head=True),
    Column("heard", is_head=True),
    *map(Column, ("role", "postmaster", "timeline", "wal end", "stream", "heartbeat", "port")),
)


def _nodes(snapshot: Snapshot) -> Listing:
    return Listing(NODE_COLUMNS, map(_node, snapshot.nodes))


def _node(node: NodeSnapshot) -> Row:
    return Row(
        (
            node.node,
            f"{node.age_ms:.0f} ms ago" if node.age_ms is not None else "never",
            node.role or "-",
            f"{node.postmaster or '-'}{' unexpectedly' if node.unexpected_exit else ''}",
            str(node.timeline) if node.timeline is not None else "-",
            node.wal_end or "-",
            _stream(node),
            _heartbeat(node),
            node.port,
        )
    )


def _stream(node: NodeSnapshot) -> str:
    if node.receiver_running is None:
        return "-"
    state = "streams from" if node.receiver_streaming else "connects to" if node.receiver_running else "cut from"
    return f"{state} {node.upstream}" if node.upstream is not None else "no upstream"


def _heartbeat(node: NodeSnapshot) -> str:
    if node.heartbeat_error is not None:
        return node.heartbeat_error
    if node.heartbeat_pending_ms:
        return f"waits for {node.heartbeat_pending_ms} ms"
    age = node.heartbeat_acknowledged_age_ms
    return f"{age} ms ago" if age is not None else "-"


def story_lines(flight: Flight) -> list[str]:
    """Return what happened, one thing a line, in order."""
    flight = visible_value(flight)
    told: list[tuple[float, int, str]] = []
    if "good" in flight.marks:
        told.append((flight.marks["good"], 0, f'"{flight.from_node}" was last known to be well'))
    told += [(one.at_ms, 1, f"{one.diagnosis}: {one.reason}; {_actions(one.actions)}") for one in flight.plans]
    for write in flight.writes:
        what = f"writer {write.writer}" if write.writer else f"candidate {write.candidate}" if write.candidate else "no writer"
        text = f"revision {write.revision}, epoch {write.epoch}, {what}: {write.outcome} in {write.took_ms:.1f} ms"
        told.append((write.at_ms, 2, text))
    told += [(order.at_ms, 3, _order(order)) for order in flight.orders]
    for promise in flight.promises:
        position = (
            f"its WAL ends at {promise.lsn} on timeline {promise.timeline}, replayed to {promise.replayed}"
            if promise.lsn is not None
            else f"its position is not known: {promise.unknown_because}"
        )
        old = "; it was the primary, and is stopped" if promise.was_primary else ""
        told.append((promise.at_ms, 4, f'"{promise.node}" promised epoch {promise.promised}: {position}{old}'))
    names = {"recruited": "a safe set has promised", "promoted": "promoted", "proven": "the first quorum commit is proven"}
    told += [(flight.marks[mark], 5, text) for mark, text in names.items() if mark in flight.marks]
    if "opened" in flight.marks:
        told.append((flight.marks["opened"], 6, f'"{flight.writer}" is the published writer'))
    if flight.rejoined_ms is not None:
        told.append((flight.rejoined_ms, 7, f'"{flight.from_node}" has its place again'))
    told += [(one.at_ms, 8, f"manager {one.manager} {one.note}") for one in flight.managers[1:]]
    lines = [f"{at_ms:>10.1f}  {text}" for at_ms, _, text in sorted(told)]
    if flight.left_out:
        lines.append(f"{'':>10}  ({flight.left_out} more entries found no room)")
    return lines


def _actions(actions: tuple[str, ...]) -> str:
    return ", ".join(actions) if actions else "nothing to do"


def _order(order: OrderTold) -> str:
    if order.answered_ms is None:
        return f"{order.order} to {order.node}: not answered"
    took_ms = order.answered_ms - order.at_ms
    message = f" ({order.message})" if order.message else ""
    return f"{order.order} to {order.node}: {order.outcome} after {took_ms:.1f} ms{message}"
