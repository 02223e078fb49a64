"""How many sessions a user and a database may have."""

from __future__ import annotations

from endpointd import refusal
from endpointd.session.quota import Quota


def test_each_user_and_each_database_has_so_many_and_no_more() -> None:
    quota = Quota()

    def take(session: int, user: str, database: str) -> refusal.Refusal | None:
        return quota.take(session, user, database, per_user=2, per_database=3)

    assert [take(1, "u", "d"), take(2, "u", "e"), take(2, "u", "e")] == [None] * 3
    assert take(3, "u", "f") == refusal.too_many_for_user("u")
    assert [take(4, "v", "d"), take(5, "w", "d")] == [None] * 2
    assert take(6, "x", "d") == refusal.too_many_for_database("d")
    quota.give_back(3)
    quota.give_back(1)
    quota.give_back(1)
    assert [take(7, "u", "d"), take(8, "x", "g")] == [None] * 2
    for session in (2, 4, 5, 7, 8):
        quota.give_back(session)
    assert len(quota) == 0


def test_without_limits_everybody_comes_in() -> None:
    quota = Quota()
    assert {quota.take(number, "u", "d", per_user=None, per_database=None) for number in range(1000)} == {None}
