"""The nodes a cluster is to have: the record that the manager keeps in its store beside the topology document.

The document says what is; this says what was ordered and is not finished, so that a manager that begins anew carries it on.
A record of its own with a revision of its own, because no node and no proxy acts on it: a manager of an earlier version reads
the document and knows nothing of this.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pgtopology.document import FORMAT_VERSION
from pgtopology.node import NodeName


class Wish(StrEnum):
    """What is wanted of a node."""

    WANTED = "wanted"
    LEAVING = "leaving"


class DesiredNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node that the cluster is to have, or to have no more."""

    name: NodeName
    zone: str | None = None
    """Where it is to be; None: where its provisioner puts it."""
    wish: Wish = Wish.WANTED
    purge: bool = False
    """Of one that leaves: its data too."""
    registered: bool = False
    """Whether the manager's settings ever named it: until then the order to add it is unfinished."""

    @property
    def is_unfinished(self) -> bool:
        """Whether anything is left to do about an order."""
        return self.wish is Wish.LEAVING or not self.registered


class DesiredNodes(msgspec.Struct, frozen=True, kw_only=True):
    """All of them. The revision grows by one with every write, and is the record's compare-and-swap token."""

    format_version: int = FORMAT_VERSION
    revision: int
    nodes: tuple[DesiredNode, ...] = ()

    def find(self, name: str) -> DesiredNode | None:
        """Return what is wanted of the node *name*, or None."""
        return next((node for node in self.nodes if node.name == name), None)
