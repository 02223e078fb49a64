"""Records and rehearsals as people read them, the verification's report, and what the shell completes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console, RenderableType

from endpointctl.drillview import drill_view
from endpointctl.flightstory import flight_view, story_lines
from endpointctl.main import main
from endpointctl.rehearsing import report_lines
from endpointctl.verifying.checker import check
from endpointctl.verifying.history import History, Write
from pgtopology.drill import CandidateReadiness, Drill
from pgtopology.epoch import Epoch, Revision
from pgtopology.flight import Election, Flight, Measured, Narrator, OrderTold, PlanChange, VoteTold, WriteTold, phases_of
from pgtopology.node import NodeName
from pgwire.outcome import Outcome

N1, N2, N3 = NodeName("n1"), NodeName("n2"), NodeName("n3")
MARKS = {"good": -40.0, "detected": 0.0, "published": 4.0, "recruited": 20.0, "opened": 160.0}
FLIGHT = Flight(
    epoch=Epoch(5),
    last_epoch=Epoch(5),
    kind="failover",
    cause="PRIMARY_FAILED",
    reason='on "n1" PostgreSQL ended unexpectedly',
    from_node=N1,
    writer=N2,
    detected_at="2026-01-01T00:00:00.000Z",
    detected_monotonic_ms=1.0,
    ended=True,
    outage_ms=200.0,
    since_detection_ms=160.0,
    rejoined_ms=2500.0,
    phases=phases_of(MARKS),
    marks=MARKS,
    managers=(Narrator(manager="a:1", boot="b", at_ms=0.0, note="detected it"),),
    plans=(PlanChange(at_ms=0.0, diagnosis="PRIMARY_FAILED", reason="it ended", actions=("write revision 21",)),),
    elections=(
        Election(
            at_ms=30.0,
            epoch=Epoch(5),
            n=3,
            w=2,
            needed=2,
            counted=2,
            votes=(
                VoteTold(node=N1, counts=False, why="has not promised"),
                VoteTold(node=N2, counts=True, why="whole"),
                VoteTold(node=N3, counts=True, why="whole"),
            ),
            elected=N2,
            because="its WAL reaches furthest",
            passed_over={"n1": "has not promised", "n3": "its WAL ends 256 bytes earlier"},
        ),
    ),
    orders=(
        OrderTold(at_ms=5.0, answered_ms=15.0, order="promise", node=N2, epoch=Epoch(5), revision=Revision(21), outcome="done"),
        OrderTold(at_ms=5.0, order="promise", node=N1, epoch=Epoch(5), revision=Revision(21)),
    ),
    writes=(
        WriteTold(
            at_ms=1.0, took_ms=3.0, revision=Revision(21), epoch=Epoch(5), writer=None, candidate=None, because="it ended"
        ),
    ),
)


def said(view: RenderableType) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_a_record_reads_as_a_story_with_a_phase_table() -> None:
    text = said(flight_view(FLIGHT))
    assert "failover of epoch 5: n1 -> n2" in text
    assert "outage 200.0 ms" in text
    assert "160.0 ms of it since the detection" in text
    assert "a safe set is 3 - 2 + 1 = 2; 2 counted" in text
    assert "passed over: its WAL ends 256 bytes earlier" in text
    detect = next(line for line in text.splitlines() if line.startswith("detect"))
    assert "40.0" in detect


def test_the_story_is_told_in_order() -> None:
    lines = story_lines(FLIGHT)
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times)
    assert lines[0].endswith('"n1" was last known to be well')
    assert any("promise to n2: done after 10.0 ms" in line for line in lines)
    assert any("promise to n1: not answered" in line for line in lines)


def test_a_record_that_has_not_ended_says_so() -> None:
    half = msgspec.structs.replace(FLIGHT, ended=False, writer=None, outage_ms=None, phases=(), rejoined_ms=None)
    text = said(flight_view(half))
    assert "n1 -> nobody yet" in text
    assert "it has not ended" in text
    assert "outage" not in text


def drill(*, possible: bool) -> Drill:
    return Drill(
        lose=N1,
        is_writer=True,
        possible=possible,
        verdict='"n2" would become the writer' if possible else "no failover would be possible",
        epoch=Epoch(6),
        n=3,
        w=2,
        needed=2,
        promisable=2 if possible else 1,
        votes=(VoteTold(node=N2, counts=True, why="whole"),),
        recruited=(N2, N3),
        winner=N2 if possible else None,
        because="",
        passed_over={"n3": "equal"},
        survives_another=False,
        expected=Measured(count=2, p50_ms=150.0, worst_ms=400.0, phases=()),
        in_the_way=("automatic failover is paused",),
        nodes=(
            CandidateReadiness(
                node=N2, zone="az2", counts=True, wal_end="0/1", replay_bytes=0, ready=False, obstacles=("is full",), notes=()
            ),
        ),
    )


def test_a_rehearsal_reads_with_what_stands_in_the_way() -> None:
    text = said(drill_view(drill(possible=True)))
    assert "nothing was done" in text
    assert "n3 would be passed over: equal" in text
    assert "150 ms, at worst 400 ms" in text
    assert "in the way: automatic failover is paused" in text
    assert "is full" in text


def test_the_verdict_of_a_verification_is_its_first_line() -> None:
    write = Write(client=0, n=1, sent_s=0.0, done_s=1.0, outcome=Outcome.COMMITTED)
    kept = report_lines(check(History(writes=[write], lists={0: [1]}, registers={0: 1})))
    assert kept[0].startswith("kept its word: 1 writes acknowledged, 0 lost")
    broken = report_lines(check(History(writes=[write], lists={0: []}, registers={0: 0})))
    assert broken[0].startswith("BROKE ITS WORD")
    assert any(line.startswith("VIOLATION  lost:") for line in broken)


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--switchover", "--failover"),
        ("verify", "--failover", "--api", "http://127.0.0.1:1"),
        ("verify", "--api", "http://127.0.0.1:1"),
        ("verify", "--writer-dsn", "postgresql://x"),
        ("verify", "--seconds", "0"),
        ("explain", "5"),
        ("explain", "--failover", "0"),
    ],
)
def test_wrong_usage_is_code_2_and_one_line(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("endpointctl drill --lose n", {"n1", "n2"}),
        ("endpointctl node stop ", {"n1", "n2"}),
        ("endpointctl failover --to n2", {"n2"}),
        ("endpointctl dsn w", {"writer"}),
        ("endpointctl psql w", {"writer"}),
        ("endpointctl psql -U app w", {"writer"}),
        ("endpointctl logs e", {"endpointd"}),
        ("endpointctl wait --state heal", {"healthy"}),
    ],
)
def test_the_shell_completes_names(tmp_path: Path, line: str, offered: set[str]) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps({"nodes": [{"name": "n1"}, {"name": "n2"}]}))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "endpointd.log").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "from endpointctl.main import app; app(prog_name='endpointctl')"],
        env={
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
            "_ENDPOINTCTL_COMPLETE": "complete_bash",
            "ENDPOINTD_DATA_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert set(done.stdout.split()) == offered, done.stderr
