"""How long the supervisor waits: for a program that says nothing, and before one that has ended is started again. Pure."""

from __future__ import annotations

from deployment.local.plan import MANAGER_PROGRAM

FIRST_PAUSE_S = 0.1
PAUSE_MAX_S = 10.0
SERVED_S = 1.0
"""A program that lived this long did something useful: what ended it, often a signal, may not come again."""
PAUSE_MAX_AFTER_SERVING_S = 1.0
SETTLED_S = 30.0
"""A program that lived this long is forgiven its earlier restarts."""


PATIENCE_ROUNDS = 10
"""Of the supervisor's watchdog, a second each: a proxy that is ended ends every session."""
_PATIENCE_ROUNDS = {MANAGER_PROGRAM: 5}
"""A failover may be waiting for the manager, and nothing else depends on its life."""
START_PATIENCE_ROUNDS = 30
"""Of one that has not spoken since its start. The first word comes when its modules are imported: in 1 s where they are cached,
and some 600 files, two reads each, are 12 s of a disk that does 100 a second."""
START_PATIENCE_ROUNDS_MAX = 240
"""A start on a machine that is slower than that is given twice the time, each time, up to so much."""


def start_patience_rounds(mute_starts: int) -> int:
    """Return how long to wait for the first word of a program, *mute_starts* of which in a row were given up without one."""
    return min(START_PATIENCE_ROUNDS << min(mute_starts, 10), START_PATIENCE_ROUNDS_MAX)


def patience_rounds(name: str) -> int:
    """Return how long the program called *name* may be silent once it has spoken."""
    return _PATIENCE_ROUNDS.get(name, PATIENCE_ROUNDS)


def pause_after(lived_s: float, before_s: float) -> float:
    """Return how long to wait before a program that lived *lived_s* is started again; *before_s* was the last pause, 0 if none.

    A program that could not be started at all lived 0 s.
    """
    if lived_s > SETTLED_S or not before_s:
        return FIRST_PAUSE_S
    return min(before_s * 2, PAUSE_MAX_AFTER_SERVING_S if lived_s >= SERVED_S else PAUSE_MAX_S)
