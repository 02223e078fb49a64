"""When the writer that this node was acknowledged its last commit: written at a stop in good order, told after the next start.

So an outage that was somebody's wish is not taken for a failure, and is as long as it was.
"""

from __future__ import annotations

import time

from daemonkit.proctable import boot_id
from noded.law.promise import Left, State
from noded.report.heartbeat import Heartbeat


def leaving(heartbeat: Heartbeat, now: float) -> Left | None:
    """Return what is to be remembered of the writer that is about to be stopped; None if there is none. *now*: the loop's."""
    epoch, acknowledged_at = heartbeat.epoch, heartbeat.acknowledged_at
    if epoch is None or acknowledged_at is None:
        return None
    age_ms = int((now - acknowledged_at) * 1000)
    return Left(epoch, boot_id(), _monotonic_ms() - age_ms, _wall_ms() - age_ms)


def left_age_ms(state: State) -> int | None:
    """Return how long ago that was, if this node has not been promoted since; else None."""
    left = state.left
    if left is None or state.promotion is None or state.promotion.epoch != left.epoch:
        return None
    return left.age_ms(boot=boot_id(), monotonic_ms=_monotonic_ms(), wall_ms=_wall_ms())


def _monotonic_ms() -> int:
    return int(time.monotonic() * 1000)


def _wall_ms() -> int:
    return int(time.time() * 1000)
