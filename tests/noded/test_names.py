"""The longest names that settings accept still fit into PostgreSQL's identifiers, which it cuts without a word."""

from __future__ import annotations

import msgspec
import pytest

from noded.data.copies import draw_incarnation
from pgtopology.node import Label, NodeName, sync_name

IDENTIFIER_BYTES = 63
"""PostgreSQL, NAMEDATALEN less one: application_name and cluster_name are cut there, synchronous_standby_names is not."""


def test_a_node_can_always_acknowledge_under_its_name() -> None:
    longest = "n" * 38 + "-1"
    assert msgspec.convert(longest, Label) == longest
    assert len(sync_name(NodeName(longest), draw_incarnation()).encode()) <= IDENTIFIER_BYTES
    for refused in (longest + "1", "n_1", "N1", "", "-n", "n-", "ñ"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(refused, Label)
