"""Finds out when a copied or rewound node holds everything its predecessor may have acknowledged (S7).

The proof: after the copy, the writer of the newest epoch is asked how far its WAL is flushed; the node has streamed past
that on the writer's timeline, and still follows the same order.  Only then does its WAL count.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from daemonkit.logs import get_logger
from noded.clone import source_walsender
from noded.instance import Instance
from noded.observe import Gatherer
from noded.promise import Following, is_newest_upstream
from noded.walsender import WalEnd, WalsenderError

ASK_TIMEOUT_S = 2.0


async def watch_wholeness(instance: Instance, gatherer: Gatherer, on_change: Callable[[], None]) -> None:
    """Prove wholeness whenever it is missing, for ever."""
    mark: tuple[Following, WalEnd] | None = None
    log = get_logger()
    while True:
        await gatherer.next_round()
        state = instance.state.value
        following = state.following
        if state.whole or state.work is not None or state.incarnation is None or following is None:
            mark = None
            continue
        facts = gatherer.facts
        if not instance.running or not facts.receiver_streaming:
            continue
        if mark is None or mark[0] != following:
            end = await _flushed_on_writer(instance, following)
            if end is not None:
                mark = following, end
                on_change()  # what is known of this node is older than the mark: look again
            continue
        end = mark[1]
        if facts.timeline != end.timeline or facts.wal_end is None or facts.wal_end < end.lsn:
            if facts.timeline is not None and facts.timeline > end.timeline:
                mark = None  # the writer has changed; ask the new one
            continue
        if is_newest_upstream(state, following):
            try:
                instance.state.store(replace(instance.state.value, whole=True))
            except OSError:
                continue  # the observation says so; it counts when it is written
            log.info("data is whole", incarnation=state.incarnation, lsn=end.lsn, timeline=end.timeline)
            on_change()


async def _flushed_on_writer(instance: Instance, following: Following) -> WalEnd | None:
    """Return the WAL end of the node that is followed, if it is a primary of our system."""
    walsender = source_walsender(instance, following.upstream)
    try:
        if await walsender.in_recovery(timeout_s=ASK_TIMEOUT_S):
            return None
        end = await walsender.identify(timeout_s=ASK_TIMEOUT_S)
    except WalsenderError:
        return None
    finally:
        walsender.close()
    return end if end.system_identifier == instance.state.value.system_identifier else None
