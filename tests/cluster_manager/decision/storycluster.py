"""The healthy cluster every scenario begins with: three nodes, n1 the writer of epoch 4 on timeline 5, everybody streaming."""

from __future__ import annotations

from cluster_manager.decision.nodeview import NodeSpec, NodeView
from pgtopology.document import (
    Candidate,
    Endpoint,
    Endpoints,
    Topology,
)
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import Lsn
from pgtopology.node import Incarnation, Member, NodeName, NodeState, Role
from pgtopology.observation import (
    Heartbeat,
    Receiver,
    Seen,
    Walsender,
)
from pgtopology.quorum import Voter, Voters, make_voters, synchronous_standby_names
from pgtopology.timeline import Timeline, TimelineRecord
from testkit.documents import document, member, observation

NOW_MS = 1_000_000.0
EPOCH = Epoch(4)
REVISION = Revision(20)
TIMELINE = Timeline(5)
WAL = Lsn(0x5000000)
SYSTEM = "7301"
ALL = ("n1", "n2", "n3")


TIMELINES = (
    TimelineRecord(timeline=Timeline(4), epoch=Epoch(3), node="n2", parent=Timeline(1), fork_lsn=Lsn(0x2000000), opened=True),
    TimelineRecord(timeline=TIMELINE, epoch=EPOCH, node="n1", parent=Timeline(4), fork_lsn=Lsn(0x3000000), opened=True),
)


def incarnation(name: str) -> Incarnation:
    """Return the data a node has unless a scenario says otherwise."""
    return Incarnation(name[1:] * 4)


def spec(name: str) -> NodeSpec:
    """Return a node's settings."""
    place = member(name)
    return NodeSpec(name=place.name, zone=place.zone, address=place.address, noded=place.noded, dns=place.dns)


ENDPOINTS = Endpoints(
    writer=Endpoint(host="127.0.0.1", port=6432, dns="writer.test"),
    reader=Endpoint(host="127.0.0.1", port=6433, dns="reader.test"),
)


def voters_of(text: str) -> Voters:
    """Return the voters written as ``n1,n2,n3/2``."""
    names, _, w = text.partition("/")
    return make_voters([Voter(NodeName(name), incarnation(name)) for name in names.split(",")], int(w))


def healthy_document(names: tuple[str, ...] = ALL) -> Topology:
    """Return the document every scenario begins with."""
    return document(
        cluster="test",
        system_identifier=SYSTEM,
        revision=REVISION,
        epoch=EPOCH,
        voters=voters_of("n1,n2,n3/2"),
        writer=NodeName("n1"),
        candidate=Candidate(NodeName("n1"), TIMELINE),
        timelines=TIMELINES,
        members=tuple(_member(name) for name in names),
    )


def _member(name: str) -> Member:
    is_writer = name == "n1"
    return member(
        name,
        incarnation=incarnation(name),
        role=Role.PRIMARY if is_writer else Role.STANDBY,
        state=NodeState.RUNNING if is_writer else NodeState.STREAMING,
        timeline=TIMELINE,
        reader_eligible=not is_writer,
        lag_bytes=0,
    )


def healthy_node(name: str, everybody: tuple[str, ...] = ALL) -> NodeView:
    """Return the view of a node every scenario begins with."""
    is_writer = name == "n1"
    names = [spec(other).name for other in everybody if other != name]
    said = observation(
        name,
        system_identifier=SYSTEM,
        incarnation=incarnation(name),
        whole=True,
        promised=EPOCH,
        seen=Seen(epoch=EPOCH, revision=REVISION, voters=voters_of("n1,n2,n3/2"), timelines=TIMELINES),
        promoted_epoch=EPOCH if is_writer else None,
        role=Role.PRIMARY if is_writer else Role.STANDBY,
        timeline=TIMELINE,
        wal_end=WAL,
        replayed_lsn=None if is_writer else WAL,
        receiver=None if is_writer else Receiver(running=True, streaming=True, upstream=NodeName("n1"), upstream_epoch=EPOCH),
        heartbeat=Heartbeat(epoch=EPOCH, acknowledged_age_ms=100, lsn=WAL) if is_writer else None,
        walsenders=tuple(
            Walsender(
                name=f"{other}_{incarnation(other)}",
                slot=f"{other}_{incarnation(other)}",
                streaming=True,
                flush_lsn=WAL,
                replay_lsn=WAL,
                sync_priority=1,
            )
            for other in names
        )
        if is_writer
        else (),
        synchronous_standby_names=synchronous_standby_names(voters_of("n1,n2,n3/2"), "n1") if is_writer else None,
        data_dir=f"/data/{name}",
        server_version="18.6",
    )
    return NodeView(
        spec=spec(name),
        observation=said,
        age_ms=50,
        wal_advanced_age_ms=100,
        wal_received_age_ms=100,
        replay_advanced_age_ms=100,
        running_for_ms=60_000,
        not_streaming_for_ms=0,
    )


def claim(text: str) -> TimelineRecord:
    """Return the claim written as ``n2/5/6``: node, epoch and number."""
    node, epoch, timeline = text.split("/")
    return TimelineRecord(timeline=Timeline(int(timeline)), epoch=Epoch(int(epoch)), node=node, parent=TIMELINE, fork_lsn=WAL)
