"""What a noded knows of itself: its durable state, and what it remembers only while it lives.

The one owner of both kinds of memory that acts go by.  Whoever forgets the second kind by dying is a noded that has just
started: it knows of no list that was proven and of no work under way.
"""

from __future__ import annotations

from typing import Protocol

from noded.law.backoff import Backoff
from noded.law.promise import State, Work
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.node import Position
from pgtopology.observation import Activity
from pgtopology.quorum import Voters

_ACTIVITIES = {Work.INIT: Activity.INITIALISING, Work.CLONE: Activity.CLONING, Work.REWIND: Activity.REWINDING}


class Durable(Protocol):
    """Where the durable state is kept."""

    @property
    def value(self) -> State:
        """The state as it is on disk."""
        ...

    @property
    def unreadable(self) -> str | None:
        """Why it cannot be read; `value` is then empty."""
        ...


class Memory:
    """What acts read and set."""

    def __init__(self, durable: Durable) -> None:
        self._durable = durable
        self.work: Work | None = None
        """Long work that is under way."""
        self.copying = Backoff(first_s=2.0, max_s=60.0, free=1)
        """Failures of long work in a row."""
        self.promoting = False
        """PostgreSQL is on the way to become a primary by order, or may be."""
        self.promotion_under_way = False
        """A promotion was begun and has not ended; it may still wait for its turn."""
        self.progress_percent: int | None = None
        self.problem: str | None = None
        """Why the last long work or start failed, until one succeeds."""
        self.blocked: str | None = None
        """Why PostgreSQL is not touched at all: state and data do not belong together."""
        self.closing = False
        """No order is accepted any more."""
        self.list_is_proven = False
        """That the checkpointer goes by a list that is not empty."""
        self.proven_list: Voters | None = None
        """What every walsender is known to go by; None while that is not known."""
        self.told: tuple[Epoch, bool] = (NO_EPOCH, False)
        """The promise that was logged last, and whether with a position."""
        self.read: tuple[Epoch, Position] | None = None
        """The position that was read from the files in an epoch; PostgreSQL was not started anew since."""

    @property
    def state(self) -> State:
        """The durable state."""
        return self._durable.value

    @property
    def unreadable(self) -> str | None:
        """Why the durable state cannot be read."""
        return self._durable.unreadable

    @property
    def activity(self) -> Activity:
        """What the observation calls it."""
        if self.work is not None:
            return _ACTIVITIES[self.work]
        return Activity.PROMOTING if self.promoting else Activity.IDLE
