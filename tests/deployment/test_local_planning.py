"""Which node is added, in which plan it and one that leaves end up, and what a new node inherits from the others."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster_manager.settings import FailoverSettings
from daemonkit.exits import Failure
from daemonkit.logs import LogSettings
from deployment.cluster import PostgresSettings
from deployment.local.directory import make_files, make_root, read_plan, write_plan, write_settings
from deployment.local.layout import Layout
from deployment.local.plan import Plan, make_plan, node_number, node_ports, plan_node
from deployment.local.planning import choose_node, with_leaving, with_node, without_leaving, without_node
from deployment.local.preferences import Preferences
from deployment.local.settings_files import preferences_in_force, settings_files
from pgtopology.node import NODES_MAX
from supervisor.changing import free_name
from supervisor.stopping import stop_steps

THREE = make_plan(node_count=3, base_port=6400, pg_bin="/bin")


def _choose(plan: Plan, name: str | None = None, zone: str | None = None, *, in_the_way: tuple[str, ...] = ()) -> str:
    node = choose_node(plan, name, zone, is_in_the_way=lambda taken: taken in in_the_way)
    return f"{node.name} {node.zone} {node.port} {node.noded_port}"


def test_sixteen_nodes_fit_into_the_block_of_ports() -> None:
    plan = make_plan(node_count=NODES_MAX, base_port=6400, pg_bin="/bin")
    ports = [(use.port, use.udp) for use in plan.ports]
    assert len(set(ports)) == len(ports) == 6 + 2 * NODES_MAX
    assert {port for port, _ in ports} <= set(range(6400, 6500))


def test_names_are_n1_to_n16_and_nothing_else() -> None:
    assert [node_number(name) for name in ("n1", "n16")] == [1, 16]
    assert not [name for name in ("n0", "n17", "n01", "n", "N1", "n1 ", "../n1", "") if node_number(name) is not None]


def test_the_first_free_name_is_taken_with_its_zone_and_ports() -> None:
    assert _choose(THREE) == "n4 az1 6413 6463"
    assert _choose(without_node(THREE, "n2")) == "n2 az2 6411 6461"
    assert _choose(THREE, in_the_way=("n4", "n5")) == "n6 az3 6415 6465"
    assert _choose(THREE, "n11", "cellar") == "n11 cellar 6420 6470"


def test_a_node_that_is_there_is_found_again_with_its_own_zone() -> None:
    plan = with_node(THREE, plan_node(4, base_port=6400, zone="cellar"))
    assert _choose(plan, "n4") == _choose(plan, "n4", "cellar") == "n4 cellar 6413 6463"


@pytest.mark.parametrize(
    ("name", "zone", "reason"),
    [
        ("n2", "elsewhere", "in the cluster already, in zone az2"),
        ("n3", None, "is being taken out"),
        ("n17", None, "names are n1 to n16"),
        ("n7", None, "lies where the new one's would be"),
    ],
)
def test_a_node_that_cannot_be_added_is_refused_with_the_reason(name: str, zone: str | None, reason: str) -> None:
    plan = with_leaving(THREE, "n3", purge=False)
    with pytest.raises(Failure) as refused:
        _choose(plan, name, zone, in_the_way=("n7",))
    assert reason in refused.value.line


def test_there_is_no_seventeenth_node() -> None:
    with pytest.raises(Failure, match="more than 16"):
        _choose(make_plan(node_count=NODES_MAX, base_port=6400, pg_bin="/bin"))


def test_nodes_stand_in_the_order_of_their_numbers() -> None:
    plan = THREE
    for number in (11, 4):
        plan = with_node(plan, plan_node(number, base_port=6400))
    assert plan.names == ("n1", "n2", "n3", "n4", "n11")
    assert [use.port for use in node_ports(plan.nodes[-1])] == [6420, 6470]


def test_a_node_that_leaves_is_known_until_nothing_of_it_is_left(tmp_path: Path) -> None:
    plan = with_leaving(with_node(THREE, plan_node(4, base_port=6400)), "n4", purge=False)
    assert plan.names == plan.programs[:4] == ("n1", "n2", "n3", "n4")
    plan = without_node(plan, "n4")
    assert plan.names == ("n1", "n2", "n3")
    assert "n4" not in plan.programs
    assert "n4" in stop_steps(plan, "n1")[-1].names, "a stop must find what still runs"
    layout = Layout(tmp_path)
    write_plan(layout, plan)
    assert read_plan(layout) == plan
    assert without_leaving(plan, "n4") == THREE


def test_an_order_to_purge_is_not_taken_back_by_one_without() -> None:
    plan = with_leaving(with_leaving(THREE, "n3", purge=True), "n3", purge=False)
    assert [(one.node.name, one.purge) for one in plan.leaving] == [("n3", True)]


def test_durability_follows_the_number_of_nodes() -> None:
    two = without_node(THREE, "n3")
    assert (two.durability, with_node(two, plan_node(3, base_port=6400)).durability) == ("async", "quorum")


def test_a_plan_of_a_cluster_that_never_changed_is_read(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_plan(layout, THREE)
    text = layout.plan.read_text().replace(',\n  "leaving": []', "")
    assert "leaving" not in text
    layout.plan.write_text(text)
    assert read_plan(layout) == THREE


def test_a_new_node_gets_what_the_others_were_started_with(tmp_path: Path) -> None:
    layout = Layout(tmp_path / 'a "quoted" one')
    make_root(layout)
    make_files(layout, THREE)
    chosen = Preferences(
        postgres=PostgresSettings(settings={"work_mem": "8MB", "app.name": 'x"y'}, hba=("host all all ::1/128 trust",)),
        failover=FailoverSettings(soft_interval_s=0.5, hold_after=0),
        logs=LogSettings(level="debug", style="json"),
    )
    assert preferences_in_force(layout, THREE) == Preferences(), "nothing was ever started"
    write_settings(settings_files(THREE, layout, chosen))
    layout.settings_file("n1").unlink()
    assert preferences_in_force(layout, THREE) == chosen


def test_data_that_is_put_aside_carries_the_time() -> None:
    aside = free_name(Path("/d/nodes/n4"), datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC))
    assert aside == Path("/d/nodes/n4.removed-20310203T040506")
