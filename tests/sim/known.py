"""Weaknesses of the real code that the simulator has found and that are not mended yet.

Clean runs go round them, so that they find what is new; broken runs do not.  Whoever mends one deletes its entry here, and
from then on every run looks for it.
"""

from __future__ import annotations

import re

KNOWN_REPLACED = "voters made anew cannot be recorded while there is no writer"
"""A voter was cloned from a promoted candidate; its new incarnation may only be recorded beside a published writer, and the
candidate's list names the old one, so that the candidate never gets its quorum."""

_STUCK: tuple[tuple[str, re.Pattern[str]], ...] = (
    (KNOWN_REPLACED, re.compile(r"finds no quorum|first quorum commit is not acknowledged|\d+ of the \d+ other voters needed")),
    (KNOWN_REPLACED, re.compile(r"has other data than the voter that was recorded")),
)
"""Reasons, as the managers say them, for which a cluster may stay unwell for ever."""


def known_stuck(diagnoses: str) -> bool:
    """Return whether what the managers say at the end is a known way of being stuck."""
    return any(pattern.search(diagnoses) for _, pattern in _STUCK)
