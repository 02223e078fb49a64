"""Who runs this command and what was typed: said to the manager with every order, and kept in its journal.

No password goes there: what a URI has of one is left out.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import socket
import sys
from collections.abc import Sequence

from daemonkit.exits import Failure
from endpointctl.options import Target
from pgtopology.act import act_headers

ACT_TIMEOUT_S = 2.0
_PASSWORD_IN_URI = re.compile(r"(?<=://)([^/@\s]*?):[^@\s]*(?=@)")


def operator() -> str:
    """Return who the operating system says it is, on which host; with sudo also who asked for it."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    asked = os.environ.get("SUDO_USER")
    return f"{user}@{socket.gethostname()}" + (f" (sudo by {asked})" if asked and asked != user else "")


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Return what was typed, as one line."""
    words = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["endpointctl", *(_PASSWORD_IN_URI.sub(r"\1:***", word) for word in words)])


def headers() -> dict[str, str]:
    """Return what says it."""
    return act_headers(operator(), command_line())


async def note_act(target: Target) -> None:
    """Have the manager note what is done without it; one that is away or does not know how notes nothing."""
    from endpointctl.api import manager

    try:
        async with manager(target) as client:
            await client.post("/v1/acts", timeout_s=ACT_TIMEOUT_S)
    except Failure:
        return
