"""List append: every acknowledged value stands in its list exactly once, and no two reads contradict one another.

A list only ever grows at its end, so of two reads of one list the shorter must be the beginning of the longer.  A read that
breaks this is noticed when it is made; the lists as they are at the end are compared with what was told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from testkit.checks.outcomes import Checked

NAME = "append"
List = tuple[int, ...]


@dataclass(slots=True)
class AppendMemory:
    """What the clients of all lists attempted and were told; values are unique over all lists."""

    attempted: dict[int, int] = field(default_factory=dict)
    """The list each value was meant for."""
    acknowledged: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    """Told as failed: they must not be there."""
    longest: dict[int, List] = field(default_factory=dict)
    """The longest read of each list."""
    contradictions: list[str] = field(default_factory=list)
    reads: int = 0

    def note_read(self, key: int, items: Sequence[int]) -> None:
        """Remember a read of list *key*, and whether it contradicts an earlier one."""
        self.reads += 1
        read, before = tuple(items), self.longest.get(key, ())
        short, long = sorted((read, before), key=len)
        if long[: len(short)] != short:
            self.contradictions.append(f"list {key} was read as {_tail(before)} and as {_tail(read)}")
        self.longest[key] = long


def check_appends(memory: AppendMemory, lists: Mapping[int, Sequence[int]]) -> Checked:
    """Compare *memory* with the *lists* at the end."""
    found = Counter(value for items in lists.values() for value in items)
    home = {value: key for key, items in lists.items() for value in items}
    violations = list(memory.contradictions)
    violations += [f"value {value} was acknowledged and is gone" for value in sorted(memory.acknowledged - found.keys())]
    violations += [f"value {value} stands {count} times" for value, count in sorted(found.items()) if count > 1]
    violations += [f"value {value} was told as failed and is there" for value in sorted(memory.failed & found.keys())]
    for value, key in sorted(home.items()):
        meant = memory.attempted.get(value)
        if meant is None:
            violations.append(f"value {value} in list {key} was never attempted")
        elif meant != key:
            violations.append(f"value {value} stands in list {key}, but was meant for {meant}")
    for key, read in sorted(memory.longest.items()):
        if tuple(lists.get(key, ()))[: len(read)] != read:
            violations.append(f"list {key} was read as {_tail(read)}, which the end contradicts")
    doubtful = len(memory.attempted) - len(memory.acknowledged) - len(memory.failed)
    summary = f"{len(memory.acknowledged)} acknowledged, {len(memory.failed)} failed, {doubtful} in doubt, {memory.reads} reads"
    return Checked(checker=NAME, summary=summary, violations=tuple(violations))


def _tail(items: List) -> str:
    return f"{len(items)} values ending in {list(items[-3:])}"
