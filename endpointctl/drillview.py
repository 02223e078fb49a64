"""How a rehearsal reads. Pure."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from daemonkit.escape import visible_value
from endpointctl.listing import Column, Listing, Row
from pgtopology.drill import CandidateReadiness, Drill
from pgtopology.flight import Measured


def drill_view(drill: Drill) -> RenderableType:
    """Return the rehearsal for a terminal."""
    drill = visible_value(drill)
    what = "the writer" if drill.is_writer else "no writer"
    lines: list[RenderableType] = [
        Text.assemble((f"If {drill.lose} ({what}) were lost now", "bold"), " (a rehearsal: nothing was done)"),
        Text(drill.verdict, style="bold green" if drill.possible else "bold red"),
        Text(
            f"safe set: {drill.n} voters, a commit is on {drill.w}, so {drill.n} - {drill.w} + 1 = {drill.needed} must "
            f"promise; {drill.promisable} could"
        ),
    ]
    lines += [Text(f"  {vote.node}: {'counts' if vote.counts else 'does not count'}, {vote.why}") for vote in drill.votes]
    if drill.recruited:
        lines.append(Text(f"asked for a promise of epoch {drill.epoch}: {', '.join(drill.recruited)}"))
    if drill.winner is not None:
        others = [f"  {name} would be passed over: {why}" for name, why in drill.passed_over.items() if name != drill.lose]
        lines += map(Text, others)
    if drill.is_writer:
        lines += _expected(drill.expected)
    lines.append(Text(_afterwards(drill)))
    lines += [Text(f"in the way: {text}", style="yellow") for text in drill.in_the_way]
    lines += [Text(""), _nodes(drill)]
    return Group(*lines)


def _expected(measured: Measured | None) -> list[RenderableType]:
    if measured is None:
        return [Text("expected outage: not known before the first failover was measured")]
    times = f"{measured.p50_ms:.0f} ms, at worst {measured.worst_ms:.0f} ms"
    head = f"expected outage: {times}, by {measured.count} failover(s) measured so far"
    parts = ", ".join(f"{phase.name} {phase.p50_ms:.0f}/{phase.worst_ms:.0f}" for phase in measured.phases)
    return [Text(head), Text(f"  phases, median/worst ms: {parts}")]


def _afterwards(drill: Drill) -> str:
    if drill.survives_another:
        return "afterwards one more loss could be survived"
    return f"afterwards the next loss would stop the cluster until a node is back (safe sets are {drill.needed} of {drill.n})"


NODE_COLUMNS = (
    Column("node", is_head=True),
    Column("zone", is_head=True),
    *map(Column, ("ready", "wal end", "to replay")),
)


def _nodes(drill: Drill) -> Listing:
    return Listing(NODE_COLUMNS, map(_node, drill.nodes))


def _node(node: CandidateReadiness) -> Row:
    return Row(
        (
            node.node,
            node.zone,
            Text("yes", style="green") if node.ready else Text("no", style="yellow"),
            node.wal_end or "-",
            f"{node.replay_bytes} B" if node.replay_bytes is not None else "-",
        ),
        (*(f"in the way: {text}" for text in node.obstacles), *(f"note: {text}" for text in node.notes)),
    )
