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


class PostgresTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[postgres]"""

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    settings: dict[str, str] = {}
    hba: tuple[str, ...] = ()
    tablespaces: Literal["inside", "anywhere"] = "inside"
    """Whether CREATE TABLESPACE is refused a LOCATION outside the data directory. "anywhere" is for servers with a machine or
    container each, on all of which somebody makes the directory before the statement: one that lacks it stops."""


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
    logs: LogSettings = LogSettings()
