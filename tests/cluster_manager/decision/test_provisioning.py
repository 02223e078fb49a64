"""What is due about each desired node: every row of the table, and the pauses between tries."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from cluster_manager.decision.leaving import NO_WRITER
from cluster_manager.decision.provisioning import Actual, StepKind, step_of, steps
from cluster_manager.decision.tries import REGISTER_MS, RETRY_MAX_MS, RETRY_MS, Desired, Tries
from cluster_manager.provision.provisioner import Answer, ByOthers, Declined, Gone, Leads, Made, Unheard
from pgtopology.desired_nodes import DesiredNode, Wish
from pgtopology.node import NodeName
from pgtopology.supervision import PlannedNode
from tests.cluster_manager.decision.storyboard import read_view

NOW_MS = 1e6
N4 = NodeName("n4")
COMING = DesiredNode(name=N4, zone="az1")
HERE = DesiredNode(name=N4, zone="az1", registered=True)
LEAVING = DesiredNode(name=N4, zone="az1", wish=Wish.LEAVING, registered=True)

NOWHERE = Actual()
NAMED = Actual(is_configured=True)
MEMBER = Actual(is_configured=True, is_member=True)
MARKED = Actual(is_configured=True, is_member=True, is_marked=True)
UNNAMED = Actual(is_member=True, is_marked=True)

MADE = Made(PlannedNode(name="n4", zone="az1", port=1, noded_port=2))


def after(answer: Answer, age_ms: float = 0.0) -> Tries:
    return Tries().answered(answer, NOW_MS - age_ms)


@pytest.mark.parametrize(
    ("node", "actual", "tries", "kind", "waits_for"),
    [
        # Wanted
        (COMING, NOWHERE, Tries(), StepKind.PROVISION, None),
        (COMING, NOWHERE, Tries().asked(), StepKind.PROVISION, "is asked"),
        (COMING, NOWHERE, after(Declined("a port is taken")), StepKind.PROVISION, "a port is taken"),
        (COMING, NOWHERE, after(Unheard("nobody answers")), StepKind.PROVISION, "nobody answers"),
        (COMING, NOWHERE, after(Declined("a port is taken"), RETRY_MS), StepKind.PROVISION, None),
        (COMING, NOWHERE, after(MADE), StepKind.REGISTER, "to be named in the manager's settings"),
        (COMING, NOWHERE, after(MADE, REGISTER_MS), StepKind.PROVISION, None),
        (COMING, NOWHERE, after(ByOthers("others do")), StepKind.FORGET, None),
        (COMING, NAMED, Tries(), StepKind.SETTLE, None),
        (COMING, MEMBER, after(MADE), StepKind.SETTLE, None),
        (HERE, NOWHERE, Tries(), StepKind.FORGET, None),
        # Leaving
        (LEAVING, MEMBER, Tries(), StepKind.RETIRE, None),
        (LEAVING, replace(MEMBER, has_writer=False), Tries(), StepKind.RETIRE, NO_WRITER),
        (LEAVING, replace(MEMBER, why_stays="it is the writer"), Tries(), StepKind.KEEP, "it is the writer"),
        (LEAVING, NAMED, Tries(), StepKind.RETIRE, "not in the document yet"),
        (LEAVING, MARKED, Tries(), StepKind.DELETE, None),
        (LEAVING, replace(MARKED, why_stays="it is the writer"), Tries(), StepKind.DELETE, None),
        (LEAVING, MARKED, Tries().asked(), StepKind.DELETE, "is asked"),
        (LEAVING, MARKED, after(Leads()), StepKind.DELETE, "is at it"),
        (LEAVING, MARKED, after(Leads(), 1000), StepKind.DELETE, None),
        (LEAVING, MARKED, after(Unheard("nobody answers")), StepKind.DELETE, "nobody answers"),
        (LEAVING, MARKED, after(Gone()), StepKind.DELETE, "is at it"),
        (LEAVING, MARKED, after(ByOthers("others stop it"), 1e9), StepKind.DELETE, "others stop it"),
        (LEAVING, UNNAMED, after(Gone()), StepKind.FORGET, None),
        (LEAVING, NOWHERE, Tries(), StepKind.DELETE, None),
        (LEAVING, NOWHERE, after(Gone()), StepKind.FORGET, None),
        (LEAVING, NOWHERE, after(ByOthers("others stop it")), StepKind.FORGET, None),
    ],
)
def test_each_row_of_the_table(node: DesiredNode, actual: Actual, tries: Tries, kind: StepKind, waits_for: str | None) -> None:
    step = step_of(Desired(node, tries), actual, NOW_MS)
    assert step is not None
    assert (step.kind, step.waits_for is None) == (kind, waits_for is None)
    assert (waits_for or "") in (step.waits_for or "")


@pytest.mark.parametrize("actual", [NAMED, MEMBER, MARKED])
def test_nothing_is_due_about_a_node_that_is_wanted_and_there(actual: Actual) -> None:
    assert step_of(Desired(HERE), actual, NOW_MS) is None


def test_a_failed_try_is_followed_by_others_ever_later_and_never_by_none() -> None:
    tries, now_ms, pauses = Tries(), NOW_MS, list[float]()
    for _ in range(40):
        tries = tries.asked().answered(Declined("no"), now_ms)
        pauses.append(tries.next_at_ms - now_ms)
        now_ms = tries.next_at_ms
    assert pauses[:4] == [RETRY_MS, 2 * RETRY_MS, 4 * RETRY_MS, 8 * RETRY_MS]
    assert pauses == sorted(pauses)
    assert pauses[-1] == RETRY_MAX_MS
    assert tries.failures == 40
    assert tries.answered(MADE, now_ms).failures == 0
    assert tries.at_once() == Tries()


def test_the_record_is_compared_with_settings_and_document() -> None:
    view = read_view("document leaving=n3")
    assert steps(view) == (), "nothing before the record was read"
    assert [(step.node.name, step.kind) for step in steps(replace(view, desired=()))] == [
        (name, StepKind.ADOPT) for name in ("n1", "n2", "n3")
    ]
    assert all(step.node.registered for step in steps(replace(view, desired=())))
    here = tuple(Desired(msgspec.structs.replace(HERE, name=NodeName(name))) for name in ("n1", "n2"))
    n3 = Desired(msgspec.structs.replace(LEAVING, name=NodeName("n3")))
    wanted = steps(replace(view, desired=(*here, n3, Desired(COMING))))
    assert [(step.node.name, step.kind) for step in wanted] == [("n3", StepKind.DELETE), ("n4", StepKind.PROVISION)]


def test_who_may_not_leave_by_the_law_stays() -> None:
    view = read_view("")
    for name, why in (("n1", "is the writer"), ("n2", "fewer than 3")):
        (step,) = (
            step
            for step in steps(replace(view, desired=(Desired(msgspec.structs.replace(LEAVING, name=NodeName(name))),)))
            if step.node.name == name
        )
        assert step.kind is StepKind.KEEP
        assert why in str(step.waits_for)
