"""Clients that give no key: by certificate, or trusted. What comes in, and what does not with a stolen key of the proxy.

The server is a real one with the lines that a noded writes, for whom its own statement finds.
"""

from __future__ import annotations

import datetime as dt
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from deployment.certificates import new_client
from endpointd import refusal
from endpointd.session.commands import (
    ClientSent,
    Close,
    Connect,
    Connected,
    Identify,
    Refused,
    Relay,
    ServerGone,
    ServerSent,
    ToClient,
    ToServer,
    Vouched,
)
from endpointd.session.conversation import State
from endpointd.settings import (
    FeedSettings,
    HttpSettings,
    NodedSettings,
    ProxySettings,
    ReaderSettings,
    ServersSettings,
    Settings,
    TlsSettings,
    WriterSettings,
    complaints,
)
from endpointd.wire.identity import load_servers_tls
from noded.postgres.vouching import (
    DATABASES,
    ORDINARY_ROLES,
    Vouching,
    hba_lines,
    ident_lines,
    present,
    read_logins,
    read_sources,
)
from noded.report.credentials import ROLES, compose
from pgtopology.credentials import Credentials, make_credentials
from pgwire import messages as m
from pgwire.startup import SSL_REQUEST, encode_startup, make_startup
from testkit.feedserver import feed_server
from testkit.ports import free_port
from tests.certificates import authority, client, server
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.servers import PASSWORD, Postgres
from tests.endpointd.test_conversation import ABOUT, HELLO, KEY, OK, READY, SASL, WRITER, Play, refused
from tests.endpointd.test_failover import connect, value
from tests.endpointd.test_tls_clients import files, tables, verified
from tests.endpointd.test_tls_servers import certified, led_by

SOURCE = "127.0.0.2"
MAPS = r'user_maps = ["people /^(.*)@example$ \\1", "people boss postgres", "people nobody nobody"]'
RULES = (
    "hostssl shop  ann,bob,postgres,nobody 127.0.0.1/32 cert map=people",
    "hostssl all   carl       127.0.0.1/32 cert",
    "hostnossl shop /^svc_    127.0.0.1/32 trust",
    "host    all   /^might    127.0.0.1/32 trust",
    "host    all   postgres   127.0.0.1/32 trust",
    "host    all   all        127.0.0.1/32 relay",
)
LOGINS = (
    "shop ann,bob,postgres,nobody",
    "all carl",
    "shop /^svc_",
    "all /^might,postgres,endpointd_replication",
)
earlier = pytest.mark.parametrize("is_earlier", [False, True], ids=["proxy refuses", "server refuses"])
"""A noded of an earlier version does not say who is vouched for: then the server's own files decide."""
MIGHTY = ("might_copy", "might_grant", "might_run", "might_become", "might_inherit")


def mint(directory: Path) -> Path:
    """Write certificates of clients, and the proxy's, beside the others."""
    files(directory)
    for name in ("endpointd_proxy", "ann@example", "carl", "boss", "nobody"):
        path = directory / f"{name}.pem"
        path.write_text(client(name).pem)
        path.chmod(0o600)
    return directory


def names(postgres: Postgres, sql: str) -> list[bytes]:
    """Return the names that a statement of a noded's finds."""
    return [bytes.fromhex(line.removeprefix("\\x")) for line in postgres.sql(sql).splitlines() if line]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that takes a proxy's word as a noded lets it."""
    made = certified(tmp_path_factory.mktemp("vouched"))
    try:
        made.start()
        for role in ("ann", "carl", "svc_a", "might_inherit", "might_become", *('"svc_all"', '"/svc_x"')):
            made.sql(f"create role {role} login")
        made.sql(f"create role scram login password '{PASSWORD}'")
        made.sql("create role bob login password 'x' valid until '2020-01-01'")
        made.sql("create role might_copy login replication; create role might_grant login createrole")
        made.sql("create role endpointd_replication login")
        made.sql("create role might_run login in role pg_execute_server_program")
        made.sql("create role chief superuser; grant chief to might_become; grant might_become to might_inherit")
        for database in ("shop", "stock"):
            made.sql(f"create database {database}")
        trusted(made)
        yield made
    finally:
        made.remove()


def told(postgres: Postgres, *, is_earlier: bool) -> Credentials:
    """Return what a noded tells of the roles, *is_earlier*: one that does not say yet who is vouched for."""
    rows: list[dict[str, object]] = []
    for line in postgres.sql(ROLES).splitlines():
        name, ordinary, kind, verifier = line.split("|")
        value = bytes.fromhex(verifier.removeprefix("\\x")) or None
        rows.append({"name": bytes.fromhex(name[2:]), "ordinary": ordinary == "t", "kind": kind, "verifier": value})
    credentials, _, _ = compose(rows, bytes(32), 4096)
    roles = (replace(role, vouchable=None) if is_earlier else role for role in credentials.roles)
    return make_credentials(bytes(32), 4096, roles)


def trusted(postgres: Postgres) -> None:
    """Do what a noded does after a look."""
    vouching = Vouching(read_sources([SOURCE]), read_logins(LOGINS))
    there = present(names(postgres, ORDINARY_ROLES), names(postgres, DATABASES))
    lines = ("local all all trust", *hba_lines(vouching, there), "host all postgres 127.0.0.1/32 trust")
    lines += ("host all all 0.0.0.0/0 scram-sha-256",)
    (postgres.data / "pg_hba.conf").write_text("\n".join(lines) + "\n")
    (postgres.data / "pg_ident.conf").write_text("\n".join(ident_lines(vouching, there)) + "\n")
    loaded = postgres.sql("select pg_conf_load_time()")
    postgres.sql("select pg_reload_conf()")
    deadline = time.monotonic() + 60
    while postgres.sql("select pg_conf_load_time()") == loaded:
        assert time.monotonic() < deadline
    assert postgres.sql("select coalesce(string_agg(error, ' '), 'fine') from pg_hba_file_rules where error <> ''") == "fine"


@asynccontextmanager
async def vouching(
    postgres: Postgres, tmp_path: Path, *, pair: str = "endpointd_proxy.pem", is_earlier: bool = False, more: str = ""
) -> AsyncIterator[tuple[Proxy, Path]]:
    directory = mint(tmp_path / "tls")
    ca, own = directory / "ca.crt", directory / pair
    settings = tables(directory, more=f'client_ca = "{ca}"\n{MAPS}')
    settings += f'[servers]\ntls = "verify"\nca = "{ca}"\ncertificate = "{own}"\nkey = "{own}"\nsource = "{SOURCE}"\n{more}\n'
    options: dict[str, Any] = {"more": settings, "rules": RULES, "limits": "hold_s = 2"}
    async with feed_server() as feed:
        feed.roles = told(postgres, is_earlier=is_earlier)
        feed.publish(led_by(postgres, noded_port=feed.port))
        async with proxy(tmp_path / "p", [feed.port], **options) as running:
            await running.wait_for_health(status="serving")
            yield running, directory


def with_certificate(directory: Path, name: str) -> dict[str, str]:
    pair = str(directory / f"{name}.pem")
    return {**verified(directory), "sslcert": pair, "sslkey": pair}


async def refusal_of(port: int, **options: str) -> str:
    """Return what a client that must not come in is told."""
    with pytest.raises(psycopg.OperationalError) as caught:
        await connect(port, **options)
    return str(caught.value)


@pytest.mark.versions
@earlier
async def test_certificates_come_in_by_their_map_and_nobody_else_does(
    guarded: Postgres, tmp_path: Path, *, is_earlier: bool
) -> None:
    async with vouching(guarded, tmp_path, is_earlier=is_earlier) as (running, directory):
        port = running.writer_port
        ann, carl = with_certificate(directory, "ann@example"), with_certificate(directory, "carl")
        async with await connect(port, user="ann", dbname="shop", **ann) as connection:
            assert await value(connection, "select session_user || ' ' || host(inet_client_addr())") == f"ann {SOURCE}"
            assert await value(connection, "select client_dn from pg_stat_ssl where pid = pg_backend_pid()") == (
                "/CN=endpointd_proxy"
            )
        async with await connect(port, user="carl", dbname="stock", **carl) as connection:
            assert await value(connection, "select session_user::text") == "carl"
        failed = 'certificate authentication failed for user "{}"'
        assert failed.format("bob") in await refusal_of(port, user="bob", dbname="shop", **ann)
        assert failed.format("carl") in await refusal_of(port, user="carl", dbname="shop", **ann)
        assert failed.format("ann") in await refusal_of(port, user="ann", dbname="shop", **carl)
        # By its map a certificate is a superuser's; no server takes our word for one.
        boss = with_certificate(directory, "boss")
        assert failed.format("postgres") in await refusal_of(port, user="postgres", dbname="shop", **boss)
        nobody = with_certificate(directory, "nobody")
        assert failed.format("nobody") in await refusal_of(port, user="nobody", dbname="shop", **nobody)
        missing = "connection requires a valid client certificate"
        assert missing in await refusal_of(port, user="ann", dbname="shop", **verified(directory))
        # The rule is for one database, and in another one the next rule asks for a password.
        assert "no password supplied" in await refusal_of(port, user="ann", dbname="stock", **ann)
        # In plaintext no rule with a certificate is met.
        assert "no password supplied" in await refusal_of(port, user="ann", dbname="shop", sslmode="disable")
        assert await running.metric("endpointd_refusals_total", endpoint="writer", sqlstate="28000") == 6


@pytest.mark.versions
@earlier
async def test_who_is_trusted_comes_in_and_no_superuser_ever(guarded: Postgres, tmp_path: Path, *, is_earlier: bool) -> None:
    async with vouching(guarded, tmp_path, is_earlier=is_earlier) as (running, _):
        port = running.writer_port
        async with await connect(port, user="svc_a", dbname="shop", sslmode="disable") as connection:
            assert await value(
                connection, "select session_user || ' ' || ssl from pg_stat_ssl where pid = pg_backend_pid()"
            ) == ("svc_a true")
        for user in ("postgres", *MIGHTY, "svc_nobody"):
            told = await refusal_of(port, user=user, dbname="shop", sslmode="disable")
            assert f'"trust" authentication failed for user "{user}"' in told
        # What is left to the server is shown no certificate: nobody comes in by our word who has to prove who they are.
        assert "no password supplied" in await refusal_of(port, user="carl", dbname="shop", sslmode="disable")
        assert "no password supplied" in await refusal_of(port, user="svc_a", dbname="stock", sslmode="disable")


@pytest.mark.versions
async def test_who_becomes_a_superuser_is_out_and_comes_back(guarded: Postgres, tmp_path: Path) -> None:
    async with vouching(guarded, tmp_path) as (running, _):
        who = {"user": "svc_a", "dbname": "shop", "sslmode": "disable"}
        guarded.sql("alter role svc_a superuser")
        try:
            trusted(guarded)
            assert '"trust" authentication failed' in await refusal_of(running.writer_port, **who)
        finally:
            guarded.sql("alter role svc_a nosuperuser")
            trusted(guarded)
        async with await connect(running.writer_port, **who) as connection:
            assert await value(connection, "select 42") == "42"


@pytest.mark.versions
async def test_a_certificate_that_servers_refuse_is_said_and_harms_nobody_else(guarded: Postgres, tmp_path: Path) -> None:
    directory = mint(tmp_path / "tls")
    (directory / "own.pem").write_text(server(of="another").pem)
    (directory / "own.pem").chmod(0o600)
    async with vouching(guarded, tmp_path, pair="own.pem") as (running, _):
        for _ in range(3):
            told = await refusal_of(running.writer_port, user="svc_a", dbname="shop", sslmode="disable")
            assert 'server "n1" refused the certificate of the endpoint' in told
        await running.wait_for_log("TLS with a server failed")
        async with await connect(running.writer_port, user="scram", password=PASSWORD, sslmode="disable") as connection:
            assert await value(connection, "select 42") == "42"


def stolen(
    postgres: Postgres, directory: Path, user: str, database: str, *, source: str = SOURCE, replication: str = "false"
) -> str:
    """Return what a server says to whoever has the proxy's key and speaks to it directly."""
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    context.load_cert_chain(directory / "endpointd_proxy.pem")
    with socket.create_connection(("127.0.0.1", postgres.port), timeout=20, source_address=(source, 0)) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
            encrypted.sendall(encode_startup(make_startup(user, database, replication=replication)))
            with encrypted.makefile("rb") as said:
                while True:
                    kind, size = said.read(1), int.from_bytes(said.read(4), "big")
                    payload = said.read(size - 4)
                    if kind == b"E":
                        report = m.decode_report(payload)
                        return f"{report.sqlstate} {report.message}"
                    if kind == b"R" and payload[:4] == bytes((0, 0, 0, 10)):
                        return "scram"
                    if kind == b"Z":
                        return "in"


@pytest.mark.versions
def test_a_stolen_key_is_good_for_what_the_rules_allow_and_nothing_more(guarded: Postgres, tmp_path: Path) -> None:
    directory = mint(tmp_path / "tls")
    assert stolen(guarded, directory, "ann", "shop") == "in"
    assert stolen(guarded, directory, "svc_a", "shop") == "in"
    rejected = "28000 pg_hba.conf rejects connection"
    for user, database in (
        ("ann", "stock"),
        ("ann", "postgres"),
        ("svc_a", "template1"),
        ("postgres", "shop"),
        ("chief", "shop"),
        ("endpointd_replication", "shop"),
        ("endpointd_proxy", "shop"),
        ("nobody", "shop"),
        ("/svc_x", "shop"),
        *((user, "shop") for user in MIGHTY),
    ):
        assert stolen(guarded, directory, user, database).startswith(rejected), (user, database)
    assert stolen(guarded, directory, "carl", "shop", replication="true").startswith(
        "28000 pg_hba.conf rejects replication connection"
    )
    assert stolen(guarded, directory, "carl", "shop", replication="database").startswith("42501")
    # From elsewhere it is worth nothing: a password is asked for.
    assert stolen(guarded, directory, "ann", "shop", source="127.0.0.1") == "scram"
    assert stolen(guarded, directory, "svc_a", "shop", source="127.0.0.3") == "scram"


def test_an_expired_certificate_of_our_own_is_said(tmp_path: Path) -> None:
    directory = mint(tmp_path)
    own = directory / "own.pem"
    own.write_text(new_client(authority(), "endpointd_proxy", dt.datetime.now(dt.UTC) - dt.timedelta(days=500)).pem)
    own.chmod(0o600)
    chosen = replace(VERIFY, ca=directory / "ca.crt", certificate=own, key=own)
    tls = load_servers_tls(chosen)
    assert tls is not None
    assert "the certificate expired on" in (tls.complaint(dt.datetime.now(dt.UTC)) or "")
    own.write_text(client("endpointd_proxy").pem)
    tls = load_servers_tls(chosen)
    assert tls is not None
    assert tls.complaint(dt.datetime.now(dt.UTC)) is None


def play(otherwise: refusal.Refusal) -> Play:
    started = Play().on(ClientSent(HELLO), Identify()).on(Vouched(otherwise), Connect())
    assert started.conversation.is_vouched_for
    return started.on(Connected(WRITER, is_encrypted=True), ToServer(HELLO))


def test_the_client_hears_of_a_server_when_it_is_ready() -> None:
    failed = refusal.certificate_failed("u")
    begun = Relay(KEY, b"")
    play(failed).on(ServerSent(OK)).on(ServerSent(ABOUT)).on(ServerSent(READY), ToClient(OK + ABOUT + READY), begun)
    play(failed).on(ServerGone(), Connect(WRITER)).on(Connected(WRITER), ToServer(HELLO)).on(ServerSent(OK))


def test_a_server_that_asks_for_more_is_not_given_to_the_client() -> None:
    failed, why = refusal.certificate_failed("u"), refusal.other_method("n1", "SCRAM-SHA-256")
    asked = play(failed)
    asked.on(ServerSent(SASL), *refused(why))
    assert asked.conversation.state is State.CLOSED
    play(failed).on(Refused(refusal.certificate_refused("n1")), *refused(refusal.certificate_refused("n1")))


def test_a_refusal_before_the_server_is_content_is_told_in_our_words_and_later_in_its_own() -> None:
    failed = refusal.not_vouched_for("u")
    rejected = m.error_response("FATAL", "28000", "pg_hba.conf rejects connection for host 127.0.0.2")
    reason = "the server refused the login: pg_hba.conf rejects connection for host 127.0.0.2"
    play(failed).on(ServerSent(rejected), ToClient(failed.encode()), Close(reason, "not_vouched_for", "28000"))
    no_login = m.error_response("FATAL", "28000", 'role "u" is not permitted to log in')
    close = Close('the server refused the login: role "u" is not permitted to log in', "server_refused", "28000")
    play(failed).on(ServerSent(OK)).on(ServerSent(no_login), ToClient(OK + no_login), close)


ANY = Path("/some.pem")
VERIFY = ServersSettings(tls="verify", ca=ANY, certificate=ANY, key=ANY, source=SOURCE)
TLS = TlsSettings(mode="prefer", certificate=ANY, key=ANY, client_ca=ANY)


@pytest.mark.parametrize(
    ("rule", "servers", "tls", "why"),
    [
        ("host all all all trust", VERIFY, TlsSettings(), None),
        ("hostssl all all all cert", VERIFY, TLS, None),
        ("hostssl all all all cert map=m", VERIFY, replace(TLS, user_maps=("m a b",)), None),
        ("host all all all trust", ServersSettings(), TLS, "PostgreSQL must have been built with TLS"),
        ("host all all all trust", replace(VERIFY, tls="prefer"), TLS, 'needs tls = "verify"'),
        ("host all all all trust", replace(VERIFY, source=None), TLS, "certificate, key and source"),
        ("host all all all trust", replace(VERIFY, source="here"), TLS, "is no IP address"),
        ("hostssl all all all cert", VERIFY, replace(TLS, client_ca=None), '"cert" needs [tls]'),
        ("hostssl all all all cert map=m", VERIFY, replace(TLS, user_maps=("n a b",)), 'no map "m"'),
        ("hostssl all all all cert", VERIFY, replace(TLS, user_maps=("n a",)), "user map line 1"),
    ],
)
def test_rules_that_cannot_be_held_to_are_refused_with_the_reason(
    rule: str, servers: ServersSettings, tls: TlsSettings, why: str | None
) -> None:
    settings = Settings(
        proxy=ProxySettings(name="p", cache=ANY),
        feed=FeedSettings(urls=("http://h",), token_file=ANY),
        nodeds=NodedSettings(token_file=ANY),
        writer=WriterSettings(port=1, rules=(rule,)),
        reader=ReaderSettings(port=2),
        http=HttpSettings(port=3),
        servers=servers,
        tls=tls,
    )
    found = list(complaints(settings))
    assert found == [] if why is None else why in " ".join(found)


async def test_at_a_pooled_endpoint_too_and_each_login_has_servers_of_its_own(guarded: Postgres, tmp_path: Path) -> None:
    """By a certificate, without a proof and by a password, to a server that speaks TLS."""
    port = free_port()
    rules = (*RULES[:-1], "host all scram 127.0.0.1/32 scram-sha-256")
    pooled = f'[pooled_writer]\nhost = "127.0.0.1"\nport = {port}\npool_size = 1\nrules = {json.dumps(rules)}\n'
    async with vouching(guarded, tmp_path, more=pooled) as (_, directory):
        logins = (
            {"user": "ann", "dbname": "shop", **with_certificate(directory, "ann@example")},
            {"user": "svc_a", "dbname": "shop", "sslmode": "disable"},
            {"user": "scram", "dbname": "shop", "password": PASSWORD, "sslmode": "disable"},
        )
        pids: set[str] = set()
        for login in logins:
            clients = [await connect(port, **login) for _ in range(3)]
            found = {await value(each, "select pg_backend_pid()") for each in clients}
            assert len(found) == 1, "they take turns at one server"
            pids |= found
            for each in clients:
                assert await value(each, "select current_user") == login["user"]
                assert await value(each, "select ssl from pg_stat_ssl where pid = pg_backend_pid()") == "True"
                await each.close()
        assert len(pids) == len(logins)
        assert await refusal_of(port, user="might_run", dbname="shop", sslmode="disable")
        assert "password authentication failed" in await refusal_of(
            port, user="scram", dbname="shop", password="wrong", sslmode="disable"
        )
