"""The plan of a local cluster: ports at their documented distances, zones in turn, durability by the number of nodes."""

from __future__ import annotations

import pytest

from deployment.local.plan import PROXIES_MAX, make_plan


def test_ports_stand_at_their_documented_distances_from_the_base() -> None:
    plan = make_plan(node_count=3, base_port=6400, pg_bin="/bin")
    assert (plan.writer_port, plan.reader_port, plan.dns_port, plan.manager_port, plan.proxy_port) == (
        6432,
        6433,
        6453,
        6480,
        6490,
    )
    assert [node.port for node in plan.nodes] == [6410, 6411, 6412]
    assert [node.noded_port for node in plan.nodes] == [6460, 6461, 6462]


def test_the_ports_of_as_many_proxies_as_there_may_be_stand_apart() -> None:
    plan = make_plan(node_count=5, base_port=6400, pg_bin="/bin", proxy_count=PROXIES_MAX)
    assert len({(use.port, use.udp) for use in plan.ports}) == len(plan.ports)
    assert [(one.program, one.writer_port, one.reader_port, one.http_port) for one in plan.proxies] == [
        ("endpointd", 6432, 6433, 6490),
        ("endpointd-2", 6436, 6437, 6491),
        ("endpointd-3", 6440, 6441, 6492),
        ("endpointd-4", 6444, 6445, 6493),
    ]


def test_nodes_are_spread_over_three_zones_in_turn() -> None:
    plan = make_plan(node_count=5, base_port=6400, pg_bin="/bin")
    assert [(node.name, node.zone) for node in plan.nodes] == [
        ("n1", "az1"),
        ("n2", "az2"),
        ("n3", "az3"),
        ("n4", "az1"),
        ("n5", "az2"),
    ]


@pytest.mark.parametrize(("count", "durability"), [(1, "async"), (2, "async"), (3, "quorum"), (5, "quorum")])
def test_only_three_nodes_and_more_make_a_quorum(count: int, durability: str) -> None:
    assert make_plan(node_count=count, base_port=6400, pg_bin="/bin").durability == durability


def test_every_port_is_checked_and_dns_over_udp_too() -> None:
    plan = make_plan(node_count=5, base_port=6400, pg_bin="/bin")
    assert len({(use.port, use.udp) for use in plan.ports}) == len(plan.ports) == 6 + 2 * 5
    assert [use.port for use in plan.ports if use.udp] == [plan.dns_port]
