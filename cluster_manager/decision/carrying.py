"""What a handover would do to users' replication slots, and who keeps VACUUM from its work.

Pure.  A slot goes on after a handover if the next writer has a copy of it: a physical one from no later on than the slot
itself, a logical one that PostgreSQL keeps in step, which it does from version 17 on for those whose owners asked for it.
"""

from __future__ import annotations

from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.view import View
from pgtopology.document import Topology
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, sync_name
from pgtopology.observation import Horizon, RowHolder, UserSlot
from pgtopology.status import SlotStatus, VacuumHorizon

HELD_MS_MAX = 300_000
"""Rows kept for so long are worth a line, if there can be some: see below."""
AGE_XIDS_MIN = 10_000
"""An idle cluster begins some transactions a second by itself."""
AGE_XIDS_MAX = 10_000_000
"""So many transactions are worth a line whatever time they took."""

NO_COPY = "it has no copy of it yet"
NOT_IN_STEP = "its copy is not in step yet"


def slots_status(view: View) -> tuple[SlotStatus, ...]:
    """Return the users' slots of the published writer, each with the voters that would not have it as the next writer."""
    writer = _writer(view)
    if writer is None or writer.observation is None:
        return ()
    return tuple(
        SlotStatus(
            name=slot.name,
            kind="physical" if slot.is_physical else "logical",
            active=slot.active,
            restart_lsn=format_lsn(slot.restart_lsn) if slot.restart_lsn is not None else None,
            lost_with={
                node.name: why
                for node in _heirs(view)
                if slot.usable and (why := _why_lost(slot, node, writer.observation.server_version)) is not None
            },
            lost=not slot.usable,
        )
        for slot in writer.observation.user_slots
    )


def lost_with(view: View, node: NodeName) -> tuple[str, ...]:
    """Return the users' slots that a handover to *node* would lose, one line each."""
    return tuple(
        f'the {slot.kind} slot "{slot.name}" would be lost: {slot.lost_with[node]}'
        for slot in slots_status(view)
        if node in slot.lost_with
    )


def awaited_with(view: View, node: NodeName) -> tuple[str, ...]:
    """Return those of them that will be carried over to *node* and are not yet: a copy is there seconds after the slot."""
    writer, heir = _writer(view), view.node(node)
    if writer is None or writer.observation is None or heir is None or heir.observation is None:
        return ()
    version = writer.observation.server_version
    return tuple(
        f'the {"physical" if slot.is_physical else "logical"} slot "{slot.name}" would be lost with "{node}": {why}'
        for slot in writer.observation.user_slots
        if slot.usable and (why := _why_lost(slot, heir, version)) in (NO_COPY, NOT_IN_STEP)
    )


def vacuum_horizon(view: View) -> VacuumHorizon | None:
    """Return who keeps the oldest rows on the writer; what a member's slot keeps is traced to that member."""
    writer = _writer(view)
    found = writer.observation.horizon if writer is not None and writer.observation is not None else None
    if writer is None or found is None:
        return None
    at, held = writer, found
    follower = _member_of(view, found) if view.document is not None else None
    if follower is not None and follower.observation is not None and follower.observation.horizon is not None:
        theirs = follower.observation.horizon
        # Where a member is away, or has moved on since, its slot is all that holds them.
        if theirs.age_xids >= found.age_xids // 2:
            at, held = follower, theirs
    return VacuumHorizon(
        xmin=found.xmin,
        age_xids=found.age_xids,
        held_s=round(max(found.held_ms, held.held_ms if at is follower else 0) / 1000, 1),
        node=at.name,
        kind=str(held.kind),
        holder=_holder(held),
        pid=held.pid,
        catalog_only=found.catalog_only,
        alarm=found.age_xids >= AGE_XIDS_MAX or (found.held_ms >= HELD_MS_MAX and found.age_xids >= AGE_XIDS_MIN),
    )


def _writer(view: View) -> NodeView | None:
    return view.node(view.document.writer) if view.document is not None and view.document.writer is not None else None


def _heirs(view: View) -> list[NodeView]:
    document = view.document
    names = document.voters.names if document is not None and document.voters is not None else ()
    return [node for node in view.nodes if document is not None and node.name in names and node.name != document.writer]


def _why_lost(slot: UserSlot, node: NodeView, version: str | None) -> str | None:
    """Return why *slot* of the writer would be gone, or have a gap, with *node* as the writer; None if it goes on."""
    if node.observation is None:
        return "it is not heard"
    copy = next((one for one in node.observation.user_slots if one.name == slot.name), None)
    if copy is None or copy.is_physical != slot.is_physical or not copy.usable:
        if slot.is_physical:
            return NO_COPY
        major = int(version.split(".")[0]) if version is not None and version.split(".")[0].isdecimal() else None
        if major is not None and major < 17:
            return f"PostgreSQL {major} cannot carry a logical slot over (17 can)"
        return NOT_IN_STEP if slot.failover else "it was not made with failover = true"
    if slot.restart_lsn is not None and (copy.restart_lsn is None or copy.restart_lsn > slot.restart_lsn):
        begins = format_lsn(copy.restart_lsn) if copy.restart_lsn is not None else "nowhere"
        return f"it keeps WAL from {begins} on only, and the slot needs {format_lsn(slot.restart_lsn)}"
    return None


def _member_of(view: View, found: Horizon) -> NodeView | None:
    """Return the member whose slot holds the rows, or None."""
    document: Topology | None = view.document
    if document is None or found.kind is not RowHolder.SLOT:
        return None
    for member in document.members:
        if member.incarnation is not None and sync_name(member.name, member.incarnation) == found.name:
            return view.node(member.name)
    return None


def _holder(held: Horizon) -> str:
    match held.kind:
        case RowHolder.SLOT:
            return f'slot "{held.name}"'
        case RowHolder.PREPARED:
            return f'prepared transaction "{held.name}"'
        case RowHolder.STANDBY:
            return f"standby without a slot, process {held.pid} ({held.name or 'no application name'})"
        case RowHolder.SESSION:
            return f"session {held.pid} ({held.name or 'no application name'})"
