"""The table of faults: names are unique, what is expected can be met, and the short form is part of it."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from bench.faults import report
from bench.faults.catalogue import FAULTS, SHORT, choose
from bench.faults.fault import Fault, Stage
from bench.faults.run import Result, Run, judge
from bench.mishaps import MISHAPS, draw
from bench.timeline import Panel
from testkit.checks.outcomes import Checked

WANTED = {*range(1, 18), *range(19, 25), *range(26, 31)}
"""The scenarios that must have a fault; 18 needs netem, 25 is no fault."""


def test_every_scenario_has_a_fault() -> None:
    assert {fault.scenario for fault in FAULTS} >= WANTED


def test_names_are_unique_and_every_stage_is_used() -> None:
    assert [name for name, count in Counter(fault.name for fault in FAULTS).items() if count > 1] == []
    assert {fault.stage for fault in FAULTS} == set(Stage)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_is_expected_is_a_bound(fault: Fault) -> None:
    least, most = fault.expect.epochs
    assert 0 <= least <= most
    assert fault.expect.outage_s is not None or fault.expect.recovered_s is not None
    if fault.expect.moves is False:
        assert most == 0
    if fault.expect.moves:
        assert least >= 1


def test_faults_are_chosen_by_name_and_by_number() -> None:
    assert choose(()) == FAULTS
    assert [fault.name for fault in choose(SHORT)] == [fault.name for fault in FAULTS if fault.name in SHORT]
    assert {fault.scenario for fault in choose(("15",))} == {15}
    with pytest.raises(ValueError, match="no fault"):
        choose(("nonsense",))


def test_a_missed_expectation_is_told() -> None:
    fault = choose(("kill-postgres",))[0]
    assert judge(fault, epochs=1, outage_s=1.0, recovered_s=None, healthy_s=1.0) == []
    assert "2 epochs" in judge(fault, epochs=2, outage_s=1.0, recovered_s=None, healthy_s=1.0)[0]
    assert "9.00 s without" in judge(fault, epochs=1, outage_s=9.0, recovered_s=None, healthy_s=1.0)[0]
    assert "healthy after" in judge(fault, epochs=1, outage_s=1.0, recovered_s=None, healthy_s=99.0)[0]
    stuck = choose(("kill-two",))[0]
    assert judge(stuck, epochs=0, outage_s=99.0, recovered_s=1.0, healthy_s=1.0) == []
    assert "undoing" in judge(stuck, epochs=0, outage_s=99.0, recovered_s=99.0, healthy_s=1.0)[0]


def run(*missed: str) -> Run:
    panel = Panel(
        title="t",
        note="n",
        is_good=True,
        zero=0.0,
        begin=-1.0,
        end=1.0,
        lanes={},
        acknowledged=[],
        errors=[],
        outage=(0.0, 0.5),
        marks=[(0.0, "fault")],
    )
    return Run(
        victim="n1",
        successor="n2",
        epochs=1,
        outage_s=0.5,
        recovered_s=None,
        healthy_s=1.0,
        missed=missed,
        notes=(),
        panel=panel,
    )


def test_a_result_is_good_only_if_all_is() -> None:
    fault = FAULTS[0]
    clean = Checked(checker="set", summary="", violations=())
    assert Result(fault=fault, runs=(run(),), checks=(clean,)).is_good
    assert not Result(fault=fault, runs=(run("late"),), checks=(clean,)).is_good
    assert not Result(fault=fault, runs=(run(),), checks=(Checked(checker="set", summary="", violations=("x",)),)).is_good
    assert not Result(fault=fault, runs=(run(),), broken="boom").is_good


def test_a_report_tells_of_what_could_not_be_played() -> None:
    results = [Result(fault=FAULTS[0], runs=(run(),)), Result(fault=FAULTS[1], not_possible="no root")]
    assert '"not_possible": "no root"' in report.document(results, seed=1)
    assert report.describe(results[1]) == ["  not possible here: no root"]
    assert report.table(results).row_count == 2


def test_mishaps_are_drawn_from_a_seed_and_all_of_them_come() -> None:
    one, other = Random(7), Random(7)
    drawn = [draw(one).name for _ in range(500)]
    assert drawn == [draw(other).name for _ in range(500)]
    assert set(drawn) == {mishap.name for mishap in MISHAPS}
