"""The table itself, and the judge of what status said."""

from __future__ import annotations

import pytest

from tests.hostile.lookout import Seen, lies
from tests.hostile.thing import Ends
from tests.hostile.things import choose, things

LEAST = 60


def test_there_are_enough_things_for_every_version_and_each_has_its_own_name() -> None:
    names = [thing.name for thing in things()]
    assert len(set(names)) == len(names)
    assert all(len(things(major)) >= LEAST for major in (15, 16, 17, 18))


def test_what_may_be_told_only_says_by_which_words() -> None:
    assert [thing.name for thing in things() if thing.ends is Ends.TOLD and not thing.tells] == []


def test_things_are_chosen_by_wildcards() -> None:
    assert [thing.name for thing in choose(["lock-pg_auth*"])] == ["lock-pg_authid", "lock-pg_auth_members"]
    with pytest.raises(ValueError, match='no thing "lokc"'):
        choose(["lokc"])


def seen(at: float, state: str, at_risk: str | None = None) -> Seen:
    return Seen(at, state, "D", at_risk, "")


@pytest.mark.parametrize(
    ("looks", "acknowledged", "expected"),
    [
        ([seen(1.0, "healthy"), seen(3.0, "healthy")], [0.0, 1.0, 2.0, 3.0, 4.0], 0),
        ([seen(1.0, "healthy"), seen(3.0, "transition")], [0.0, 5.0], 0),
        ([seen(3.0, "healthy")], [0.0, 5.0], 1),
        ([seen(3.0, "degraded"), seen(8.0, "transition")], [0.0, 9.0], 1),
        ([seen(3.0, "degraded"), seen(8.0, "stuck")], [0.0, 9.0], 0),
        ([seen(3.0, "transition"), seen(8.0, "transition", "a voter cannot log in")], [0.0, 9.0], 0),
    ],
    ids=["all well", "a failover", "healthy in a standstill", "never stuck", "stuck", "at risk"],
)
def test_a_lie_is_noticed(looks: list[Seen], acknowledged: list[float], expected: int) -> None:
    assert len(lies(looks, acknowledged)) == expected
