"""What the native pooler believes of statements by their words alone, beside PostgreSQL's grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from endpointd.pooling.statestatements import judge

_native = pytest.importorskip("endpointd.relay._native", reason="there is no native engine")
parser = pytest.importorskip("pglast.parser", reason="pglast is not installed")

BLANKS = ["", " ", "\n", "\t ", "/* a */", "/* /* b */ ; */", "-- c\n", "-- d\r"]
TOKENS = [
    "deallocate", "DEALLOCATE", "Discard", "prepare", "all", "ALL", "plans", "a", "B_1$", '"Q ""x"', '"all"', ";", "select",
    "1", "(", ")", ",", "set", "local", "search_path", "to", "listen", "temp", "create", "table", "pg_temp.t", "execute",
    "explain", "do", "'x'", "$$y$$", "as", "reset", "load", "declare", "c", "cursor", "with", "hold", "for", "set_config",
    "lastval()", "pg_advisory_lock(1)", "select * from", 'U&"a"', "é", "x" * 70,
]  # fmt: skip
STATEMENTS = st.lists(st.tuples(st.sampled_from(BLANKS), st.sampled_from(TOKENS)), max_size=8).map(
    lambda parts: " ".join(blank + token for blank, token in parts)
)
BEGINS = st.sampled_from(["deallocate", "Deallocate prepare", "discard", "DISCARD ALL", "deallocate /* */ all"])
NEAR = st.tuples(BEGINS, STATEMENTS).map(" ".join)


def parsed(statement: str) -> list[dict[str, Any]]:
    try:
        return [each["stmt"] for each in json.loads(parser.parse_sql_json(statement)).get("stmts", ())]
    except parser.ParseError:
        return []


def by_grammar(statement: str) -> tuple[int, bytes]:
    match parsed(statement):
        case [{"DeallocateStmt": {"name": name}}]:
            return 1, name.encode()
        case [{"DeallocateStmt": _}]:
            return 2, b""
        case [{"DiscardStmt": {"target": "DISCARD_ALL"}}]:
            return 3, b""
        case _:
            return 0, b""


@settings(max_examples=1000, deadline=None)
@given(st.one_of(STATEMENTS, NEAR, NEAR))
@example("deallocate a")
@example('DEALLOCATE PREPARE "a b";')
@example("/* x */ deallocate -- y\n all ; ;")
@example("discard all;")
def test_what_forgets_is_what_the_grammar_says(statement: str) -> None:
    found, wanted = _native.forgets(statement.encode()), by_grammar(statement)
    # Less may be believed, where a name is not plain; and of a reserved word as a name the server says what it is.
    if found != (0, b"") and parsed(statement):
        assert found == wanted
    plain = statement.isascii() and "U&" not in statement and "x" * 70 not in statement
    if plain and wanted[0]:
        assert found == wanted


@settings(max_examples=1000, deadline=None)
@given(STATEMENTS)
def test_what_is_harmless_by_its_words_is_harmless(statement: str) -> None:
    if parsed(statement) and not _native.is_suspicious(statement.encode()):
        assert judge(statement.encode()) == 0
