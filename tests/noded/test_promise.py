"""Which orders a node accepts, and what its state makes of PostgreSQL's configuration."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from noded.law import promise
from noded.law.promise import Circumstances, Following, Promotion, State, Work
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import Lsn
from pgtopology.node import Address, Incarnation, NodeName
from pgtopology.observation import Seen
from pgtopology.orders import (
    CloneOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseOrder,
    PromoteOrder,
    Refusal,
    RewindOrder,
    StartOrder,
    StopOrder,
    SynchronousOrder,
    Upstream,
)
from pgtopology.quorum import NOBODY, Voter, make_voters
from pgtopology.timeline import Timeline, TimelineRecord

N1, N2 = NodeName("n1"), NodeName("n2")
UPSTREAM = Upstream(N2, Address("127.0.0.1", 5432))
VOTERS = make_voters([Voter(N1, Incarnation("aaaa")), Voter(N2, Incarnation("bbbb"))], 2)
ALONE = make_voters([Voter(N1, Incarnation("aaaa"))], 1)
STATE = State(
    cluster="c",
    node=N1,
    system_identifier="7",
    incarnation=Incarnation("aaaa"),
    whole=True,
    promised=Epoch(5),
    seen=Seen(epoch=Epoch(5), revision=Revision(50), voters=VOTERS),
)
EMPTY = State(cluster="c", node=N1)
STANDBY = Circumstances(primary=False)
PRIMARY = Circumstances(primary=True)

KINDS: dict[type[Order], dict[str, object]] = {
    InitOrder: {},
    PromiseOrder: {},
    FollowOrder: {"upstream": UPSTREAM},
    PromoteOrder: {"timeline": 3},
    CloneOrder: {"source": UPSTREAM, "destroys": "aaaa"},
    RewindOrder: {"source": UPSTREAM, "destroys": "aaaa"},
    StartOrder: {},
    StopOrder: {},
    SynchronousOrder: {"in_force": VOTERS},
}


def order(kind: type[Order], **fields: object) -> Order:
    common = {"cluster": "c", "node": "n1", "system_identifier": "7", "epoch": 5, "revision": 51, "voters": VOTERS}
    return msgspec.convert({**common, **KINDS[kind], **fields}, kind)


def reason(state: State, given: Order, now: Circumstances = STANDBY) -> Refusal | None:
    refused = promise.refusal(state, given, now)
    return refused.reason if refused is not None else None


@pytest.mark.parametrize("kind", list(KINDS))
def test_orders_of_another_cluster_node_or_system_are_refused(kind: type[Order]) -> None:
    assert reason(STATE, order(kind, cluster="other")) is Refusal.WRONG_CLUSTER
    assert reason(STATE, order(kind, node="n9")) is Refusal.WRONG_NODE
    for identifier in ("8", None):
        expected = Refusal.HAS_DATA if kind is InitOrder else Refusal.WRONG_CLUSTER
        assert reason(STATE, order(kind, system_identifier=identifier)) is expected


@pytest.mark.parametrize("kind", list(KINDS))
def test_orders_below_the_pair_seen_or_the_promise_are_refused(kind: type[Order]) -> None:
    assert reason(STATE, order(kind, revision=49)) is Refusal.STALE
    assert reason(STATE, order(kind, epoch=4, revision=99)) is Refusal.STALE
    # Of a history that the store has lost: what was written since must not be forgotten for it.
    assert reason(STATE, order(kind, epoch=6, revision=49)) is Refusal.STALE
    unseen = replace(STATE, seen=Seen())
    assert reason(unseen, order(kind, epoch=4, revision=99)) is Refusal.STALE


@pytest.mark.parametrize("kind", [PromiseOrder, FollowOrder, PromoteOrder, CloneOrder, RewindOrder, StartOrder, StopOrder])
def test_the_pair_seen_itself_and_greater_ones_are_accepted(kind: type[Order]) -> None:
    assert reason(STATE, order(kind, revision=50)) is None
    if kind is not PromoteOrder:
        assert reason(STATE, order(kind, epoch=6, revision=51)) is None


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_may_happen_during_long_work(kind: type[Order]) -> None:
    for work in Work:
        same = {Work.INIT: InitOrder, Work.CLONE: CloneOrder, Work.REWIND: RewindOrder}[work]
        state = replace(STATE, promotion=None)
        expected = None if kind in (same, PromiseOrder) else Refusal.BUSY
        if kind is SynchronousOrder:
            expected = Refusal.FAILED
        assert reason(state, order(kind), Circumstances(primary=False, busy=work)) is expected


def test_repeated_copy_orders_under_way_are_accepted_although_the_data_has_changed() -> None:
    given = order(CloneOrder, destroys="cccc")
    assert reason(STATE, given) is Refusal.WRONG_INCARNATION
    assert reason(STATE, given, Circumstances(primary=False, busy=Work.CLONE)) is None


def test_a_promise_of_the_epoch_in_which_the_node_was_promoted_is_refused() -> None:
    state = replace(STATE, promotion=Promotion(Epoch(5), Timeline(3)))
    for now in (STANDBY, PRIMARY):
        assert reason(state, order(PromiseOrder), now) is Refusal.RUNNING_PRIMARY
        assert reason(state, order(PromiseOrder, epoch=6), now) is None


def test_data_of_a_running_primary_is_not_destroyed_and_it_does_not_follow() -> None:
    for kind in (CloneOrder, RewindOrder, FollowOrder):
        assert reason(STATE, order(kind), PRIMARY) is Refusal.RUNNING_PRIMARY


def test_copies_name_the_data_they_destroy() -> None:
    for kind in (CloneOrder, RewindOrder):
        assert reason(STATE, order(kind, destroys="bbbb")) is Refusal.WRONG_INCARNATION
    assert reason(STATE, order(CloneOrder, destroys=None)) is Refusal.WRONG_INCARNATION
    assert reason(EMPTY, order(CloneOrder, destroys=None)) is None


def test_without_data_there_is_nothing_to_follow_promote_or_rewind() -> None:
    for kind in (FollowOrder, RewindOrder, StartOrder, StopOrder):
        assert reason(EMPTY, order(kind)) is Refusal.NO_DATA
    assert reason(replace(EMPTY, promised=Epoch(5)), order(PromoteOrder)) is Refusal.NO_DATA
    assert reason(EMPTY, order(PromiseOrder)) is None
    assert reason(EMPTY, order(InitOrder)) is None


def test_only_the_promised_epoch_is_promoted() -> None:
    assert reason(STATE, order(PromoteOrder, epoch=6)) is Refusal.NOT_PROMISED
    assert reason(STATE, order(PromoteOrder)) is None


def test_only_the_writer_of_the_epoch_takes_a_list() -> None:
    writer = replace(STATE, promotion=Promotion(Epoch(5), Timeline(3)))
    assert reason(writer, order(SynchronousOrder), PRIMARY) is None
    assert reason(writer, order(SynchronousOrder), STANDBY) is Refusal.FAILED
    assert reason(writer, order(SynchronousOrder, epoch=6), PRIMARY) is Refusal.FAILED
    assert reason(STATE, order(SynchronousOrder), PRIMARY) is Refusal.FAILED


def test_the_greatest_pair_is_remembered_with_its_voters() -> None:
    seen = promise.see(STATE, order(StartOrder, epoch=6, revision=60, voters=ALONE)).seen
    assert seen == Seen(epoch=Epoch(6), revision=Revision(60), voters=ALONE)
    assert promise.see(STATE, order(StartOrder, revision=50, voters=ALONE)) is STATE
    assert promise.see(STATE, order(StartOrder, voters=None)).seen.voters == VOTERS


def test_claimed_timelines_are_kept_also_those_of_a_document_that_was_lost() -> None:
    first, lost, later = (
        TimelineRecord(timeline=Timeline(number), epoch=Epoch(number), node="n1", parent=Timeline(1), fork_lsn=Lsn(1))
        for number in (2, 3, 4)
    )
    state = promise.see(STATE, order(StartOrder, timelines=(first, lost)))
    assert state.seen.timelines == (first, lost)
    assert promise.see(state, order(StartOrder, epoch=105, revision=9, timelines=(first, later))).seen.timelines == (
        first,
        lost,
        later,
    )
    assert promise.see(state, order(StartOrder, revision=60)).seen.timelines == (first, lost)


@pytest.mark.parametrize(
    ("followed", "promised", "asked", "expected"),
    [
        (5, 5, 5, Refusal.STALE),
        (5, 5, 6, None),  # another election
        (4, 5, 5, None),  # cut off, and told nothing yet
        (5, 4, 5, None),  # follows, but never said how far it reached
    ],
)
def test_a_promise_asked_again_after_its_follow_order_is_late(
    followed: int, promised: int, asked: int, expected: Refusal | None
) -> None:
    state = replace(STATE, promised=Epoch(promised), following=Following(UPSTREAM, Epoch(followed)))
    assert reason(state, order(PromiseOrder, epoch=asked), Circumstances(primary=False, standby=True)) is expected
    # One that is down, or may be a primary, is mended by a promise.
    assert reason(state, order(PromiseOrder, epoch=asked), Circumstances(primary=False)) is None


def test_a_promise_never_sinks_and_always_ends_following() -> None:
    following = replace(STATE, following=Following(UPSTREAM, Epoch(6)), wanted=False)
    after = promise.promise(following, Epoch(4))
    assert (after.promised, after.following, after.wanted) == (5, None, True)
    assert promise.promise(following, Epoch(7)).promised == 7


@pytest.mark.parametrize(("epoch", "followed"), [(4, False), (5, True), (6, True)])
def test_nobody_is_followed_under_an_epoch_below_the_promise(epoch: int, followed: bool) -> None:
    configuration = promise.standby_configuration(promise.follow(STATE, UPSTREAM, Epoch(epoch)))
    assert (configuration.upstream == UPSTREAM) is followed
    assert (configuration.upstream is None) is not followed


@pytest.mark.parametrize("in_force", [None, ALONE, VOTERS])
def test_a_standby_never_has_an_empty_list(in_force: object) -> None:
    state = replace(STATE, in_force=in_force)
    assert promise.standby_configuration(state).synchronous_standby_names == f"ANY 1 ({NOBODY})"


def test_only_a_writer_that_needs_no_copy_has_an_empty_list() -> None:
    def names(state: State) -> str:
        configuration = promise.writer_configuration(state)
        assert configuration.upstream is None
        return configuration.synchronous_standby_names

    assert names(replace(STATE, in_force=None)) == f"ANY 1 ({NOBODY})"
    assert names(replace(STATE, in_force=VOTERS)) == 'ANY 1 ("n2_bbbb")'
    assert names(replace(STATE, in_force=ALONE)) == ""


def test_a_primary_remains_one_only_in_its_own_epoch_and_on_its_own_timeline() -> None:
    assert not promise.may_remain_primary(STATE)
    writer = replace(STATE, promotion=Promotion(Epoch(5), Timeline(3)))
    assert promise.may_remain_primary(writer)
    assert promise.may_remain_primary(writer, Timeline(3))
    assert not promise.may_remain_primary(writer, Timeline(4))
    assert not promise.may_remain_primary(promise.promise(writer, Epoch(6)))


def test_data_whose_recovery_ended_by_nobodys_order_is_foreign_until_it_is_made_anew() -> None:
    writer = replace(STATE, promotion=Promotion(Epoch(5), Timeline(3)), following=Following(UPSTREAM, Epoch(5)))
    assert promise.recovery_ended(writer, Timeline(3)) == writer
    for before, timeline in ((writer, Timeline(4)), (replace(writer, promotion=None), Timeline(3))):
        foreign = promise.recovery_ended(before, timeline)
        assert (foreign.foreign, foreign.whole, foreign.following) == (True, False, None)
        assert not promise.may_remain_primary(foreign)
        for kind in (FollowOrder, RewindOrder, PromoteOrder):
            assert reason(foreign, order(kind)) is Refusal.FAILED
        assert reason(foreign, order(CloneOrder)) is None
        assert reason(foreign, order(PromiseOrder, epoch=6)) is None
        assert promise.finish(foreign).foreign
        assert not promise.new_data(foreign, Incarnation("cccc"), "7").foreign
        assert not promise.no_data(foreign).foreign


def test_an_order_to_rewind_that_comes_again_finds_it_done() -> None:
    asked = order(RewindOrder)
    assert not promise.is_done(STATE, asked)
    done = promise.rewound(promise.begin(STATE, Work.REWIND), asked.revision)
    assert (done.work, done.whole) == (None, False)
    assert promise.is_done(done, asked)
    assert not promise.is_done(done, replace(asked, revision=Revision(asked.revision + 1)))
    assert not promise.is_done(done, order(CloneOrder))
    assert not promise.is_done(promise.new_data(done, Incarnation("cccc"), "7"), asked)


def test_data_is_not_whole_from_the_beginning_of_long_work_until_it_is_proven() -> None:
    begun = promise.begin(STATE, Work.REWIND)
    assert (begun.whole, begun.work, begun.incarnation) == (False, Work.REWIND, "aaaa")
    done = promise.finish(replace(begun, promotion=Promotion(Epoch(4), Timeline(2))))
    assert (done.whole, done.work, done.promotion) == (False, None, None)
    assert promise.finish(begun, whole=True).whole
    fresh = promise.new_data(replace(STATE, in_force=VOTERS), Incarnation("cccc"), "7")
    assert (fresh.whole, fresh.incarnation, fresh.in_force, fresh.promised) == (False, "cccc", None, 5)
    none = promise.no_data(begun)
    assert (none.incarnation, none.system_identifier, none.work, none.promised) == (None, None, None, 5)
    assert none.sync_name is None


def test_only_the_upstream_of_the_newest_epoch_proves_wholeness() -> None:
    following = Following(UPSTREAM, Epoch(5))
    state = replace(STATE, following=following)
    assert promise.is_newest_upstream(state, following)
    assert not promise.is_newest_upstream(STATE, following)
    assert not promise.is_newest_upstream(replace(state, promised=Epoch(6)), following)
    assert not promise.is_newest_upstream(replace(state, seen=Seen(epoch=Epoch(6))), following)
