"""Weaknesses of the real code that the simulator has found and that are not mended yet.

Clean runs go round them, so that they find what is new; broken runs do not.  Whoever mends one deletes its entry here, and
from then on every run looks for it.
"""

from __future__ import annotations

import re

from tests.sim.switches import Switch

KNOWN_SETTINGS = "two settings orders of one revision are not ordered"
"""S8.  "Wait for nobody" (w=1, as recorded) and "wait for one" (w=2, ahead of its record) carry the same revision; if the first
one arrives again after w=2 was recorded and before the writer has seen that revision, commits are acknowledged on one node."""

KNOWN_PROOF = "a list is recorded on the proof of a settings order that another one has followed"
"""S9.  While {n1, n3} is proven and {n1, n2} is being put in force, n2 goes away: {n1, n3} is recorded on the older answer,
though the list in force names n2."""

KNOWN_PASSWORD = "a receiver that was requested before a promise logs in with the password that a later order brought"
"""S2.  The password file names no host.  A receiver requested with the old upstream, launched late because the postmaster and
the startup process were slow, finds the password that the next follow order brought, and streams from the old writer."""

KNOWN_HAND = "a node that was promoted by hand is told from a claimed timeline's by its number only"
"""S3.  PostgreSQL numbers a promotion that nobody ordered one above its own timeline, which may equal a claimed one.  noded
stops such a primary, but its data is not marked as foreign: it may follow, become whole and count."""

KNOWN_BOOTSTRAP = "the first node's PostgreSQL died before it was recorded, and nobody starts it"
"""The plan stays "initialise", which the node refuses because it has data."""

KNOWN_REPLACED = "voters made anew cannot be recorded while there is no writer"
"""A voter was cloned from a promoted candidate; its new incarnation may only be recorded beside a published writer, and the
candidate's list names the old one, so that the candidate never gets its quorum."""

KNOWN_GROWTH = "w grows although the voters that are level cannot acknowledge it"
"""While one voter is cloned and another has diverged, a greater w is put in force: every commit waits, and because commits are
stuck nobody takes it back."""

AVOIDED: frozenset[str] = frozenset({KNOWN_SETTINGS, KNOWN_PROOF, KNOWN_HAND, KNOWN_PASSWORD})

NEEDED_BY = {Switch.NO_REVISION: frozenset({KNOWN_SETTINGS})}
"""The switches that show by the same circumstances that something is amiss."""

_STUCK: tuple[tuple[str, re.Pattern[str]], ...] = (
    (KNOWN_BOOTSTRAP, re.compile(r"makes its data directory")),
    (KNOWN_REPLACED, re.compile(r"finds no quorum|first quorum commit is not acknowledged|\d+ of the \d+ other voters needed")),
    (KNOWN_GROWTH, re.compile(r"the quorum heartbeat of .* its WAL still reaches")),
    (KNOWN_REPLACED, re.compile(r"has other data than the voter that was recorded")),
)
"""Reasons, as the managers say them, for which a cluster may stay unwell for ever."""


def known_stuck(diagnoses: str) -> bool:
    """Return whether what the managers say at the end is a known way of being stuck."""
    return any(pattern.search(diagnoses) for _, pattern in _STUCK)
