"""A client that comes in by the proxy's word, while nodeds stand still: their servers' files stay as they were.

Real nodeds and PostgreSQL, and nobody who would end a noded that stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from daemonkit.principals import Scope, encode_verifiers
from pgtopology.node import Role
from testkit.feedserver import TOKEN, document, feed_server, member
from tests.certificates import client, server
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.test_failover import connect
from tests.endpointd.test_tls_clients import files
from tests.endpointd.test_tls_servers import with_tls
from tests.noded.members import Cluster, Member, running_members

pytestmark = pytest.mark.integration

SOURCE = "127.0.0.2"
RULES = ("host postgres svc_a 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256")
FAILED = '"trust" authentication failed for user "svc_a"'
UNKNOWN = 'endpoint "writer" does not know the roles of the cluster any more'


@contextlib.asynccontextmanager
async def vouching(tmp_path: Path) -> AsyncIterator[tuple[Cluster, Proxy]]:
    """A writer, a standby, and a proxy that comes in at both by its certificate."""
    directory = files(tmp_path / "tls")
    for name, pair in (("own", client("endpointd_proxy")), ("server", server())):
        (directory / f"{name}.pem").write_text(pair.pem)
        (directory / f"{name}.pem").chmod(0o600)
    ca, own, nodes = directory / "ca.crt", directory / "own.pem", directory / "server.pem"
    tables = f'[postgres.tls]\ncertificate = "{nodes}"\nkey = "{nodes}"\n'
    tables += f'[vouching]\nsources = ["{SOURCE}"]\nclient_ca = "{ca}"\nlogins = ["postgres svc_a"]\n'
    more = f'[servers]\ntls = "verify"\nca = "{ca}"\ncertificate = "{own}"\nkey = "{own}"\nsource = "{SOURCE}"\n'
    known = encode_verifiers([(Scope.FEED, TOKEN)])
    async with running_members(2, programs=with_tls(), settings=tables, verifiers=known) as cluster:
        await cluster.found()
        writer, standby = cluster.members
        await cluster.clone(standby, writer)
        await cluster.follow(standby, writer)
        await cluster.streaming(standby)
        topology = document(
            member("n1", writer.pg_port, role=Role.PRIMARY, noded_port=writer.http_port),
            member("n2", standby.pg_port, noded_port=standby.http_port),
            writer="n1",
        )
        async with (
            feed_server(topology) as feed,
            proxy(tmp_path / "p", [feed.port], more=more, rules=RULES, limits="hold_s = 1") as running,
        ):
            await running.wait_for_health(status="serving")
            try:
                yield cluster, running
            finally:
                for node in cluster.members:
                    tell(node, signal.SIGCONT)


def tell(node: Member, number: signal.Signals) -> None:
    assert node.process is not None
    node.process.send_signal(number)


async def until_told(running: Proxy, words: str | None) -> None:
    """Log in until the answer has *words*; None: until it is a session."""
    told: str | None = "nothing yet"
    try:
        async with asyncio.timeout(60):
            while (told is None) != (words is None) or (words or "") not in (told or ""):
                try:
                    await (await connect(running.writer_port, user="svc_a", dbname="postgres")).close()
                    told = None
                except psycopg.OperationalError as error:
                    told = str(error)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"the latest is {told}\n{running.log.read_text()}") from None


async def test_who_becomes_mighty_is_out_although_the_writers_noded_stands_still(tmp_path: Path) -> None:
    async with vouching(tmp_path) as (cluster, running):
        writer, standby = cluster.members
        await cluster.sql(writer, "create role svc_a login")
        await cluster.sql(writer, "create role chief superuser")
        await until_told(running, None)
        tell(writer, signal.SIGSTOP)
        for mightier, ordinary in (
            ("alter role svc_a superuser", "alter role svc_a nosuperuser"),
            ("grant chief to svc_a", "revoke chief from svc_a"),
            ("alter role svc_a rename to svc_b; alter role chief rename to svc_a",
             "alter role svc_a rename to chief; alter role svc_b rename to svc_a"),
        ):  # fmt: skip
            for statement in mightier.split("; "):
                await cluster.sql(writer, statement)
            await until_told(running, FAILED)
            ident = (writer.directory / "pgdata" / "pg_ident.conf").read_text()
            assert '"endpointd_proxy" "svc_a"' in ident, "the server would still let it in"
            for statement in ordinary.split("; "):
                await cluster.sql(writer, statement)
            await until_told(running, None)
        # Nobody is left who could say what has become of the role.
        tell(standby, signal.SIGSTOP)
        await until_told(running, UNKNOWN)
        tell(standby, signal.SIGCONT)
        await until_told(running, None)
