"""The cluster that suites run against, thrown away afterwards: suites leave databases, roles and settings behind."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from deployment.certificates import new_authority, new_server
from deployment.cluster import PooledDoor, PostgresSettings
from deployment.local.preferences import Preferences
from testkit.cluster import Cluster
from tests.compat.pgbouncer import pgbouncer
from tests.compat.server import Server, Side, Way
from tests.compat.suite import Suite

SETTINGS = {"max_connections": "200", "wal_level": "logical", "max_prepared_transactions": "20"}


@dataclass(frozen=True, slots=True)
class Stand:
    """One cluster and the two ways to its writer."""

    cluster: Cluster
    version: str
    """Of PostgreSQL."""
    _servers: dict[Side, Server]
    _roles: frozenset[str]
    """Those that were there from the beginning."""

    def server(self, side: Side, suite: Suite) -> Server:
        """Return where *suite* logs in."""
        return replace(self._servers[side], database=suite.database)

    def prepare(self, suite: Suite) -> None:
        """Give *suite* a database with nothing in it but the extensions and schemas it wants, and no role of a run before."""
        server = self._servers[Side.DIRECT]
        self._remove_roles(server)
        if suite.database != server.database:
            with psycopg.connect(server.uri(), autocommit=True) as session:
                name = sql.Identifier(suite.database)
                session.execute(sql.SQL("drop database if exists {} with (force)").format(name))
                session.execute(sql.SQL("create database {}").format(name))
        with psycopg.connect(replace(server, database=suite.database).uri(), autocommit=True) as session:
            session.execute("set client_min_messages = warning")
            for extension in suite.extensions:
                session.execute(sql.SQL("create extension if not exists {}").format(sql.Identifier(extension)))
            for schema in suite.schemas:
                session.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))

    def _remove_roles(self, server: Server) -> None:
        """Else what a test left that failed on one side decides what it shows on the other."""
        with psycopg.connect(server.uri(), autocommit=True) as session:
            for (name,) in session.execute("select rolname from pg_roles where oid >= 16384").fetchall():
                if name in self._roles:
                    continue
                role = sql.Identifier(name)
                for statement in ("drop owned by {} cascade", "drop role {}"):
                    with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):
                        session.execute(sql.SQL(statement).format(role))


@contextmanager
def standing(data_dir: Path, way: Way, programs: Path | None) -> Iterator[Stand]:
    """Yield a cluster of three in *data_dir*, on PostgreSQL's *programs* (the bundled ones)."""
    options = () if programs is None else ("--pg-bin", str(programs))
    preferences = Preferences(pooled_writer=PooledDoor() if way is Way.POOLED else None)
    cluster = Cluster(data_dir, options=options, postgres=PostgresSettings(settings=SETTINGS), preferences=preferences)
    between = contextlib.ExitStack()
    try:
        cluster.up()
        if way is Way.TLS:
            _encrypt(cluster)
        writer = cluster.writer().name
        endpoint = "pooled-writer" if way is Way.POOLED else "writer"
        servers = {Side.DIRECT: _server(cluster.dsn(writer), way), Side.THROUGH: _server(cluster.dsn(endpoint), way)}
        if way is Way.PGBOUNCER:
            servers[Side.THROUGH] = between.enter_context(pgbouncer(servers[Side.DIRECT], data_dir.parent))
        with psycopg.connect(servers[Side.DIRECT].uri()) as session:
            row = session.execute("show server_version").fetchone()
            roles = frozenset(name for (name,) in session.execute("select rolname from pg_roles").fetchall())
        assert row is not None
        yield Stand(cluster, row[0], servers, roles)
    finally:
        between.close()
        cluster.remove()


def _server(dsn: str, way: Way) -> Server:
    parts = urlsplit(dsn)
    assert parts.hostname is not None
    assert parts.port is not None
    return Server(parts.hostname, parts.port, parts.username or "", parts.password or "", parts.path.lstrip("/"), way)


def _encrypt(cluster: Cluster) -> None:
    """Have every server speak TLS, with a certificate that is not the endpoints'."""
    now = dt.datetime.now(dt.UTC)
    pair = new_server(new_authority("servers", now), ("localhost", "127.0.0.1"), now)
    certificate, key = cluster.data_dir.with_name("server.crt"), cluster.data_dir.with_name("server.key")
    for file, text in ((certificate, pair.certificate_pem), (key, pair.pem)):
        file.touch(mode=0o600)
        file.write_text(text)
    cluster.ctl("config", "set", "ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={key}")
    writer = _server(cluster.dsn(cluster.writer().name), Way.TLS)

    def speaks_tls() -> bool:
        try:
            psycopg.connect(writer.uri()).close()
        except psycopg.OperationalError:
            return False
        return True

    cluster.until(speaks_tls, "the writer's server speaking TLS")
