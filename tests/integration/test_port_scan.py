"""Somebody without any password, on a host of the same network, looks at every port there is and knocks at what answers."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from pgwire.framing import read_message
from pgwire.messages import AuthenticationKind, Backend, decode_authentication, decode_report
from pgwire.startup import encode_startup, make_startup
from testkit.not_possible import NotPossible
from testkit.spread import CLIENTS, MANAGER, NEAR, SpreadCluster, in_namespaces

pytestmark = pytest.mark.timeout(240)

ANSWER_S = 20.0
AT_ONCE = 500
PORTS = range(1, 65536)
SECRETS = ("/status", "/v1/status", "/v1/roles", "/v1/sessions", "/v1/document", "/v1/feed", "/metrics", "/v1/events?follow=0")


@pytest.fixture(scope="module", name="cluster")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpreadCluster]:
    """A cluster on hosts of its own; the test is on one more."""
    folder = tmp_path_factory.mktemp("spread")
    for each in (folder, *folder.parents[:3]):
        with contextlib.suppress(PermissionError):
            each.chmod(0o755)
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(in_namespaces(folder, pg_bin=None))
        except NotPossible as error:
            pytest.skip(str(error))
        assert isinstance(found, SpreadCluster)
        yield found


def test_only_what_is_meant_to_be_reached_listens(cluster: SpreadCluster) -> None:
    plan = cluster.planned
    first = plan.nodes[0]
    assert open_ports(cluster.hosts.address(first.name)) == {first.port, first.noded_port}
    assert open_ports(cluster.hosts.address(MANAGER)) == {plan.manager_port, plan.dns_port}
    assert open_ports(cluster.hosts.address(NEAR)) == {plan.writer_port, plan.reader_port, plan.proxy_port}
    assert open_ports(cluster.hosts.address(CLIENTS)) == set()


@pytest.mark.parametrize("user", ["postgres", "endpointd_probe", "nobody_at_all"])
@pytest.mark.parametrize("replication", ["false", "true", "database"])
def test_postgresql_and_the_endpoints_want_a_proof(cluster: SpreadCluster, user: str, replication: str) -> None:
    plan = cluster.planned
    startup = make_startup(user, "postgres", replication=replication)
    doors = [(cluster.hosts.address(node.name), node.port) for node in plan.nodes]
    doors += [(cluster.hosts.address(NEAR), port) for port in (plan.writer_port, plan.reader_port)]
    for host, port in doors:
        with socket.create_connection((host, port), timeout=ANSWER_S) as end:
            end.sendall(encode_startup(startup))
            kind, payload = one_message(end)
        if kind == Backend.ERROR_RESPONSE:
            assert decode_report(payload).sqlstate.startswith("28"), f"{host}:{port}: {payload!r}"
        else:
            assert kind == Backend.AUTHENTICATION
            assert decode_authentication(payload).kind == AuthenticationKind.SASL, f"{host}:{port}: {payload!r}"


def test_http_says_nothing_without_a_token(cluster: SpreadCluster) -> None:
    plan = cluster.planned
    servers = [(cluster.hosts.address(node.name), node.noded_port) for node in plan.nodes]
    servers += [(cluster.hosts.address(MANAGER), plan.manager_port), (cluster.hosts.address(NEAR), plan.proxy_port)]
    for host, port in servers:
        for method, path in [*(("GET", path) for path in SECRETS), ("POST", "/promote"), ("POST", "/v1/switchover")]:
            for header in ("", "Authorization: Bearer \r\n", "Authorization: Bearer guessed\r\n"):
                with socket.create_connection((host, port), timeout=ANSWER_S) as end:
                    end.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{header}Content-Length: 0\r\n\r\n".encode())
                    said = end.recv(4096).decode()
                assert said.split()[1] == "401", f"{method} {path} at {host}:{port}: {said}"


def test_the_name_server_asks_nobody_else(cluster: SpreadCluster) -> None:
    query = dns.message.make_query("example.org", "A")
    answer = dns.query.udp(query, cluster.hosts.address(MANAGER), ANSWER_S, cluster.planned.dns_port)
    assert answer.rcode() == dns.rcode.REFUSED
    assert not answer.answer
    assert not answer.flags & dns.flags.RA


def one_message(end: socket.socket) -> tuple[int, bytes]:
    """Return the first message that a server says."""
    said = b""
    while (found := read_message(said, 0, bytes_max=1 << 16)) is None:
        piece = end.recv(4096)
        assert piece, f"the connection was closed after {said!r}"
        said += piece
    return found.kind, found.payload


def open_ports(host: str) -> set[int]:
    """Return every TCP port of *host* that accepts a connection."""
    found: set[int] = set()
    for start in range(PORTS.start, PORTS.stop, AT_ONCE):
        with contextlib.ExitStack() as stack:
            waiting: dict[int, tuple[int, socket.socket]] = {}
            poll = select.poll()
            for port in range(start, min(start + AT_ONCE, PORTS.stop)):
                end = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                began = end.connect_ex((host, port))
                if began in (0, errno.EINPROGRESS):
                    waiting[end.fileno()] = port, end
                    poll.register(end, select.POLLOUT)
                else:
                    assert began == errno.ECONNREFUSED
            while waiting:
                answered = poll.poll(ANSWER_S * 1000)
                assert answered, f"{host} does not answer at {sorted(port for port, _ in waiting.values())[:10]}"
                for descriptor, _ in answered:
                    port, end = waiting.pop(descriptor)
                    poll.unregister(descriptor)
                    # Within one host a connection may be given the very port that it goes to, and meet itself.
                    if end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and end.getsockname() != (host, port):
                        found.add(port)
    return found
