"""Weaknesses of the real code that the simulator has found and that are not mended yet.

Clean runs go round them, so that they find what is new; broken runs do not.  Whoever mends one deletes its entry here, and
from then on every run looks for it.  The explanations are with the bug reports.
"""

from __future__ import annotations

import re

from tests.sim.switches import Switch

KNOWN_SETTINGS = "two settings orders of one revision are not ordered"
KNOWN_PASSWORD = "a receiver that was requested before a promise logs in with the password that a later order brought"
KNOWN_HAND = "a node that was promoted by hand is told from a claimed timeline's by its number only"
KNOWN_REPLACED = "voters made anew cannot be recorded while there is no writer"

AVOIDED: frozenset[str] = frozenset({KNOWN_SETTINGS, KNOWN_HAND, KNOWN_PASSWORD})

NEEDED_BY = {Switch.NO_REVISION: frozenset({KNOWN_SETTINGS})}
"""The switches that show by the same circumstances that something is amiss."""

_STUCK: tuple[tuple[str, re.Pattern[str]], ...] = (
    (KNOWN_REPLACED, re.compile(r"finds no quorum|first quorum commit is not acknowledged|\d+ of the \d+ other voters needed")),
    (KNOWN_REPLACED, re.compile(r"has other data than the voter that was recorded")),
)
"""Reasons, as the managers say them, for which a cluster may stay unwell for ever."""


def known_stuck(diagnoses: str) -> bool:
    """Return whether what the managers say at the end is a known way of being stuck."""
    return any(pattern.search(diagnoses) for _, pattern in _STUCK)
