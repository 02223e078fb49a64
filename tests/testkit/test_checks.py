"""The checkers find what they are for, and nothing else."""

from __future__ import annotations

import pytest

from testkit.checks.appends import AppendMemory, check_appends
from testkit.checks.bank import OPENING_BALANCE, BankMemory, Transfer, check_bank
from testkit.checks.figures import figures, longest_gap, percentile
from testkit.checks.monotonic import ReaderMemory, check_reads
from testkit.ledger import LedgerMemory, check_ledger


def test_a_ledger_with_everything_acknowledged_and_some_doubts_is_clean() -> None:
    memory = LedgerMemory(attempted={(0, 0), (0, 1), (0, 2), (0, 3)}, acknowledged={(0, 0)}, failed={(0, 3)})
    verdict = check_ledger(memory, {(0, 0), (0, 2)})
    assert verdict.is_clean
    assert verdict.in_doubt == 2


def test_a_ledger_names_what_is_lost_made_up_or_came_back() -> None:
    memory = LedgerMemory(attempted={(0, 0), (0, 1)}, acknowledged={(0, 0)}, failed={(0, 1)})
    verdict = check_ledger(memory, {(0, 1), (9, 9)})
    assert (verdict.lost, verdict.fabricated, verdict.resurrected) == (((0, 0),), ((9, 9),), ((0, 1),))
    assert not verdict.is_clean


def appended() -> AppendMemory:
    memory = AppendMemory(attempted={1: 7, 2: 7, 3: 7}, acknowledged={1, 2})
    memory.note_read(7, (1,))
    memory.note_read(7, (1, 2))
    memory.note_read(7, ())
    return memory


@pytest.mark.parametrize("at_end", [(1, 2), (1, 2, 3)])
def test_appends_in_doubt_may_be_there_or_not(at_end: tuple[int, ...]) -> None:
    assert check_appends(appended(), {7: at_end}).is_clean


@pytest.mark.parametrize(
    ("at_end", "found"),
    [
        ({7: (1,)}, "value 2 was acknowledged and is gone"),
        ({7: (1, 2, 2)}, "value 2 stands 2 times"),
        ({7: (1, 2, 4)}, "value 4 in list 7 was never attempted"),
        ({7: (1, 2), 8: (3,)}, "value 3 stands in list 8, but was meant for 7"),
        ({7: (2, 1)}, "list 7 was read as 2 values ending in [1, 2], which the end contradicts"),
        ({}, "value 1 was acknowledged and is gone"),
    ],
)
def test_appends_find_what_is_wrong(at_end: dict[int, tuple[int, ...]], found: str) -> None:
    assert found in check_appends(appended(), at_end).violations


def test_reads_of_a_list_that_are_no_prefixes_of_one_another_are_found() -> None:
    memory = appended()
    memory.note_read(7, (2,))
    assert any("was read as" in violation for violation in check_appends(memory, {7: (1, 2)}).violations)


def test_a_failed_append_must_be_absent() -> None:
    memory = appended()
    memory.failed.add(3)
    assert check_appends(memory, {7: (1, 2)}).is_clean
    assert check_appends(memory, {7: (1, 2, 3)}).violations == ("value 3 was told as failed and is there",)


def banked() -> BankMemory:
    return BankMemory(2, attempted={(0, 0): Transfer(0, 1, 5), (0, 1): Transfer(1, 0, 7)}, acknowledged={(0, 0)})


def test_a_bank_whose_balances_follow_from_its_lines_is_clean() -> None:
    memory = banked()
    memory.note_read(2 * OPENING_BALANCE, "writer")
    lines = {(0, 0): Transfer(0, 1, 5)}
    assert check_bank(memory, {0: OPENING_BALANCE - 5, 1: OPENING_BALANCE + 5}, lines).is_clean


def test_a_bank_finds_lost_transfers_torn_ones_and_wrong_totals() -> None:
    memory = banked()
    memory.failed.add((0, 1))
    memory.note_read(2 * OPENING_BALANCE - 5, "replica")
    found = check_bank(memory, {0: OPENING_BALANCE, 1: OPENING_BALANCE}, {(0, 1): Transfer(1, 0, 7), (1, 0): Transfer(0, 1, 1)})
    said = "\n".join(found.violations)
    assert "transfer (0, 0) was acknowledged and is gone" in said
    assert "transfer (0, 1) was told as failed and is there" in said
    assert "transfer (1, 0) is" in said
    assert "account 0 holds" in said
    assert "the replica showed a total of 1995" in said


def test_a_counter_may_jump_but_not_go_back_in_a_session() -> None:
    memory = ReaderMemory()
    one, other = memory.open(), memory.open()
    memory.note_read(one, 5, "a")
    memory.note_read(other, 3, "b")
    memory.note_read(one, 9, "a")
    assert check_reads(memory, acknowledged=9, at_end=9).is_clean
    memory.note_read(one, 8, "a")
    assert check_reads(memory, acknowledged=9, at_end=9).violations == (f"session {one} on a saw 9 and then 8",)
    assert not check_reads(ReaderMemory(), acknowledged=9, at_end=8).is_clean


def test_figures() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert (figures([3.0]).p50, figures([3.0]).p99, figures([3.0]).max) == (3.0, 3.0, 3.0)
    assert longest_gap([1.0, 2.0, 5.0, 6.0], since=2.5) == 3.0
    assert longest_gap([1.0, 2.0, 5.0, 6.0], since=5.0) == 1.0
    assert longest_gap([1.0, 2.0], since=2.0) == float("inf")
