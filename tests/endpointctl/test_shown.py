"""Every view at every width: no word is lost, and no text of others does anything but be read."""

from __future__ import annotations

import ast
import enum
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from rich.text import Text

import endpointctl
from endpointctl.chronicle import event_line, explanation_lines, history_view
from endpointctl.configuring import view_lines
from endpointctl.drillview import drill_view
from endpointctl.flightstory import flight_view, story_lines
from endpointctl.listing import Fitted
from endpointctl.output import console as our_console
from endpointctl.rehearsing import report_lines
from endpointctl.render import progress_phrases, status_view
from endpointctl.verifying.checker import Report
from pgtopology.configuration import ConfigView, NodeConfig
from pgtopology.epoch import Epoch
from pgtopology.event import Event
from pgtopology.explanation import Explanation
from pgtopology.flight import NodeSnapshot, Snapshot
from pgtopology.history import PastWriter
from pgtopology.node import NodeName, NodeState
from pgtopology.status import ProxyStatus, Status
from pgtopology.timeline import Timeline
from tests.endpointctl.test_rehearsing import FLIGHT, drill
from tests.endpointctl.test_render import make_node, make_status

WIDTHS = (30, 60, 80, 120)
HEADS = ("node", "zone", "role", "state", "heard", "phase", "ms", "writer", "since")
"""Titles that say nothing which the first line of a block does not."""
PROBLEM = "PostgreSQL has ended unexpectedly: could not open file base/5/1259, and this is a long story that no line holds"


def status(nodes: int = 3) -> Status:
    members = [
        msgspec.structs.replace(
            make_node(f"n{number}", NodeState.STREAMING if number > 1 else NodeState.RUNNING),
            port=6409 + number,
            problem=PROBLEM if number == 2 else None,
            pending_restart=True,
        )
        for number in range(1, nodes + 1)
    ]
    proxy = ProxyStatus(name="proxy-1", epoch=Epoch(3), sessions=12, engine="asyncio", relaxed_sessions=1)
    shown = make_status(*members, at_risk="n2 cannot promise", paused=True, proxies=(proxy,))
    return msgspec.structs.replace(shown, relaxations=("role app",), reason="a reason of many words " * 5)


PAST = PastWriter(
    timeline=7,
    parent=6,
    fork_lsn="0/5000148",
    epoch=9,
    node="n2",
    opened=False,
    kind="failover",
    cause="PRIMARY_FAILED",
    outage_ms=251,
    at="2026-11-29T10:00:00.000Z",
)
EVENT = Event(sequence=7, at="T", monotonic_ms=0, epoch=2, kind="paused", node="n1", message="m", fields={"by": "x"})
EXPLANATION = Explanation(
    diagnosis="PAUSED",
    reason="r",
    actions=("nothing to do",),
    repairs=({"node": "n1", "reason": "x"},),
    in_flight=("promise n1",),
    failures=({"order": "promise", "message": "no"},),
    recent=(EVENT,),
)
SEEN = NodeSnapshot(
    node=NodeName("n1"),
    age_ms=12.0,
    role="primary",
    postmaster="running",
    timeline=Timeline(3),
    wal_end="0/3000148",
    receiver_running=True,
    upstream=NodeName("n2"),
    heartbeat_error="canceling statement",
    port="refused",
)
FLIGHT_SEEN = msgspec.structs.replace(FLIGHT, snapshots=(Snapshot(at_ms=0.0, step="detected", nodes=(SEEN,)),))
CONFIG = ConfigView(
    version=3,
    parameters={"work_mem": "64MB"},
    hba=("host all all all reject",),
    relaxed_commits=False,
    nodes=(NodeConfig(name=NodeName("n1"), version=None, loaded=False, in_force=False, restart_for=("max_connections",)),),
)
REPORT = Report(
    ok=False,
    acknowledged=1,
    in_doubt=0,
    in_doubt_kept=0,
    refused=0,
    lost=1,
    reads_checked=0,
    reads_through_reader=0,
    rto_ms=None,
    errors={"57P01": 3},
    violations=("lost: write 1",),
)


def printed(view: RenderableType, width: int, *, terminal: bool = True) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=terminal)
    console.print(view)
    return out.getvalue()


def lines_view(lines: Callable[[Any], list[str]]) -> Callable[[Any], str]:
    return lambda value: "\n".join(lines(value))


VIEWS: dict[str, tuple[Any, Callable[[Any], RenderableType]]] = {
    "status": (status(), status_view),
    "progress": (status(), lines_view(lambda value: list(progress_phrases(value).values()))),
    "history": (PAST, lambda one: history_view([one])),
    "event": (EVENT, event_line),
    "explanation": (EXPLANATION, lines_view(explanation_lines)),
    "flight": (FLIGHT_SEEN, flight_view),
    "story": (FLIGHT_SEEN, lines_view(story_lines)),
    "drill": (drill(possible=True), drill_view),
    "settings": (CONFIG, lines_view(view_lines)),
    "verdict": (REPORT, lines_view(report_lines)),
}


def spoiled(value: Any, text: str) -> Any:
    """Return *value* with *text* in every string of it."""
    match value:
        case enum.Enum():
            return value
        case str():
            return f"{value}{text}"
        case msgspec.Struct():
            return msgspec.structs.replace(
                value, **{name: spoiled(getattr(value, name), text) for name in value.__struct_fields__ if name != "marks"}
            )
        case dict():
            return {spoiled(key, text): spoiled(one, text) for key, one in value.items()}
        case tuple() | list():
            return type(value)(spoiled(one, text) for one in value)
        case _:
            return value


@pytest.mark.parametrize("name", VIEWS)
@given(
    text=st.sampled_from(["\x1b[2J\x1b[31m", "\ncluster local  healthy", "\u202e", "\x9b2J", "[/x]", "[red]", ":skull:", "\r"])
    | st.text(st.characters(codec=None, exclude_categories=())),
    width=st.sampled_from(WIDTHS),
)
@settings(max_examples=60, deadline=None)
def test_a_hostile_text_is_only_read(name: str, text: str, width: int) -> None:
    value, view = VIEWS[name]
    shown = view(spoiled(value, text))
    lines = printed(Text(shown) if isinstance(shown, str) else shown, width, terminal=False).split("\n")
    assert all(line.isprintable() for line in lines)
    if isinstance(shown, str):
        assert len(shown.split("\n")) == len(str(view(value)).split("\n"))
    if text in ("[/x]", "[red]", ":skull:"):
        assert text in "".join(line.strip() for line in lines)


def test_a_forged_line_is_none() -> None:
    forged = msgspec.structs.replace(status(), relaxations=("role app\ncluster local  healthy",))
    lines = printed(status_view(forged), 200).splitlines()
    assert [line for line in lines if line.startswith("cluster ")] == [lines[0]]


@pytest.mark.parametrize("width", WIDTHS)
def test_status_keeps_every_word_at_every_width(width: int) -> None:
    seen = status()
    text = printed(status_view(seen), width)
    assert all(len(line) <= width for line in text.splitlines())
    words = " ".join(text.split())
    for node in seen.nodes:
        assert f"{node.host}:{node.port}" in words
        assert str(node.lsn) in words
    for expected in (PROBLEM, "restart needed", seen.reason.strip(), ":6432", ":6433", "12 sessions", "312 ms"):
        assert expected in words


@pytest.mark.parametrize("width", WIDTHS)
def test_history_keeps_every_word_at_every_width(width: int) -> None:
    words = " ".join(printed(history_view([PAST]), width).split())
    for expected in ("9", "7", "6", "0/5000148", "n2 (never opened)", PAST.at, "failover", "PRIMARY_FAILED", "251 ms"):
        assert str(expected) in words


@pytest.mark.parametrize("name", ["flight", "drill", "status", "history"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_narrow_window_shows_what_a_wide_one_does(name: str, width: int) -> None:
    value, view = VIEWS[name]
    wide = printed(view(value), 400).split()
    narrow = "".join(printed(view(value), width).split())
    missing = [word for word in wide if word not in narrow and "█" not in word and word not in HEADS]
    assert missing == []


def test_a_pipe_gets_whole_lines() -> None:
    out = io.StringIO()
    our_console(out).print(status_view(msgspec.structs.replace(status(), reason="word " * 2000)))
    assert "word " * 1999 in out.getvalue()


def test_a_low_window_says_how_much_is_missing() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=12, color_system=None, force_terminal=True)
    with console.screen(hide_cursor=False) as screen:
        out.truncate(0)
        out.seek(0)
        screen.update(Fitted(status_view(status(nodes=9)), "see status"))
    shown = [line.rstrip() for line in out.getvalue().replace("\x1b[H", "").split("\n")]
    whole = printed(status_view(status(nodes=9)), 80).splitlines()
    [said] = [line for line in shown if line.startswith("... ")]
    kept = shown[: shown.index(said)]
    assert [line.strip() for line in kept] == [line.strip() for line in whole[: len(kept)]]
    assert f"... {len(whole) - len(kept)} more lines; see status" in said


def test_everything_is_printed_in_one_place() -> None:
    found: list[str] = []
    root = Path(endpointctl.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name in ("print", "typer.echo", "typer.secho", "Console", "sys.stdout.write", "sys.stderr.write"):
                found.append(f"{path.relative_to(root)}:{name}")
    assert sorted(set(found)) == ["output.py:Console", "output.py:typer.echo"]
