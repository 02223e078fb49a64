"""What a process is called in the process table, changed while it runs.

The kernel shows the arguments where the program found them, so the first one is written over in place, as PostgreSQL's
processes do (proc(5), /proc/PID/cmdline; arg_start and arg_end of /proc/PID/stat).  The others keep their text, so that the
command line still tells which settings file it was started with; what is left over at the end is empty.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

DRAINING = "draining"
"""What a process calls itself in the place of its program when another one has taken over from it: by that it is found."""
_ARG_START, _ARG_END = 45, 46
"""Among the fields of stat behind the name, where the third of proc(5) is 0."""


def called(word: str, command: Sequence[str]) -> tuple[str, ...]:
    """Return the command line of a process that was started as *command* and calls itself *word*."""
    return (word, *command[1:])


def call_process(word: str) -> bool:
    """Show *word* in the place of this process's program; return whether there was room for it, and the kernel shows it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        before = Path("/proc/self/cmdline").read_bytes()
        if end - start != len(before):
            return False
        after = b"\0".join((os.fsencode(word), *before.split(b"\0")[1:]))
        if len(after) > len(before):
            return False
        ctypes.memmove(start, after.ljust(len(before), b"\0"), len(before))
        return Path("/proc/self/cmdline").read_bytes().startswith(os.fsencode(word) + b"\0")
    return False
