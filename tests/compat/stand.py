"""The cluster that suites run against, thrown away afterwards: suites leave databases, roles and settings behind."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from deployment.certificates import new_authority, new_server
from deployment.cluster import PostgresSettings
from deployment.local.layout import Layout
from testkit.cluster import Cluster
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

    def server(self, side: Side, suite: Suite) -> Server:
        """Return where *suite* logs in."""
        return replace(self._servers[side], database=suite.database)

    def prepare(self, suite: Suite) -> None:
        """Give *suite* a database with nothing in it but the extensions and schemas it wants."""
        server = self._servers[Side.DIRECT]
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


@contextmanager
def standing(data_dir: Path, way: Way, programs: Path | None) -> Iterator[Stand]:
    """Yield a cluster of three in *data_dir*, on PostgreSQL's *programs* (the bundled ones)."""
    options = () if programs is None else ("--pg-bin", str(programs))
    cluster = Cluster(data_dir, options=options, postgres=PostgresSettings(settings=SETTINGS))
    try:
        cluster.up()
        if way is Way.TLS:
            _encrypt(cluster)
        writer = cluster.writer().name
        servers = {Side.DIRECT: _server(cluster.dsn(writer), way), Side.THROUGH: _server(cluster.dsn("writer"), way)}
        with psycopg.connect(servers[Side.DIRECT].uri()) as session:
            row = session.execute("show server_version").fetchone()
        assert row is not None
        yield Stand(cluster, row[0], servers)
    finally:
        cluster.remove()


def _server(dsn: str, way: Way) -> Server:
    parts = urlsplit(dsn)
    assert parts.hostname is not None
    assert parts.port is not None
    return Server(parts.hostname, parts.port, parts.username or "", parts.password or "", parts.path.lstrip("/"), way)


def _encrypt(cluster: Cluster) -> None:
    """Have every server speak TLS, with a certificate that is not the endpoints'."""
    layout = Layout(cluster.data_dir)
    now = dt.datetime.now(dt.UTC)
    pair = new_server(new_authority("servers", now), ("localhost", "127.0.0.1"), now)
    for node in cluster.status().nodes:
        data = layout.pgdata(node.name)
        for name, text in {"server.crt": pair.certificate_pem, "server.key": pair.pem}.items():
            (data / name).write_text(text)
            (data / name).chmod(0o600)
            os.chown(data / name, data.stat().st_uid, data.stat().st_gid)
    cluster.ctl("config", "set", "ssl=on")
    writer = _server(cluster.dsn(cluster.writer().name), Way.TLS)

    def speaks_tls() -> bool:
        try:
            psycopg.connect(writer.uri()).close()
        except psycopg.OperationalError:
            return False
        return True

    cluster.until(speaks_tls, "the writer's server speaking TLS")
