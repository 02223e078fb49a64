"""With which command line and in which environment each program runs: by the first it is found again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import supervisor
from deployment.local.layout import Layout
from deployment.local.plan import MANAGER_PROGRAM, PROXY_PROGRAMS, SUPERVISOR_PROGRAM

_MODULES = {
    MANAGER_PROGRAM: "cluster_manager.daemon",
    **dict.fromkeys(PROXY_PROGRAMS, "endpointd.daemon"),
    SUPERVISOR_PROGRAM: "supervisor.daemon",
}


def program_command(layout: Layout, name: str) -> tuple[str, ...]:
    """Return the command line of the program called *name*: a node's name, the manager, a proxy or the supervisor itself."""
    module = _MODULES.get(name, "noded.daemon")
    # -P: the working directory must not shadow modules.
    return (sys.executable, "-P", "-m", module, "--config", str(layout.settings_file(name)))


def program_environment() -> dict[str, str]:
    """Return the environment of every process of ours: the caller's without what would steer PostgreSQL's clients."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "ENDPOINTD_"))}
    # A source tree that nobody installed works too.
    environment["PYTHONPATH"] = str(Path(supervisor.__file__).parents[1])
    return environment
