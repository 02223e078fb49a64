"""Desired nodes in the loop: what it asks of store and provisioner, in which order, and what the next manager goes on with."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from cluster_manager.loop import events
from cluster_manager.loop.effects import Effects, LeadOut, Make, NodeNoted, ReadDesired, Write, WriteDesired
from cluster_manager.loop.wishes import UNREAD
from cluster_manager.provision.provisioner import ByOthers, Declined, Gone, Leads, Made
from pgtopology.desired_nodes import DesiredNode, DesiredNodes, Wish
from pgtopology.document import Adopted, Step, Transition, TransitionKind
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import NodeName
from pgtopology.supervision import PlannedNode
from pgtopology.timeline import Timeline
from tests.cluster_manager.loop.test_core import DOCUMENT, Stage

N4 = NodeName("n4")
COMING = DesiredNode(name=N4, zone="az1")
LEAVING = DesiredNode(name=N4, zone="az1", wish=Wish.LEAVING, registered=True)
MADE = Made(PlannedNode(name="n4", zone="az1", port=1, noded_port=2))
CONFIGURED = tuple(DesiredNode(name=member.name, zone=member.zone, registered=True) for member in DOCUMENT.members)


def record(*nodes: DesiredNode, revision: int = 1) -> DesiredNodes:
    return DesiredNodes(revision=revision, nodes=(*CONFIGURED, *nodes))


def begun(stored: DesiredNodes | None) -> tuple[Stage, Effects]:
    """Return a manager that has read its document and the record, and what it does first."""
    stage = Stage()
    stage.tell(events.Woken())
    stage.turn()
    stage.tell(events.Loaded(DOCUMENT))
    assert stage.turn().desired == ReadDesired(stage.now_ms)
    loaded = stage.tell(events.DesiredLoaded(stored))
    turned = stage.turn(1)
    return stage, replace(turned, desired=loaded.desired or turned.desired, notes=(*loaded.notes, *turned.notes))


def kinds(effects: Effects) -> list[str]:
    return [note.kind for note in effects.notes if isinstance(note, NodeNoted)]


def test_the_first_manager_adopts_the_nodes_of_its_settings_once() -> None:
    stage, first = begun(None)
    assert first.desired == WriteDesired(record(), None)
    assert stage.tell(events.DesiredWritten()).desired is None
    assert stage.turn(200).desired is None
    assert first.provision == ()


def test_nothing_is_ordered_before_the_record_says_so() -> None:
    stage, _ = begun(record())
    assert stage.tell(events.NodeWished(COMING)).desired == WriteDesired(record(COMING, revision=2), 1)
    assert stage.turn(100).provision == ()
    stage.tell(events.DesiredWritten())
    assert stage.turn(1).provision == (Make(1, N4, "az1"),)
    assert stage.turn(100).provision == (), "one order at a time"


def test_the_next_manager_goes_on_with_an_order_to_add() -> None:
    stage, first = begun(record(COMING))
    assert kinds(first) == ["node.change_resumed"]
    assert first.provision == (Make(1, N4, "az1"),)
    assert kinds(stage.tell(events.Provisioned(1, MADE))) == []
    assert stage.turn(100).provision == ()


def test_a_failure_is_told_once_and_tried_again_later() -> None:
    stage, _ = begun(record(COMING))
    assert kinds(stage.tell(events.Provisioned(1, Declined("a port is taken")))) == ["node.change_failed"]
    assert stage.turn(500).provision == ()
    assert stage.turn(600).provision == (Make(2, N4, "az1"),)
    assert kinds(stage.tell(events.Provisioned(2, Declined("a port is taken")))) == []
    assert stage.turn(1500).provision == ()
    # Given again it is tried at once.
    stage.tell(events.NodeWished(COMING))
    assert stage.turn(1).provision == (Make(3, N4, "az1"),)


def test_an_order_that_is_taken_back_while_the_provisioner_is_at_it_is_led_out_when_it_has_answered() -> None:
    stage, _ = begun(record(COMING))
    stage.tell(events.NodeWished(LEAVING))
    stage.tell(events.DesiredWritten())
    assert stage.turn(1).provision == ()
    stage.tell(events.Provisioned(1, MADE))
    assert stage.turn(1).provision == (LeadOut(2, N4, purge=False),)
    stage.tell(events.Provisioned(2, Leads()))
    assert stage.turn(1000).provision == (LeadOut(3, N4, purge=False),)
    stage.tell(events.Provisioned(3, Gone()))
    gone = stage.turn(1)
    assert kinds(gone) == ["node.gone"]
    assert gone.desired == WriteDesired(record(revision=3), 2)


def test_the_next_manager_marks_a_node_that_leaves_if_that_is_not_done() -> None:
    member = msgspec.structs.replace(DOCUMENT.members[-1], name=N4)
    document = msgspec.structs.replace(DOCUMENT, members=(*DOCUMENT.members, member))
    stage = Stage()
    stage.tell(events.Woken())
    stage.turn()
    stage.tell(events.Loaded(document))
    stage.turn()
    stage.tell(events.DesiredLoaded(record(LEAVING)))
    write = stage.turn(1).store
    assert isinstance(write, Write)
    marked = write.document.member(N4)
    assert marked is not None
    assert marked.leaving
    assert stage.tell(events.Written()).provision == ()
    assert stage.turn(1).provision == (LeadOut(1, N4, purge=False),)


def test_a_node_that_may_not_leave_any_more_stays_and_the_order_ends() -> None:
    writer = DOCUMENT.writer
    assert writer is not None
    leaving = msgspec.structs.replace(LEAVING, name=writer)
    others = tuple(node for node in CONFIGURED if node.name != writer)
    stage, first = begun(DesiredNodes(revision=1, nodes=(*others, leaving)))
    assert kinds(first) == ["node.change_resumed", "node.change_given_up"]
    assert isinstance(first.desired, WriteDesired)
    kept = first.desired.record.find(writer)
    assert kept is not None
    assert kept.wish is Wish.WANTED
    assert "is the writer" in str(stage.loop.wishes.why_kept(writer))


def test_nodes_that_others_make_and_take_away_come_and_go_with_the_settings() -> None:
    stage, first = begun(record(COMING))
    assert first.provision
    stage.tell(events.Provisioned(1, ByOthers("others do")))
    assert stage.turn(1).desired == WriteDesired(record(revision=2), 1)
    stage.tell(events.DesiredWritten())
    specs = stage.settings.specs[:-1]
    stage.tell(events.Configured(replace(stage.settings, specs=specs)))
    wanted = stage.turn(1).desired
    assert isinstance(wanted, WriteDesired)
    assert [node.name for node in wanted.record.nodes] == [spec.name for spec in specs]


def test_a_manager_without_the_lease_or_unsure_of_the_store_orders_nothing() -> None:
    stage, _ = begun(record())
    stage.tell(events.NodeWished(COMING))
    stage.is_unsure = True
    stage.tell(events.DesiredWritten())
    assert stage.turn(1).provision == ()
    stage.is_unsure = False
    stage.outside = events.Outside(lease_until_ms=stage.now_ms)
    assert stage.turn(1).provision == ()
    assert stage.tell(events.NodeWished(LEAVING)).refused is not None
    stage.outside = events.Outside(lease_until_ms=stage.now_ms + 1e9)
    assert stage.turn(200).provision == (Make(1, N4, "az1"),)


def test_another_managers_write_is_read_and_the_change_made_upon_it() -> None:
    stage, _ = begun(record())
    stage.tell(events.NodeWished(COMING))
    assert stage.tell(events.DesiredOvertaken()).desired == ReadDesired(stage.now_ms)
    again = stage.tell(events.DesiredLoaded(record(revision=7)))
    assert again.desired == WriteDesired(record(COMING, revision=8), 7)


@pytest.mark.parametrize("was_made", [True, False])
def test_a_write_whose_outcome_is_unknown_is_read_again(was_made: bool) -> None:
    stage, _ = begun(record())
    stage.tell(events.NodeWished(COMING))
    asked = stage.tell(events.DesiredFailed("the disk is full")).desired
    assert isinstance(asked, ReadDesired)
    assert asked.not_before_ms > stage.now_ms
    stored = record(COMING, revision=2) if was_made else record()
    again = stage.tell(events.DesiredLoaded(stored)).desired
    assert again == (None if was_made else WriteDesired(record(COMING, revision=2), 1))
    if not was_made:
        stage.tell(events.DesiredWritten())
    assert stage.turn(1).provision == (Make(1, N4, "az1"),)


def test_an_order_is_refused_while_the_record_was_not_read() -> None:
    stage = Stage()
    stage.tell(events.Woken())
    stage.turn()
    stage.tell(events.Loaded(DOCUMENT))
    stage.turn()
    assert stage.tell(events.NodeWished(COMING)).refused == UNREAD
    stage.tell(events.DesiredFailed("the record is of a newer version"))
    assert stage.tell(events.NodeWished(COMING)).refused == "the record is of a newer version"


def test_orders_of_a_store_that_was_behind_are_given_up() -> None:
    adopts = Adopted(epoch=Epoch(1), revision=Revision(1), timeline=Timeline(1))
    transition = Transition(
        kind=TransitionKind.FAILOVER,
        step=Step.RECRUITING,
        cause="STORE_BEHIND",
        first_epoch=DOCUMENT.epoch,
        started_at="",
        adopts=adopts,
    )
    stage = Stage()
    stage.tell(events.Woken())
    stage.turn()
    stage.tell(events.Loaded(msgspec.structs.replace(DOCUMENT, writer=None, transition=transition)))
    stage.turn()
    stage.tell(events.DesiredLoaded(record(LEAVING)))
    effects = stage.turn(1)
    assert kinds(effects) == ["node.change_given_up"]
    assert effects.desired == WriteDesired(record(revision=2), 1)
    assert effects.provision == ()
