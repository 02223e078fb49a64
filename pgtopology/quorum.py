"""How many copies make a commit, and which nodes must promise before another writer may stand.

Voters are the nodes whose WAL counts, the writer among them.  With N voters and w copies a commit is acknowledged when w
of them, the writer's own copy included, have it on disk.  A safe set is any N - w + 1 voters: it meets every w copies, so
whoever is ahead in it holds every acknowledged commit; and it leaves any other writer fewer voters than it needs, so
nobody else can acknowledge once it has promised (S4).  Pure arithmetic; the order of changes is succession's business.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import msgspec

from pgtopology.node import Incarnation, NodeName, sync_name

NOBODY = "endpointd_nobody"
"""Matches no receiver: what synchronous_standby_names holds while the voters are not known.  It is never empty in quorum
mode, because backends skip the wait for as long as the checkpointer has not read the first list (S1)."""

_LIST = re.compile(r"ANY (\d+) \((.+)\)")


class Voter(msgspec.Struct, frozen=True, order=True):
    """A node whose WAL counts, named together with the data it had when it was counted in."""

    name: NodeName
    incarnation: Incarnation

    @property
    def sync_name(self) -> str:
        """The name under which this voter acknowledges."""
        return sync_name(self.name, self.incarnation)


class Voters(msgspec.Struct, frozen=True):
    """The recorded voters and the number of copies, *w*, that a commit has when it is acknowledged."""

    members: tuple[Voter, ...]
    """Sorted by name, each name once."""
    w: int

    def __post_init__(self) -> None:
        names = [voter.name for voter in self.members]
        if names != sorted(set(names)):
            raise ValueError(f"voters must be sorted by name and distinct, not {', '.join(names)}")
        if not 1 <= self.w <= max(1, len(self.members)):
            raise ValueError(f"w must be between 1 and the number of voters, {len(self.members)}, not {self.w}")

    @property
    def names(self) -> tuple[NodeName, ...]:
        """The voters' names, sorted."""
        return tuple(voter.name for voter in self.members)

    @property
    def safe_set_size(self) -> int:
        """How many voters must promise before another writer may stand: N - w + 1."""
        return len(self.members) - self.w + 1

    @property
    def adoption_size(self) -> int:
        """How many voters must be heard before what they have seen stands for a lost document.

        A safe set, and so many that they also meet every other safe set: then one of them was in each election.
        """
        return max(self.safe_set_size, self.w)

    def make_known(self, knowing: Collection[Voter], after: Voters) -> bool:
        """Return whether the voters *after* these cannot be lost if *knowing* have seen them recorded.

        Then whoever is enough to stand for a lost document of these voters is or meets one of them.  One that was made anew can
        never again be among those.
        """
        gone = sum(1 for voter in self.members if (now := after.find(voter.name)) is not None and now != voter)
        enough = len(self.members) - self.adoption_size + 1 - gone
        return len(set(knowing).intersection(self.members)) >= enough

    def find(self, name: str) -> Voter | None:
        """Return the voter called *name*, or None."""
        return next((voter for voter in self.members if voter.name == name), None)

    def is_safe_set(self, promised: Collection[Voter]) -> bool:
        """Return whether the recorded voters among *promised* are a safe set.

        A voter counts once, and only with the incarnation that is recorded: a wiped node promises in vain (S7).
        """
        return len(set(promised).intersection(self.members)) >= self.safe_set_size

    def others_needed(self, writer: str) -> int:
        """Return how many voters besides *writer* must hold a commit: w - 1, or w if the writer is no voter."""
        return self.w - 1 if self.find(writer) else self.w


def make_voters(voters: Iterable[Voter], w: int) -> Voters:
    """Return the voters in their recorded order. Raises ValueError if names repeat or *w* does not fit."""
    return Voters(tuple(sorted(voters)), w)


def majority(n: int) -> int:
    """Return the default w for *n* voters: the smallest majority."""
    return n // 2 + 1


def synchronous_standby_names(voters: Voters | None, writer: str) -> str:
    """Return the value of synchronous_standby_names under which *writer* needs w copies.

    None means that the voters are not known yet: then no commit may pass.  With w = 1 the writer's own copy is enough and
    the list is empty; that is durability "async", and status says so.
    """
    if voters is None:
        return f"ANY 1 ({NOBODY})"
    needed = voters.others_needed(writer)
    if needed == 0:
        return ""
    names = ", ".join(f'"{voter.sync_name}"' for voter in voters.members if voter.name != writer)
    return f"ANY {needed} ({names})" if names else f"ANY 1 ({NOBODY})"


def others_asked(names: str) -> int:
    """Return how many standbys a list that `synchronous_standby_names` made waits for; 0 for any other text, and for nobody."""
    found = _LIST.fullmatch(names)
    return int(found[1]) if found is not None and found[2] != NOBODY else 0
