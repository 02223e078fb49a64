"""Who may leave the cluster for good, and the marks an operator puts at a member (L11, L12).

Looked at when it is ordered, when it is written, and by whoever carries on an order that was interrupted.
"""

from __future__ import annotations

import msgspec

from pgtopology.document import Topology
from pgtopology.node import NodeName

VOTERS_MIN = 3
"""With fewer voters any failure blocks, so a quorum does not shrink below this by removing a node (L12)."""

NO_WRITER = "there is no writer at this moment"
IS_THE_WRITER = '"{}" is the writer; hand over first (endpointctl switchover)'


def why_needed(document: Topology, name: str) -> str | None:
    """Return why the node *name* cannot be taken out, or None: the writer, or too few would be left beside those that leave."""
    if name == document.writer:
        return IS_THE_WRITER.format(name)
    voters = document.voters
    if voters is None or len(voters.members) < 2:
        return None
    staying = {member.name for member in document.members if not member.leaving and member.name != name}
    # A voter that left would be missed by the others, and a node on its way to become one by those who wait for it.
    left = staying & set(voters.names) if voters.find(NodeName(name)) is not None else staying
    if len(left) < VOTERS_MIN:
        return f"with fewer than {VOTERS_MIN} voters any failure would stop the cluster; add a node first"
    return None


def marked(document: Topology, name: str, **marks: bool) -> Topology:
    """Return *document* with *marks* at the member *name*."""
    members = tuple(msgspec.structs.replace(member, **marks) if member.name == name else member for member in document.members)
    return msgspec.structs.replace(document, members=members)
