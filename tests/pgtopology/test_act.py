"""What a request says of who gave an order, and the names of events."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtopology.act import COMMAND_CHARS_MAX, COMMAND_HEADER, OPERATOR_HEADER, act_headers, read_act
from pgtopology.event import KINDS, STEPS, kinds_of

ROOT = Path(__file__).parents[2]


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=COMMAND_CHARS_MAX))
def test_what_was_said_is_read_back_and_is_fit_for_a_header(operator: str, command: str) -> None:
    headers = act_headers(operator, command)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert read_act(headers) == (operator, command)


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=2000))
def test_anything_may_be_said_and_no_more_than_so_much_is_taken(text: str) -> None:
    operator, command = read_act({OPERATOR_HEADER: text, COMMAND_HEADER: text})
    assert len(operator or "") <= 100
    assert len(command or "") <= COMMAND_CHARS_MAX
    assert all(value.isascii() for value in act_headers(text, text).values())


def test_who_says_nothing_is_nobody() -> None:
    assert read_act({}) == (None, None)


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["plan"], {"plan"}),
        (["paused", "resumed"], {"paused", "resumed"}),
        (["bootstrap"], {f"bootstrap.{step}" for step in STEPS}),
        (["failover.opened"], {"failover.opened"}),
        (["operator"], {kind for kind in KINDS if kind.startswith("operator.")}),
    ],
)
def test_a_word_stands_for_its_parts(names: list[str], kinds: set[str]) -> None:
    assert kinds_of(names) == kinds


@pytest.mark.parametrize("name", ["", "fail", "plans", "failover.", "FAILOVER"])
def test_a_word_that_stands_for_nothing_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(ValueError, match=r"kinds are .*failover.*operator"):
        kinds_of([name])


def test_every_kind_that_the_manager_writes_is_known() -> None:
    written: set[str] = set()
    for path in (ROOT / "cluster_manager").rglob("*.py"):
        text = path.read_text()
        written |= set(re.findall(r'_journal\.append\(\s*"([\w.]+)"', text))
        written |= set(re.findall(r'\b_?recorded\(\s*"([\w.]+)"', text))
        written |= {f"failover.{step}" for step in re.findall(r'\._step\(\s*"(\w+)"', text)}
    assert {"plan", "operator.config", "failover.opened"} <= written
    assert written <= set(KINDS)
