"""Other tokens for the scopes that people and their tools use, while the cluster runs.

The tokens are written first, then their digests, then every program reads those anew: interrupted anywhere, the same is done
again from the beginning.  The tokens by which our programs know one another (feed, nodes) are read at their start only.
"""

from __future__ import annotations

import secrets
import signal

from daemonkit.durable import write_durably
from daemonkit.principals import Scope
from deployment.local.directory import make_tokens
from deployment.local.layout import Layout
from deployment.local.plan import Plan
from supervisor.program import find_program

ROTATED = (Scope.ADMIN, Scope.OPERATE, Scope.READ, Scope.SCRAPE)


def rotate_tokens(layout: Layout, plan: Plan) -> tuple[Scope, ...]:
    """Give each scope in ROTATED another token, have the running programs know them, and return the scopes."""
    for scope in ROTATED:
        write_durably(layout.token_of(scope), f"{secrets.token_urlsafe(32)}\n".encode())
    make_tokens(layout)
    for name in plan.programs:
        process = find_program(layout, name)
        if process is not None:
            with process:
                process.send(signal.SIGHUP)
    return ROTATED
