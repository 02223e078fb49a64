"""Every way of refusing an operator's order is shown by a scenario: the texts are read out of the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cluster_manager.decision import refusal

FOLDER = Path(__file__).with_name("scenarios")
REFUSALS = [
    line.partition(": ")[2]
    for path in sorted(FOLDER.glob("*.txt"))
    for line in path.read_text(encoding="utf-8").partition("----\n")[2].splitlines()
    if line.startswith(("refused: ", "given up if this lasts: "))
]


def _pattern(text: ast.expr) -> str | None:
    """Return a regular expression for what the expression *text* can become; None if it is no text."""
    match text:
        case ast.Constant(value=str(value)):
            return re.escape(value)
        case ast.JoinedStr(values=parts):
            return "".join(_pattern(part) or ".*" for part in parts)
        case _:
            return None


def _texts() -> list[str]:
    tree = ast.parse(Path(refusal.__file__).read_text(encoding="utf-8"))
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    return [pattern for value in returned if (pattern := _pattern(value)) is not None]


TEXTS = _texts()


def test_texts_are_found() -> None:
    assert len(TEXTS) >= 15


@pytest.mark.parametrize("text", TEXTS)
def test_every_refusal_has_a_scenario(text: str) -> None:
    assert any(re.fullmatch(text, told) for told in REFUSALS), f"no scenario is refused with: {text}"
