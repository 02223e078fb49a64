"""What a noded does with each order, as text; and that it may die at any effect of it, and the next order goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from noded.acts import effects
from noded.acts.acts import Acts
from noded.acts.effects import Effect, Failed, Steps
from noded.acts.gate import OrderRefused
from noded.acts.synchronous import needs_bounce
from noded.hands import hands
from noded.law import promise as rules
from noded.law.promise import Following, Promotion, State, Work, standby_configuration, writer_configuration
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import Address, Incarnation, NodeName, Role
from pgtopology.observation import Seen
from pgtopology.orders import (
    CloneOrder,
    ConfigureOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseAnswer,
    PromiseOrder,
    PromoteOrder,
    Refusal,
    RewindOrder,
    StartOrder,
    StopOrder,
    SynchronousOrder,
    Upstream,
)
from pgtopology.quorum import Voter, Voters, make_voters
from pgtopology.timeline import Timeline
from tests.noded.paper import Disk, Killed, Paper
from tests.sim import hands as simulated

ACTS = Path(__file__).with_name("acts.txt")
_NOT_AGAIN = (PromoteOrder, InitOrder, CloneOrder, RewindOrder)
"""A promotion that did not end well takes another epoch, and what was half made is copied, by another order."""

N1, N2 = NodeName("n1"), NodeName("n2")
N2_SERVES = Upstream(N2, Address("127.0.0.1", 5432))
N3_SERVES = Upstream(NodeName("n3"), Address("127.0.0.1", 5433))
VOTERS = make_voters([Voter(N1, Incarnation("aaaa")), Voter(N2, Incarnation("bbbb"))], 2)
WIDER = make_voters([*VOTERS.members, Voter(NodeName("n3"), Incarnation("dddd"))], 3)
STATE = State(
    cluster="c",
    node=N1,
    system_identifier="7",
    incarnation=Incarnation("aaaa"),
    whole=True,
    promised=Epoch(5),
    seen=Seen(epoch=Epoch(5), revision=Revision(50), voters=VOTERS),
    following=Following(N2_SERVES, Epoch(5)),
)
PROMISED = replace(STATE, promised=Epoch(6), following=None)
WRITER = replace(STATE, promotion=Promotion(Epoch(5), Timeline(3)), in_force=VOTERS, following=None)


def standby() -> Disk:
    return Disk(STATE, configuration=standby_configuration(STATE), receives_from="n2")


def promised() -> Disk:
    return Disk(PROMISED, configuration=standby_configuration(PROMISED))


def writer() -> Disk:
    disk = Disk(WRITER, role=Role.PRIMARY, standby_signal=False, timeline=Timeline(3))
    disk.configuration = writer_configuration(WRITER)
    return disk


def nothing() -> Disk:
    return Disk(State(cluster="c", node=N1), role=Role.NONE, has_data=False)


def by_hand() -> Disk:
    return changed(standby, role=Role.PRIMARY, standby_signal=False, timeline=Timeline(4), receives_from=None)()


def half_copied() -> Disk:
    state = rules.follow(rules.begin(PROMISED, Work.CLONE), N3_SERVES, Epoch(6))
    return Disk(replace(state, work=Work.REWIND), role=Role.NONE)


def unknown() -> Disk:
    """The state was lost, and nobody knows what the data has acknowledged."""
    return Disk(State(cluster="c", node=N1))


def changed(make: Callable[[], Disk], **facts: object) -> Callable[[], Disk]:
    def changed_disk() -> Disk:
        disk = make()
        for name, value in facts.items():
            setattr(disk, name, value)
        return disk

    return changed_disk


def start_up(acts: Acts) -> Steps[None]:
    return acts.startup.start_up()


_FIELDS: dict[type[Order], dict[str, object]] = {
    FollowOrder: {"upstream": N3_SERVES},
    PromoteOrder: {"timeline": 5},
    CloneOrder: {"source": N3_SERVES, "destroys": "aaaa"},
    RewindOrder: {"source": N3_SERVES, "destroys": "aaaa"},
    SynchronousOrder: {"in_force": WIDER},
    ConfigureOrder: {"desired": {}},
}


def order(kind: type[Order], **fields: object) -> Order:
    common = {"cluster": "c", "node": "n1", "system_identifier": "7", "epoch": 6, "revision": 60, "voters": VOTERS}
    return msgspec.convert({**common, **_FIELDS.get(kind, {}), **fields}, kind)


SCENES: dict[str, tuple[Callable[[], Disk], Order]] = {
    "a standby promises": (standby, order(PromiseOrder)),
    "a standby whose receiver is frozen promises": (changed(standby, frozen_receiver=True), order(PromiseOrder)),
    "a standby that answers nobody promises": (changed(standby, answers=False), order(PromiseOrder)),
    "a writer promises": (writer, order(PromiseOrder)),
    "a writer that hands over promises": (writer, order(PromiseOrder, stop_mode="fast")),
    "a node that is down promises": (changed(standby, role=Role.NONE, receives_from=None), order(PromiseOrder)),
    "a node that somebody promoted promises": (by_hand, order(PromiseOrder)),
    "a node that was being copied to promises": (half_copied, order(PromiseOrder)),
    "a node without data promises": (nothing, order(PromiseOrder)),
    "a promised node is to follow": (promised, order(FollowOrder)),
    "a node that is down is to follow": (changed(promised, role=Role.NONE), order(FollowOrder)),
    "a promised node is promoted": (promised, order(PromoteOrder)),
    "the writer is to wait for more copies": (writer, order(SynchronousOrder, epoch=5)),
    "settings are taken over": (standby, order(ConfigureOrder)),
    "a node that is down is started": (changed(standby, role=Role.NONE, receives_from=None), order(StartOrder)),
    "a standby is stopped": (standby, order(StopOrder)),
    "a cluster begins": (nothing, order(InitOrder, system_identifier=None)),
    "a promised node is copied": (promised, order(CloneOrder)),
    "a standby that answers nobody is copied": (changed(promised, answers=False), order(CloneOrder)),
    "a quarantined node is copied by an operator": (unknown, order(CloneOrder, destroys=None, by_operator=True)),
    "a promised node is rewound": (promised, order(RewindOrder)),
}


BY_ITSELF: dict[str, tuple[Callable[[], Disk], Callable[[Acts], Steps[None]]]] = {
    "the writer is found running": (writer, start_up),
    "a former writer is found running": (changed(writer, value=rules.promise(WRITER, Epoch(6))), start_up),
    "a standby is found running": (standby, start_up),
    "a promised standby is found running": (changed(standby, value=PROMISED), start_up),
    "a node that somebody promoted is found running": (by_hand, start_up),
    "a node that was to be stopped is found running": (changed(standby, value=replace(STATE, wanted=False)), start_up),
    "a node is found down": (changed(standby, role=Role.NONE, receives_from=None), start_up),
    "a copy was interrupted": (changed(half_copied, value=rules.begin(PROMISED, Work.CLONE)), start_up),
    "a rewind was interrupted": (half_copied, start_up),
    "the data is gone": (changed(standby, has_data=False, role=Role.NONE, receives_from=None), start_up),
    "the state is gone": (unknown, start_up),
    "the state cannot be read": (changed(unknown, unreadable="it is damaged"), start_up),
    "the writer is looked at": (writer, lambda acts: acts.police.look()),
    "a former writer is looked at": (changed(writer, value=rules.promise(WRITER, Epoch(6))), lambda acts: acts.police.look()),
    "a node that somebody promoted is looked at": (by_hand, lambda acts: acts.police.look()),
    "a standby is looked at": (standby, lambda acts: acts.police.look()),
}
"""What a noded does without an order: when it starts, and as it looks at who is a primary."""


def play(paper: Paper, given: Order) -> Any:
    """Take *given* as the noded's server would."""
    orders = paper.acts.orders
    acts: dict[type[Order], Callable[[Any], Steps[Any]]] = {
        PromiseOrder: orders.promise,
        FollowOrder: orders.follow,
        PromoteOrder: orders.promote,
        SynchronousOrder: orders.put_in_force,
        ConfigureOrder: orders.configure,
        InitOrder: orders.init,
        StartOrder: orders.start,
        StopOrder: orders.stop,
        CloneOrder: orders.clone,
        RewindOrder: orders.rewind,
    }
    return paper.do(acts[type(given)](given))


def begun(disk: Disk, *, dies_at: int | None = None, failing: type[Effect[Any]] | None = None) -> Paper:
    """Return a noded that has taken up *disk*; what it dies of or fails at comes later."""
    paper = Paper(disk)
    if disk.value.incarnation is None and disk.has_data:
        paper.do(paper.acts.startup.start_up())
    paper.lines.clear()
    paper.dies_at, paper.failing = dies_at + paper.effects if dies_at is not None else None, failing
    return paper


def told(name: str) -> str:
    """Return what happens in a scene, as text."""
    make, given = SCENES[name]
    disk = make()
    paper = begun(disk)
    answer = play(paper, given)
    unknown = f", position unknown: {answer.unknown_because}" if getattr(answer, "unknown_because", "") else ""
    return "\n".join([f"## {name}", *paper.lines, f"=> {disk.told()}{unknown}"])


def told_by_itself(name: str) -> str:
    """Return what happens without an order, as text."""
    make, act = BY_ITSELF[name]
    disk = make()
    paper = Paper(disk)
    paper.do(act(paper.acts))
    quarantine = f", quarantined: {paper.memory.blocked}" if paper.memory.blocked else ""
    return "\n".join([f"## {name}", *paper.lines, f"=> {disk.told()}{quarantine}"])


def all_told() -> str:
    return "\n\n".join([*map(told, SCENES), *map(told_by_itself, BY_ITSELF)]) + "\n"


def test_the_effects_of_each_act_are_those_of_the_text() -> None:
    """After a change that is meant: python -m tests.noded.test_acts > tests/noded/acts.txt, and read it."""
    assert ACTS.read_text() == all_told()


def ways_to_die_alone() -> Iterator[tuple[str, int]]:
    for name, (make, act) in BY_ITSELF.items():
        paper = Paper(make())
        paper.do(act(paper.acts))
        yield from ((name, at) for at in range(1, paper.effects + 1))


@pytest.mark.parametrize(("name", "at"), list(ways_to_die_alone()))
def test_a_noded_may_die_while_it_starts_or_looks(name: str, at: int) -> None:
    make, act = BY_ITSELF[name]
    disk = make()
    paper = Paper(disk, dies_at=at)
    with pytest.raises(Killed):
        paper.do(act(paper.acts))
    go_on(disk, 7)


def ways_to_die() -> Iterator[tuple[str, int]]:
    for name, (make, given) in SCENES.items():
        paper = begun(make())
        before = paper.effects
        play(paper, given)
        yield from ((name, at) for at in range(1, paper.effects - before + 1))


def go_on(disk: Disk, epoch: int) -> Paper:
    """Start a noded on what the dead one left, let a manager ask for a promise, and give the node a place again."""
    paper = Paper(disk)
    paper.do(paper.acts.startup.start_up())
    state = disk.value
    assert disk.role is not Role.PRIMARY or rules.may_remain_primary(state)
    identifier = state.system_identifier or "7"
    if disk.unreadable is not None:
        # Nobody knows what was promised, so nothing is: an operator has the node made anew.
        assert disk.role is Role.NONE
        with pytest.raises(OrderRefused, match="damaged"):
            play(paper, order(PromiseOrder, epoch=epoch, revision=100))
        play(paper, order(CloneOrder, epoch=epoch, revision=101, destroys=None, by_operator=True))
        assert (disk.told(), disk.value.promised) == ("standby of n3", epoch)
        return paper
    answer = play(paper, order(PromiseOrder, epoch=epoch, revision=100, system_identifier=identifier))
    assert isinstance(answer, PromiseAnswer)
    assert answer.promised == disk.value.promised == epoch
    # Nobody's WAL comes in, and no commit is acknowledged.
    assert (disk.role is Role.PRIMARY, disk.receives_from) == (False, None)
    assert answer.position is None or not (disk.value.work or paper.memory.blocked)
    usable = disk.has_data and not disk.value.foreign and disk.value.work is None and paper.memory.blocked is None
    assert (answer.position is not None) is (usable or (disk.value.foreign and disk.has_data))
    later = {"epoch": epoch, "revision": 101, "system_identifier": identifier}
    if usable:
        play(paper, order(FollowOrder, **later))
    else:
        play(paper, order(CloneOrder, **later, destroys=disk.value.incarnation, by_operator=True))
    assert disk.told() == "standby of n3"
    assert disk.value.work is None
    assert (disk.value.whole is False) or usable
    return paper


@pytest.mark.parametrize(("name", "at"), list(ways_to_die()))
def test_a_noded_may_die_before_any_effect_and_the_next_order_goes_on(name: str, at: int) -> None:
    make, given = SCENES[name]
    disk = make()
    paper = begun(disk, dies_at=at)
    with pytest.raises(Killed):
        play(paper, given)
    go_on(disk, 7)


@pytest.mark.parametrize("name", [name for name, (_, given) in SCENES.items() if not isinstance(given, _NOT_AGAIN)])
def test_the_same_order_after_a_death_ends_as_if_nobody_had_died(name: str) -> None:
    make, given = SCENES[name]
    undisturbed = make()
    play(begun(undisturbed), given)
    for at in (at for scene, at in ways_to_die() if scene == name):
        disk = make()
        with pytest.raises(Killed):
            play(begun(disk, dies_at=at), given)
        paper = Paper(disk)
        paper.do(paper.acts.startup.start_up())
        play(paper, given)
        assert (disk.told(), disk.value) == (undisturbed.told(), undisturbed.value), at


FALLIBLE = sorted(
    (effects.Start, effects.Stop, effects.Reconfigure, effects.EndReceiver, effects.AwaitPrimary, effects.EndWalsenders,
     effects.CopyData, effects.RewindData, effects.MakeData, effects.PutInPlace, effects.WalkWal, effects.PlantPlaceholders,
     effects.TriggerPromotion, effects.ReloadSettings),
    key=lambda kind: kind.__name__,
)  # fmt: skip


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("kind", FALLIBLE)
def test_what_the_world_does_not_do_is_a_refusal_and_the_next_order_goes_on(name: str, kind: type[Effect[Any]]) -> None:
    make, given = SCENES[name]
    disk = make()
    paper = begun(disk, failing=kind)
    refused: OrderRefused | None = None
    try:
        answer = play(paper, given)
    except OrderRefused as error:
        refused = error
    else:
        assert not isinstance(answer, PromiseAnswer) or disk.role is not Role.PRIMARY
    assert refused is None or refused.reason is Refusal.FAILED
    assert not disk.replaced
    go_on(disk, 7)


def test_a_promise_overtaken_while_it_waits_is_refused_and_stays_promised() -> None:
    disk = standby()
    paper = Paper(disk)
    steps = paper.acts.orders.promise(cast("PromiseOrder", order(PromiseOrder)))
    effect = next(steps)
    while not isinstance(effect, effects.InTurn):
        effect = steps.send(paper.carry_out_one(effect))
    play(paper, order(PromiseOrder, epoch=8, revision=90))
    with pytest.raises(OrderRefused) as refused:
        paper.do(effect.steps)
    assert refused.value.reason is Refusal.STALE
    assert disk.value.promised == 8


def test_a_promotion_that_a_newer_promise_overtakes_is_stopped() -> None:
    disk = promised()
    paper = Paper(disk)

    def still_wanted(effect: Effect[Any]) -> None:
        if isinstance(effect, effects.AwaitPrimary):
            disk.value = rules.promise(disk.value, Epoch(8))
            if not effect.still_wanted():
                raise Failed("a newer promise was given")

    paper.before = still_wanted
    with pytest.raises(OrderRefused, match="a newer promise"):
        play(paper, order(PromoteOrder))
    assert disk.role is Role.NONE
    assert not paper.memory.promoting
    paper.before = None
    go_on(disk, 9)


@pytest.mark.parametrize(
    ("proven", "wanted", "bounce"),
    [(VOTERS, WIDER, True), (WIDER, VOTERS, False), (WIDER, WIDER, False), (None, WIDER, True), (None, VOTERS, False)],
)
def test_walsenders_begin_anew_unless_all_are_known_to_ask_for_as_many_copies(
    proven: Voters | None, wanted: Voters, bounce: bool
) -> None:
    assert needs_bounce(proven, wanted, N1) is bounce


def test_a_list_is_known_to_be_in_force_only_when_it_was_proven() -> None:
    disk = writer()
    paper = Paper(disk)
    play(paper, order(SynchronousOrder, epoch=5))
    assert (paper.memory.proven_list, paper.memory.list_is_proven) == (WIDER, True)
    paper.failing = effects.CommitBarrier
    with pytest.raises(OrderRefused):
        play(paper, order(SynchronousOrder, epoch=5, revision=61, in_force=VOTERS))
    assert (paper.memory.proven_list, paper.memory.list_is_proven) == (None, True)  # read, and no walsender proved it
    assert Paper(disk).memory.proven_list is None


def test_every_effect_is_known_to_the_product_and_to_the_simulator() -> None:
    kinds = {kind for kind in vars(effects).values() if isinstance(kind, type) and issubclass(kind, Effect)} - {Effect}
    assert set(hands.HOW) == kinds
    assert set(simulated.HOW) == kinds


if __name__ == "__main__":
    print(all_told(), end="")
