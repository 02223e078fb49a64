"""`decide` has an answer to everything: random mixtures of all scenarios' lines never raise and never break succession."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_manager.decision.actions import WriteDocument
from cluster_manager.decision.plan import decide
from cluster_manager.decision.view import View
from pgtopology.succession import inconsistency, may_follow
from tests.cluster_manager.decision.storyboard import read_view

STORIES = [
    path.read_text(encoding="utf-8").partition("----\n")[0] for path in Path(__file__).with_name("scenarios").glob("*.txt")
]
LINES = sorted({line for story in STORIES for line in story.splitlines() if line and not line.startswith("#")})
SETTINGS_LINES = sorted(line for line in LINES if line.split()[0] in ("document", "transition", "manager"))
FACT_LINES = sorted(set(LINES) - set(SETTINGS_LINES))


@st.composite
def views(draw: st.DrawFn) -> View:
    """Draw a view out of lines that each make sense, together whatever they make."""
    begun = draw(st.lists(st.sampled_from(SETTINGS_LINES), max_size=2, unique_by=lambda line: line.split()[0]))
    facts = draw(st.lists(st.sampled_from(FACT_LINES), max_size=6))
    begun.sort(key=lambda line: "empty-store" in line)
    facts.sort(key=lambda line: "unheard" in line)  # after it there is nothing left to change about a node
    if any("empty-store" in line for line in begun):
        facts = [line for line in facts if line.split()[0] in ("node", "request", "in-force")]
    view = read_view("\n".join([*(line for line in begun if "empty-store" not in line), *facts]))
    return read_view("\n".join([*begun, *facts])) if any("empty-store" in line for line in begun) else view


@given(views())
@settings(max_examples=400, deadline=None)
def test_every_view_has_a_lawful_plan(view: View) -> None:
    plan = decide(view)
    writes = [action for action in plan.actions if isinstance(action, WriteDocument)]
    assert plan.reason
    assert plan.wake_at_ms > view.now_ms
    assert len(writes) <= 1
    assert not writes or len(plan.actions) == 1
    if writes and view.document is not None and inconsistency(view.document) is None:
        assert may_follow(view.document, writes[0].document) is None
    assert decide(view) == plan
