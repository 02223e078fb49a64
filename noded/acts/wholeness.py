"""Finds out when a copied or rewound node holds everything its predecessor may have acknowledged (S7).

The proof: after the copy, the writer of the newest epoch is asked how far its WAL is flushed; the node has streamed past
that on the writer's timeline, and still follows the same order.  Only then does its WAL count.
"""

from __future__ import annotations

from msgspec.structs import replace

from noded.acts.effects import AskWriter, Note, Poke, Recall, Steps, Store, WriterEnd
from noded.acts.memory import Memory
from noded.law import promise as rules
from noded.law.promise import Following


class Wholeness:
    """Proves it, round after round."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._mark: tuple[Following, WriterEnd] | None = None
        """What has to be streamed past, and who said so."""

    def look(self) -> Steps[None]:
        """Go one step further, if wholeness is missing."""
        memory, state, mark = self._memory, self._memory.state, self._mark
        following = state.following
        if state.whole or state.work is not None or state.incarnation is None or following is None:
            self._mark = None
            return
        known = yield from Recall()
        if not known.running or not known.streaming:
            return
        if mark is None or mark[0] != following:
            end = yield from AskWriter(following.upstream)
            if end is not None:
                self._mark = following, end
                yield from Poke()  # what is known of this node is older than the mark: look again
            return
        end = mark[1]
        if known.timeline != end.timeline or known.wal_end is None or known.wal_end < end.lsn:
            if known.timeline is not None and known.timeline > end.timeline:
                self._mark = None  # the writer has changed; ask the new one
            return
        if rules.is_newest_upstream(memory.state, following):
            try:
                yield from Store(replace(memory.state, whole=True))
            except OSError:
                return  # the observation says so; it counts when it is written
            facts = {"incarnation": state.incarnation, "lsn": end.lsn, "timeline": end.timeline}
            yield from Note("data is whole", facts)
            yield from Poke()
