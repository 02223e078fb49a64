"""Lets a bench that is told to end do so in order: what it started is stopped and what it made is removed."""

from __future__ import annotations

import signal
from types import FrameType


def end_in_order() -> None:
    """Treat SIGTERM and SIGHUP as ^C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
