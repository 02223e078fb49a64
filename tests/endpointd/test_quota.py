"""How many sessions there may be, of all, of a user and of a database."""

from __future__ import annotations

from endpointd.session.places import OwnPlaces
from endpointd.session.quota import Place, Quota
from endpointd.settings import LimitSettings


def test_each_user_and_each_database_has_so_many_and_no_more() -> None:
    quota = Quota()

    def take(session: int, user: str, database: str) -> Place:
        return quota.take(session, user, database, most=100, per_user=2, per_database=3)

    assert [take(1, "u", "d"), take(2, "u", "e"), take(2, "u", "e")] == [Place.TAKEN] * 3
    assert take(3, "u", "f") is Place.USER_FULL
    assert [take(4, "v", "d"), take(5, "w", "d")] == [Place.TAKEN] * 2
    assert take(6, "x", "d") is Place.DATABASE_FULL
    quota.give_back(3)
    quota.give_back(1)
    quota.give_back(1)
    assert [take(7, "u", "d"), take(8, "x", "g")] == [Place.TAKEN] * 2
    for session in (2, 4, 5, 7, 8):
        quota.give_back(session)
    assert len(quota) == 0


def test_without_limits_of_users_and_databases_as_many_come_in_as_may_be_at_all() -> None:
    quota, freed = Quota(), list[int]()
    places = OwnPlaces(quota, lambda: LimitSettings(sessions_max=100), lambda: freed.append(len(quota)))
    told: list[Place] = []
    assert {places.take(number, "u", "d", told.append) for number in range(99)} == {Place.TAKEN}
    assert not places.is_full
    assert places.take(99, "u", "d", told.append) is Place.TAKEN
    assert places.is_full
    assert places.take(100, "u", "d", told.append) is Place.FULL
    places.give_back(7)
    assert places.take(100, "u", "d", told.append) is Place.TAKEN
    assert (told, freed) == ([], [99])
