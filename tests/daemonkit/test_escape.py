"""What is shown of others' text: nothing that moves a cursor, and nothing lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonkit.escape import visible, visible_json, visible_value
from pgtopology.event import Event

HOSTILE = ["\x1b[2J", "\x9b31m", "\a", "a\nb", "\r", "\u202eevil", "\u2066", "\u2028"]
HOSTILE += ["\u200b", "\ufeff", "\udcff", "\x7f", "\U000e0041"]
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_not_printable_is_spelled_out(text: str) -> None:
    assert visible(text).isprintable()
    assert visible(text) != text


@pytest.mark.parametrize("text", ["plain", "Bücher und Größe", "日本語", "[/x] {y} \\n", ""])
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(ANY_TEXT)
def test_no_text_at_all_shows_anything_but_printable_characters(text: str) -> None:
    assert visible(text).isprintable()
    assert set(visible(text, keep="\t\n")) <= {*visible(text), "\t", "\n"}


@given(st.recursive(ANY_TEXT | st.integers() | st.none(), lambda one: st.lists(one) | st.dictionaries(ANY_TEXT, one)))
def test_json_is_spelled_visibly_and_says_the_same(value: object) -> None:
    for text in (json.dumps(value, ensure_ascii=False), json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        shown = visible_json(text)
        assert json.loads(shown) == value
        assert all(one.isprintable() or one == "\n" for one in shown)


def test_every_string_in_a_value_is_made_visible_as_deep_as_it_goes() -> None:
    event = Event(
        sequence=1, at="T", monotonic_ms=0, epoch=1, kind="k\x1b", message="m\n", fields={"a\x1b": ["x\x1b", {"b": ("\x9b",)}]}
    )
    shown = visible_value(event)
    assert (shown.kind, shown.message) == ("k\\x1b", "m\\n")
    assert shown.fields == {"a\\x1b": ["x\\x1b", {"b": ("\\x9b",)}]}
    assert event.kind == "k\x1b"
