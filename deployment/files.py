"""Names of files that are the same wherever a cluster's programs run."""

from __future__ import annotations

ROLE_SECRETS = ("superuser", "control", "replication", "probe")
"""Passwords of PostgreSQL's roles."""
NODES_TOKEN = "nodes-token"  # noqa: S105 - a file's name
"""By which managers are known to nodeds."""
VERIFIERS = "verifiers"
"""The digests of operators' and proxies' tokens."""
STORE = "store.sqlite"
"""The manager's document."""
JOURNAL = "journal.jsonl"
"""The manager's events."""
CACHE = "topology.json"
"""A proxy's copy of the last document."""
