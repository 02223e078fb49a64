"""The most telling of what a tenant can do by SQL, each followed by the end of the writer. All of them: `make hostile`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.hostile.stand import Stand
from tests.hostile.thing import Thing
from tests.hostile.things import things
from tests.hostile.trial import Blow, Verdict, play
from tests.integration.conftest import LOGS

BOUND_S = 10.0
"""More than the 5 s of `make hostile`, which measures: other tests run on the same machine."""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    made = Stand(tmp_path_factory.mktemp("h"), pg_bin=os.environ.get("ENDPOINTD_TEST_PG_BIN"))
    yield made
    made.close()


SLOW = ("lock-pg_authid",)
"""test_hostile_logins.py has it too, and is quicker."""
FAST = [
    pytest.param(thing, marks=[pytest.mark.slow] if thing.name in SLOW else [], id=thing.name)
    for thing in things()
    if thing.fast
]


@pytest.mark.hostile
@pytest.mark.timeout(240)
@pytest.mark.parametrize("thing", FAST)
def test_the_writer_may_end_after_it(stand: Stand, thing: Thing) -> None:
    stand.open()
    if thing not in things(stand.major):
        pytest.skip(f"PostgreSQL {stand.major} does not know it")
    trial = play(stand, thing, Blow.KILL, bound_s=BOUND_S)
    if trial.is_broken:
        stand.renew(LOGS / f"hostile-{thing.name}")
    assert trial.verdict is not Verdict.FAILED, "; ".join(trial.problems)
