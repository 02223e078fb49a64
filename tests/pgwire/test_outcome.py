"""What an answer proves of a transaction, class by class, and the one table of it for everybody who asks."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from endpointctl.verifying.checker import check
from endpointctl.verifying.history import History, Write
from endpointctl.verifying.workload import outcome_of_error
from pgwire.outcome import ENDED_BEFORE_COMMIT, Outcome, outcome_of
from testkit.clients.crew import outcome_of as asked_by_the_bench

DOUBT, FAILED = Outcome.IN_DOUBT, Outcome.FAILED

CLASSES = [
    # A connection that broke, whatever was said last.
    (None, None, DOUBT),
    ("", "FATAL", DOUBT),
    ("08006", "FATAL", DOUBT),
    ("08007", "FATAL", DOUBT),
    ("08P01", "ERROR", DOUBT),
    ("40003", "ERROR", DOUBT),
    # An ERROR is answered by whoever has rolled back, known code or not.
    ("0A000", "ERROR", FAILED),
    ("22012", "ERROR", FAILED),
    ("23505", "ERROR", FAILED),
    ("25006", "ERROR", FAILED),
    ("25P02", "ERROR", FAILED),
    ("40001", "ERROR", FAILED),
    ("40P01", "ERROR", FAILED),
    ("42P01", "ERROR", FAILED),
    ("53100", "ERROR", FAILED),
    ("57014", "ERROR", FAILED),
    ("P0001", "ERROR", FAILED),
    ("XX000", "ERROR", FAILED),
    ("ZZ999", "ERROR", FAILED),
    # The end of a session, where interrupts are served or before it began.
    ("25P03", "FATAL", FAILED),
    ("25P04", "FATAL", FAILED),
    ("28000", "FATAL", FAILED),
    ("28P01", "FATAL", FAILED),
    ("3D000", "FATAL", FAILED),
    ("40001", "FATAL", FAILED),
    ("53300", "FATAL", FAILED),
    ("57P01", "FATAL", FAILED),
    ("57P03", "FATAL", FAILED),
    ("57P04", "FATAL", FAILED),
    ("57P05", "FATAL", FAILED),
    # The end of a session for a reason that may come at any moment, or that nobody has looked at.
    ("53200", "FATAL", DOUBT),
    ("57P02", "FATAL", DOUBT),
    ("XX000", "FATAL", DOUBT),
    ("ZZ999", "FATAL", DOUBT),
    ("53100", "PANIC", DOUBT),
    ("57P01", "PANIC", DOUBT),
    # The wait for replicas was given up after the local commit.
    ("57P01", "WARNING", DOUBT),
    ("57P02", "WARNING", DOUBT),
    ("01000", "WARNING", DOUBT),
    # Nobody knows the severity: as if the session had ended.
    ("57P01", None, FAILED),
    ("23505", None, DOUBT),
    ("00000", None, Outcome.COMMITTED),
]


@pytest.mark.parametrize(("sqlstate", "severity", "outcome"), CLASSES)
def test_what_an_answer_proves(sqlstate: str | None, severity: str | None, outcome: Outcome) -> None:
    assert outcome_of(sqlstate, severity) is outcome


def test_the_bench_asks_the_same_function() -> None:
    assert asked_by_the_bench is outcome_of


@pytest.mark.parametrize(("sqlstate", "severity", "outcome"), [one for one in CLASSES if one[0] and one[1]])
def test_verify_judges_a_write_by_the_same_table(sqlstate: str, severity: str, outcome: Outcome) -> None:
    error = asyncpg.PostgresError.new({"C": sqlstate, "S": "FEHLER", "V": severity, "M": "m"})
    assert outcome_of_error(error) is outcome


def test_an_error_that_the_driver_made_proves_nothing() -> None:
    assert outcome_of_error(asyncpg.exceptions.UniqueViolationError("made by the driver")) is DOUBT


def test_a_write_that_was_told_as_failed_and_comes_back_breaks_the_word() -> None:
    write = Write(client=0, n=1, sent_s=0.0, done_s=1.0, outcome=outcome_of("57P01", "FATAL"), sqlstate="57P01")
    report = check(History(writes=[write], lists={0: [1]}, registers={0: 1}))
    assert not report.ok
    assert "refused" in report.violations[0]


def test_the_table_for_users_has_every_code_that_ends_a_session_with_proof() -> None:
    text = (Path(__file__).parents[2] / "docs" / "proxy.md").read_text()
    [row] = [line for line in text.splitlines() if line.startswith("| FATAL") and "did not happen" in line]
    assert set(re.findall(r"\b[0-9A-Z]{5}\b", row)) - {"FATAL"} == {str(code) for code in ENDED_BEFORE_COMMIT}
