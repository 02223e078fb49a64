"""Documents for the tests of names: members n1, n2, n3 on 127.0.0.1, .2, .3, of which all but n1 are for readers."""

from __future__ import annotations

from collections.abc import Collection

from pgtopology.document import Topology
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import Address, Member, NodeName
from testkit import documents
from testkit.documents import ORIGIN

__all__ = ["ORIGIN", "document", "member"]


def member(name: str, *, host: str | None = None, eligible: bool = False) -> Member:
    number = int(name[1:])
    return documents.member(name, reader_eligible=eligible, address=Address(host or f"127.0.0.{number}", 6410 + number))


def document(
    *, writer: str | None, eligible: Collection[str] = ("n2", "n3"), epoch: int = 7, revision: int = 40, nodes: int = 3
) -> Topology:
    return documents.document(
        revision=Revision(revision),
        epoch=Epoch(epoch),
        writer=NodeName(writer) if writer is not None else None,
        members=tuple(member(f"n{n}", eligible=f"n{n}" in eligible) for n in range(1, nodes + 1)),
    )
