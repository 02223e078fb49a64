"""Running the engine's command line programs: one deadline each, and what they said when they fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

TIMEOUT_S = 120.0


class CommandError(Exception):
    """A command failed or took too long; the text says which, and its last words."""


def run(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S, cwd: str | None = None
) -> str:
    """Run *command* with *env* added to the environment and return what it printed. Raises CommandError."""
    try:
        done = subprocess.run(
            command,
            env=os.environ | (env or {}),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(command)}: no end within {timeout_s:g} s") from error
    except OSError as error:
        raise CommandError(f"{' '.join(command)}: {error.strerror}") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()[-15:]
        raise CommandError(f"{' '.join(command)}: exit status {done.returncode}\n" + "\n".join(words))
    return done.stdout.strip()


def works(command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether *command* succeeds."""
    try:
        run(command, env=env, timeout_s=timeout_s)
    except CommandError:
        return False
    return True
