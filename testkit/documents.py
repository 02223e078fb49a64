"""Builds what programs tell one another, for tests: a document, its members and voters, and what a noded says.

Each has the least that is valid, and whatever a test cares about is named in its call.  Members are called n1, n2, ...; all
are on 127.0.0.1, n1 with port 6411, n2 with port 6412, and so on.  Raises TypeError for a field that there is not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pgtopology.document import Durability, Endpoint, Endpoints, Topology
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import Address, Incarnation, Member, NodeName
from pgtopology.observation import Observation, Postmaster, PostmasterState
from pgtopology.quorum import Voter, Voters, make_voters

ORIGIN = "local.endpointd.internal"

_DOCUMENT = Topology(
    cluster="local",
    revision=Revision(1),
    epoch=Epoch(1),
    durability=Durability.QUORUM,
    voters=None,
    endpoints=Endpoints(
        writer=Endpoint(host="127.0.0.1", port=6432, dns=f"writer.{ORIGIN}"),
        reader=Endpoint(host="127.0.0.1", port=6433, dns=f"reader.{ORIGIN}"),
    ),
)


def document(**fields: Any) -> Topology:
    """Return a document of no members, no voters and no writer, but for *fields*."""
    return msgspec.structs.replace(_DOCUMENT, **fields)


def member(name: str, **fields: Any) -> Member:
    """Return a member as it is before anything is known of it, but for *fields*."""
    number = int(name[1:]) if name[1:].isdecimal() else 0
    bare = Member(
        name=NodeName(name),
        zone=f"az{number}",
        address=Address("127.0.0.1", 6410 + number),
        noded=Address("127.0.0.1", 6460 + number),
        dns=f"{name}.{ORIGIN}",
    )
    return msgspec.structs.replace(bare, **fields)


def voters(names: str, w: int, incarnation: str = "0000") -> Voters:
    """Return the voters of *names*, with spaces between; all have the same incarnation."""
    return make_voters([Voter(NodeName(name), Incarnation(incarnation)) for name in names.split()], w)


def observation(node: str = "n1", *, postmaster: PostmasterState = PostmasterState.RUNNING, **fields: Any) -> Observation:
    """Return the first thing a noded says of *node*, but for *fields*."""
    bare = Observation(
        node=NodeName(node), noded_pid=1, sequence=1, postmaster=Postmaster(state=postmaster, pid=2), data_dir="/data"
    )
    return msgspec.structs.replace(bare, **fields)
