"""docs/law.md and docs/trust.md hold: numbers that are cited have entries; what entries name exists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sim.__main__ import TABLE_HEAD, with_table
from tests.sim.switches import SENTENCES, Switch

ROOT = Path(__file__).resolve().parent.parent
SCENARIOS = ROOT / "tests" / "cluster_manager" / "decision"
PRODUCT = (
    "pgwire",
    "pgtopology",
    "daemonkit",
    "noded",
    "cluster_manager",
    "endpointd",
    "deployment",
    "supervisor",
    "endpointctl",
    "docker",
)
NUMBER = re.compile(r"(?<![\w.#-])(?:D[1-9]|F[1-9]|S(?:1\d|20|[1-9])|L(?:1[0-2]|[1-9]))(?![\w.-])")
"""How a sentence is cited: a letter of ours and a number that could be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One entry."""

    number: str
    rule: str
    parts: dict[str, str]

    def quoted(self, part: str) -> list[str]:
        """Return what stands between backquotes in *part*."""
        return re.findall(r"`([^`]+)`", self.parts.get(part, ""))


def _read() -> list[Sentence]:
    found: list[Sentence] = []
    for entry in re.split(r"^### ", (ROOT / "docs" / "law.md").read_text(), flags=re.MULTILINE)[1:]:
        head, _, body = entry.partition("\n")
        rule, *parts = re.split(r"^- \*\*", re.split(r"^## ", body, flags=re.MULTILINE)[0], flags=re.MULTILINE)
        named = {part.partition(":**")[0]: part.partition(":**")[2].strip() for part in parts}
        found.append(Sentence(number=head.partition(".")[0], rule=f"{head} {rule}".strip(), parts=named))
    return found


LAW = _read()
each = pytest.mark.parametrize("sentence", LAW, ids=lambda sentence: sentence.number)


def test_every_number_has_one_entry_and_they_are_in_order() -> None:
    numbers = [sentence.number for sentence in LAW]
    letters = {letter: [int(number[1:]) for number in numbers if number[0] == letter] for letter in "DFSL"}
    assert sum(map(len, letters.values())) == len(numbers)
    assert all(counts == list(range(1, len(counts) + 1)) for counts in letters.values()), letters


@each
def test_a_sentence_says_what_goes_wrong_without_it(sentence: Sentence) -> None:
    assert sentence.parts.get("Without it")


@each
def test_its_code_exists(sentence: Sentence) -> None:
    path: Path | None = None
    named = sentence.quoted("Enforced")
    assert named
    for word in named:
        if word.endswith(".py"):
            path = ROOT / word
            assert path.is_file(), word
        else:
            assert path is not None
            text = path.read_text()
            assert re.search(rf"(?:def|class) {word}\b", text), f"{path.relative_to(ROOT)} has no {word}"


@each
def test_a_switch_or_a_named_test_shows_it(sentence: Sentence) -> None:
    shown = sentence.quoted("Shown by")
    switches = sentence.quoted("Switch")
    assert shown or switches
    for word in switches:
        assert word in set(Switch), word
    for word in shown:
        name, _, test = word.partition("::")
        path = SCENARIOS / name if name.startswith("scenarios/") else ROOT / name
        assert path.is_file(), word
        assert not test or re.search(rf"def {test}\b", path.read_text()), word


def test_every_switch_breaks_a_sentence_that_names_it() -> None:
    named = {(sentence.number, word) for sentence in LAW for word in sentence.quoted("Switch")}
    for switch, broken in SENTENCES.items():
        assert (broken.partition(":")[0], str(switch)) in named, switch


def test_the_table_of_switches_in_the_documents_is_that_of_the_simulator() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|\s*\d+ \| [^|]+ \| (.+) \|$", (ROOT / "docs" / "faults.md").read_text(), flags=re.MULTILINE
    )
    assert rows == [(str(switch), SENTENCES[switch]) for switch in Switch]


def test_the_table_of_switches_is_replaced_as_a_whole() -> None:
    text = (ROOT / "docs" / "faults.md").read_text()
    rows = [*TABLE_HEAD, "| `one` | 1 | a checker | S1: a sentence |"]
    replaced = with_table(text, rows)
    assert replaced.count("\n| `") == text.count("\n| `") - len(Switch) + 1
    assert with_table(replaced, rows) == replaced
    before, _, after = text.partition("\n".join(TABLE_HEAD))
    assert replaced.startswith(before)
    assert replaced.endswith(after.rpartition("|\n")[2])


def test_no_number_is_cited_that_has_no_entry() -> None:
    known = {sentence.number for sentence in LAW}
    strange: list[str] = []
    for package in (*PRODUCT, "tests/sim", "testkit", "bench"):
        for path in (ROOT / package).rglob("*.py"):
            for line_number, line in enumerate(path.read_text().splitlines(), 1):
                unknown = set(NUMBER.findall(line)) - known
                strange += [f"{path.relative_to(ROOT)}:{line_number}: {number}" for number in sorted(unknown)]
    assert not strange


def test_nothing_is_cited_that_is_not_in_the_repository() -> None:
    for package in (*PRODUCT, "testkit", "tests", "bench", "docs"):
        for path in (*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.md")):
            if path != Path(__file__).resolve():
                assert not re.search(r"\bDESIGN\b|failover-holes|\bhole [SL]\d", path.read_text()), path


def test_the_tests_of_the_trust_table_exist() -> None:
    rows = re.findall(r"^\| [A-D]\d+ \|.*$", (ROOT / "docs" / "trust.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == 35
    for row in rows:
        named = re.findall(r"`(tests/[^`]+)`", row)
        assert named, row
        for path in named:
            assert (ROOT / path).is_file(), path
