"""Weaknesses of the real code that the simulator has found and that are not mended yet.

Clean runs go round them, so that they find what is new; broken runs do not.  Whoever mends one deletes its entry here, and
from then on every run looks for it.  The explanations are with the bug reports.
"""

from __future__ import annotations

import re

from tests.sim.switches import Switch

KNOWN_SETTINGS = "two settings orders of one revision are not ordered"
KNOWN_LEASE = "a proxy's lease outlives the last WAL advance"

AVOIDED: frozenset[str] = frozenset({KNOWN_SETTINGS, KNOWN_LEASE})

NEEDED_BY = {Switch.NO_REVISION: frozenset({KNOWN_SETTINGS}), Switch.OPEN_AT_ONCE: frozenset({KNOWN_LEASE})}
"""The switches that show by the same circumstances that something is amiss."""

_STUCK: tuple[re.Pattern[str], ...] = ()
"""Reasons, as the managers say them, for which a cluster may stay unwell for ever."""


def known_stuck(diagnoses: str) -> bool:
    """Return whether what the managers say at the end is a known way of being stuck."""
    return any(pattern.search(diagnoses) for pattern in _STUCK)
