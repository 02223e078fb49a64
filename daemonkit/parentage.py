"""Whose child a process is, and what becomes of it without a parent: prctl(2), which Python has no words for."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
"""<linux/prctl.h>"""


def become_subreaper() -> bool:
    """Make this process the parent of its descendants' orphans. Return False where the system cannot."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with(parent: int) -> bool:
    """Have the kernel end this process when *parent* ends. Return False if that has happened already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def _prctl(option: int, value: int) -> bool:
    try:
        return ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False
