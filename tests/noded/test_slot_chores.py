"""What is done about slots: which are the cluster's and which are users', and what becomes of either on each node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as replace_slot

from noded.housekeeping.slot_chores import (
    AWAY_S,
    KEEPS_UP_BYTES,
    KEPT_S,
    Chores,
    Make,
    Situation,
    chores,
    lacking,
    left_over,
    lives_of_members,
    standby_slots,
    users_slots,
)
from noded.housekeeping.slot_keeper import full_xid
from noded.postgres.slots import Slot, decode_slots
from pgtopology.lsn import Lsn, format_lsn
from pgtopology.node import Incarnation, NodeName
from pgtopology.quorum import Voter, make_voters

N1, N2, N3 = "n1_aaaaaa", "n2_bbbbbb", "n3_cccccc"


def slot(name: str, lsn: int | None = 1000, **fields: Any) -> Slot:
    restart = format_lsn(Lsn(lsn)) if lsn is not None else None
    return Slot(name=name, **{"slot_type": "physical", "restart": restart, **fields})


def logical(name: str, lsn: int = 1000, **fields: Any) -> Slot:
    return slot(name, lsn, slot_type="logical", catalog_xmin="700", **fields)


def by_name(*slots: Slot) -> dict[str, Slot]:
    return {one.name: one for one in slots}


def on_standby(*here: Slot, there: tuple[Slot, ...] | None = (), **fields: Any) -> Situation:
    """The situation on n2, which follows n1."""
    known: dict[str, Any] = {
        "standby": True,
        "major": 18,
        "here": by_name(*here),
        "there": by_name(*there) if there is not None else None,
        "members": frozenset({N1, N3}),
        "ours": frozenset({N1, N2, N3}),
        "replayed": Lsn(5000),
    }
    return Situation(**{**known, **fields})


def on_writer(*here: Slot, **fields: Any) -> Situation:
    """The situation on n1."""
    known: dict[str, Any] = {"members": frozenset({N2, N3}), "standby": False, "there": None, "replayed": None}
    return on_standby(*here, **{**known, **fields})


def done(now: Situation) -> Chores:
    """Return the chores without what is to be remembered."""
    return chores(now)


def test_every_member_but_this_has_a_slot_and_one_that_lost_its_wal_gets_another() -> None:
    todo = chores(on_writer(slot(N2, None, wal_status="lost")))
    assert todo.make == (Make(name=N2, anew=True), Make(name=N3))
    assert not chores(on_writer(slot(N2), slot(N3))).make


def a_strangers(kind: str) -> dict[str, Any]:
    """Return what makes a slot another than a member can stream from."""
    return {"logical": {"slot_type": "logical", "catalog_xmin": "700"}, "temporary": {"temporary": True}}[kind]


@pytest.mark.parametrize("kind", ["logical", "temporary"])
@pytest.mark.parametrize("on", [on_standby, on_writer], ids=["standby", "writer"])
def test_a_slot_of_a_members_name_that_no_member_can_use_makes_room_for_the_members(
    on: Callable[..., Situation], kind: str
) -> None:
    wrong = a_strangers(kind)
    idle = chores(on(slot(N1), slot(N2), slot(N3, **wrong)))
    assert (idle.free, idle.drop, idle.make) == ((), (), (Make(name=N3, anew=True),))
    held = chores(on(slot(N1), slot(N2), slot(N3, active=True, **wrong)))
    assert (held.free, held.drop, held.make) == ((N3,), (), (Make(name=N3, anew=True),))
    assert lacking(on(slot(N1), slot(N2), slot(N3, active=True, **wrong))) == {N3}


@pytest.mark.parametrize("kind", ["logical", "temporary"])
def test_no_other_slot_takes_the_name_of_this_node_or_of_one_that_is_gone(kind: str) -> None:
    gone, wrong = "n4_dddddd", a_strangers(kind)
    on_its_node = on_standby(
        slot(N1),
        slot(N2, active=True, **wrong),
        slot(N3),
        slot(gone, **wrong),
        ours=frozenset({N1, N2, N3, gone}),
    )
    todo = chores(on_its_node)
    assert (todo.free, todo.drop, todo.make) == ((N2,), (N2, gone), ())
    assert lacking(on_its_node) == frozenset()


def test_slots_of_other_names_are_their_owners_whatever_they_are() -> None:
    theirs = (logical("s1"), logical("s2", active=True), slot("t", temporary=True, active=True), slot("b", active=True))
    for now in (on_standby(slot(N1), slot(N3), *theirs), on_writer(slot(N2), slot(N3), *theirs)):
        todo = chores(now)
        assert (todo.free, todo.drop, todo.make) == ((), (), ())


def test_whoever_holds_a_members_slot_is_looked_at_on_a_standby_and_left_to_the_names_on_the_writer() -> None:
    held = (slot(N1, active=True), slot(N3, active=True))
    # Who it is, PostgreSQL tells: a member may follow a standby that is about to be promoted.
    assert chores(on_standby(*held)).free == (N1, N3)
    assert chores(on_standby(*held)).make == ()
    assert chores(on_writer(slot(N2, active=True), slot(N3, active=True))).free == ()


def test_a_member_lacks_a_slot_that_is_not_there_or_has_lost_its_wal() -> None:
    assert lacking(on_standby(slot(N1, wal_status="lost"))) == {N1, N3}
    assert lacking(on_standby(slot(N1), slot(N3, active=True))) == frozenset()
    assert lacking(on_standby(members=None)) == frozenset()


def test_nothing_is_done_before_anybody_has_said_which_slots_are_the_clusters() -> None:
    unknown: dict[str, Any] = {"members": None, "ours": frozenset[str]()}
    for now in (
        on_writer(slot(N2), slot("barman"), logical(N3), **unknown),
        on_standby(slot(N1, temporary=True, active=True), there=(slot(N3),), **unknown),
    ):
        assert done(now) == Chores(carried=frozenset())


def test_an_idle_slot_of_a_former_writer_keeps_no_row_versions() -> None:
    stale: dict[str, Any] = {"xmin": "700"}
    now = on_standby(slot(N1, **stale), slot(N3, catalog_xmin="700"), slot("own", **stale), slot("mine", active=True, **stale))
    assert chores(now).release == (N1, N3)


def test_on_the_writer_a_standby_is_away_for_a_while_before_its_slot_keeps_no_row_versions() -> None:
    now = on_writer(
        slot(N2, xmin="700"), slot(N3, xmin="700", active=True), slot("theirs", xmin="700"), idle_s={N2: AWAY_S - 1}
    )
    assert chores(now).release == ()
    assert chores(on_writer(slot(N2, xmin="700"), slot(N3), idle_s={N2: AWAY_S})).release == (N2,)


def test_a_standby_keeps_wal_for_a_member_as_far_back_as_the_writer() -> None:
    now = on_standby(slot(N1, 1000), slot(N3, 1000), there=(slot(N2, 4000), slot(N3, 3000)))
    # The writer keeps none for itself; what is replayed here, it has.
    assert chores(now).advance == {N1: 5000, N3: 3000}
    assert not chores(on_standby(slot(N1, 1000), slot(N3, 1000), there=None)).advance
    lost = on_standby(slot(N1, 5000), slot(N3, 1000), there=(slot(N3, 3000, wal_status="lost"),))
    assert chores(lost).advance == {N3: 5000}


def test_a_slot_is_never_moved_beyond_what_is_replayed_or_back() -> None:
    now = on_standby(slot(N1, 5000), slot("barman", 4500), there=(slot("barman", 9000),), replayed=Lsn(4800))
    assert chores(now).advance == {"barman": 4800}
    assert not chores(on_standby(slot(N1, 5000), slot("barman", 4500), there=(slot("barman", 4000),))).advance


def test_a_users_physical_slot_is_copied_to_every_standby_and_remembered_before() -> None:
    todo = chores(on_standby(slot(N1), slot(N3), there=(slot("barman", 3000), slot("idle", None), slot(N2), slot(N3))))
    assert todo.make == (Make(name="barman"), Make(name="idle", reserve=False))
    assert todo.carried == {"barman", "idle"}
    reserved = on_standby(slot(N1), slot(N3), slot("idle", None), there=(slot("idle", 3000),))
    assert chores(reserved).make == (Make(name="idle", anew=True),)
    temporary = on_standby(slot(N1), slot(N3), there=(slot("pg_basebackup_1", temporary=True), slot("gone", wal_status="lost")))
    assert chores(temporary) == Chores(carried=frozenset(), advance=chores(temporary).advance)


def test_a_users_slot_is_never_dropped_where_it_was_made() -> None:
    old = dict.fromkeys(("barman", "local", "n2_backup", "s1"), 10 * KEPT_S)
    writer = on_writer(slot(N2), slot(N3), slot("barman"), slot("n2_backup"), logical("s1"), left_s=old, idle_s=old)
    assert left_over(writer) == frozenset()
    assert chores(writer) == Chores(carried=frozenset({"barman", "n2_backup", "s1"}))
    # Made on the standby itself, for a copy that is taken from there.
    standby = on_standby(slot(N1, 5000), slot(N3, 5000), slot("local"), logical("own"), left_s=old, idle_s=old)
    assert left_over(standby) == frozenset()
    assert chores(standby) == Chores(carried=frozenset())


def test_a_copy_goes_some_time_after_the_writer_has_dropped_its_slot() -> None:
    gone = on_standby(slot(N1), slot(N3), slot("barman"), carried=frozenset({"barman"}))
    assert left_over(gone) == {"barman"}
    assert chores(gone).drop == ()
    assert chores(replace(gone, limit=5)).drop == ()
    assert chores(replace(gone, limit=4)).drop == ("barman",), "where slots are short, members need its place"
    later = on_standby(slot(N1), slot(N3), slot("barman"), carried=frozenset({"barman"}), left_s={"barman": KEPT_S})
    assert chores(later).drop == ("barman",)
    assert chores(later).carried == frozenset()
    unknown = on_standby(slot(N1), slot(N3), slot("barman"), carried=frozenset({"barman"}), there=None)
    assert left_over(unknown) == frozenset()
    used = on_standby(slot(N1), slot(N3), slot("barman", active=True), carried=frozenset({"barman"}))
    assert left_over(used) == frozenset()


def test_the_slot_of_a_member_that_is_gone_is_dropped_after_a_while() -> None:
    ours = frozenset({N1, N2, N3, "n4_dddddd"})
    now = on_writer(slot(N2), slot(N3), slot("n4_dddddd"), slot("n4_eeeeee"), ours=ours, left_s={"n4_dddddd": KEPT_S})
    assert chores(now).drop == ("n4_dddddd",)
    # Nobody has ever said that the other one is ours.
    assert chores(now).carried == {"n4_eeeeee"}


def test_a_slot_that_a_copy_left_behind_is_a_members_though_nobody_saw_it_in_use() -> None:
    members = ("n1_aaaaaa", "node_2_bbbbbb")
    of_a_life = (slot("n1_cccccc"), slot("node_2_dddddd"))
    of_users = (slot("n1_archive"), slot("n1_c"), slot("n3_cccccc"), slot("archive"), slot("n1_cccccc_"), logical("n1_eeeeee"))
    assert lives_of_members((*of_a_life, *of_users), members) == {"n1_cccccc", "node_2_dddddd"}


def test_a_former_writers_logical_slot_makes_room_for_the_copy_that_postgresql_keeps() -> None:
    there = (logical("s1", failover=True),)
    keeps = slot(N1, catalog_xmin="700")
    assert chores(on_standby(keeps, slot(N3), logical("s1", failover=True), there=there)).drop == ("s1",)
    for kept in (logical("s1", failover=True, synced=True), logical("s1", failover=True, active=True)):
        assert not chores(on_standby(keeps, slot(N3), kept, there=there)).drop
    assert not chores(on_standby(slot(N1), slot(N3), logical("s1", failover=True), there=())).drop


def test_what_a_former_writers_logical_slot_keeps_is_let_go_if_nobody_keeps_it_up() -> None:
    carried = frozenset({"s1"})
    for major, there in ((15, ()), (15, (logical("s1"),)), (18, (logical("s1"),))):
        now = on_standby(slot(N1), slot(N3), logical("s1"), there=there, carried=carried, major=major)
        assert left_over(now) == {"s1"}, (major, there)
    synced = on_standby(logical("s1", failover=True, synced=True), there=(logical("s1", failover=True),), carried=carried)
    assert left_over(synced) == frozenset()


def test_decoding_waits_for_as_many_standbys_as_a_commit_and_for_none_that_is_away() -> None:
    members = [
        Voter(NodeName(name), Incarnation(drawn)) for name, drawn in (("n1", "aaaaaa"), ("n2", "bbbbbb"), ("n3", "cccccc"))
    ]
    voters = make_voters(members, 2)
    both = by_name(slot(N2, 4000, active=True), slot(N3, 3000, active=True))
    assert standby_slots((), voters, "n1", both) == (N2,)
    assert standby_slots((N3,), voters, "n1", both) == (N3,)
    assert standby_slots((N3,), voters, "n1", by_name(slot(N2, 4000, active=True), slot(N3, 4000))) == (N2,)
    far = by_name(slot(N2, KEEPS_UP_BYTES + 4000, active=True), slot(N3, 3000, active=True))
    assert standby_slots((N3,), voters, "n1", far) == (N2,)
    assert standby_slots((N2,), make_voters(members, 3), "n1", by_name(slot(N2, active=True), slot(N3))) == (N2, N3)
    assert standby_slots((), voters, "n1", by_name(logical(N2, 4000, active=True), slot(N3, 3000))) == (N3,)
    assert standby_slots((), make_voters(members[:1], 1), "n1", {}) == ()
    assert standby_slots((), None, "n1", both) == ()


def test_slots_are_read_from_every_version() -> None:
    of_15 = (
        b'[{"slot_name":"a","plugin":null,"slot_type":"physical","datoid":null,"temporary":false,"active":false,"active_pid":null,'
        b'"xmin":"731","catalog_xmin":null,"restart_lsn":"0/3000148","confirmed_flush_lsn":null,"wal_status":"reserved",'
        b'"safe_wal_size":null,"two_phase":false}]'
    )
    (one,) = decode_slots(of_15)
    assert (one.name, one.restart_lsn, one.holds_rows, one.synced) == ("a", 0x3000148, True, False)


def test_a_copy_goes_back_to_where_the_writers_slot_is_if_the_wal_is_here() -> None:
    def back(oldest: int | None) -> dict[str, Lsn]:
        now = on_standby(slot(N1), slot(N3), slot("barman", 4000), there=(slot("barman", 3000),))
        return dict(chores(replace(now, oldest_wal=Lsn(oldest) if oldest is not None else None)).take_back)

    assert back(3000) == {"barman": 3000}
    assert back(3001) == {}
    assert back(None) == {}


def test_a_standby_keeps_the_catalogs_that_a_slot_needs_until_postgresql_has_put_it_in_step() -> None:
    there = (logical("s1", failover=True), logical("s0", failover=True), logical("s2"))
    there = (replace_slot(there[0], catalog_xmin="710"), replace_slot(there[1], catalog_xmin="705"), there[2])
    former = on_standby(slot(N1), slot(N3), logical("s1", failover=True), there=there, carried=frozenset({"s1"}))
    # First what is needed is kept, then the former writer's own slot makes room.
    assert (chores(former).hold, chores(former).drop) == ((N1, "705"), ())
    held = replace(former, here={**former.here, N1: slot(N1, catalog_xmin="705")})
    assert (chores(held).hold, chores(held).drop, chores(held).release) == (None, ("s1",), ())
    begun = {name: logical(name, failover=True, synced=True, temporary=True) for name in ("s0", "s1")}
    assert not chores(replace(held, here={**held.here, **begun})).synchronise_anew  # with older rows: it comes by itself
    newer = {name: replace_slot(one, catalog_xmin="720") for name, one in begun.items()}
    assert chores(replace(held, here={**held.here, **newer})).synchronise_anew
    in_step = {name: replace_slot(one, temporary=False) for name, one in begun.items()}
    done = chores(replace(held, here={**held.here, **in_step}))
    assert (done.hold, done.release, done.synchronise_anew) == (None, (N1,), False)
    assert chores(replace(former, major=16)).hold is None
    assert chores(replace(former, here=by_name(slot(N1, active=True), slot(N3, active=True)))).hold is None


def test_transaction_numbers_go_round() -> None:
    there = (logical("s1", failover=True), logical("s0", failover=True))
    there = (replace_slot(there[0], catalog_xmin="5"), replace_slot(there[1], catalog_xmin="4294967290"))
    assert chores(on_standby(slot(N1), slot(N3), there=there)).hold == (N1, "4294967290")
    assert full_xid(4294967290, (7 << 32) | 9) == (6 << 32) | 4294967290
    assert full_xid(5, (7 << 32) | 9) == (7 << 32) | 5


def test_postgresqls_own_slot_is_nobodys_to_carry() -> None:
    """From 19 on a subscriber has it, and PostgreSQL refuses that name to everybody else."""
    own = slot("pg_conflict_detection", None, xmin="700", active=True)
    assert users_slots(by_name(own, slot("archive")), {N2}).keys() == {"archive"}
    assert chores(on_standby(slot(N1), slot(N3), there=(own, slot(N2), slot(N3)))).make == ()
