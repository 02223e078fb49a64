"""Plays every rehearsal: the lines above "----" make a view and say who is lost, those below are what the drill must tell.

    lose n3                                       (nobody said: the writer)
    told n2 [prepared=2] [paused] [blocked] [restore] [slots=none] [lost-slots=n3_3333] [session=60000]

`UPDATE_SCENARIOS=1 pytest tests/cluster_manager/decision` writes the outcome of each into its file, to be read and committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster_manager.decision.drill import obstacle, rehearse
from cluster_manager.decision.view import View, slots_of
from pgtopology.drill import Drill, LongSession, Readiness
from pgtopology.flight import Measured, PhaseTimes
from pgtopology.node import NodeName
from tests.cluster_manager.decision.storyboard import read_view

FOLDER = Path(__file__).with_name("drills")
DRILLS = sorted(FOLDER.glob("*.txt"))
MEASURED = Measured(count=3, p50_ms=150.0, worst_ms=400.0, phases=(PhaseTimes(name="detect", p50_ms=40.0, worst_ms=210.0),))


def _told(view: View, words: list[str]) -> Readiness:
    options = {key: value for key, _, value in (word.partition("=") for word in words[1:])}
    session = LongSession(
        pid=77, user="app", application="report", state="active", age_ms=int(options.get("session", 0)), holds_snapshot=True
    )
    assert view.document is not None
    return Readiness(
        node=NodeName(words[0]),
        long_sessions=(session,) if "session" in options else (),
        prepared_transactions=int(options.get("prepared", 0)),
        replay_paused="paused" in options,
        replay_blocked="blocked" in options,
        restore_command="restore" in options,
        slots=() if options.get("slots") == "none" else slots_of(view.document),
        lost_slots=tuple(filter(None, options.get("lost-slots", "").split(","))),
    )


def _tell(drill: Drill) -> str:
    lines = [f"{'possible' if drill.possible else 'impossible'}: {drill.verdict}"]
    lines += [f"vote {vote.node}: {'yes' if vote.counts else 'no'}, {vote.why}" for vote in drill.votes]
    if drill.recruited:
        lines.append(f"asked: {', '.join(drill.recruited)}")
    if drill.winner is not None:
        lines.append(f"wins: {drill.winner}")
        lines += [f"passed over {name}: {why}" for name, why in drill.passed_over.items()]
    if drill.expected is not None:
        lines.append(f"expected: {drill.expected.p50_ms:g} ms")
    lines.append(f"survives another: {'yes' if drill.survives_another else 'no'}")
    lines += [f"in the way: {text}" for text in drill.in_the_way]
    for node in drill.nodes:
        what = "; ".join((*node.obstacles, *(f"note: {note}" for note in node.notes))) or "nothing"
        lines.append(f"{node.node} {'ready' if node.ready else 'not ready'}: {what}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", DRILLS, ids=lambda path: path.stem)
def test_drill(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    story, _, expected = text.partition("----\n")
    own = [line.split() for line in story.splitlines() if line.startswith(("lose ", "told "))]
    view = read_view("\n".join(line for line in story.splitlines() if not line.startswith(("lose ", "told "))))
    lose = next((words[1] for words in own if words[0] == "lose"), None)
    why_not = obstacle(view, lose)
    if why_not is not None:
        told = f"refused: {why_not}\n"
    else:
        readiness = {node.name: _told(view, [node.name]) for node in view.nodes}
        readiness |= {NodeName(words[1]): _told(view, words[1:]) for words in own if words[0] == "told"}
        told = _tell(rehearse(view, lose, readiness, MEASURED))
    if os.environ.get("UPDATE_SCENARIOS"):
        path.write_text(f"{story}----\n{told}", encoding="utf-8")
    else:
        assert told == expected


def test_a_node_that_does_not_tell_is_named() -> None:
    drill = rehearse(read_view(""), None, {}, None)
    assert all("its noded does not tell what sessions and slots it has" in node.notes for node in drill.nodes)
    assert drill.expected is None
