"""What an operator wants of every PostgreSQL server: the one desired-settings document.

Stands in the topology document, because every node must end up with the same; a node keeps the last one it was told beside
its data.  Which settings are the operator's to give, and how each takes effect, is noded's business (noded/postgres/conf.py).
"""

from __future__ import annotations

import msgspec


class DesiredSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole; *version* grows by one with every change, so that a node can say which one it goes by."""

    version: int = 0
    """0: nothing was ever set; a node goes by its own settings file."""
    parameters: dict[str, str] = {}
    """PostgreSQL's parameters by name, in lower case, as text."""
    hba: tuple[str, ...] = ()
    """Lines of pg_hba.conf, between ours."""
    relaxed_commits: bool = False
    """Whether a role, database or session may set synchronous_commit to another value than on: its commits are then not
    covered by the promise that an acknowledged commit survives."""
