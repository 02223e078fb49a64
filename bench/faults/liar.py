"""A noded that breaks its promise, to prove that the checkers notice: `python -m bench.faults.liar --config FILE`.

It is the real noded of a replica, but for one thing: asked to promise an epoch it says yes at once, with the promise on its
disk, and goes on receiving from the old writer, also when it is told to follow another.  Started by `unsafe` in the place of
one node; nothing of it is in the product.
"""

from __future__ import annotations

import sys

from noded import daemon
from noded.acts.effects import AskEnd, Failed, Steps, Unanswered
from noded.acts.fence import Cut, Fence
from noded.acts.orders import Orders
from pgtopology.lsn import Lsn
from pgtopology.node import Position
from pgtopology.orders import Acknowledged, FollowOrder, StopMode


def cut_nobody(self: Fence, stop_mode: StopMode, *, fast_s: float | None = None, promoting: bool) -> Steps[Cut]:
    """Stand in for `Fence.cut`."""
    yield from ()
    return Cut()


def claim_little(self: Fence, timeout_s: float) -> Steps[Position]:
    """Stand in for `Fence.read_position`: so little that another node is elected."""
    end = yield from AskEnd()
    if isinstance(end, Unanswered):
        raise Failed(end.reason)
    return Position(timeline=end.timeline, lsn=Lsn(1), replayed_lsn=Lsn(1))


def follow_nobody(self: Orders, order: FollowOrder) -> Steps[Acknowledged]:
    """Stand in for `Orders.follow`."""
    yield from ()
    return Acknowledged(node=order.node)


if __name__ == "__main__":
    Fence.cut = cut_nobody
    Fence.read_position = claim_little
    Orders.follow = follow_nobody
    sys.exit(daemon.main())
