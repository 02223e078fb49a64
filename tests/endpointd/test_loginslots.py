"""Whose turn it is to log in at a server, and who has to make room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from endpointd.loginslots import AT_A_FULL_ONE, FULL_S, HURRY_S, PATIENCE_S, TIRED_S, LoginSlots


def ask(slots: LoginSlots, session: int, address: str = "a", node: str = "n1") -> bool:
    return slots.ask(session, node, address, 0.0, most=4, per_address=2)


def turns(slots: LoginSlots, now: float = 0.0) -> tuple[int, ...]:
    return slots.turns(now, most=4, per_address=2)


def test_one_address_cannot_take_all_places_of_a_server() -> None:
    slots = LoginSlots()
    assert [ask(slots, session) for session in range(3)] == [True, True, False]
    assert ask(slots, 3, "b")
    assert ask(slots, 4, "c")
    assert not ask(slots, 5, "d")
    assert ask(slots, 6, "a", "n2")
    assert slots.waiting == 2


def test_a_place_goes_to_whoever_s_address_has_fewest_and_then_to_who_came_first() -> None:
    slots = LoginSlots()
    for session, address in enumerate("aabb"):
        assert ask(slots, session, address)
    for session, address in ((4, "a"), (5, "c"), (6, "b"), (7, "c")):
        assert not ask(slots, session, address)
    slots.leave(0)
    assert turns(slots) == (5,)
    slots.leave(1)
    assert turns(slots) == (4,)
    slots.leave(4)
    assert turns(slots) == (7,)
    assert not slots.has_place(6, "n1")
    assert slots.has_place(7, "n1")
    assert not slots.has_place(7, "n2")


def test_when_many_more_wait_than_may_log_in_at_once_the_newest_comes_first() -> None:
    slots = LoginSlots()
    for session in range(19):
        ask(slots, session)
    slots.leave(0)
    assert turns(slots) == (18,)
    slots.leave(1)
    assert turns(slots) == (2,)


def test_who_gives_up_waiting_has_no_turn() -> None:
    slots = LoginSlots()
    for session in range(3):
        ask(slots, session)
    assert slots.leave(2)
    assert not slots.leave(2)
    slots.leave(0)
    assert turns(slots) == ()
    assert ask(slots, 3)


def test_only_clients_that_keep_a_place_others_wait_for_are_slow() -> None:
    slots = LoginSlots()
    assert ask(slots, 1)
    assert ask(slots, 2)
    slots.asked(1, 0.0)
    slots.asked(1, 5.0)
    assert slots.slow(100.0, most=4) == ()
    ask(slots, 3)
    assert slots.slow(PATIENCE_S - 0.01, most=4) == ()
    assert slots.slow(PATIENCE_S, most=4) == (1,)  # the server has not asked the other one yet
    assert ask(slots, 20, "b")
    slots.asked(20, 0.0)
    assert slots.slow(PATIENCE_S, most=4) == (1,), "nobody waits for a place of another address"
    for session in range(4, 10):
        ask(slots, session)
    assert slots.slow(HURRY_S, most=4) == (1,)
    assert ask(slots, 21, "b")
    assert slots.slow(HURRY_S, most=4) == (1, 20), "the server is full"
    assert slots.tired(TIRED_S / 2) == ()
    assert slots.tired(TIRED_S) == (3, *range(4, 10))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc"), st.sampled_from(["n1", "n2"]), st.booleans()), max_size=80)
)
def test_no_server_and_no_address_ever_has_more_than_allowed(steps: list[tuple[int, str, str, bool]]) -> None:
    slots = LoginSlots()
    inside: dict[int, tuple[str, str]] = {}
    waiting: dict[int, tuple[str, str]] = {}
    for session, address, node, comes in steps:
        if comes and session not in inside and session not in waiting:
            (inside if ask(slots, session, address, node) else waiting)[session] = node, address
        elif not comes:
            slots.leave(session)
            inside.pop(session, None)
            waiting.pop(session, None)
            for called in turns(slots):
                inside[called] = waiting.pop(called)
        for node_here in ("n1", "n2"):
            here = [at for at in inside.values() if at[0] == node_here]
            assert len(here) <= 4
            assert all(here.count(at) <= 2 for at in here)
        assert slots.waiting == len(waiting)


def test_few_try_at_once_at_a_server_that_says_it_is_full() -> None:
    slots = LoginSlots()
    slots.full("n1", 0.0)
    assert [ask(slots, session, str(session)) for session in range(5)] == [True] * AT_A_FULL_ONE + [False] * (5 - AT_A_FULL_ONE)
    assert ask(slots, 5, "5", "n2")
    slots.leave(0)
    assert turns(slots) == (3,)
    assert turns(slots, FULL_S) == (4,)
