"""Free and taken ports, and who holds them, on real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemonkit.exits import Failure
from deployment.cluster import PooledDoor
from deployment.local.layout import Layout
from deployment.local.plan import PortUse, make_plan
from deployment.local.preferences import Preferences
from supervisor.ports import conflicts, find_holder, free_base_port, is_free
from supervisor.starting import Wishes, start_cluster
from tests.endpointd.servers import bin_dir


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def taken(request: pytest.FixtureRequest) -> Iterator[PortUse]:
    other = socket.SOCK_DGRAM if request.param == socket.SOCK_STREAM else socket.SOCK_STREAM
    with contextlib.ExitStack() as holders:
        while True:  # the system gives a port that somebody may hold for the other protocol
            holder = holders.enter_context(socket.socket(socket.AF_INET, request.param))
            holder.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError), socket.socket(socket.AF_INET, other) as probe:
                probe.bind(holder.getsockname())
                break
        if request.param == socket.SOCK_STREAM:
            holder.listen()
        yield PortUse(holder.getsockname()[1], "a test", udp=request.param == socket.SOCK_DGRAM)


def test_a_held_port_is_not_free_and_its_holder_is_named(taken: PortUse) -> None:
    assert not is_free(taken)
    holder = find_holder(taken)
    assert holder.pid == os.getpid()
    assert "python" in holder.description or "pytest" in holder.description


def test_a_port_held_for_one_protocol_is_free_for_the_other(taken: PortUse) -> None:
    assert is_free(PortUse(taken.port, "a test", udp=not taken.udp))


def test_a_released_port_is_free_again(taken: PortUse) -> None:
    [conflict] = conflicts([taken])
    assert conflict.use == taken


def test_a_listener_on_every_address_takes_ours_too() -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))  # noqa: S104 - the case under test
        holder.listen()
        assert not is_free(PortUse(holder.getsockname()[1], "a test"))


def test_a_connection_that_has_ended_is_named_as_what_it_is() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.socket() as client:
            # As connect() does by itself: without SO_REUSEADDR, on a port of outgoing connections.
            client.connect(server.getsockname())
            accepted, address = server.accept()
        with accepted:
            accepted.recv(1)
        use = PortUse(address[1], "a test")
        assert not is_free(use), "it waits for a minute (TIME-WAIT) on the side that ended first"
        [conflict] = conflicts([use])
        assert conflict.holder.pid is None
        assert "a connection that has ended" in conflict.holder.description
        assert f"outgoing connections have ports from {lowest_port()} on" in conflict.holder.description


def lowest_port() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_a_free_block_lies_below_the_ports_of_outgoing_connections() -> None:
    base = free_base_port(make_plan(node_count=5, base_port=0, pg_bin="").ports)
    assert base % 100 == 0
    assert not conflicts(make_plan(node_count=5, base_port=base, pg_bin="").ports)


def test_a_free_block_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the first program that listens there lie seconds, in which somebody else may ask."""
    monkeypatch.setattr("random.shuffle", lambda _bases: None)
    uses = make_plan(node_count=3, base_port=0, pg_bin="").ports
    assert len({free_base_port(uses) for _ in range(3)}) == 3


async def test_a_taken_port_of_a_pooled_endpoint_is_named_before_anything_starts(tmp_path: Path) -> None:
    plan = make_plan(node_count=1, base_port=0, pg_bin="", proxy_count=2)
    base = free_base_port((*plan.ports, *(use for proxy in plan.proxies for use in proxy.pooled_ports)))
    layout = Layout(tmp_path / "c")
    wishes = Wishes(
        node_count=1, proxy_count=2, base_port=base, pg_bin=bin_dir(), preferences=Preferences(pooled_reader=PooledDoor())
    )
    with socket.create_server(("127.0.0.1", base + 39)), pytest.raises(Failure) as caught:
        await start_cluster(layout, wishes)
    assert str(caught.value).startswith(f"TCP port {base + 39} for the pooled reader endpoint of proxy-2 is held by")
    assert not layout.root.exists()
