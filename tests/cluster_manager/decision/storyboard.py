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
    manager reader-lag-max=1000
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

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
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.view import Failure, Promise, View, VotersSent, slots_of
from pgtopology.desired import DesiredSettings
from pgtopology.document import (
    Adopted,
    Candidate,
    Durability,
    Step,
    Topology,
    Transition,
    TransitionKind,
)
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import format_lsn, parse_lsn
from pgtopology.node import Incarnation, NodeName, Position
from pgtopology.observation import (
    Seen,
)
from pgtopology.orders import PromiseAnswer, StopMode, SynchronousAnswer
from pgtopology.quorum import Voters
from pgtopology.timeline import Timeline, TimelineRecord
from tests.cluster_manager.decision.storycluster import (
    ALL,
    ENDPOINTS,
    EPOCH,
    NOW_MS,
    REVISION,
    SYSTEM,
    TIMELINE,
    WAL,
    claim,
    healthy_document,
    healthy_node,
    incarnation,
    spec,
    voters_of,
)
from tests.cluster_manager.decision.storynodes import edit_node


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
        in_force=SynchronousAnswer(node=NodeName("n1"), in_force=voters_of("n1,n2,n3/2"), barrier_lsn=WAL),
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
                view, in_force=SynchronousAnswer(node=NodeName("n1"), in_force=voters_of(words[0]), barrier_lsn=barrier)
            )
        case "sent":
            revision = Revision(int(_options(words[1:])["revision"]))
            return replace(view, voters_sent=VotersSent(voters_of(words[0]), revision))
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
                view = replace(view, nodes=tuple(edit_node(node, "knows", value) for node in view.nodes))
            case "former":
                document = msgspec.structs.replace(document, former_voters=voters_of(value))
            case "since":
                document = msgspec.structs.replace(document, voters_since=Revision(int(value)))
            case "claimed":
                document = msgspec.structs.replace(document, timelines=(*document.timelines, claim(value)))
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
        if key not in MANAGER:
            raise ValueError(f'"{key}" is nothing of a manager')
        view = MANAGER[key](view, value)
    return view


def _at(field: str) -> Callable[[View, str], View]:
    """Return what sets *field* to so many milliseconds from now."""
    return lambda view, value: replace(view, **{field: NOW_MS + float(value)})


def _fields(**fields: Any) -> Callable[[View, str], View]:
    """Return what sets *fields* whatever is written behind the word."""
    return lambda view, _: replace(view, **fields)


def _checkpoint_failed(view: View, message: str) -> View:
    writer = _document(view).writer
    assert writer is not None
    failed = Failure(count=2, age_ms=5, code="failed", message=message)
    return replace(view, failures={(ActionKind.CHECKPOINT, writer): failed})


def _proxies_seen(view: View, pair: str) -> View:
    epoch, _, revision = pair.partition("/")
    return replace(view, proxies_seen=(Epoch(int(epoch)), Revision(int(revision))))


def _with_nodes(view: View, text: str) -> View:
    names = tuple(text.split(","))
    document = healthy_document(names)
    return replace(
        view,
        specs=tuple(spec(name) for name in names),
        nodes=tuple(healthy_node(name, names) for name in names),
        document=document,
        slots_in_force=frozenset(slots_of(document)),
    )


MANAGER: Mapping[str, Callable[[View, str], View]] = {
    "started": _at("started_at_ms"),
    "claimed": _at("claimed_at_ms"),
    "began": _at("epoch_began_at_ms"),
    "transition-began": _at("transition_began_at_ms"),
    "checkpointed": _at("checkpointed_at_ms"),
    "not-ours": _fields(epoch_is_ours=False),
    "flaps-freely": _fields(anti_flap=AntiFlap(interval_ms=0, hold_after=0)),
    "proxies-busy": _fields(proxies_settled=False),
    "bootstrap": _fields(bootstrap_ordered=True),
    "empty-store": _fields(document=None),
    "forgot": _fields(in_force=None, slots_in_force=None, checkpointed_at_ms=None),
    "remaking": lambda view, name: replace(view, being_remade=frozenset({NodeName(name)})),
    "wanted": lambda view, value: replace(view, wanted_durability=Durability(value)),
    "reader-lag-max": lambda view, value: replace(view, reader_lag_max_ms=int(value)),
    "soft-failovers": lambda view, ages: replace(
        view, soft_failovers_at_ms=tuple(NOW_MS + float(age) for age in ages.split(","))
    ),
    "checkpoint-failed": _checkpoint_failed,
    "proxies-seen": _proxies_seen,
    "nodes": _with_nodes,
}
"""What a line may say of the manager."""


def _edit_node(node: NodeView, words: list[str]) -> NodeView:
    for key, value in _options(words).items():
        node = edit_node(node, key, value)
    return node


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
