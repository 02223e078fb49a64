"""The simulator in short: nothing is found in the real code, everything is found in the broken one, and a seed replays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sim.__main__ import first_caught
from tests.sim.cluster import run
from tests.sim.coverage import expected, tell_coverage
from tests.sim.switches import LIVENESS, SENTENCES, Switch

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 40
"""More with ``make sim SEEDS=5000``."""
CAUGHT_WITHIN = 40
"""Seeds in which a broken sentence must be noticed."""
TRIED_FIRST = {
    Switch.TIMELINE_REUSE: 5,
    Switch.PROMISE_WITHOUT_STOP: 20,
    Switch.SECOND_CANDIDATE: 19,
    Switch.RECEIVED_ONLY: 4,
    Switch.ANSWER_DURING_REPLAY: 8,
    Switch.ANY_CONTROL_FILE: 13,
    Switch.NO_REVISION: 4,
    Switch.NARROW_FIRST: 9,
    Switch.CONFIGURATION_NOT_FSYNCED: 16,
    Switch.STORE_ROLLED_BACK: 13,
    Switch.RECORD_UNKNOWN: 6,
    Switch.SURVIVOR_MISSED: 9,
    Switch.OPEN_AT_ONCE: 5,
    Switch.OPEN_UNPROVEN: 12,
    Switch.PAUSE_IGNORED: 11,
}
"""The seed in which it was noticed last, which spares the time for those before it; a wrong one costs nothing else."""
_PRINT_DIGESTS = "from tests.sim.cluster import run; print([(r.steps, r.digest) for r in map(run, range(4))])"


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_nothing_is_found_in_the_real_code(first: int) -> None:
    """No property is violated, and every cluster gets well again."""
    for seed in range(first, first + 20):
        result = run(seed)
        assert result.violation is None, f"seed {seed}, step {result.steps}: {result.violation}\n{result.trace}"


@pytest.mark.parametrize("switch", list(Switch))
def test_a_broken_sentence_is_noticed(switch: Switch) -> None:
    """A property is violated without this sentence of the law."""
    result = first_caught(switch, [TRIED_FIRST.get(switch, 0), *range(CAUGHT_WITHIN)])
    assert result is not None, f"not within {CAUGHT_WITHIN} seeds: {SENTENCES[switch]}"
    assert result.trace


def test_every_sentence_has_its_words_and_every_fault_its_count() -> None:
    """The tables are complete, and what is expected to occur can occur."""
    assert set(SENTENCES) == set(Switch)
    assert set(Switch) >= LIVENESS
    counts = Counter(dict.fromkeys(expected(), 1))
    assert tell_coverage(counts)[1] == 0
    counts["fault wipe"] = 0
    text, missing = tell_coverage(counts)
    assert missing == 1
    assert "fault wipe  NEVER" in text


def test_a_seed_replays_exactly() -> None:
    """The same seed takes the same steps."""
    first, again = run(3), run(3)
    assert (first.steps, first.digest, first.simulated_ms) == (again.steps, again.digest, again.simulated_ms)


def test_nothing_depends_on_the_hash_seed() -> None:
    """Sets and dictionaries decide nothing."""
    told = {
        subprocess.run(
            [sys.executable, "-c", _PRINT_DIGESTS],
            check=True,
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1
