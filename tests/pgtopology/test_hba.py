"""Lines of pg_hba.conf, taken apart; tests/noded/test_hba.py compares with PostgreSQL itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtopology.hba import BLANK, Token, fields, is_unproven, matches, spelled, why_unsafe

ODD = st.text(alphabet='ab"@#, \t\r\\/=', max_size=30)


def texts(line: str) -> list[list[str]]:
    return [[token.text for token in field] for field in fields(line)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("  \t # comment", []),
        ("a b\tc\rd", [["a"], ["b"], ["c"], ["d"]]),
        ("a,b , c d", [["a", "b"], ["c"], ["d"]]),
        ("a, b c", [["a", "b"], ["c"]]),
        (",,a", [["a"]]),
        ('"a b" c"d e"f', [["a b"], ["cd ef"]]),
        ('"a""b" "a # b"', [['a"b'], ["a # b"]]),
        ('"" x', [[""], ["x"]]),
        ('"open to the end #', [["open to the end #"]]),
        ("a#b c", [["a"]]),
    ],
)
def test_fields(line: str, expected: list[list[str]]) -> None:
    assert texts(line) == expected


@pytest.mark.parametrize(("word", "names"), [("@f", True), ('"@f"', False), ('@"f"', True), ("@", False), ('""@f', False)])
def test_a_word_names_a_file_unless_it_begins_with_a_quote(word: str, names: bool) -> None:
    assert fields(word)[0][0].names_file is names


@given(ODD)
def test_any_line_is_taken_apart_and_no_word_is_lost_or_made_up(line: str) -> None:
    for field in fields(line):
        assert field
        for token in field:
            assert token.text or token.quoted
    plain = line.partition("#")[0]
    if '"' not in line:
        assert [text for field in texts(line) for text in field] == plain.translate(
            dict.fromkeys(map(ord, f"{BLANK},"), " ")
        ).split()


@given(
    st.lists(st.text(alphabet='ab" ,', min_size=1, max_size=5), max_size=4),
    st.sampled_from(["trust", "ident"]),
    st.integers(0, 5),
)
def test_a_method_is_found_however_it_is_quoted(before: list[str], method: str, cut: int) -> None:
    quoted = ['"' + word.replace('"', '""') + '"' for word in before][:3]
    line = " ".join(["host", *quoted, *["all"] * (3 - len(quoted)), f'{method[:cut]}"{method[cut:]}"'])
    assert is_unproven(line)
    assert why_unsafe(line) is not None


@given(st.text(alphabet='ab/\\"#,@+ \t', max_size=20))
def test_a_field_that_is_written_reads_back_to_itself(line: str) -> None:
    for field in fields(line):
        assert fields(f"{spelled(field)} next") == (field, (Token("next", False),))


@pytest.mark.parametrize(
    ("token", "name", "fits"),
    [
        (Token("ann", False), "ann", True),
        (Token("all", False), "ann", True),
        (Token("all", True), "ann", False),
        (Token("/^a", False), "ann", True),
        (Token("/^a", True), "ann", False),
        (Token("/", False), "/", True),
    ],
)
def test_for_whom_a_word_stands(token: Token, name: str, fits: bool) -> None:
    assert matches(token, name) is fits
