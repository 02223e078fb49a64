"""The manager's loop, event by event: what it asks for, what it waits for, and what it forgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random

import msgspec
import pytest

from cluster_manager.decision.actions import ActionKind, AskPromise, Clone, Follow, NodeAction, PutInForce, WriteDocument
from cluster_manager.decision.diagnose import Diagnosis, Finding
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.timings import Timings
from cluster_manager.decision.view import View, VotersSent
from cluster_manager.loop import effects, events
from cluster_manager.loop.core import NO_CLUSTER, NO_LEASE, NOTHING_PENDING, STORE_RETRY_MS, WITHDRAWN, Loop
from cluster_manager.loop.effects import Effects, Read, Send, Write
from cluster_manager.loop.known import REVISIONS_SKIPPED
from cluster_manager.loop.orders import PACE_MS, Failed
from cluster_manager.loop.rules import Rules
from cluster_manager.loop.settings import LoopSettings
from pgtopology.document import Topology
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import Lsn
from pgtopology.node import NodeName
from pgtopology.observation import Seen
from pgtopology.orders import Acknowledged, PromiseAnswer, SynchronousAnswer, Upstream
from tests.cluster_manager.decision.storyboard import NOW_MS, read_view

VIEW = read_view("")
REST_MS = 200.0
N1, N2, N3 = NodeName("n1"), NodeName("n2"), NodeName("n3")
assert VIEW.document is not None
DOCUMENT = VIEW.document
DONE = Acknowledged(node=N2)
HEALTHY = Finding(Diagnosis.HEALTHY, "all is well")


def following(document: Topology, *, epoch: int = 0, paused: bool | None = None) -> Topology:
    """Return a document that may stand after *document*, *epoch* epochs later."""
    return msgspec.structs.replace(
        document,
        revision=Revision(document.revision + 1),
        epoch=Epoch(document.epoch + epoch),
        paused=document.paused if paused is None else paused,
    )


class Stage:
    """A loop whose plans are given, on a clock that stands still until it is moved."""

    def __init__(self, *, leads: bool = True, document: Topology | None = DOCUMENT) -> None:
        self.actions: tuple[NodeAction | WriteDocument, ...] = ()
        self.finding = HEALTHY
        self.is_unsure = False
        self.now_ms = NOW_MS
        self.outside = events.Outside(lease_until_ms=NOW_MS + 1e9 if leads else NOW_MS)
        self.refusal: Callable[[View, Request], str | None] = lambda _view, _request: None
        self.settings = LoopSettings(
            cluster=VIEW.cluster, specs=VIEW.specs, endpoints=VIEW.endpoints, durability=VIEW.wanted_durability
        )
        rules = Rules(
            decide=lambda view: Plan(self.finding, self.actions, view.now_ms + REST_MS, is_unsure=self.is_unsure),
            refusal=lambda view, request: self.refusal(view, request),
            may_follow=lambda old, new: None if new.revision == old.revision + 1 else "a revision was left out",
        )
        self.loop = Loop(self.settings, self.now_ms, rules)
        self.stored = document

    def tell(self, event: events.Event, after_ms: float = 0.0) -> Effects:
        self.now_ms += after_ms
        return self.loop.handle(event, self.now_ms)

    def turn(self, after_ms: float = 0.0) -> Effects:
        return self.tell(events.Turn(self.outside), after_ms)

    def begin(self) -> Stage:
        """Read the document, and hear every node."""
        self.tell(events.Woken())
        assert self.turn().store == Read(self.now_ms)
        self.tell(events.Loaded(self.stored))
        for node in VIEW.nodes:
            assert node.observation is not None
            self.tell(events.Observed(node.observation))
        return self

    def write(self, document: Topology) -> Write:
        """Have the plan be this write, and return what the store is asked for."""
        self.actions = (WriteDocument(document, "because"),)
        store = self.turn().store
        assert isinstance(store, Write)
        asked = msgspec.structs.replace(store.document, revision=document.revision, voters_since=document.voters_since)
        assert asked == document
        self.actions = ()
        return store

    def send(self, action: NodeAction) -> Send:
        """Have the plan be this order, and return it."""
        self.actions = (action,)
        (send,) = self.turn().orders
        self.actions = ()
        return send

    def promise(self, number: int, epoch: int = DOCUMENT.epoch) -> Effects:
        """Have the order *number* answered by a promise."""
        answer = PromiseAnswer(
            node=N2, promised=Epoch(epoch), incarnation=None, system_identifier=None, whole=True, seen=Seen()
        )
        return self.tell(events.Answered(number, answer))


# The lease and the first reading


def test_who_does_not_lead_reads_nothing_and_decides_nothing() -> None:
    stage = Stage(leads=False)
    stage.tell(events.Woken())
    waiting = stage.turn()
    assert (waiting.store, waiting.notes, waiting.orders) == (None, (), ())
    assert stage.tell(events.Edited(lambda old: old, "")).refused == NO_LEASE
    stage.outside = events.Outside(lease_until_ms=stage.now_ms + 1)
    assert stage.tell(events.Woken()).wake_at_ms == stage.now_ms
    assert stage.turn().store == Read(stage.now_ms)


def test_a_lease_that_ran_out_stops_decisions_until_it_is_had_again() -> None:
    stage = Stage().begin()
    stage.actions = (AskPromise(N2),)
    stage.outside = events.Outside(lease_until_ms=stage.now_ms)
    late = stage.turn()
    assert (late.orders, late.notes) == ((), ())
    assert stage.now_ms < late.wake_at_ms < stage.now_ms + 1000
    stage.outside = events.Outside(lease_until_ms=stage.now_ms + 1)
    assert len(stage.turn().orders) == 1


def test_what_was_read_is_published_when_it_is_known_to_be_no_old_copy() -> None:
    stage = Stage().begin()
    stage.is_unsure = True
    assert stage.turn().publish is None
    stage.is_unsure = False
    assert stage.turn().publish is DOCUMENT
    assert stage.turn().publish is None


def test_what_was_read_is_published_after_a_while_though_too_few_are_heard_but_not_when_it_is_behind() -> None:
    stage = Stage().begin()
    stage.is_unsure = True
    stage.finding = Finding(Diagnosis.STORE_BEHIND, "n2 knows a newer one")
    assert stage.turn(Timings().adopt_ms).publish is None
    stage.finding = HEALTHY
    assert stage.turn().publish is DOCUMENT


# Writes


def test_nothing_is_decided_while_a_write_is_under_way_and_nothing_said_of_it_before_it_is_durable() -> None:
    stage = Stage().begin()
    stage.turn()
    asked = stage.write(following(DOCUMENT, epoch=1))
    new = asked.document
    assert asked.expected == DOCUMENT.revision
    stage.actions = (AskPromise(N2),)
    waiting = stage.turn(REST_MS)
    assert (waiting.orders, waiting.notes, waiting.publish, waiting.store) == ((), (), None, None)
    assert waiting.wake_at_ms == float("inf")
    done = stage.tell(events.Written(), 5)
    assert done.publish is new
    assert done.wake_at_ms <= stage.now_ms
    (send,) = stage.turn().orders
    assert (send.order.epoch, send.order.revision, send.document) == (new.epoch, new.revision, new)


def test_a_new_epoch_of_ours_forgets_the_request_and_the_orders_and_promises_of_the_one_before() -> None:
    stage = Stage().begin()
    first, second = stage.send(AskPromise(N2)), stage.send(Follow(N3, Upstream(N1, VIEW.specs[0].address)))
    stage.promise(first.number)
    assert set(stage.loop.look(stage.now_ms).promises) == {N2}
    stage.tell(events.Asked(Request(kind=RequestKind.FAILOVER)))
    stage.write(following(DOCUMENT, epoch=1))
    assert stage.tell(events.Written()).cancelled == (second.number,)
    view = stage.loop.look(stage.now_ms)
    assert (view.promises, view.in_flight, view.request, view.epoch_is_ours) == ({}, frozenset(), None, True)
    assert stage.tell(events.Answered(second.number, DONE)).notes == ()
    assert stage.loop.look(stage.now_ms).failures == {}


def test_a_write_that_another_manager_overtook_makes_it_read_and_go_on_as_a_stranger() -> None:
    stage = Stage().begin()
    stage.write(following(DOCUMENT, epoch=1))
    refused = stage.tell(events.Overtaken())
    assert (refused.store, refused.publish) == (Read(stage.now_ms), None)
    assert any(isinstance(note, effects.WriteFailed) for note in refused.notes)
    theirs = following(following(DOCUMENT), epoch=2)
    stage.tell(events.Loaded(theirs))
    view = stage.loop.look(stage.now_ms)
    assert (view.document, view.epoch_is_ours) == (theirs, False)
    assert view.voters_sent is not None
    assert (view.voters_sent.voters, view.voters_sent.revision) == (None, theirs.revision)
    assert stage.turn().publish is theirs


def test_a_store_that_does_not_answer_is_read_again_after_a_while_and_complained_of_once() -> None:
    stage = Stage().begin()
    stage.write(following(DOCUMENT))
    failed = stage.tell(events.StoreFailed("the disk is full"))
    assert failed.store == Read(stage.now_ms + STORE_RETRY_MS)
    assert [type(note) for note in failed.notes] == [effects.StoreNoted, effects.WriteFailed]
    again = stage.tell(events.StoreFailed("the disk is full"), STORE_RETRY_MS)
    assert (again.store, again.notes) == (Read(stage.now_ms + STORE_RETRY_MS), ())
    stage.tell(events.Loaded(DOCUMENT))
    assert stage.loop.store_problem == "the disk is full"
    stage.write(following(DOCUMENT))
    assert effects.StoreNoted(None) in stage.tell(events.Written()).notes
    assert stage.loop.store_problem is None


def test_a_revision_is_the_time_of_its_writing() -> None:
    stage = Stage().begin()
    stage.outside = dataclasses.replace(stage.outside, wall_ms=1_800_000_000_000)
    recorded = msgspec.structs.replace(following(DOCUMENT), voters_since=Revision(DOCUMENT.revision + 1))
    first = stage.write(recorded).document
    assert first.revision == first.voters_since == 1_800_000_000_000
    stage.tell(events.Written())
    second = stage.write(following(first)).document
    assert (second.revision, second.voters_since) == (first.revision + 1, first.voters_since)
    stage.tell(events.Written())
    stage.outside = dataclasses.replace(stage.outside, wall_ms=1_800_000_060_000)
    assert stage.write(following(second)).document.revision == 1_800_000_060_000


def test_where_the_clock_is_behind_what_is_written_upon_a_document_that_was_found_lies_far_beyond_it() -> None:
    stage = Stage().begin()
    first = stage.write(following(DOCUMENT)).document
    assert first.revision == DOCUMENT.revision + 1 + REVISIONS_SKIPPED
    stage.tell(events.Written())
    assert stage.write(following(first)).document.revision == first.revision + 1
    stage.tell(events.StoreFailed("the disk is full"))
    stage.tell(events.Loaded(first))
    assert stage.write(following(first)).document.revision == first.revision + 1, "nobody else has written since"
    stage.tell(events.Overtaken())
    theirs = following(first)
    stage.tell(events.Loaded(theirs))
    assert stage.write(following(theirs)).document.revision == theirs.revision + 1 + REVISIONS_SKIPPED


def test_a_plan_that_breaks_succession_is_a_bug() -> None:
    stage = Stage().begin()
    with pytest.raises(AssertionError, match="succession"):
        stage.write(DOCUMENT)


@pytest.mark.parametrize("seed", range(20))
def test_only_what_the_store_has_confirmed_is_ever_published_or_ordered(seed: int) -> None:
    """Whatever comes in whatever order: writes, refusals, failures, answers, edits."""
    rng, stage = Random(seed), Stage()
    confirmed: list[Topology] = []
    owed: Read | Write | None = None
    sent: list[Send] = []
    stage.tell(events.Woken())
    for _ in range(300):
        document = stage.loop.document
        action = Follow(rng.choice((N2, N3)), Upstream(N1, VIEW.specs[0].address))
        writes = document is not None and rng.random() < 0.3
        stage.actions = (
            (WriteDocument(following(document, epoch=rng.choice((0, 1))), ""),) if writes and document else (action,)
        )
        event: events.Event
        if owed is not None and rng.random() < 0.4:
            outcome = rng.choice((events.StoreFailed("?"), events.Overtaken(), events.Written()))
            if isinstance(owed, Read):
                event = events.Loaded(stage.stored) if rng.random() < 0.7 else events.StoreFailed("?")
                confirmed += [stage.stored] if stage.stored is not None and isinstance(event, events.Loaded) else []
            else:
                event = outcome
                if not isinstance(event, events.Overtaken) and rng.random() < 0.9:
                    stage.stored = owed.document
                if isinstance(event, events.Written):
                    stage.stored = owed.document
                    confirmed.append(owed.document)
            owed = None
        elif sent and rng.random() < 0.3:
            event = events.Answered(sent.pop(rng.randrange(len(sent))).number, rng.choice((DONE, Failed("no", "no"))))
        elif rng.random() < 0.1:
            event = events.Edited(lambda old: msgspec.structs.replace(old, paused=not old.paused), "")
        elif rng.random() < 0.1:
            event = events.Ordered(Clone(N2, Upstream(N1, VIEW.specs[0].address), None, ""))
        else:
            event = events.Turn(stage.outside)
        todo = stage.tell(event, rng.choice((0.0, 10.0, 500.0)))
        if todo.store is not None:
            assert owed is None, "the store is asked twice at once"
            owed = todo.store
        assert todo.publish is None or todo.publish in confirmed
        assert all(send.document in confirmed for send in todo.orders)
        assert all(send.order.revision == send.document.revision for send in todo.orders)
        sent += todo.orders
    assert len(confirmed) > 3


# Orders


def test_an_order_under_way_is_not_given_again_nor_one_that_ended_before_its_pace() -> None:
    stage = Stage().begin()
    send = stage.send(AskPromise(N2))
    stage.actions = (AskPromise(N2),)
    assert stage.turn(REST_MS).orders == ()
    stage.promise(send.number)
    pace_ms = PACE_MS[ActionKind.PROMISE]
    assert stage.turn(pace_ms - 1).orders == ()
    assert len(stage.turn(1).orders) == 1


def test_an_order_that_fails_again_and_again_is_given_ever_more_slowly_and_its_failure_told_once() -> None:
    stage = Stage().begin()
    stage.actions = (AskPromise(N2),)
    pace_ms = PACE_MS[ActionKind.PROMISE]
    told = 0
    for failures in range(8):
        (send,) = stage.turn().orders
        told += len(stage.tell(events.Answered(send.number, Failed("busy", "later"))).notes)
        wait_ms = pace_ms * (1 + min(failures + 1, 4))
        assert stage.turn(wait_ms - 1).orders == ()
        stage.now_ms += 1
    assert told == 1
    assert stage.loop.look(stage.now_ms).failures[ActionKind.PROMISE, N2].count == 8


def test_an_answer_that_nobody_waits_for_any_more_changes_nothing_and_wakes_nobody() -> None:
    stage = Stage().begin()
    send = stage.send(AskPromise(N2))
    stage.promise(send.number)
    due_ms = stage.turn().wake_at_ms
    late = stage.tell(events.Answered(send.number, Failed("unavailable", "timeout")), 10)
    assert (late.wake_at_ms, late.notes) == (due_ms, ())
    view = stage.loop.look(stage.now_ms)
    assert (set(view.promises), view.failures) == ({N2}, {})


def test_a_promise_of_another_epoch_does_not_count() -> None:
    stage = Stage().begin()
    stage.promise(stage.send(AskPromise(N2)).number, epoch=DOCUMENT.epoch + 1)
    assert stage.loop.look(stage.now_ms).promises == {}


def test_a_promise_given_again_keeps_when_the_nodes_wal_advanced_before_it_was_cut() -> None:
    stage = Stage().begin()
    stage.promise(stage.send(AskPromise(N2)).number)
    before = stage.loop.look(stage.now_ms).promises[N2]
    seen = VIEW.nodes[1].observation
    assert seen is not None
    assert seen.wal_end is not None
    stage.tell(events.Observed(msgspec.structs.replace(seen, wal_end=seen.wal_end + 8)), 1000)
    stage.promise(stage.send(AskPromise(N2)).number)
    after = stage.loop.look(stage.now_ms).promises[N2]
    assert after.at_ms > before.at_ms
    assert after.wal_advanced_at_ms == before.wal_advanced_at_ms


def test_a_list_that_was_in_force_proves_nothing_once_another_is_ordered() -> None:
    stage = Stage().begin()
    assert DOCUMENT.voters is not None
    order = PutInForce(N1, DOCUMENT.voters)
    proof = SynchronousAnswer(node=N1, in_force=DOCUMENT.voters, barrier_lsn=Lsn(8))
    stage.tell(events.Answered(stage.send(order).number, proof))
    assert stage.loop.look(stage.now_ms).in_force == proof
    stage.now_ms += PACE_MS[ActionKind.SYNCHRONOUS]
    send = stage.send(order)
    view = stage.loop.look(stage.now_ms)
    assert (view.in_force, view.slots_in_force) == (None, None)
    assert view.voters_sent == VotersSent(DOCUMENT.voters, send.document.revision)


def test_a_node_that_left_the_settings_is_given_no_order_and_its_own_are_let_go() -> None:
    stage = Stage().begin()
    send = stage.send(AskPromise(N3))
    fewer = tuple(spec for spec in VIEW.specs if spec.name != N3)
    settings = LoopSettings(cluster="test", specs=fewer, endpoints=VIEW.endpoints, durability=VIEW.wanted_durability)
    assert stage.tell(events.Configured(settings)).cancelled == (send.number,)
    stage.actions = (AskPromise(N3),)
    assert stage.turn().orders == ()


def test_an_order_of_an_operator_waits_for_no_pace_and_counts_like_any_other() -> None:
    stage = Stage().begin()
    clone = Clone(N2, Upstream(N1, VIEW.specs[0].address), None, "an operator asked for it", by_operator=True)
    (send,) = stage.tell(events.Ordered(clone)).orders
    assert stage.loop.look(stage.now_ms).being_remade == {N2}
    assert stage.tell(events.Ordered(clone)).refused is not None
    stage.tell(events.Answered(send.number, DONE))
    assert len(stage.tell(events.Ordered(clone)).orders) == 1


# Operators


def test_without_a_cluster_there_is_nothing_to_ask_for() -> None:
    stage = Stage(document=None).begin()
    stage.turn()
    assert stage.tell(events.Asked(Request(kind=RequestKind.FAILOVER))).refused == NO_CLUSTER
    assert stage.tell(events.Withdrawn()).refused == NO_CLUSTER


def test_a_request_that_is_refused_is_not_kept() -> None:
    stage = Stage().begin()
    stage.refusal = lambda _view, _request: "the writer is not well"
    assert stage.tell(events.Asked(Request(kind=RequestKind.SWITCHOVER))).refused == "the writer is not well"
    assert stage.loop.request is None


def test_another_writer_cannot_be_asked_for_while_an_epoch_begins_that_would_answer_it() -> None:
    stage = Stage().begin()
    begun = stage.write(following(DOCUMENT, epoch=1)).document
    assert "begins at this moment" in (stage.tell(events.Asked(Request(kind=RequestKind.SWITCHOVER))).refused or "")
    stage.tell(events.Written())
    stage.write(following(begun))
    assert stage.tell(events.Asked(Request(kind=RequestKind.SWITCHOVER))).refused is None
    stage.tell(events.Written())
    assert stage.loop.request is not None


def test_a_request_that_is_hindered_for_too_long_is_given_up() -> None:
    stage = Stage().begin()
    stage.tell(events.Asked(Request(kind=RequestKind.FAILOVER, to=NodeName("n9"))))
    stage.turn()
    patience_ms = Timings().refused_ms
    assert not any(isinstance(note, effects.RequestGivenUp) for note in stage.turn(patience_ms - 1).notes)
    assert stage.loop.request is not None
    assert any(isinstance(note, effects.RequestGivenUp) for note in stage.turn(1).notes)
    assert stage.loop.request is None
    assert "n9" in (stage.loop.given_up or "")
    stage.tell(events.Asked(Request(kind=RequestKind.FAILOVER)))
    assert stage.loop.given_up is None


def test_a_request_that_has_not_begun_can_be_withdrawn() -> None:
    stage = Stage().begin()
    assert stage.tell(events.Withdrawn()).refused == NOTHING_PENDING
    stage.tell(events.Asked(Request(kind=RequestKind.FAILOVER)))
    assert [type(note) for note in stage.tell(events.Withdrawn()).notes] == [effects.RequestGivenUp]
    assert (stage.loop.request, stage.loop.given_up) == (None, WITHDRAWN)


def test_edits_wait_while_the_store_may_be_behind_and_then_are_written_one_after_another() -> None:
    stage = Stage().begin()
    stage.turn()
    for paused in (True, True, False):
        stage.tell(events.Edited(lambda old, paused=paused: msgspec.structs.replace(old, paused=paused), "asked"))
    stage.is_unsure = True
    assert stage.turn().store is None
    assert stage.tell(events.Edited(lambda old: old, "")).refused == HEALTHY.reason
    assert stage.loop.has_unwritten
    stage.is_unsure = False
    first = stage.turn().store
    assert isinstance(first, Write)
    assert first.document == msgspec.structs.replace(DOCUMENT, revision=first.document.revision, paused=True)
    stage.tell(events.Written())
    second = stage.turn().store
    assert isinstance(second, Write)
    assert second.document == following(first.document, paused=False)
    stage.tell(events.Written())
    assert not stage.loop.has_unwritten
    assert stage.turn().store is None


def test_an_edit_waits_for_what_the_plan_wants_written() -> None:
    stage = Stage().begin()
    stage.tell(events.Edited(lambda old: msgspec.structs.replace(old, paused=True), "asked"))
    stage.write(following(DOCUMENT, epoch=1))
    stage.tell(events.Written())
    store = stage.turn().store
    assert isinstance(store, Write)
    assert (store.document.paused, store.document.epoch) == (True, DOCUMENT.epoch + 1)


# Waking


def test_what_says_nothing_new_wakes_nobody_while_all_is_well() -> None:
    stage = Stage().begin()
    assert stage.turn().wake_at_ms == stage.now_ms + REST_MS
    seen = VIEW.nodes[1].observation
    assert seen is not None
    due_ms = stage.now_ms + REST_MS
    assert stage.tell(events.Observed(seen), 10).wake_at_ms == due_ms
    stage.finding = Finding(Diagnosis.COMMIT_STUCK, "commits wait")
    stage.turn()
    assert stage.tell(events.Observed(seen), 10).wake_at_ms == stage.now_ms


def test_what_is_said_by_a_node_that_is_gone_from_the_settings_is_heard_by_nobody() -> None:
    stage = Stage().begin()
    stage.turn()
    seen = VIEW.nodes[1].observation
    assert seen is not None
    stage.tell(events.Observed(msgspec.structs.replace(seen, node=NodeName("n9"))), 10)
    assert [node.name for node in stage.loop.look(stage.now_ms).nodes] == [N1, N2, N3]


def test_the_port_of_the_published_writer_is_tried_while_its_noded_is_silent() -> None:
    stage = Stage().begin()
    assert stage.loop.silent_writer(stage.now_ms) is None
    assert stage.loop.silent_writer(stage.now_ms + 300) == N1
