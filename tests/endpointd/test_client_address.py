"""The client's address for the server's side: in application_name, cut the right way, and shown by a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpointd.session.clientaddress import NAME_BYTES_MAX, marked, with_address
from pgwire.startup import StartupMessage, decode_first_packet, encode_startup, make_startup
from testkit.feedserver import feed_server
from tests.endpointd.conftest import Servers
from tests.endpointd.proxies import proxy
from tests.endpointd.test_failover import connect, value


def given_to_server(message: StartupMessage, host: str = "192.0.2.7") -> StartupMessage:
    told = decode_first_packet(with_address(encode_startup(message), message, host))
    assert isinstance(told, StartupMessage)
    return told


@pytest.mark.parametrize(
    ("name", "host", "told"),
    [
        ("psql", "192.0.2.7", "psql [192.0.2.7]"),
        ("", "192.0.2.7", "[192.0.2.7]"),
        ("psql", "2001:db8::1", "psql [2001:db8::1]"),
        ("psql", "fe80::1%eth0", "psql [fe80::1]"),
        ("psql", "::ffff:192.0.2.7", "psql [192.0.2.7]"),
        ("psql [192.0.2.7]", "192.0.2.7", "psql [192.0.2.7]"),
        ("x" * 100, "192.0.2.7", "x" * 51 + " [192.0.2.7]"),
        ("ü" * 100, "192.0.2.7", "ü" * 6 + " [192.0.2.7]"),
    ],
)
def test_the_address_stands_behind_the_name(name: str, host: str, told: str) -> None:
    assert marked(name, host) == told


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))))
def test_the_address_is_whole_however_the_server_writes_the_name(name: str) -> None:
    told = marked(name, "2001:db8:1111:2222:3333:4444:5555:6666").encode()
    since_16 = b"".join(bytes([byte]) if 32 <= byte < 127 else b"\\x%02x" % byte for byte in told)
    before = bytes(byte if 32 <= byte < 127 else ord("?") for byte in told)
    for shown in (since_16, before):
        assert shown[:NAME_BYTES_MAX].endswith(b"[2001:db8:1111:2222:3333:4444:5555:6666]")


def test_all_else_is_given_as_it_came() -> None:
    message = make_startup("alice", "shop", application_name="till", DateStyle="ISO")
    told = given_to_server(message)
    assert told.version == message.version
    assert dict(told.parameters) == {**dict(message.parameters), "application_name": "till [192.0.2.7]"}


def test_a_name_in_the_options_is_one_too() -> None:
    told = given_to_server(make_startup("alice", "shop", options="-c application_name=till"))
    assert told.get("application_name") == "till [192.0.2.7]"


@pytest.mark.parametrize("replication", ["true", "database", "1"])
def test_what_replicates_keeps_its_name(replication: str) -> None:
    message = make_startup("alice", "shop", replication=replication, application_name="n2")
    assert given_to_server(message) == message


def test_a_packet_that_would_become_too_long_is_left_as_it_is() -> None:
    message = make_startup("alice", "shop", options="x" * 9_950)
    assert given_to_server(message) == message


async def test_a_server_shows_the_address_of_its_client(servers: Servers, tmp_path: Path) -> None:
    async with (
        feed_server(servers.document()) as feed,
        proxy(tmp_path / "proxy", [feed.port], at_writer='client_address = "application_name"') as running,
    ):
        await running.wait_for_health(status="serving")
        async with await connect(running.writer_port, application_name="till") as till:
            shown = await value(till, "select application_name from pg_stat_activity where pid = pg_backend_pid()")
            assert shown == "till [127.0.0.1]"
            assert till.info.parameter_status("application_name") == "till [127.0.0.1]"
            (view,) = (await running.sessions()).sessions
            assert view.application_name == "till"
        async with await connect(running.reader_port, application_name="till") as other:
            assert await value(other, "show application_name") == "till"
        running.reload(('client_address = "application_name"', 'client_address = "none"'))
        await running.wait_for_log("settings read anew")
        async with await connect(running.writer_port, application_name="till") as till:
            assert await value(till, "show application_name") == "till"
