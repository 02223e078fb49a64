"""Who has lately logged in from where."""

from __future__ import annotations

from endpointd.auth.familiar import LASTS_S, LOGINS_MAX, Familiar


def test_a_login_is_remembered_longer_than_it_is_familiar_and_until_one_fails() -> None:
    familiar = Familiar()
    familiar.succeeded("10.0.0.1", "ann", now=0.0)
    assert not familiar.knows("10.0.0.1", "ann", now=LASTS_S)
    assert familiar.remembers("10.0.0.1", "ann")
    assert not familiar.remembers("10.0.0.2", "ann")
    familiar.failed("10.0.0.1", "ann")
    assert not familiar.remembers("10.0.0.1", "ann")


def test_familiar_is_who_has_logged_in_from_the_same_address() -> None:
    familiar = Familiar()
    assert not familiar.knows("10.0.0.1", "ann", 0.0)
    familiar.succeeded("10.0.0.1", "ann", 0.0)
    assert familiar.knows("10.0.0.1", "ann", LASTS_S - 1)
    assert not familiar.knows("10.0.0.2", "ann", 1.0)
    assert not familiar.knows("10.0.0.1", "bob", 1.0)
    assert not familiar.knows("10.0.0.1", "ann", LASTS_S)


def test_a_wrong_password_makes_a_stranger_again() -> None:
    familiar = Familiar()
    familiar.succeeded("10.0.0.1", "ann", 0.0)
    familiar.failed("10.0.0.1", "ann")
    familiar.failed("10.0.0.1", "nobody")
    assert not familiar.knows("10.0.0.1", "ann", 1.0)


def test_so_many_are_remembered_and_no_more() -> None:
    familiar = Familiar()
    for number in range(LOGINS_MAX + 5):
        familiar.succeeded("10.0.0.1", str(number), 0.0)
    assert len(familiar) == LOGINS_MAX
    assert familiar.knows("10.0.0.1", str(LOGINS_MAX + 4), 1.0)
    assert not familiar.knows("10.0.0.1", "0", 1.0)
