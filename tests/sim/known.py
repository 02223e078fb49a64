"""Weaknesses of the real code that the simulator has found and that are not mended yet.

Clean runs go round them, so that they find what is new; broken runs do not.  Whoever mends one deletes its entry here, and
from then on every run looks for it.
"""

from __future__ import annotations

import re

_STUCK: tuple[tuple[str, re.Pattern[str]], ...] = ()
"""Reasons, as the managers say them, for which a cluster may stay unwell for ever."""


def known_stuck(diagnoses: str) -> bool:
    """Return whether what the managers say at the end is a known way of being stuck."""
    return any(pattern.search(diagnoses) for _, pattern in _STUCK)
