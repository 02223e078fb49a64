"""A fault planted for the fuzzer's own test: it stands behind two comparisons, each of which only a changed input passes."""

from __future__ import annotations


def fragile(data: bytes) -> None:
    """Raise IndexError for an input that begins with the right two bytes, and is short."""
    if data[:1] == b"R":
        found = data[1:2]
        if found == b"\xff":
            data[len(data)]
