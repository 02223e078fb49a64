"""Each target bears some thousand inputs, with every change; and a fuzzer that could find nothing would be found out here."""

from __future__ import annotations

import pytest

from tests.fuzz.engine import Fuzzer, HangError, watch_for_hangs
from tests.fuzz.planted import fragile
from tests.fuzz.targets import TARGETS, Target

INPUTS = 1500


@pytest.fixture(autouse=True)
def hangs() -> None:
    watch_for_hangs()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_reads_the_wire_bears_what_comes(target: Target) -> None:
    outcome = Fuzzer(target.run, target.seeds, target.tokens, seed=7).run(INPUTS)
    assert outcome.fault is None, (outcome.fault.data, outcome.fault.error)
    assert outcome.inputs == INPUTS
    assert outcome.lines > 20


def test_a_fault_behind_bytes_that_only_coverage_finds_is_found() -> None:
    outcome = Fuzzer(fragile, (b"....",), (), seed=1).run(400_000)
    assert outcome.fault is not None
    assert isinstance(outcome.fault.error, IndexError)
    assert outcome.kept >= 1


def test_an_input_that_never_ends_is_a_fault() -> None:
    def stuck(data: bytes) -> None:
        while data:
            pass

    outcome = Fuzzer(stuck, (b"x",), (), seed=1).run(10)
    assert outcome.fault is not None
    assert isinstance(outcome.fault.error, HangError)
