"""The package's docstring is its door: it names every file once, in an order in which each knows only those before it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cluster_manager import decision

FOLDER = Path(decision.__file__).parent
ORDER = re.findall(r"^    `(\w+)`", decision.__doc__ or "", flags=re.MULTILINE)


def known_to(name: str) -> set[str]:
    """Return the files of the package that *name* imports."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == decision.__name__:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(f"{decision.__name__}."):
            found.add(node.module.rpartition(".")[2])
    return found


def test_every_file_is_named_once() -> None:
    assert sorted(ORDER) == sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", ORDER)
def test_a_file_knows_only_those_before_it(name: str) -> None:
    assert known_to(name) <= set(ORDER[: ORDER.index(name)])
