"""What people read: the status table, progress lines, events, outlines."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from endpointctl.chronicle import event_line, event_lines, explanation_lines, outline
from endpointctl.render import node_notes, progress_phrases, status_view, warnings
from endpointctl.sessionview import Seen, sessions_view
from pgtopology.epoch import Epoch, Revision
from pgtopology.event import Event
from pgtopology.explanation import Explanation
from pgtopology.node import NodeName, NodeState
from pgtopology.report import ProxyEndpoint
from pgtopology.sessions import SessionId, SessionView
from pgtopology.status import (
    EndpointsStatus,
    EndpointStatus,
    LastFailover,
    ManagerStatus,
    NodeStatus,
    ProxyStatus,
    Status,
    Survives,
    SurvivesBecause,
    TransitionStatus,
    VotersStatus,
)
from pgtopology.timeline import Timeline


def make_node(name: str, state: NodeState, *, activity: str | None = None, percent: int | None = None) -> NodeStatus:
    return NodeStatus(
        name=NodeName(name),
        zone="az1",
        role="primary" if state is NodeState.RUNNING else "standby",
        state=state,
        since=None,
        timeline=Timeline(2),
        lsn="0/3000148",
        lag_bytes=0,
        lag_ms=1,
        host="127.0.0.1",
        port=6410,
        pid=4711,
        data_dir="/data",
        voter=True,
        whole=True,
        tier=1,
        server_version="18.6",
        pending_restart=False,
        activity=activity,
        progress_percent=percent,
    )


def make_status(
    *nodes: NodeStatus,
    writer: str | None = "n1",
    state: str = "healthy",
    durability: str = "quorum",
    transition: TransitionStatus | None = None,
    proxies: tuple[ProxyStatus, ...] = (),
    at_risk: str | None = None,
    paused: bool = False,
) -> Status:
    return Status(
        cluster="local",
        revision=Revision(9),
        epoch=Epoch(3),
        timeline=Timeline(2),
        writer=NodeName(writer) if writer else None,
        state=state,
        durability=durability,
        diagnosis="HEALTHY",
        reason="all nodes stream",
        paused=paused,
        at_risk=at_risk,
        transition=transition,
        manager=ManagerStatus(leader="m", store="embedded"),
        voters=VotersStatus(names=tuple(node.name for node in nodes), w=2, needed=2, promisable=3),
        last_failover=LastFailover(epoch=Epoch(3), cause="PRIMARY_FAILED", outage_ms=312, at="2026-11-23T10:00:00Z"),
        endpoints=EndpointsStatus(
            writer=EndpointStatus(host="127.0.0.1", port=6432, dns="writer.local.endpointd.internal"),
            reader=EndpointStatus(host="127.0.0.1", port=6433, dns="reader.local.endpointd.internal"),
        ),
        nodes=nodes,
        proxies=proxies,
        versions={},
    )


def shown(status: Status) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(status_view(status))
    return out.getvalue()


def test_the_table_names_writer_nodes_quorum_endpoints_and_the_last_failover() -> None:
    text = shown(make_status(make_node("n1", NodeState.RUNNING), make_node("n2", NodeState.CATCHING_UP)))
    for expected in ("writer n1", "epoch 3", "n2", "catching up", "0/3000148", "2 of 2 nodes vote", "127.0.0.1:6432", "312 ms"):
        assert expected in text


def test_one_line_says_what_each_loss_would_do() -> None:
    status = msgspec.structs.replace(
        make_status(
            make_node("n1", NodeState.RUNNING), msgspec.structs.replace(make_node("n2", NodeState.STREAMING), host="10.0.0.2")
        ),
        survives=Survives(server_crash=True),
        survives_because=SurvivesBecause(host_loss='host "h" has every node', zone_loss='host "h" has every node'),
    )
    expected = 'survives the loss of the writer\'s server: yes; any one host, any one zone: no, host "h" has every node'
    assert expected in shown(status)


def test_the_first_line_of_a_lone_voter_says_that_no_failover_is_possible() -> None:
    alone, other = make_node("n1", NodeState.RUNNING), make_node("n2", NodeState.STREAMING)
    assert "no failover possible" in shown(make_status(alone)).splitlines()[0]
    assert "no failover possible" not in shown(make_status(alone, other))


def test_programs_that_stood_still_are_named_once_it_matters() -> None:
    late = msgspec.structs.replace(make_node("n2", NodeState.STREAMING), late_ms=2300)
    status = make_status(make_node("n1", NodeState.RUNNING), late)
    assert "noded stood still for 2300 ms" in shown(status)
    assert "the manager stood still" not in shown(status)
    slow = msgspec.structs.replace(status, manager=ManagerStatus(leader="m", store="embedded", late_ms=800))
    assert "the manager stood still for 800 ms" in shown(slow)
    little = msgspec.structs.replace(late, late_ms=120)
    assert "stood still" not in shown(make_status(make_node("n1", NodeState.RUNNING), little))


@pytest.mark.parametrize(
    ("used", "waiting", "expected"),
    [
        (40, 10, []),
        (60, 50, ["50 of 100 connections wait for the quorum"]),
        (92, 2, ["92 of 100 connections are used"]),
        (95, 90, ["90 of 100 connections wait for the quorum", "95 of 100 connections are used"]),
    ],
)
def test_a_node_whose_connections_run_out_has_a_note(used: int, waiting: int, expected: list[str]) -> None:
    node = msgspec.structs.replace(
        make_node("n1", NodeState.RUNNING), connections=used, connections_limit=100, connections_waiting=waiting
    )
    assert node_notes(node) == expected


@pytest.mark.parametrize(("used", "told"), [(18, False), (19, True), (20, True), (None, False)])
def test_a_node_whose_replication_slots_run_out_has_a_note(used: int | None, *, told: bool) -> None:
    limit = 20 if used is not None else None
    node = msgspec.structs.replace(make_node("n1", NodeState.RUNNING), replication_slots=used, replication_slots_limit=limit)
    assert any(f"{used} of 20 replication slots are used" in note for note in node_notes(node)) is told


def test_a_missing_proxy_is_said() -> None:
    assert "no proxy reports" in shown(make_status())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"durability": "async"}, "durability is async"),
        ({"durability": "reduced"}, "durability was reduced"),
        ({"at_risk": "n3 is missing"}, "n3 is missing"),
        ({"paused": True}, "paused"),
    ],
)
def test_what_must_not_be_overlooked_is_said(arguments: dict[str, object], expected: str) -> None:
    [line] = warnings(make_status(**arguments))  # type: ignore[arg-type]
    assert expected in line
    assert line in shown(make_status(**arguments))  # type: ignore[arg-type]


def test_a_reader_endpoint_without_replicas_is_said_with_the_reasons() -> None:
    writer = msgspec.structs.replace(make_node("n1", NodeState.RUNNING), reader_obstacle="it is the writer")
    paused = msgspec.structs.replace(make_node("n2", NodeState.STREAMING), reader_obstacle="what it shows is 9000 ms old")
    [line] = warnings(make_status(writer, paused))
    assert "n2: what it shows is 9000 ms old" in line
    assert "n1" not in line
    assert warnings(make_status(writer, paused, make_node("n3", NodeState.STREAMING))) == []
    assert warnings(make_status(writer)) == []


def test_progress_tells_what_a_node_is_busy_with() -> None:
    busy = make_node("n2", NodeState.CLONING, activity="cloning", percent=40)
    starting = make_node("n1", NodeState.STOPPED, activity="initialising")
    phrases = progress_phrases(make_status(starting, busy, writer=None))
    assert phrases["n1"] == "n1: initialising"
    assert phrases["n2"] == "n2: cloning 40 %"
    assert phrases["quorum"] == "quorum: 2 of 2"


def test_progress_tells_the_writer_or_why_there_is_none() -> None:
    assert progress_phrases(make_status())["writer"] == "writer: n1 (epoch 3)"
    transition = TransitionStatus(kind="failover", step="recruiting", cause="PRIMARY_FAILED", candidate=None)
    assert progress_phrases(make_status(writer=None, transition=transition))["writer"] == "writer: none (failover, recruiting)"


def test_progress_tells_by_what_the_proxy_routes() -> None:
    proxy = ProxyStatus(name="proxy-1", epoch=Epoch(3), sessions=0, engine="asyncio")
    assert progress_phrases(make_status(proxies=(proxy,)))["proxy"] == "proxy: routes by epoch 3"


def test_status_tells_where_each_of_several_proxies_is_and_how_many_processes_it_has() -> None:
    where = (ProxyEndpoint("writer", "h", 6436), ProxyEndpoint("reader", "h", 6437))
    first = ProxyStatus(name="proxy-1", epoch=Epoch(3), sessions=0, engine="asyncio", pids=(7,))
    pooled = ProxyStatus(
        name="p", epoch=Epoch(3), sessions=0, engine="native", endpoints=(*where, ProxyEndpoint("pooled-writer", "h", 6434))
    )
    assert "p: 0 sessions, routes by epoch 3, native engine, pooled-writer h:6434\n" in shown(make_status(proxies=(pooled,)))
    second = ProxyStatus(name="proxy-2", epoch=Epoch(3), sessions=4, engine="asyncio", pids=(8, 9), endpoints=where)
    text = shown(make_status(proxies=(first, second)))
    assert "proxy-1: 0 sessions, routes by epoch 3, asyncio engine\n" in text
    assert "proxy-2: 4 sessions, routes by epoch 3, asyncio engine, 2 processes, writer h:6436, reader h:6437" in text


def test_an_event_is_one_line_with_its_step_time() -> None:
    line = event_line(
        Event(
            sequence=7, at="T", monotonic_ms=0, epoch=Epoch(2), kind="failover.promoted", node="n2", elapsed_ms=131, message="m"
        )
    )
    assert "failover.promoted" in line
    assert "131 ms" in line
    assert "\n" not in line


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200])
def test_an_event_is_wrapped_between_words_at_every_width(width: int) -> None:
    said = "on n1 PostgreSQL ended unexpectedly and the others were asked for a promise which two of them gave"
    words = said.split()
    event = Event(
        sequence=70,
        at="2026-11-29T17:00:00.000Z",
        monotonic_ms=0,
        epoch=Epoch(2),
        kind="failover.detected",
        node="n1",
        elapsed_ms=131,
        message=said,
    )
    lines = event_lines(event, width)
    assert max(map(len, lines)) <= width
    shown = " ".join(lines).split()
    assert shown[-len(words) :] == words
    for part in ("2026-11-29T17:00:00.000Z", "70", "failover.detected", "n1", "131"):
        assert part in shown[: -len(words)]
    # The message has room: beside what stands before it, or below that.
    assert len(lines) <= 3 + len(event.message) // (width // 2)
    assert event_lines(event, None) == [event_line(event)]


def test_all_nodes_on_one_host_is_what_is_said_of_hosts_and_zones() -> None:
    nodes = [make_node(f"n{number}", NodeState.STREAMING) for number in (1, 2, 3)]
    assert "any one host, any one zone: no, all nodes run on one host" in shown(make_status(*nodes))
    elsewhere = [msgspec.structs.replace(node, host=f"10.0.0.{number}") for number, node in enumerate(nodes, 1)]
    assert "all nodes run on one host" not in shown(make_status(*elsewhere))


def test_an_explanation_shows_its_events_as_lines() -> None:
    event = Event(sequence=7, at="T", monotonic_ms=0, epoch=Epoch(2), kind="paused", message="by the operator")
    told = Explanation(
        diagnosis="PAUSED", reason="r", actions=("nothing to do",), repairs=(), in_flight=(), failures=(), recent=(event,)
    )
    lines = explanation_lines(told)
    assert lines[:3] == ["diagnosis: PAUSED", "reason: r", "actions:"]
    assert lines[-2:] == ["recent:", f"  {event_line(event)}"]
    assert explanation_lines(msgspec.structs.replace(told, recent=()))[-1] == "recent: none"


def test_an_outline_shows_nested_documents() -> None:
    document = {"diagnosis": "HEALTHY", "paused": False, "nodes": [{"name": "n1", "lag": None}, "x"], "none": []}
    assert outline(document) == [
        "diagnosis: HEALTHY",
        "paused: no",
        "nodes:",
        "  - name: n1",
        "    lag: -",
        "  - x",
        "none: none",
    ]


def test_a_proxy_one_of_whose_processes_says_nothing_is_still_the_one_whose_sessions_are_shown() -> None:
    view = SessionView(
        session=1, endpoint="writer", client="127.0.0.1:5", state="relaying", doing="idle", node="n1", user="u", database="d",
        application_name=None, age_s=1.0, to_server_bytes=0, to_client_bytes=0, held_bytes=0,
    )  # fmt: skip
    buffer = io.StringIO()
    seen = Seen(sessions={SessionId("proxy-1", 1): view}, proxies=("proxy-2",), silent=("proxy-1", "proxy-3"))
    Console(file=buffer, width=160).print(sessions_view(seen, "age", 10))
    lines = buffer.getvalue().splitlines()
    assert lines[0].rstrip() == "1 session at proxy-1, proxy-2"
    assert lines[1].startswith("proxy-1 does not tell all its sessions: one of its processes ")
    assert lines[2].startswith("proxy-3 does not tell its sessions: ")
