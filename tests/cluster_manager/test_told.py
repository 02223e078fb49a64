"""What the manager tells operators beside its status: the writers of the past, and what a switchover would do."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from cluster_manager.decision.actions import AskPromise, WriteDocument
from cluster_manager.decision.plan import decide
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.operations.handover import rehearse_switchover
from cluster_manager.record.past_writers import past_writers
from pgtopology.drill import LongSession, Readiness
from pgtopology.event import Event
from pgtopology.node import NodeName
from tests.cluster_manager.decision.storyboard import read_view
from tests.cluster_manager.decision.storycluster import NOW_MS

SWITCHOVER = Request(kind=RequestKind.SWITCHOVER, to=None)


def opened(epoch: int, kind: str, took_ms: int | None, **fields: object) -> Event:
    return Event(sequence=epoch, at="T", monotonic_ms=0, epoch=epoch, kind=kind, elapsed_ms=took_ms, message="m", fields=fields)


def test_a_first_writer_has_no_outage_and_a_forgotten_one_no_cause() -> None:
    document = read_view("").document
    assert document is not None
    claimed = document.timelines[-1]
    (forgotten,) = past_writers(document, ())[-1:]
    assert (forgotten.epoch, forgotten.node, forgotten.cause, forgotten.at) == (claimed.epoch, claimed.node, None, None)
    (first,) = past_writers(document, [opened(claimed.epoch, "bootstrap.opened", 900)])[-1:]
    assert first.outage_ms is None
    fields = {"transition": "failover", "cause": "PRIMARY_FAILED"}
    failover = opened(claimed.epoch, "failover.opened", 300, **fields, outage_ms=450, outage_kind="failover")
    (told,) = past_writers(document, [failover])[-1:]
    assert (told.outage_ms, told.since_detection_ms) == (450, 300)
    assert (told.kind, told.outage_kind, told.cause) == ("failover", "failover", "PRIMARY_FAILED")
    (old,) = past_writers(document, [opened(claimed.epoch, "failover.opened", 300, **fields)])[-1:]
    assert (old.outage_ms, old.since_detection_ms) == (None, 300), "an event of an earlier version did not tell it"
    assert past_writers(None, [failover]) == ()
    judged = opened(claimed.epoch, "failover.judged", None, outage_kind="planned_stop", outage_ms=9000)
    (late,) = past_writers(document, [failover, judged])[-1:]
    assert (late.outage_kind, late.outage_ms, late.since_detection_ms) == ("planned_stop", 9000, 300)


def test_a_switchover_is_measured_by_switchovers_and_else_by_failovers() -> None:
    view = read_view("")
    failovers = [opened(epoch, "failover.opened", 100 * epoch, transition="failover") for epoch in (2, 3, 4)]
    assert rehearse_switchover(view, SWITCHOVER, []).expected_ms is None
    assert rehearse_switchover(view, SWITCHOVER, failovers).expected_ms == 300
    planned = opened(5, "failover.opened", 50, transition="switchover")
    assert rehearse_switchover(view, SWITCHOVER, [*failovers, planned]).expected_ms == 50


def test_a_switchover_names_heir_and_obstacle() -> None:
    view = read_view("")
    told = rehearse_switchover(view, SWITCHOVER, [])
    assert told.possible
    assert (told.from_node, told.obstacle) == ("n1", None)
    assert told.to in ("n2", "n3")
    refused = rehearse_switchover(view, Request(kind=RequestKind.SWITCHOVER, to=NodeName("n9")), [])
    assert not refused.possible
    assert "n9" in str(refused.obstacle)
    already = rehearse_switchover(view, Request(kind=RequestKind.SWITCHOVER, to=NodeName("n1")), [])
    assert (already.possible, already.steps) == (False, ())
    assert already.obstacle == '"n1" is the writer already'


def test_a_switchover_names_whom_it_would_end_and_bounds_the_pause() -> None:
    view = read_view("")
    past = [opened(5, "failover.opened", 176, transition="switchover")]
    busy = LongSession(pid=7, user="u", application="a", state="active", age_ms=10, holds_snapshot=True)
    calm = Readiness(node=NodeName("n1"), client_sessions=3, open_count=0)
    told = rehearse_switchover(view, SWITCHOVER, past, calm)
    assert (told.expected_ms, told.client_sessions, told.open_count, told.drain_ms) == (176, 3, 0, 2000)
    told = rehearse_switchover(view, SWITCHOVER, past, msgspec.structs.replace(calm, open_sessions=(busy,), open_count=1))
    assert (told.expected_ms, told.open_sessions) == (2176, (busy,)), "a pause that has to wait is no quick one"
    assert told.archiver is None
    behind = msgspec.structs.replace(calm, archive_files=3, archive_ms=42_000)
    assert "3 files of WAL wait, the oldest for 42 s" in str(rehearse_switchover(view, SWITCHOVER, past, behind).archiver)
    patient = replace(SWITCHOVER, drain_ms=10_000)
    longer = rehearse_switchover(view, patient, past, calm)
    assert (longer.drain_ms, longer.bound_ms) == (10_000, (told.bound_ms or 0) + 8000)
    assert any("10 s" in step for step in longer.steps)
    assert rehearse_switchover(view, SWITCHOVER, past).open_count is None, "who does not say has not said none"


def test_a_slot_that_nobody_has_told_of_yet_is_waited_for() -> None:
    view = read_view("")
    fresh = Readiness(node=NodeName("n1"), new_slots=("s",))
    told = rehearse_switchover(view, SWITCHOVER, [], fresh)
    assert not told.possible
    assert told.slots_awaited
    assert 'slot "s" was made a moment ago' in str(told.obstacle)
    assert "--allow-slot-loss" in str(told.obstacle)
    allowed = rehearse_switchover(view, replace(SWITCHOVER, allow_slot_loss=True), [], fresh)
    assert (allowed.possible, allowed.slots_awaited) == (True, ())


def test_sessions_may_finish_for_as_long_as_the_operator_says() -> None:
    view = replace(read_view(""), request=replace(SWITCHOVER, drain_ms=10_000), checkpointed_at_ms=NOW_MS)
    (begun,) = decide(view).actions
    assert isinstance(begun, WriteDocument)
    assert begun.document.transition is not None
    assert begun.document.transition.drain_ms == 10_000
    epoch = begun.document.epoch

    def asks(after_ms: float) -> bool:
        later = replace(
            view,
            document=begun.document,
            request=None,
            epoch_is_ours=True,
            epoch_began_at_ms=NOW_MS,
            now_ms=NOW_MS + after_ms,
            proxies_settled=False,
        )
        return any(isinstance(action, AskPromise) and action.node == "n1" for action in decide(later).actions)

    assert epoch > (view.document.epoch if view.document is not None else 0)
    assert [asks(after_ms) for after_ms in (0, 2500, 9900, 10_100)] == [False, False, False, True]
