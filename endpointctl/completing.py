"""What the shell may complete: names of nodes, endpoints, logs and states.

Runs at every press of the tab key, so it reads one small file of the local cluster and asks nobody; without that file there is
nothing to complete.  It never fails: a completion that raises would spoil the line being typed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer

from endpointctl.options import DEFAULT_DATA_DIR

STATES = ("healthy", "degraded", "at_risk", "transition", "stuck", "paused", "bootstrapping")


def nodes(context: typer.Context, incomplete: str) -> list[str]:
    """Return the nodes' names that begin with *incomplete*."""
    return _beginning(incomplete, _nodes(context))


def doors(context: typer.Context, incomplete: str) -> list[str]:
    """Return the endpoints' and nodes' names that begin with *incomplete*."""
    return _beginning(incomplete, ["writer", "reader", "pooled-writer", "pooled-reader", *_nodes(context)])


def proxies(context: typer.Context, incomplete: str) -> list[str]:
    """Return the proxies' names that begin with *incomplete*."""
    try:
        count = int(_plan(context).get("proxy_count", 1))
    except (TypeError, ValueError):
        return []
    return _beginning(incomplete, [f"proxy-{number}" for number in range(1, count + 1)] + ["all"] * (count > 1))


def logs(context: typer.Context, incomplete: str) -> list[str]:
    """Return the logs' names that begin with *incomplete*."""
    return _beginning(incomplete, sorted(path.stem for path in (_directory(context) / "logs").glob("*.log")))


def states(incomplete: str) -> list[str]:
    """Return the cluster's states that begin with *incomplete*."""
    return _beginning(incomplete, list(STATES))


def _directory(context: typer.Context) -> Path:
    named = context.params.get("data_dir") or os.environ.get("ENDPOINTD_DATA_DIR") or DEFAULT_DATA_DIR
    return Path(str(named)).expanduser()


def _nodes(context: typer.Context) -> list[str]:
    try:
        return [str(node["name"]) for node in _plan(context)["nodes"]]
    except (KeyError, TypeError):
        return []


def _plan(context: typer.Context) -> dict[str, Any]:
    try:
        plan = json.loads((_directory(context) / "cluster.json").read_text())
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _beginning(incomplete: str, words: list[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
