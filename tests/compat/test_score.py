"""What counts as the same, and what fails: the score is worth what these rules are worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.compat.fetching import UnavailableError, check
from tests.compat.outcomes import Line, Outcomes, Seen, gather, printed, read
from tests.compat.report import Missed, Report, Scored, details, load
from tests.compat.score import ABSENT, Expectation, Score, Verdict, different, expectations, score, unexplained
from tests.compat.server import Way
from tests.compat.suite import SUITES, choose

EXPECTED = Path(__file__).with_name("expected.toml")
SAME = {"a": Seen("passed"), "b": Seen("skipped"), "c": Seen("failed", "by both")}


def judge(
    direct: dict[str, Seen],
    through: dict[str, Seen],
    *,
    again: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] | None = None,
    known: tuple[Expectation, ...] = (),
) -> Score:
    return score("s", Way.PLAIN, Outcomes(direct, True), Outcomes(through, True), again=again or {}, known=known)


def test_equal_outcomes_are_the_same_whatever_they_are() -> None:
    found = judge(SAME, SAME)
    assert (found.tests, found.same, found.untestable, found.differences) == (3, 3, 1, ())
    assert found.has_passed


@pytest.mark.parametrize(
    ("through", "seen"),
    [
        (SAME | {"a": Seen("failed", "no")}, "failed"),
        ({name: seen for name, seen in SAME.items() if name != "a"}, ABSENT),
        (SAME | {"a": Seen("skipped")}, "skipped"),
    ],
)
def test_a_test_that_fails_is_skipped_or_missing_on_one_side_is_a_difference(through: dict[str, Seen], seen: str) -> None:
    found = judge(SAME, through)
    assert [(each.test, each.through, each.verdict) for each in found.differences] == [("a", (seen,), Verdict.DIFFERENT)]
    assert found.same == 2
    assert not found.has_passed


def test_what_varies_directly_proves_nothing_but_only_if_it_was_seen_to_show_the_same() -> None:
    through = SAME | {"a": Seen("failed", "no")}
    varies = judge(SAME, through, again={"a": (("passed", "failed"), ("failed", "passed"))})
    assert [each.verdict for each in varies.differences] == [Verdict.VARIES]
    assert varies.has_passed
    stays = judge(SAME, through, again={"a": (("passed", "passed"), ("passed", "passed"))})
    assert [each.verdict for each in stays.differences] == [Verdict.DIFFERENT], "once through and never directly"


def test_a_difference_that_is_named_does_not_fail_but_is_counted() -> None:
    known = (Expectation(suite="s", test="t[*]::a", reason="so it is"), Expectation(suite="other", test="*", reason="no"))
    found = judge({"t[1]::a": Seen("passed")}, {"t[1]::a": Seen("failed")}, known=known)
    assert [(each.verdict, each.reason) for each in found.differences] == [(Verdict.EXPECTED, "so it is")]
    assert found.has_passed
    assert found.same == 0
    elsewhere = (Expectation(suite="s", test="*", ways=(Way.TLS,), reason="of TLS"),)
    assert not judge({"a": Seen("passed")}, {"a": Seen("failed")}, known=elsewhere).has_passed


@pytest.mark.parametrize(
    ("direct", "through"),
    [(Outcomes({}, True), Outcomes({}, True)), (Outcomes(SAME, True), Outcomes(SAME, False))],
    ids=["nothing ran", "one side hung"],
)
def test_a_side_that_shows_nothing_or_has_no_end_is_no_score(direct: Outcomes, through: Outcomes) -> None:
    found = score("s", Way.PLAIN, direct, through, again={}, known=())
    assert found.problems
    assert not found.has_passed


def test_of_several_reports_of_a_test_the_worst_counts() -> None:
    lines = [Line("a", "passed"), Line("a", "failed", "a subtest"), Line("a", "passed"), Line("b", "passed"), Line(end=1)]
    found = gather(lines)
    assert found == Outcomes({"a": Seen("failed", "a subtest"), "b": Seen("passed")}, has_ended=True)


def test_a_record_that_was_cut_off_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "record").write_text('{"test": "a", "outcome": "passed"}\n{"test": "b", "outc')
    assert read(tmp_path / "record") == Outcomes({"a": Seen("passed")}, has_ended=False)


def test_a_program_is_compared_by_its_lines() -> None:
    assert printed("a\t1\nnoise\nb\tskipped: no\n", has_ended=True).seen == {"a": Seen("1"), "b": Seen("skipped")}
    assert different(printed("a\t1\n", has_ended=True), printed("a\t2\n", has_ended=True)) == ("a",)


def test_every_difference_that_is_named_has_a_suite_and_a_reason() -> None:
    for each in expectations(EXPECTED.read_text()):
        assert choose([each.suite])
        assert len(each.reason) > 20
        assert each.test.strip("*")


def test_suites_are_pinned_and_have_a_way_to_be_run() -> None:
    assert len({suite.name for suite in SUITES}) == len(SUITES)
    for suite in SUITES:
        assert (suite.source is None) != (suite.program is None)
        assert all("==" in each or "@" in each for each in (*suite.packages, *filter(None, [suite.source])))
        if suite.program is not None:
            assert (EXPECTED.parent / "programs" / suite.program).exists()


def test_a_suite_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match='no suite is called "npgsql"; there are psycopg2, '):
        choose(["npgsql"])


def test_what_a_suite_lacks_is_named_with_how_to_have_it() -> None:
    missing = replace(SUITES[0], needs=("sh", "/etc/passwd", "/no/such.jar"), debian=("one", "another"))
    with pytest.raises(UnavailableError, match=r"there is no /no/such\.jar \(Debian: apt-get install one another\)"):
        check(missing)
    for each in ("no-such-program", "libno-such.so.5"):
        with pytest.raises(UnavailableError, match=f"there is no {each} "):
            check(replace(missing, needs=(each,)))
    check(replace(missing, needs=("sh", "/etc/passwd")))


def test_only_what_nothing_names_is_run_again() -> None:
    known = (Expectation(suite="s", test="a*", reason="so it is"), Expectation(suite="other", test="b", reason="no"))
    assert unexplained(("a1", "b", "a2"), "s", Way.PLAIN, known) == ("b",)


def test_what_pgbouncer_does_is_told_and_never_fails() -> None:
    through = Outcomes(SAME | {"a": Seen("failed", "no")}, True)
    told = score("s", Way.PGBOUNCER, Outcomes(SAME, True), through, again={}, known=())
    assert [each.verdict for each in told.differences] == [Verdict.DIFFERENT]
    assert told.has_passed
    assert not score("s", Way.PGBOUNCER, Outcomes(SAME, True), Outcomes({}, True), again={}, known=()).has_passed


def test_a_report_is_taken_up_again(tmp_path: Path) -> None:
    line = Scored(score=judge(SAME, SAME), server_version="18.6", packages=("p==1",), date="2026-11-30", took_s={"direct": 1.0})
    report = Report().with_(Missed(suite="s", way=Way.PLAIN, reason="no network")).with_(line)
    assert not report.missed
    report = report.with_(Missed(suite="t", way=Way.TLS, reason="no network"))
    report.save(tmp_path)
    assert load(tmp_path) == report
    assert list(details(report)) == ["t (tls): not run: no network"]
    (tmp_path / "compat.json").write_text("{")
    assert load(tmp_path) == Report()
