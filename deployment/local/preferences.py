"""What an operator may choose for a local cluster in a file: `up --config FILE`, for which config/local.toml is the model.

Everything has a default; a command line option wins over the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from cluster_manager.settings import MAX_LAG_MS, FailoverSettings, MaxLagMs
from daemonkit.exits import WrongUsage
from daemonkit.logs import LogSettings
from deployment.cluster import Door, PooledDoor, PostgresSettings
from deployment.local.plan import BASE_PORT_MAX, PROXIES_MAX
from endpointd.settings import DrainSeconds, Permissions, Rules, ServersSettings, WantedEngine, WarmSettings, Workers
from pgtopology.node import NODES_MAX


class WriterPreferences(Door, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Given to the proxy, whose settings explain it."""


class ReaderPreferences(Door, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Given to the proxy and the manager, whose settings explain it."""

    max_lag_ms: MaxLagMs = MAX_LAG_MS


class ClusterPreferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the command line can say too."""

    nodes: Annotated[int, msgspec.Meta(ge=1, le=NODES_MAX)] | None = None
    proxies: Annotated[int, msgspec.Meta(ge=1, le=PROXIES_MAX)] | None = None
    base_port: Annotated[int, msgspec.Meta(ge=1, le=BASE_PORT_MAX)] | None = None
    pg_bin: str | None = None


class TlsPreferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Given to the proxy, whose settings explain it; the certificate is the cluster's own."""

    mode: Literal["off", "prefer", "require"] = "prefer"
    minimum: Literal["1.2", "1.3"] = "1.2"
    client_ca: Path | None = None
    """With rules that ask for certificates: the cluster's own authority unless set."""
    user_maps: Rules = ()


class ProxyPreferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Given to the proxy, whose settings explain it."""

    engine: WantedEngine = "auto"
    workers: Workers = 1
    drain_timeout_s: DrainSeconds | None = None
    unix_socket_directory: Path | None = None
    unix_socket_permissions: Permissions = "0777"


class Preferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    cluster: ClusterPreferences = ClusterPreferences()
    postgres: PostgresSettings = PostgresSettings()
    failover: FailoverSettings = FailoverSettings()
    tls: TlsPreferences = TlsPreferences()
    servers: ServersSettings = ServersSettings()
    proxy: ProxyPreferences = ProxyPreferences()
    warm: WarmSettings = WarmSettings()
    writer: WriterPreferences = WriterPreferences()
    reader: ReaderPreferences = ReaderPreferences()
    pooled_writer: PooledDoor | None = None
    pooled_reader: PooledDoor | None = None
    logs: LogSettings = LogSettings()


def load_preferences(path: Path | None) -> Preferences:
    """Return the preferences in *path*, or the defaults if none was given."""
    if path is None:
        return Preferences()
    from daemonkit.settings import SettingsError, load_settings

    try:
        return load_settings(path, Preferences)
    except SettingsError as error:
        raise WrongUsage(str(error)) from error
