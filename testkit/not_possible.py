"""Says that this machine does not let something be done to a cluster, and why."""

from __future__ import annotations

from unittest import SkipTest


class NotPossible(SkipTest):
    """This machine does not allow it; the text says why."""
