"""Plays every scenario file: the lines above "----" make a view, the lines below are the plan that must come out.

`UPDATE_SCENARIOS=1 pytest tests/cluster_manager/decision` writes the outcome of each into its file, to be read and committed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cluster_manager.decision.actions import WriteDocument
from cluster_manager.decision.beside import MEMBERS_CHANGED
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.plan import decide
from cluster_manager.decision.refusal import hindrance, refusal
from cluster_manager.decision.view import slots_of
from pgtopology.succession import may_follow
from tests.cluster_manager.decision.storyboard import read_view, tell_members, tell_plan

FOLDER = Path(__file__).with_name("scenarios")
SCENARIOS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    story, _, expected = text.partition("----\n")
    view = read_view(story)
    plan = decide(view)
    told = ""
    if len(plan.actions) == 1 and isinstance(write := plan.actions[0], WriteDocument) and write.because == MEMBERS_CHANGED:
        # What is only written down about members is told in short; the scenario is about what is decided afterwards.
        told = tell_members(view, write.document)
        view = replace(view, document=write.document, slots_in_force=frozenset(slots_of(write.document)))
        plan = decide(view)
    told += tell_plan(view, plan)
    if view.request is not None and (why_not := refusal(view, view.request)) is not None:
        told = f"refused: {why_not}\n{told}"
    elif view.request is not None and (why_not := hindrance(view, view.request)) is not None:
        told = f"given up if this lasts: {why_not}\n{told}"
    for action in plan.actions:
        if isinstance(action, WriteDocument) and view.document is not None:
            assert may_follow(view.document, action.document) is None
            assert len(plan.actions) == 1
    if os.environ.get("UPDATE_SCENARIOS"):
        path.write_text(f"{story}----\n{told}", encoding="utf-8")
    else:
        assert told == expected


def test_deciding_is_deterministic() -> None:
    for path in SCENARIOS:
        story = path.read_text(encoding="utf-8").partition("----\n")[0]
        assert decide(read_view(story)) == decide(read_view(story))


def test_every_diagnosis_has_a_scenario() -> None:
    outcomes = [path.read_text(encoding="utf-8").partition("----\n")[2] for path in SCENARIOS]
    told = {line.partition(":")[0] for outcome in outcomes for line in outcome.splitlines()}
    assert {str(diagnosis) for diagnosis in Diagnosis} <= told
