"""Documents for the tests of names: three members n1, n2, n3 on 127.0.0.1, .2, .3 and ports 6411, 6412, 6413."""

from __future__ import annotations

from collections.abc import Collection

from pgtopology.document import Durability, Endpoint, Endpoints, Topology
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import Address, Member, NodeName

ORIGIN = "local.endpointd.internal"


def member(name: str, *, host: str | None = None, eligible: bool = False) -> Member:
    number = int(name[1:])
    return Member(
        name=NodeName(name),
        zone=f"az{number}",
        address=Address(host or f"127.0.0.{number}", 6410 + number),
        noded=Address("127.0.0.1", 6460 + number),
        dns=f"{name}.{ORIGIN}",
        reader_eligible=eligible,
    )


def document(
    *, writer: str | None, eligible: Collection[str] = ("n2", "n3"), epoch: int = 7, revision: int = 40, nodes: int = 3
) -> Topology:
    return Topology(
        cluster="local",
        revision=Revision(revision),
        epoch=Epoch(epoch),
        durability=Durability.QUORUM,
        voters=None,
        writer=NodeName(writer) if writer is not None else None,
        members=tuple(member(f"n{n}", eligible=f"n{n}" in eligible) for n in range(1, nodes + 1)),
        endpoints=Endpoints(
            writer=Endpoint(host="127.0.0.1", port=6432, dns=f"writer.{ORIGIN}"),
            reader=Endpoint(host="127.0.0.1", port=6433, dns=f"reader.{ORIGIN}"),
        ),
    )
