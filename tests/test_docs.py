"""Documents lead somewhere: every link has its file and heading, and every path that CONTRIBUTING.md points to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))


def prose(document: Path) -> str:
    return re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return the fragments by which GitHub knows the headings of *document*."""
    headings = re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        goal = document.parent / path if path else document
        assert goal.exists(), link
        assert not anchor or anchor in anchors(goal), link


def test_where_contributors_are_sent_there_is_something() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where is ...?")[2].partition("\n## ")[0]
    paths = re.findall(r"`([\w/]+(?:\.\w+|/))`", table)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
