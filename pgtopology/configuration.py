"""The operator's settings as the manager's API carries them: a change, its outcome, and what is in force where.

Made by the manager, shown by the CLI; the settings themselves are `desired`.
"""

from __future__ import annotations

import msgspec

from pgtopology.desired import DesiredSettings
from pgtopology.document import FORMAT_VERSION
from pgtopology.node import NodeName


class ConfigChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What POST /v1/config carries."""

    parameters: dict[str, str] = {}
    """To be given; others stay, unless *whole*."""
    reset: tuple[str, ...] = ()
    """Parameters to be given no more: what holds then is the default."""
    hba: tuple[str, ...] | None = None
    """All lines; None leaves them as they are."""
    relaxed_commits: bool | None = None
    whole: bool = False
    """Whether parameters that are not named go."""
    check_only: bool = False
    """Whether nothing is written."""


class ConfigChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: everything was accepted."""

    format_version: int = FORMAT_VERSION
    version: int
    """Of the settings that hold now; with check_only, or without a difference, the one before."""
    changed: bool
    restart_for: tuple[str, ...]
    """The parameters among the changed ones that take effect at each node's next start only."""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How far one node is."""

    name: NodeName
    version: int | None
    """Of the settings it goes by; None if it does not answer."""
    loaded: bool
    """Whether its running PostgreSQL has read the settings of the cluster."""
    in_force: bool
    """Whether it goes by all of them too: none waits for a restart."""
    restart_for: tuple[str, ...]
    """The parameters that wait for its next start."""


class ConfigView(msgspec.Struct, frozen=True, kw_only=True):
    """What GET /v1/config answers."""

    format_version: int = FORMAT_VERSION
    version: int
    """0: nothing was set since the cluster was made; the settings are those it was made with."""
    parameters: dict[str, str]
    hba: tuple[str, ...]
    relaxed_commits: bool
    nodes: tuple[NodeConfig, ...]


def changed(before: DesiredSettings, change: ConfigChange) -> DesiredSettings:
    """Return *before* after *change*: the same value if there is no difference, else one of the next version."""
    given = {name.lower(): value for name, value in change.parameters.items()}
    kept = {} if change.whole else before.parameters
    gone = {name.lower() for name in change.reset}
    parameters = {name: value for name, value in {**kept, **given}.items() if name not in gone}
    after = DesiredSettings(
        version=before.version,
        parameters=dict(sorted(parameters.items())),
        hba=before.hba if change.hba is None else change.hba,
        relaxed_commits=before.relaxed_commits if change.relaxed_commits is None else change.relaxed_commits,
    )
    if after == before:
        return before
    return msgspec.structs.replace(after, version=before.version + 1)
