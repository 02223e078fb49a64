"""The two numbers that order everything the cluster agrees upon, and the greatest pair of them that somebody has seen.

An epoch names one attempt to have a writer; a revision names one write of the topology document.  Together they order
documents and orders: whoever has seen a pair refuses what is smaller in either.  What was written later has the greater
revision, also when the store was put back to an old copy in between; the lost history may have come to greater epochs all the
same (S12).  Neither is ever compared with a timeline, which is PostgreSQL's own number; the three are distinct types so that a
checker notices.
"""

from __future__ import annotations

from typing import NewType

Epoch = NewType("Epoch", int)
Revision = NewType("Revision", int)

NUMBER_MAX = 2**63 - 1
"""Of either; what comes from outside and is greater is refused, because what is kept must fit a store's column."""

NO_EPOCH = Epoch(0)
"""Smaller than every epoch of a document: the first document has epoch 1."""

NO_REVISION = Revision(0)


def is_behind(pair: tuple[Epoch, Revision], seen: tuple[Epoch, Revision]) -> bool:
    """Return whether *pair* is older than what was *seen*, or of another history than it: either number is smaller."""
    return pair[0] < seen[0] or pair[1] < seen[1]
