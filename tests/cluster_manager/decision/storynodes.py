"""What a scenario's line may say of a node: each word with what it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from cluster_manager.decision.nodeview import NEVER_MS, NodeView
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import parse_lsn
from pgtopology.node import Address, Incarnation, NodeName, Role
from pgtopology.observation import (
    Activity,
    Disk,
    DiskSync,
    Heartbeat,
    Observation,
    Port,
    Postmaster,
    PostmasterState,
    Receiver,
    SlotCount,
    UserSlot,
    Walsender,
)
from pgtopology.timeline import Timeline, merge_records
from tests.cluster_manager.decision.storycluster import EPOCH, WAL, claim, incarnation, voters_of

Edit = Callable[[NodeView, Observation, str], NodeView]
"""Given the node, what it said last and what stands behind the word, returns the node as it is then."""


def edit_node(node: NodeView, key: str, value: str) -> NodeView:
    """Return the node after ``key=value``. Raises ValueError for a word that means nothing."""
    if key not in NODE:
        raise ValueError(f'"{key}" is nothing of a node')
    if key == "unheard" or node.observation is None:
        return replace(node, observation=None, age_ms=NEVER_MS, wal_advanced_age_ms=NEVER_MS, running_for_ms=0)
    return NODE[key](node, node.observation, value)


def _aged(*fields: str) -> Edit:
    """Return what sets these ages."""
    return lambda node, _, value: replace(node, **dict.fromkeys(fields, float(value)))


def _said(field: str, parse: Callable[[str], Any] = str) -> Edit:
    """Return what sets one field of the observation to what is written behind the word."""
    return lambda node, seen, value: _saying(node, seen, **{field: parse(value)})


def _marked(**fields: Any) -> Edit:
    """Return what sets *fields* of the observation whatever is written behind the word."""
    return lambda node, seen, _: _saying(node, seen, **fields)


def _saying(node: NodeView, seen: Observation, /, **fields: Any) -> NodeView:
    return replace(node, observation=msgspec.structs.replace(seen, **fields))


def _seeing(node: NodeView, seen: Observation, /, **fields: Any) -> NodeView:
    return _saying(node, seen, seen=msgspec.structs.replace(seen.seen, **fields))


def _written(node: NodeView, seen: Observation, value: str) -> NodeView:
    receiver = seen.receiver or Receiver(running=True, streaming=True, upstream=NodeName("n1"))
    return _saying(node, seen, receiver=msgspec.structs.replace(receiver, written_lsn=parse_lsn(value)))


def _meets(node: NodeView, seen: Observation, value: str) -> NodeView:
    receiver = seen.receiver or Receiver(running=False, streaming=False, upstream=NodeName("n1"))
    return _saying(node, seen, receiver=msgspec.structs.replace(receiver, streaming=False, upstream_port=Port(value)))


def _sync(node: NodeView, seen: Observation, value: str) -> NodeView:
    """Milliseconds of the last trial, of one that goes on, and of the slowest lately: 5, 5/120, /120, 5/0/800."""
    last, pending, slowest = (*value.split("/"), "", "")[:3]
    sync = DiskSync(last_ms=int(last) if last else None, pending_ms=int(pending or 0), slowest_ms=int(slowest or 0))
    return _saying(node, seen, sync=sync)


def _host(node: NodeView, _: Observation, value: str) -> NodeView:
    return replace(node, spec=replace(node.spec, address=Address(value, node.spec.address.port)))


def _lost_stream(node: NodeView, seen: Observation, value: str) -> NodeView:
    receiver = Receiver(running=False, streaming=False, upstream=NodeName("n1"), upstream_epoch=seen.seen.epoch)
    node = replace(node, not_streaming_for_ms=float(value), starved_for_ms=float(value))
    return _saying(node, seen, receiver=receiver)


def _starting(node: NodeView, seen: Observation, value: str) -> NodeView:
    """Whom it is told to follow, by an order of which epoch, and how long it has been given no WAL: n1/4@31000, nobody."""
    order, _, starved = value.partition("@")
    name, _, epoch = order.partition("/")
    upstream = NodeName(name) if name != "nobody" else None
    receiver = Receiver(running=bool(starved), streaming=False, upstream=upstream, upstream_epoch=Epoch(int(epoch or EPOCH)))
    node = replace(node, running_for_ms=0, starved_for_ms=float(starved or 0))
    return _saying(node, _down(seen, Postmaster(state=PostmasterState.STARTING, pid=1000)), receiver=receiver)


def _slots(value: str) -> tuple[str, ...]:
    """The slots of n1,n3, in their present incarnation."""
    return tuple(f"{name}_{incarnation(name)}" for name in filter(None, value.split(",")))


def _empty(node: NodeView, seen: Observation, _: str) -> NodeView:
    seen = msgspec.structs.replace(seen, system_identifier=None, incarnation=None, whole=False)
    return _postmaster(node, seen, "stopped")


def _mute(node: NodeView, seen: Observation, value: str) -> NodeView:
    down = _down(seen, Postmaster(state=PostmasterState.STOPPED))
    return _saying(replace(node, running_for_ms=0), down, postmaster=seen.postmaster, mute_ms=int(value))


def _crashed(node: NodeView, seen: Observation, value: str) -> NodeView:
    dead = Postmaster(state=PostmasterState.STOPPED, exit_status=int(value), unexpected_exit=True)
    return replace(node, observation=_down(seen, dead), running_for_ms=0)


def _postmaster(node: NodeView, seen: Observation, value: str) -> NodeView:
    state = PostmasterState(value)
    pid = None if state is PostmasterState.STOPPED else 1000
    return replace(node, observation=_down(seen, Postmaster(state=state, pid=pid)), running_for_ms=0)


def _deaf(node: NodeView, seen: Observation, value: str) -> NodeView:
    return _saying(node, seen, postmaster=msgspec.structs.replace(seen.postmaster, deaf_ms=int(value)))


def _primary_of(node: NodeView, seen: Observation, value: str) -> NodeView:
    return _saying(node, seen, role=Role.PRIMARY, promoted_epoch=Epoch(int(value)), receiver=None)


def _fenced(node: NodeView, seen: Observation, value: str) -> NodeView:
    cut = Receiver(running=False, streaming=False, upstream=None)
    return _saying(node, seen, role=Role.STANDBY, promised=Epoch(int(value)), receiver=cut, heartbeat=None)


def _follows(node: NodeView, seen: Observation, value: str) -> NodeView:
    name, _, epoch = value.partition("/")
    receiver = Receiver(running=True, streaming=True, upstream=NodeName(name), upstream_epoch=Epoch(int(epoch or EPOCH)))
    return _saying(node, seen, receiver=receiver)


def _heartbeat(node: NodeView, seen: Observation, value: str) -> NodeView:
    epoch, _, lsn = value.partition("@")
    beat = Heartbeat(epoch=Epoch(int(epoch)), acknowledged_age_ms=10, lsn=parse_lsn(lsn))
    return _saying(node, seen, heartbeat=beat)


def _heartbeat_pending(node: NodeView, seen: Observation, value: str) -> NodeView:
    beat = Heartbeat(epoch=EPOCH, acknowledged_age_ms=int(value), pending_ms=int(value), lsn=WAL)
    return _saying(node, seen, heartbeat=beat)


def _heartbeat_error(node: NodeView, seen: Observation, value: str) -> NodeView:
    return _saying(node, seen, heartbeat=Heartbeat(epoch=EPOCH, acknowledged_age_ms=5000, lsn=WAL, error=value))


def _pair_seen(node: NodeView, seen: Observation, value: str) -> NodeView:
    epoch, _, revision = value.partition("/")
    return _seeing(node, seen, epoch=Epoch(int(epoch)), revision=Revision(int(revision)))


def _claimed(node: NodeView, seen: Observation, value: str) -> NodeView:
    """What it has seen of timelines: n2/5/6, node, epoch and number of one more, or none at all."""
    told = None if value == "unknown" else merge_records(seen.seen.timelines or (), (claim(value),))
    return _seeing(node, seen, timelines=told)


NODE: Mapping[str, Edit] = {
    "unheard": lambda node, _, __: node,
    # ages, and what the manager knows by itself
    "age": _aged("age_ms"),
    "advanced": _aged("wal_advanced_age_ms", "wal_received_age_ms"),
    "received": _aged("wal_received_age_ms"),
    "replayed-ago": _aged("replay_advanced_age_ms"),
    "running-for": _aged("running_for_ms"),
    "stopped-under": lambda node, _, value: replace(node, stopped_under=Epoch(int(value))),
    "port": lambda node, _, value: replace(node, port=Port(value)),
    "host": _host,
    "zone": lambda node, _, value: replace(node, spec=replace(node.spec, zone=value)),
    # PostgreSQL and who it is
    "postmaster": _postmaster,
    "starting": _starting,
    "crashed": _crashed,
    "mute": _mute,
    "deaf": _deaf,
    "empty": _empty,
    "role": _said("role", Role),
    "primary-of": _primary_of,
    "promoted": _said("promoted_epoch", lambda value: Epoch(int(value))),
    "fenced": _fenced,
    "foreign": _marked(whole=False, foreign=True),
    "timeline": _said("timeline", lambda value: Timeline(int(value))),
    "wal": _said("wal_end", parse_lsn),
    "replayed": _said("replayed_lsn", parse_lsn),
    "replay-lag": _said("replay_lag_ms", float),
    # whom it follows, and who follows it
    "follows": _follows,
    "lost-stream": _lost_stream,
    "written": _written,
    "meets": _meets,
    "senders": lambda node, seen, value: _saying(node, seen, walsenders=_senders(value)),
    "shows": _said("synchronous_standby_names"),
    "heartbeat": _heartbeat,
    "heartbeat-pending": _heartbeat_pending,
    "heartbeat-error": _heartbeat_error,
    # what its noded keeps and does
    "promised": _said("promised", lambda value: Epoch(int(value))),
    "seen": _pair_seen,
    "knows": lambda node, seen, value: _seeing(node, seen, voters=voters_of(value) if value else None),
    "claimed": _claimed,
    "not-whole": _marked(whole=False),
    "incarnation": _said("incarnation", Incarnation),
    "system": _said("system_identifier"),
    "quarantined": _marked(quarantined=True),
    "activity": _said("activity", Activity),
    "settings": _said("desired_version", int),
    "slots-kept": _said("slots_kept", _slots),
    "slots-lacking": _said("slots_lacking", _slots),
    "slots-used": _said("slots", lambda value: SlotCount(used=int(value), limit=20)),
    "failover-slot": _said("user_slots", lambda name: (UserSlot(name=name, is_physical=False, failover=True),)),
    # what is wrong
    "problem": _said("problem"),
    "storage-problem": _said("storage_problem"),
    "login-problem": _said("login_problem"),
    "login-spared": lambda node, seen, value: _saying(node, seen, login_problem=value, login_spared=True),
    "crashes": _said("crashes", int),
    "refused-start": _said("refused_start", str),
    "sync": _sync,
    "device": _said("disk", lambda value: Disk(free_bytes=1 << 36, total_bytes=1 << 40, device=value)),
    "disk-free": _said("disk", lambda value: Disk(free_bytes=int(value), total_bytes=1 << 40)),
}
"""Every word of a node."""


def _down(seen: Observation, postmaster: Postmaster) -> Observation:
    if postmaster.state is PostmasterState.RUNNING:
        return msgspec.structs.replace(seen, postmaster=postmaster)
    return msgspec.structs.replace(
        seen,
        postmaster=postmaster,
        role=Role.NONE,
        timeline=None,
        wal_end=None,
        replayed_lsn=None,
        receiver=None,
        heartbeat=None,
        walsenders=(),
    )


def _senders(text: str) -> tuple[Walsender, ...]:
    """Return walsenders written as ``n2@0/5000000,n3@0/4000000!noslot``."""
    found: list[Walsender] = []
    for one in filter(None, text.split(",")):
        place, _, flaw = one.partition("!")
        name, _, lsn = place.partition("@")
        sync = f"{name}_{incarnation(name)}"
        found.append(
            Walsender(
                name=sync,
                slot=None if flaw == "noslot" else sync,
                streaming=True,
                flush_lsn=parse_lsn(lsn),
                replay_lsn=None,
                sync_priority=0 if flaw == "unread" else 1,
            )
        )
    return tuple(found)
