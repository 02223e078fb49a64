"""A noded that breaks its promise, to prove that the checkers notice: `python -m bench.faults.liar --config FILE`.

It is the real noded of a replica, but for one thing: asked to promise an epoch it says yes at once, with the promise on its
disk, and goes on receiving from the old writer, also when it is told to follow another.  Started by `unsafe` in the place of
one node; nothing of it is in the product.
"""

from __future__ import annotations

import sys

from noded import daemon, fence
from noded.fence import Cut
from noded.instance import Instance
from noded.orders import Orders
from pgtopology.lsn import Lsn
from pgtopology.node import Position
from pgtopology.orders import Acknowledged, FollowOrder, StopMode


async def cut_nobody(instance: Instance, *, promoting: bool, stop_mode: StopMode, fast_s: float = 0.0) -> Cut:
    """Stand in for `fence.cut`."""
    return Cut()


async def claim_little(instance: Instance, *, timeout_s: float) -> Position:
    """Stand in for `fence.read_position`: so little that another node is elected."""
    end = await instance.sessions.walsender.identify(timeout_s=timeout_s)
    return Position(timeline=end.timeline, lsn=Lsn(1), replayed_lsn=Lsn(1))


async def follow_nobody(self: Orders, order: FollowOrder) -> Acknowledged:
    """Stand in for `Orders.follow`."""
    return Acknowledged(node=self.node.state.value.node)


if __name__ == "__main__":
    fence.cut = cut_nobody
    fence.read_position = claim_little
    Orders.follow = follow_nobody
    sys.exit(daemon.main())
