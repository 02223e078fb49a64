"""Flight records: what is gathered, how it adds up, what a manager that dies leaves, and where the files go."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from cluster_manager.decision.actions import AskPromise, WriteDocument
from cluster_manager.decision.plan import decide
from cluster_manager.decision.view import View
from cluster_manager.record.flight_entries import ENTRIES_MAX
from cluster_manager.record.flight_files import FLIGHTS_KEPT, FlightFiles, FlightWriter
from cluster_manager.record.flight_recorder import JUDGED_MS, FlightRecorder
from pgtopology.document import Topology
from pgtopology.epoch import Epoch
from pgtopology.flight import Flight, measure, phases_of
from pgtopology.node import NodeName
from tests.cluster_manager.decision.storyboard import read_view
from tests.cluster_manager.decision.storycluster import NOW_MS

HEALTHY = ""
CRASHED = "node n1 crashed=-9"


def at(view: View, now_ms: float) -> View:
    return replace(view, now_ms=NOW_MS + now_ms)


class Story:
    """Plays one failover into a recorder, as the reconciler and the chronicle do."""

    def __init__(self, recorder: FlightRecorder) -> None:
        self.recorder = recorder

    def seen(self, view: View) -> View:
        """Return what the recorder is shown of *view*."""
        return view

    def look(self, view: View) -> Topology | None:
        """One turn of the loop; return what it wants written."""
        plan = decide(view)
        self.recorder.planned(self.seen(view), plan)
        self.recorder.observed(self.seen(view))
        write = next((action for action in plan.actions if isinstance(action, WriteDocument)), None)
        return write.document if write is not None else None

    def write(self, view: View, new: Topology, done_ms: float) -> None:
        self.recorder.written(view.document, new, self.seen(view), "because", view.now_ms, NOW_MS + done_ms)

    def until_published(self) -> Topology:
        self.look(at(read_view(HEALTHY), 0))
        crashed = at(read_view(CRASHED), 100)
        new = self.look(crashed)
        assert new is not None
        self.write(crashed, new, 104)
        return new

    def until_claimed(self) -> Topology:
        published = self.until_published()
        story = "transition failover recruiting from=n1\nnode n1 crashed=-9\nmanager began=100\n"
        view = at(read_view(story + "promise n2 at=110 wal=0/5000100\npromise n3 at=115"), 150)
        number = self.recorder.sent(AskPromise(NodeName("n2")), published, NOW_MS + 105)
        self.recorder.answered(number, "done", "", NOW_MS + 110)
        new = self.look(view)
        assert new is not None
        assert new.candidate is not None
        self.write(view, new, 153)
        return new

    def until_opened(self) -> Topology:
        claimed = self.until_claimed()
        promoted = "node n2 primary-of=5 timeline=6 age=2 heartbeat=5@0/5000200 senders=n3@0/5000200\n"
        story = f"transition failover promoting from=n1\ncandidate n2 timeline=6\nnode n1 crashed=-9\n{promoted}"
        view = at(read_view(story), 200)
        self.recorder.observed(self.seen(view))
        opened = msgspec.structs.replace(claimed, writer=NodeName("n2"), transition=None, revision=claimed.revision + 1)
        self.write(view, opened, 206)
        return opened


def make(**more: Flight | str | None) -> FlightRecorder:
    return FlightRecorder(**{"manager": "host:1", "boot": "b1", "before": None, **more})  # pyright: ignore[reportArgumentType]


def recorded(story: Story) -> Flight:
    flight = story.recorder.flight
    assert flight is not None
    return flight


def test_the_phases_of_a_failover_add_up_to_its_outage() -> None:
    story = Story(make())
    story.until_opened()
    flight = recorded(story)
    assert (flight.kind, flight.cause, flight.from_node, flight.writer) == ("failover", "PRIMARY_FAILED", "n1", "n2")
    assert flight.ended
    # The writer's last word came 50 ms before the first look, and its last commit 100 ms before that; all is accounted for.
    assert flight.outage_ms == pytest.approx(206 + 150)
    assert sum(phase.ms for phase in flight.phases) == pytest.approx(flight.outage_ms)
    times = {phase.name: phase.ms for phase in flight.phases}
    assert times == pytest.approx(
        {
            "detect": 250,
            "publish": 4,
            "recruit": 11,
            "elect": 35,
            "claim": 3,
            "promote": 45,
            "first quorum commit": 2,
            "publish writer": 6,
        }
    )
    assert flight.since_detection_ms == pytest.approx(106)


def test_the_election_is_told_with_its_arithmetic() -> None:
    story = Story(make())
    story.until_claimed()
    (election,) = recorded(story).elections
    assert (election.n, election.w, election.needed, election.counted, election.elected) == (3, 2, 2, 2, "n2")
    assert [(vote.node, vote.counts) for vote in election.votes] == [("n1", False), ("n2", True), ("n3", True)]
    assert "has not promised" in election.votes[0].why
    assert "256 bytes earlier" in election.passed_over["n3"]


def test_orders_promises_writes_and_observations_are_told_with_their_times() -> None:
    story = Story(make())
    story.until_opened()
    flight = recorded(story)
    (order,) = flight.orders
    assert (order.order, order.node, order.at_ms, order.answered_ms, order.outcome) == ("promise", "n2", 5, 10, "done")
    assert [(promise.node, promise.at_ms, promise.lsn) for promise in flight.promises] == [
        ("n2", 10, "0/5000100"),
        ("n3", 15, "0/5000000"),
    ]
    assert [(write.epoch, write.writer, write.candidate, write.took_ms) for write in flight.writes] == [
        (5, None, None, 4),
        (5, None, "n2", 3),
        (5, "n2", "n2", 6),
    ]
    assert [snapshot.step for snapshot in flight.snapshots] == ["detected", "published", "elected", "promoted", "opened"]
    crashed = flight.snapshots[0].nodes[0]
    assert (crashed.node, crashed.postmaster, crashed.unexpected_exit) == ("n1", "stopped", True)
    assert [change.diagnosis for change in flight.plans][-2:] == ["PRIMARY_FAILED", "TRANSITION_IN_FLIGHT"]


def test_the_record_ends_when_the_old_primary_follows() -> None:
    story = Story(make())
    opened = story.until_opened()
    view = at(read_view("node n1 fenced=5\nnode n1 follows=n2/5\nnode n2 primary-of=5"), 900)
    assert recorded(story).rejoined_ms is None
    story.recorder.observed(replace(view, document=opened))
    assert recorded(story).rejoined_ms == 800
    number = story.recorder.sent(AskPromise(NodeName("n2")), opened, NOW_MS + 1000)
    assert number == 0, "nothing is recorded any more"


def test_another_attempt_is_a_phase_of_the_same_failure() -> None:
    story = Story(make())
    claimed = story.until_claimed()
    view = at(read_view("transition failover promoting from=n1\ncandidate n2 timeline=6"), 400)
    again = msgspec.structs.replace(claimed, epoch=Epoch(6), candidate=None, revision=claimed.revision + 1)
    story.write(view, again, 410)
    flight = recorded(story)
    assert (flight.epoch, flight.last_epoch) == (5, 6)
    assert "claimed" not in flight.marks
    opened = msgspec.structs.replace(again, writer=NodeName("n3"), transition=None)
    story.recorder.written(again, opened, at(view, 500), "because", NOW_MS + 500, NOW_MS + 505)
    flight = recorded(story)
    times = {phase.name: phase.ms for phase in flight.phases}
    assert times["earlier attempts"] == pytest.approx(306)
    assert sum(times.values()) == pytest.approx(flight.outage_ms)


def test_a_manager_that_died_leaves_a_record_that_the_next_continues_on_the_same_clock() -> None:
    story = Story(make())
    claimed = story.until_claimed()
    partial = recorded(story)
    assert not partial.ended
    assert partial.outage_ms is None
    after = make(manager="host:2", before=partial)
    view = replace(at(read_view("node n1 crashed=-9"), 1000), document=claimed)
    after.observed(view)
    assert after.detected_ms == NOW_MS + 100
    opened = msgspec.structs.replace(claimed, writer=NodeName("n2"), transition=None, revision=claimed.revision + 1)
    after.written(claimed, opened, view, "because", NOW_MS + 1000, NOW_MS + 1005)
    flight = after.flight
    assert flight is not None
    assert [one.manager for one in flight.managers] == ["host:1", "host:2"]
    assert flight.outage_ms == pytest.approx(1005 + 150)
    assert len(flight.writes) == 3
    assert len(flight.promises) == 2


def test_after_the_machine_restarted_the_outage_is_not_guessed() -> None:
    story = Story(make())
    claimed = story.until_claimed()
    after = make(manager="host:2", boot="b2", before=recorded(story))
    view = replace(at(read_view("node n1 crashed=-9"), 0), document=claimed, now_ms=5000.0)
    after.observed(view)
    opened = msgspec.structs.replace(claimed, writer=NodeName("n2"), transition=None)
    after.written(claimed, opened, view, "because", 5000.0, 5005.0)
    flight = after.flight
    assert flight is not None
    assert flight.ended
    assert flight.outage_ms is None
    assert "another clock" in flight.managers[-1].note


def test_a_record_that_is_finished_is_not_taken_up() -> None:
    story = Story(make())
    opened = story.until_opened()
    later = msgspec.structs.replace(opened, epoch=Epoch(9), writer=NodeName("n3"))
    after = make(before=recorded(story))
    after.observed(replace(read_view(HEALTHY), document=later))
    assert after.flight is None


def test_a_full_list_keeps_its_beginning_and_its_end() -> None:
    story = Story(make())
    published = story.until_published()
    for number in range(ENTRIES_MAX + 50):
        sent = story.recorder.sent(AskPromise(NodeName("n2")), published, NOW_MS + 200 + number)
        story.recorder.answered(sent, "busy", "", NOW_MS + 201 + number)
    flight = recorded(story)
    assert len(flight.orders) == ENTRIES_MAX
    assert flight.left_out == 50
    assert flight.orders[0].at_ms == 100
    assert flight.orders[-1].at_ms == 100 + ENTRIES_MAX + 49


def test_marks_out_of_order_still_add_up() -> None:
    phases = phases_of({"good": -10.0, "detected": 0.0, "published": 5.0, "elected": 3.0, "opened": 9.0, "proven": 12.0})
    assert sum(phase.ms for phase in phases) == 19.0
    assert all(phase.ms >= 0 for phase in phases)
    assert phases_of({"detected": 0.0, "opened": 1.0}) == ()


def test_medians_and_worst_times_come_from_what_ended() -> None:
    story = Story(make())
    story.until_opened()
    one = recorded(story)
    slow = msgspec.structs.replace(one, outage_ms=1000.0)
    measured = measure((one, slow, msgspec.structs.replace(one, ended=False, outage_ms=None)))
    assert measured is not None
    assert (measured.count, measured.worst_ms) == (2, 1000.0)
    assert measure(()) is None


def test_files_are_found_by_any_epoch_of_theirs_and_the_oldest_go(tmp_path: Path) -> None:
    story = Story(make())
    story.until_opened()
    one = recorded(story)
    files = FlightFiles(tmp_path / "failovers")
    assert files.find(None) is None
    for epoch in range(1, FLIGHTS_KEPT + 11):
        files.save(msgspec.structs.replace(one, epoch=Epoch(epoch * 2), last_epoch=Epoch(epoch * 2 + 1)))
    kept = files.load()
    assert len(kept) == FLIGHTS_KEPT
    assert kept[0].epoch == (FLIGHTS_KEPT + 10) * 2
    assert (tmp_path / "failovers" / "220-failover-n1.json").exists()
    found = files.find(101)
    assert found is not None
    assert (found.epoch, found.last_epoch) == (100, 101)
    assert files.find(2) is None
    (tmp_path / "failovers" / "999-failover-n1.json").write_text("half a fi")
    newest = files.find(None)
    assert newest is not None
    assert newest.epoch == 220


async def test_the_writer_writes_beside_the_work_and_tells_of_each_end_once(tmp_path: Path) -> None:
    story = Story(make())
    writer = FlightWriter(story.recorder, FlightFiles(tmp_path / "failovers"))
    ended: list[int] = []
    writer.on_ended = lambda flight: ended.append(flight.epoch)
    task = asyncio.create_task(writer.run())
    try:
        story.until_opened()
        writer.wake()
        async with asyncio.timeout(10):
            while not ended:
                await asyncio.sleep(0.01)
        await writer.flush()
        assert ended == [5]
        assert writer.files.find(5) == story.recorder.flight
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_folder_that_cannot_be_written_only_shows_in_the_log(tmp_path: Path) -> None:
    blocked = tmp_path / "failovers"
    blocked.write_text("a file where a folder should be")
    story = Story(make())
    writer = FlightWriter(story.recorder, FlightFiles(blocked))
    story.until_opened()
    await writer.flush()
    assert writer.files.load() == ()


def kind_and_outage(*views: View) -> tuple[str, float | None]:
    """Return what is recorded when the last of *views* is the one that calls for another writer, 4 ms later published."""
    story = Story(make())
    wanted: Topology | None = None
    for view in views:
        wanted = story.look(view)
    assert wanted is not None
    story.write(views[-1], wanted, views[-1].now_ms - NOW_MS + 4)
    flight = recorded(story)
    good = flight.marks.get("good")
    return flight.outage_kind, -good if good is not None else None


def stopped(view: View, *, left_age_ms: int | None) -> View:
    """Return *view* with its writer stopped in good order."""
    first, *others = view.nodes
    assert first.observation is not None
    postmaster = msgspec.structs.replace(first.observation.postmaster, unexpected_exit=False, exit_status=0)
    observation = msgspec.structs.replace(first.observation, postmaster=postmaster, left_age_ms=left_age_ms)
    return replace(view, nodes=(replace(first, observation=observation), *others))


def test_a_crash_is_a_failover_from_the_last_acknowledged_commit() -> None:
    assert kind_and_outage(at(read_view(HEALTHY), 0), at(read_view(CRASHED), 100)) == ("failover", 250)


def test_a_planned_stop_is_no_failover_and_as_long_as_nobody_could_commit() -> None:
    again = stopped(at(read_view(CRASHED), 100), left_age_ms=15_000)
    assert kind_and_outage(again) == ("planned_stop", 15_050), "a manager that has just begun knows it from the node"
    assert kind_and_outage(at(read_view(HEALTHY), 0), stopped(at(read_view(CRASHED), 100), left_age_ms=None)) == (
        "planned_stop",
        250,
    )


def test_a_crash_while_failover_was_paused_is_the_operators() -> None:
    paused = at(read_view(f"document paused\n{CRASHED}"), 100)
    assert kind_and_outage(at(read_view(HEALTHY), 0), paused, at(read_view(CRASHED), 15_000)) == ("paused", 15_150)


def test_a_pause_that_was_over_before_the_crash_does_not_matter() -> None:
    calm = at(read_view("document paused"), 0)
    assert kind_and_outage(calm, at(read_view(HEALTHY), 50), at(read_view(CRASHED), 100)) == ("failover", 200)


def test_an_outage_whose_beginning_nobody_knows_is_not_guessed() -> None:
    assert kind_and_outage(at(read_view(CRASHED), 0)) == ("failover", None)


class Unheard(Story):
    """A failover in which the old writer's noded is never heard: it is not up yet, or dead."""

    def seen(self, view: View) -> View:
        return without_word(view)


def without_word(view: View) -> View:
    first, *others = view.nodes
    return replace(view, nodes=(replace(first, observation=None), *others))


def opened_at(now_ms: float, *, left_age_ms: int | None = None) -> View:
    """A cluster that n2 leads, later on; n1 is heard if it says how long ago it had left."""
    promoted = "node n2 primary-of=5 timeline=6 heartbeat=5@0/5000200 senders=n3@0/5000200\n"
    view = at(read_view(f"{promoted}{CRASHED}"), now_ms)
    assert view.document is not None
    view = replace(view, document=msgspec.structs.replace(view.document, writer=NodeName("n2")))
    return stopped(view, left_age_ms=left_age_ms) if left_age_ms is not None else without_word(view)


def test_an_old_writer_that_is_heard_late_still_says_that_it_was_stopped() -> None:
    story = Unheard(make())
    story.until_opened()
    assert (recorded(story).outage_kind, recorded(story).outage_ms) == ("failover", None)
    assert not story.recorder.is_judged
    story.recorder.observed(opened_at(1000, left_age_ms=20_000))
    flight = recorded(story)
    assert (flight.outage_kind, story.recorder.is_judged) == ("planned_stop", True)
    # It had left 19,050 ms before the first look, and the next writer was there 206 ms after that.
    assert flight.outage_ms == pytest.approx(19_050 + 206)
    assert sum(phase.ms for phase in flight.phases) == pytest.approx(flight.outage_ms)


def test_an_old_writer_that_is_heard_while_the_next_one_is_made_is_believed_at_once() -> None:
    story = Unheard(make())
    story.until_claimed()
    story.recorder.observed(opened_at(160, left_age_ms=20_000))
    assert (recorded(story).outage_kind, story.recorder.is_judged) == ("planned_stop", True)
    story.until_opened()


async def test_a_record_is_counted_when_its_kind_is_known_or_nobody_will_say(tmp_path: Path) -> None:
    ended: list[tuple[int, str]] = []

    def counted(story: Story, folder: str) -> FlightWriter:
        ended.clear()
        writer = FlightWriter(story.recorder, FlightFiles(tmp_path / folder))
        writer.on_ended = lambda flight: ended.append((flight.epoch, flight.outage_kind))
        story.until_opened()
        return writer

    heard = counted(Story(make()), "heard")
    await heard.flush()
    assert ended == [(5, "failover")], "who says that it did not leave need not be waited for"

    late = counted(Unheard(make()), "late")
    await late.flush()
    assert ended == []
    late.recorder.observed(opened_at(1000, left_age_ms=20_000))
    await late.flush()
    await late.flush()
    assert ended == [(5, "planned_stop")]

    never = counted(Unheard(make()), "never")
    never.recorder.observed(opened_at(JUDGED_MS - 1000))
    await never.flush()
    assert ended == []
    never.recorder.observed(opened_at(JUDGED_MS + 1000))
    await never.flush()
    assert ended == [(5, "failover")]
