"""What an operator may choose for a local cluster in a file: `up --config FILE`, for which config/local.toml is the model.

Everything has a default; a command line option wins over the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from endpointctl.exits import WrongUsage
from endpointctl.local.plan import BASE_PORT_MAX, NODES_MAX


class PostgresPreferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Given to every node."""

    settings: dict[str, str] = {}
    hba: tuple[str, ...] = ()


class LogPreferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Given to every daemon."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    style: Literal["console", "json"] = "console"


Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]


class FailoverPreferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Given to the manager, whose settings explain it: how soon one failover may follow another upon soft evidence."""

    soft_interval_s: Seconds = 10.0
    hold_after: Annotated[int, msgspec.Meta(ge=0, le=64)] = 3
    hold_window_s: Seconds = 600.0
    hold_s: Seconds = 60.0


class ReaderPreferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Given to the manager, whose settings explain it."""

    max_lag_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 1000


class ClusterPreferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the command line can say too."""

    nodes: Annotated[int, msgspec.Meta(ge=1, le=NODES_MAX)] | None = None
    base_port: Annotated[int, msgspec.Meta(ge=1, le=BASE_PORT_MAX)] | None = None
    pg_bin: str | None = None


class Preferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    cluster: ClusterPreferences = ClusterPreferences()
    postgres: PostgresPreferences = PostgresPreferences()
    failover: FailoverPreferences = FailoverPreferences()
    reader: ReaderPreferences = ReaderPreferences()
    logs: LogPreferences = LogPreferences()


def load_preferences(path: Path | None) -> Preferences:
    """Return the preferences in *path*, or the defaults if none was given."""
    if path is None:
        return Preferences()
    from daemonkit.settings import SettingsError, load_settings

    try:
        return load_settings(path, Preferences)
    except SettingsError as error:
        raise WrongUsage(str(error)) from error
