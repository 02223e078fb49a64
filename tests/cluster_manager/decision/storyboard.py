"""Reads and tells decision scenarios: a few words become a view, a plan becomes a few lines.

A scenario begins with a healthy cluster of three, n1 the writer of epoch 4 on timeline 5 at 0/5000000, everybody streaming,
n1 n2 n3 voters with w=2; each line changes one thing.  Ages are milliseconds.

    document paused durability=async voters=n1,n2/2 leaving=n3 stopped=n2 settings=3
             former=n1,n2,n3/2 since=18 (revision that recorded the voters) adopts=4/20/9 (epoch, revision, last timeline)
    transition failover recruiting from=n1 [target=n3] [avoid-old] [cause=ALLOW_DATA_LOSS] (there is no writer then)
    candidate n2 timeline=6                                               (claims the timeline too)
    node n2 age=700 role=primary postmaster=stopped ...
    promise n2 wal=0/5000000 [timeline=5] [at=-50] [unknown=reason] [not-whole]
    in-force n1,n2/2 barrier=0/5000000
    sent n1,n2/2 revision=20
    in-flight settings n1
    request [switchover|data-loss] [to=n3]
    manager started=-100 not-ours bootstrap empty-store wanted=async began=-1000 proxies-busy checkpointed=-500
    manager proxies-seen=4/25 soft-failovers=-90000,-5000 flaps-freely checkpoint-failed="the disk is full"
"""

from __future__ import annotations

import shlex
from dataclasses import replace

import msgspec

from cluster_manager.decision.actions import (
    Action,
    ActionKind,
    AskPromise,
    Checkpoint,
    Clone,
    Configure,
    Follow,
    Init,
    Promote,
    PutInForce,
    Restart,
    Rewind,
    Stop,
    WriteDocument,
)
from cluster_manager.decision.flapping import AntiFlap
from cluster_manager.decision.nodeview import NEVER_MS, NodeSpec, NodeView
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.view import Failure, Promise, SettingsSent, View, slots_of
from pgtopology.desired import DesiredSettings
from pgtopology.document import (
    Adopted,
    Candidate,
    Durability,
    Endpoint,
    Endpoints,
    Step,
    Topology,
    Transition,
    TransitionKind,
)
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import Lsn, format_lsn, parse_lsn
from pgtopology.node import Address, Incarnation, Member, NodeName, NodeState, Position, Role
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
    Seen,
    UserSlot,
    Walsender,
)
from pgtopology.orders import PromiseAnswer, SettingsAnswer, StopMode
from pgtopology.quorum import Voter, Voters, make_voters, synchronous_standby_names
from pgtopology.timeline import Timeline, TimelineRecord, merge_records

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
    number = int(name[1:])
    return NodeSpec(
        name=NodeName(name),
        zone=f"az{number}",
        address=Address("127.0.0.1", 6409 + number),
        noded=Address("127.0.0.1", 6459 + number),
        dns=f"{name}.test",
    )


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
    return Topology(
        cluster="test",
        system_identifier=SYSTEM,
        revision=REVISION,
        epoch=EPOCH,
        durability=Durability.QUORUM,
        voters=voters_of("n1,n2,n3/2"),
        writer=NodeName("n1"),
        candidate=Candidate(NodeName("n1"), TIMELINE),
        timelines=TIMELINES,
        members=tuple(_member(name) for name in names),
        endpoints=ENDPOINTS,
    )


def _member(name: str) -> Member:
    is_writer = name == "n1"
    place = spec(name)
    return Member(
        name=place.name,
        zone=place.zone,
        address=place.address,
        noded=place.noded,
        dns=place.dns,
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
    observation = Observation(
        node=NodeName(name),
        noded_pid=100,
        sequence=1,
        system_identifier=SYSTEM,
        incarnation=incarnation(name),
        whole=True,
        promised=EPOCH,
        seen=Seen(epoch=EPOCH, revision=REVISION, voters=voters_of("n1,n2,n3/2"), timelines=TIMELINES),
        promoted_epoch=EPOCH if is_writer else None,
        postmaster=Postmaster(state=PostmasterState.RUNNING, pid=1000),
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
        observation=observation,
        age_ms=50,
        wal_advanced_age_ms=100,
        wal_received_age_ms=100,
        replay_advanced_age_ms=100,
        running_for_ms=60_000,
        not_streaming_for_ms=0,
    )


def read_view(text: str) -> View:
    """Return the view that a scenario's lines describe. Raises ValueError for a line that means nothing."""
    document = healthy_document()
    view = View(
        now_ms=NOW_MS,
        started_at_ms=NOW_MS - 60_000,
        cluster="test",
        specs=tuple(spec(name) for name in ALL),
        endpoints=ENDPOINTS,
        wanted_durability=Durability.QUORUM,
        document=document,
        epoch_is_ours=True,
        checkpointed_at_ms=NOW_MS - 25_000,
        epoch_began_at_ms=NOW_MS - 30_000,
        nodes=tuple(healthy_node(name) for name in ALL),
        in_force=SettingsAnswer(node=NodeName("n1"), in_force=voters_of("n1,n2,n3/2"), barrier_lsn=WAL),
        slots_in_force=frozenset(slots_of(document)),
        wall_time="2026-01-01T00:00:00.000Z",
    )
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words:
            view = _apply(view, words[0], words[1:])
    return view


def _apply(view: View, verb: str, words: list[str]) -> View:
    match verb:
        case "document":
            return _edit_document(view, words)
        case "transition":
            return _edit_transition(view, words)
        case "candidate":
            return _edit_candidate(view, words)
        case "node":
            nodes = tuple(_edit_node(node, words[1:]) if node.name == words[0] else node for node in view.nodes)
            return replace(view, nodes=nodes)
        case "promise":
            promises = {**view.promises, NodeName(words[0]): _promise(view, words[0], words[1:])}
            return replace(view, promises=promises)
        case "in-force":
            options = _options(words[1:])
            if words[0] == "unknown":
                return replace(view, in_force=None)
            barrier = parse_lsn(options.get("barrier", format_lsn(WAL)))
            return replace(
                view, in_force=SettingsAnswer(node=NodeName("n1"), in_force=voters_of(words[0]), barrier_lsn=barrier)
            )
        case "sent":
            revision = Revision(int(_options(words[1:])["revision"]))
            return replace(view, settings_sent=SettingsSent(voters_of(words[0]), revision))
        case "in-flight":
            return replace(view, in_flight=frozenset({(ActionKind(words[0]), NodeName(words[1]))}))
        case "request":
            options = _options(words)
            kind = RequestKind.SWITCHOVER if "switchover" in options else RequestKind.FAILOVER
            kind = RequestKind.DATA_LOSS if "data-loss" in options else kind
            to = NodeName(options["to"]) if "to" in options else None
            return replace(view, request=Request(kind=kind, to=to, asked_at_ms=NOW_MS - 10))
        case "manager":
            return _edit_manager(view, words)
        case _:
            raise ValueError(f'"{verb}" is no verb of a scenario')


def _options(words: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _document(view: View) -> Topology:
    assert view.document is not None
    return view.document


def _edit_document(view: View, words: list[str]) -> View:
    document = _document(view)
    for key, value in _options(words).items():
        match key:
            case "paused":
                document = msgspec.structs.replace(document, paused=True)
            case "durability":
                document = msgspec.structs.replace(document, durability=Durability(value))
            case "settings":
                document = msgspec.structs.replace(document, desired=DesiredSettings(version=int(value)))
            case "voters":
                document = msgspec.structs.replace(document, voters=voters_of(value))
                view = replace(view, nodes=tuple(_edit_one(node, "knows", value) for node in view.nodes))
            case "former":
                document = msgspec.structs.replace(document, former_voters=voters_of(value))
            case "since":
                document = msgspec.structs.replace(document, voters_since=Revision(int(value)))
            case "claimed":
                document = msgspec.structs.replace(document, timelines=(*document.timelines, _claim(value)))
            case "adopts":
                epoch, revision, last = (int(part) for part in value.split("/"))
                adopted = Adopted(epoch=Epoch(epoch), revision=Revision(revision), timeline=Timeline(last))
                if document.transition is not None:
                    transition = msgspec.structs.replace(document.transition, adopts=adopted, from_node=None)
                    document = msgspec.structs.replace(document, transition=transition)
            case "leaving" | "stopped":
                members = tuple(
                    msgspec.structs.replace(member, **{key: True}) if member.name == value else member
                    for member in document.members
                )
                document = msgspec.structs.replace(document, members=members)
            case _:
                raise ValueError(f'"{key}" is nothing of a document')
    return replace(view, document=document)


def _claim(text: str) -> TimelineRecord:
    node, epoch, timeline = text.split("/")
    return TimelineRecord(timeline=Timeline(int(timeline)), epoch=Epoch(int(epoch)), node=node, parent=TIMELINE, fork_lsn=WAL)


def _edit_transition(view: View, words: list[str]) -> View:
    options = _options(words[2:])
    document = _document(view)
    epoch = Epoch(EPOCH + 1)
    transition = Transition(
        kind=TransitionKind(words[0]),
        step=Step(words[1]),
        cause=options.get("cause", "PRIMARY_FAILED"),
        from_node=NodeName(options.get("from", "n1")),
        target=NodeName(options["target"]) if "target" in options else None,
        avoid_old="avoid-old" in options,
        first_epoch=Epoch(int(options.get("first", epoch))),
        started_at="2026-01-01T00:00:00.000Z",
    )
    document = msgspec.structs.replace(document, epoch=epoch, writer=None, candidate=None, transition=transition)
    if transition.kind is TransitionKind.BOOTSTRAP:
        members = tuple(msgspec.structs.replace(member, incarnation=None) for member in document.members)
        document = msgspec.structs.replace(
            document, durability=Durability.ASYNC, voters=None, system_identifier=None, timelines=(), members=members
        )
    return replace(view, document=document, epoch_began_at_ms=NOW_MS - 100, transition_began_at_ms=NOW_MS - 100, in_force=None)


def _edit_candidate(view: View, words: list[str]) -> View:
    document = _document(view)
    timeline = Timeline(int(_options(words[1:]).get("timeline", "6")))
    record = TimelineRecord(timeline=timeline, epoch=document.epoch, node=words[0], parent=TIMELINE, fork_lsn=WAL)
    document = msgspec.structs.replace(
        document, candidate=Candidate(NodeName(words[0]), timeline), timelines=(*document.timelines, record)
    )
    return replace(view, document=document)


def _edit_manager(view: View, words: list[str]) -> View:
    for key, value in _options(words).items():
        match key:
            case "started":
                view = replace(view, started_at_ms=NOW_MS + float(value))
            case "remaking":
                view = replace(view, being_remade=frozenset({NodeName(value)}))
            case "claimed":
                view = replace(view, claimed_at_ms=NOW_MS + float(value))
            case "began":
                view = replace(view, epoch_began_at_ms=NOW_MS + float(value))
            case "transition-began":
                view = replace(view, transition_began_at_ms=NOW_MS + float(value))
            case "not-ours":
                view = replace(view, epoch_is_ours=False)
            case "checkpoint-failed":
                failed = Failure(count=2, age_ms=5, code="failed", message=value)
                assert view.document is not None
                assert view.document.writer is not None
                view = replace(view, failures={(ActionKind.CHECKPOINT, view.document.writer): failed})
            case "soft-failovers":
                view = replace(view, soft_failovers_at_ms=tuple(NOW_MS + float(at) for at in value.split(",")))
            case "flaps-freely":
                view = replace(view, anti_flap=AntiFlap(interval_ms=0, hold_after=0))
            case "proxies-seen":
                epoch, _, revision = value.partition("/")
                view = replace(view, proxies_seen=(Epoch(int(epoch)), Revision(int(revision))))
            case "proxies-busy":
                view = replace(view, proxies_settled=False)
            case "checkpointed":
                view = replace(view, checkpointed_at_ms=NOW_MS + float(value))
            case "bootstrap":
                view = replace(view, bootstrap_ordered=True)
            case "empty-store":
                view = replace(view, document=None)
            case "wanted":
                view = replace(view, wanted_durability=Durability(value))
            case "forgot":
                view = replace(view, in_force=None, slots_in_force=None, checkpointed_at_ms=None)
            case "nodes":
                names = tuple(value.split(","))
                document = healthy_document(names)
                view = replace(
                    view,
                    specs=tuple(spec(name) for name in names),
                    nodes=tuple(healthy_node(name, names) for name in names),
                    document=document,
                    slots_in_force=frozenset(slots_of(document)),
                )
            case _:
                raise ValueError(f'"{key}" is nothing of a manager')
    return view


def _edit_node(node: NodeView, words: list[str]) -> NodeView:
    for key, value in _options(words).items():
        node = _edit_one(node, key, value)
    return node


def _edit_one(node: NodeView, key: str, value: str) -> NodeView:
    seen = node.observation
    if key == "unheard" or seen is None:
        return replace(node, observation=None, age_ms=NEVER_MS, wal_advanced_age_ms=NEVER_MS, running_for_ms=0)
    change = msgspec.structs.replace
    match key:
        case "age":
            return replace(node, age_ms=float(value))
        case "advanced":
            return replace(node, wal_advanced_age_ms=float(value), wal_received_age_ms=float(value))
        case "received":
            return replace(node, wal_received_age_ms=float(value))
        case "written":
            receiver = seen.receiver or Receiver(running=True, streaming=True, upstream=NodeName("n1"))
            return replace(node, observation=change(seen, receiver=change(receiver, written_lsn=parse_lsn(value))))
        case "sync":
            # Milliseconds of the last trial, of one that goes on, and of the slowest lately: 5, 5/120, /120, 5/0/800.
            last, pending, slowest = (*value.split("/"), "", "")[:3]
            sync = DiskSync(last_ms=int(last) if last else None, pending_ms=int(pending or 0), slowest_ms=int(slowest or 0))
            return replace(node, observation=change(seen, sync=sync))
        case "replayed-ago":
            return replace(node, replay_advanced_age_ms=float(value))
        case "running-for":
            return replace(node, running_for_ms=float(value))
        case "port":
            return replace(node, port=Port(value))
        case "host":
            return replace(node, spec=replace(node.spec, address=Address(value, node.spec.address.port)))
        case "zone":
            return replace(node, spec=replace(node.spec, zone=value))
        case "stopped-under":
            return replace(node, stopped_under=Epoch(int(value)))
        case "lost-stream":
            receiver = Receiver(running=False, streaming=False, upstream=NodeName("n1"), upstream_epoch=seen.seen.epoch)
            return replace(
                node,
                observation=change(seen, receiver=receiver),
                not_streaming_for_ms=float(value),
                starved_for_ms=float(value),
            )
        case "starting":
            # Whom it is told to follow, by an order of which epoch, and how long it has been given no WAL: n1/4@31000, nobody.
            order, _, starved = value.partition("@")
            name, _, epoch = order.partition("/")
            upstream = NodeName(name) if name != "nobody" else None
            receiver = Receiver(
                running=bool(starved), streaming=False, upstream=upstream, upstream_epoch=Epoch(int(epoch or EPOCH))
            )
            seen = change(_down(seen, Postmaster(state=PostmasterState.STARTING, pid=1000)), receiver=receiver)
            return replace(node, observation=seen, running_for_ms=0, starved_for_ms=float(starved or 0))
        case "meets":
            receiver = seen.receiver or Receiver(running=False, streaming=False, upstream=NodeName("n1"))
            receiver = change(receiver, streaming=False, upstream_port=Port(value))
            return replace(node, observation=change(seen, receiver=receiver))
        case "empty":
            seen = change(seen, system_identifier=None, incarnation=None, whole=False, timeline=None, wal_end=None)
            return _edit_one(replace(node, observation=change(seen, replayed_lsn=None)), "postmaster", "stopped")
        case "crashes":
            return replace(node, observation=change(seen, crashes=int(value)))
        case "mute":
            seen = change(_down(seen, Postmaster(state=PostmasterState.STOPPED)), postmaster=seen.postmaster)
            return replace(node, observation=change(seen, mute_ms=int(value)), running_for_ms=0)
        case "storage-problem":
            return replace(node, observation=change(seen, storage_problem=value))
        case "login-problem":
            return replace(node, observation=change(seen, login_problem=value))
        case "login-spared":
            return replace(node, observation=change(seen, login_problem=value, login_spared=True))
        case "quarantined":
            return replace(node, observation=change(seen, quarantined=True))
        case "device":
            return replace(node, observation=change(seen, disk=Disk(free_bytes=1 << 36, total_bytes=1 << 40, device=value)))
        case "disk-free":
            return replace(node, observation=change(seen, disk=Disk(free_bytes=int(value), total_bytes=1 << 40)))
        case "crashed":
            dead = Postmaster(state=PostmasterState.STOPPED, exit_status=int(value), unexpected_exit=True)
            return replace(node, observation=_down(seen, dead), running_for_ms=0)
        case "postmaster":
            state = PostmasterState(value)
            pid = None if state is PostmasterState.STOPPED else 1000
            return replace(node, observation=_down(seen, Postmaster(state=state, pid=pid)), running_for_ms=0)
        case "deaf":
            return replace(node, observation=change(seen, postmaster=change(seen.postmaster, deaf_ms=int(value))))
        case "role":
            return replace(node, observation=change(seen, role=Role(value)))
        case "primary-of":
            seen = change(seen, role=Role.PRIMARY, promoted_epoch=Epoch(int(value)), receiver=None)
            return replace(node, observation=seen)
        case "fenced":
            cut = Receiver(running=False, streaming=False, upstream=None)
            seen = change(seen, role=Role.STANDBY, promised=Epoch(int(value)), receiver=cut, heartbeat=None)
            return replace(node, observation=seen)
        case "follows":
            name, _, epoch = value.partition("/")
            receiver = Receiver(
                running=True, streaming=True, upstream=NodeName(name), upstream_epoch=Epoch(int(epoch or EPOCH))
            )
            return replace(node, observation=change(seen, receiver=receiver))
        case "heartbeat-pending":
            beat = Heartbeat(epoch=EPOCH, acknowledged_age_ms=int(value), pending_ms=int(value), lsn=WAL)
            return replace(node, observation=change(seen, heartbeat=beat))
        case "heartbeat-error":
            beat = Heartbeat(epoch=EPOCH, acknowledged_age_ms=5000, lsn=WAL, error=value)
            return replace(node, observation=change(seen, heartbeat=beat))
        case "heartbeat":
            epoch, _, lsn = value.partition("@")
            beat = Heartbeat(epoch=Epoch(int(epoch)), acknowledged_age_ms=10, lsn=parse_lsn(lsn))
            return replace(node, observation=change(seen, heartbeat=beat))
        case "senders":
            return replace(node, observation=change(seen, walsenders=_senders(value)))
        case "shows":
            return replace(node, observation=change(seen, synchronous_standby_names=value))
        case "timeline":
            return replace(node, observation=change(seen, timeline=Timeline(int(value))))
        case "wal":
            return replace(node, observation=change(seen, wal_end=parse_lsn(value)))
        case "replayed":
            return replace(node, observation=change(seen, replayed_lsn=parse_lsn(value)))
        case "not-whole":
            return replace(node, observation=change(seen, whole=False))
        case "foreign":
            return replace(node, observation=change(seen, whole=False, foreign=True))
        case "incarnation":
            return replace(node, observation=change(seen, incarnation=Incarnation(value)))
        case "system":
            return replace(node, observation=change(seen, system_identifier=value))
        case "seen":
            epoch, _, revision = value.partition("/")
            newer = change(seen.seen, epoch=Epoch(int(epoch)), revision=Revision(int(revision)))
            return replace(node, observation=change(seen, seen=newer))
        case "knows":
            voters = voters_of(value) if value else None
            return replace(node, observation=change(seen, seen=change(seen.seen, voters=voters)))
        case "claimed":
            # What it has seen of timelines: n2/5/6, node, epoch and number of one more, or none at all.
            told = None if value == "unknown" else merge_records(seen.seen.timelines or (), (_claim(value),))
            return replace(node, observation=change(seen, seen=change(seen.seen, timelines=told)))
        case "promised":
            return replace(node, observation=change(seen, promised=Epoch(int(value))))
        case "activity":
            return replace(node, observation=change(seen, activity=Activity(value)))
        case "settings":
            return replace(node, observation=change(seen, desired_version=int(value)))
        case "slots-kept":
            kept = tuple(f"{name}_{incarnation(name)}" for name in filter(None, value.split(",")))
            return replace(node, observation=change(seen, slots_kept=kept))
        case "failover-slot":
            slot = UserSlot(name=value, is_physical=False, failover=True)
            return replace(node, observation=change(seen, user_slots=(slot,)))
        case "problem":
            return replace(node, observation=change(seen, problem=value))
        case "promoted":
            return replace(node, observation=change(seen, promoted_epoch=Epoch(int(value))))
        case _:
            raise ValueError(f'"{key}" is nothing of a node')


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


def _promise(view: View, name: str, words: list[str]) -> Promise:
    options = _options(words)
    document = _document(view)
    position = None
    if "unknown" not in options:
        lsn = parse_lsn(options.get("wal", format_lsn(WAL)))
        position = Position(
            timeline=Timeline(int(options.get("timeline", TIMELINE))),
            lsn=lsn,
            replayed_lsn=parse_lsn(options["replayed"]) if "replayed" in options else lsn,
        )
    answer = PromiseAnswer(
        node=NodeName(name),
        promised=Epoch(int(options.get("epoch", document.epoch))),
        incarnation=Incarnation(options.get("incarnation", incarnation(name))),
        system_identifier=SYSTEM,
        whole="not-whole" not in options,
        seen=Seen(epoch=EPOCH, revision=REVISION),
        position=position,
        unknown_because=options.get("unknown", ""),
    )
    at_ms = NOW_MS + float(options.get("at", "-50"))
    advanced = NOW_MS + float(options.get("advanced", "-1000"))
    return Promise(answer=answer, at_ms=at_ms, wal_advanced_at_ms=advanced)


def tell_plan(view: View, plan: Plan) -> str:
    """Return the plan as a scenario's outcome."""
    lines = [f"{plan.diagnosis}: {plan.reason}"]
    lines += [_tell(view, action) for action in plan.actions] or ["nothing to do"]
    return "\n".join(lines) + "\n"


def _tell(view: View, action: Action) -> str:
    match action:
        case WriteDocument(document=document, because=because):
            return f"write: {_tell_document(view.document, document)}\n  because {because}"
        case Init(node=node):
            return f"init {node}"
        case Checkpoint(node=node):
            return f"checkpoint {node}"
        case Configure(node=node):
            return f"configure {node}: version {view.document.desired.version if view.document is not None else 0}"
        case Stop(node=node):
            return f"stop {node}"
        case Restart(node=node):
            return f"restart {node}"
        case AskPromise(node=node, stop_mode=mode):
            return f"promise {node}" + (" (stop fast)" if mode is StopMode.FAST else "")
        case Follow(node=node, upstream=upstream):
            return f"follow {node} -> {upstream.name}"
        case Promote(node=node, timeline=timeline):
            return f"promote {node} to timeline {timeline}"
        case Clone(node=node, source=source, destroys=destroys, because=because):
            return f"clone {node} from {source.name}, destroying {destroys or 'nothing'}: {because}"
        case Rewind(node=node, source=source, destroys=destroys):
            return f"rewind {node} ({destroys}) to {source.name}"
        case PutInForce(node=node, voters=voters):
            return f"put in force on {node}: {_tell_voters(voters)}"


def _tell_voters(voters: Voters | None) -> str:
    if voters is None:
        return "nobody"
    names = ",".join(
        voter.name if voter.incarnation == incarnation(voter.name) else voter.sync_name for voter in voters.members
    )
    return f"{names} w={voters.w}"


def _tell_document(old: Topology | None, new: Topology) -> str:
    parts = [f"revision {new.revision} epoch {new.epoch}", f"writer {new.writer or 'none'}"]
    if new.candidate is not None and new.writer is None:
        parts.append(f"candidate {new.candidate.node} timeline {new.candidate.timeline}")
    if new.transition is not None:
        wish = f" target {new.transition.target}" if new.transition.target is not None else ""
        parts.append(f"{new.transition.kind} {new.transition.step}{wish}")
    if old is None or new.voters != old.voters or new.durability is not old.durability:
        parts.append(f"voters {_tell_voters(new.voters)} {new.durability}")
    return ", ".join([*parts, *_changed_members(old, new)])


def tell_members(view: View, new: Topology) -> str:
    """Return what a write that only notes down the members says of them."""
    return f"noted: {', '.join(_changed_members(view.document, new))}\n"


def _changed_members(old: Topology | None, new: Topology) -> list[str]:
    changed = [member for member in new.members if old is not None and member != old.member(member.name)]
    return [f"{member.name} {member.role} {member.state}{' readable' if member.reader_eligible else ''}" for member in changed]
