"""The settings file of a noded: strict TOML, read once at start.

Secrets are named by file and read by daemonkit.secrets; nothing secret stands here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from daemonkit.logs import LogSettings
from pgtopology.node import Label

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class NodeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[node]"""

    cluster: Label
    name: Label
    dir: Path
    socket_dir: Path
    """Short, because the path of a unix socket may have 107 bytes only, and private to the user."""
    pg_bin: Path | None = None
    prefer_bundled: bool = False
    """Whether the bundled PostgreSQL comes before one that is installed on the system."""


class PostgresTlsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[postgres.tls]: with what PostgreSQL speaks TLS, unless the cluster's settings say (ssl, ssl_cert_file, ssl_key_file).

    Changed files are taken up without a restart. PostgreSQL must have been built with TLS."""

    certificate: Path
    """In PEM, with its chain behind it."""
    key: Path
    """Its key in PEM, mode 0600. May be the same file."""


class PostgresTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[postgres]"""

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    settings: dict[str, str] = {}
    hba: tuple[str, ...] = ()
    tablespaces: Literal["inside", "anywhere"] = "inside"
    """Whether CREATE TABLESPACE is refused a LOCATION outside the data directory. "anywhere" is for servers with a machine or
    container each, on all of which somebody makes the directory before the statement: one that lacks it stops."""
    tls: PostgresTlsTable | None = None


class VouchingTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[vouching]: whom proxies may log in by a certificate of their own, for rules of their endpoints that give no key (cert,
    trust). Its common name is endpointd_proxy. Without this table nobody. Needs [postgres.tls]."""

    sources: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Addresses or networks from which proxies do that, and nobody comes otherwise: all else from there is refused."""
    client_ca: Path
    """Authorities of that certificate in PEM."""
    logins: tuple[str, ...]
    """Databases and users of each such rule, as in a line of pg_hba.conf. Never let in is who is or can become a superuser."""


class HttpTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[http]"""

    host: str
    port: Port
    token_file: Path
    """The managers' token, for everything."""
    verifiers_file: Path | None = None
    """The digests of operators' tokens, of which those of scopes scrape, feed and read are good here."""


class SecretsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[secrets]: files, mode 0600"""

    superuser: Path
    control: Path
    replication: Path
    probe: Path


class NodedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    node: NodeTable
    postgres: PostgresTable
    http: HttpTable
    secrets: SecretsTable
    vouching: VouchingTable | None = None
    logs: LogSettings = LogSettings()
