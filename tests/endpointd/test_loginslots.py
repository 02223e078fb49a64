"""Whose turn it is to log in at a server, and who has to make room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpointd.servers.loginslots import (
    AT_A_FULL_ONE,
    FLOOR_S,
    FULL_S,
    HURRY_S,
    PATIENCE_S,
    TIRED_S,
    UNFINISHED_S,
    LoginSlots,
)


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


def slow(slots: LoginSlots, now: float) -> tuple[int, ...]:
    return slots.slow(now, most=4, per_address=2)


def test_only_clients_that_keep_a_place_others_wait_for_are_slow() -> None:
    slots = LoginSlots()
    assert ask(slots, 1)
    assert ask(slots, 2)
    slots.asked(1, 0.0)
    slots.asked(1, 5.0)
    assert slow(slots, 100.0) == ()
    ask(slots, 3)
    assert slow(slots, PATIENCE_S - 0.01) == ()
    assert slow(slots, PATIENCE_S) == (1,)  # the server has not asked the other one yet
    assert slow(slots, PATIENCE_S) == (), "it was told already"


def test_no_more_are_ended_than_others_wait_and_the_longest_silent_first() -> None:
    slots = LoginSlots()
    for session, since in ((1, 0.2), (2, 0.1)):
        assert ask(slots, session)
        slots.asked(session, since)
    ask(slots, 3)
    assert slow(slots, 100.0) == (2,)
    ask(slots, 4)
    assert slow(slots, 100.0) == (1,)


def test_more_than_a_few_who_wait_are_in_a_hurry() -> None:
    slots = LoginSlots()
    assert ask(slots, 1)
    assert ask(slots, 2)
    slots.asked(1, 0.0)
    for session in range(3, 10):
        ask(slots, session)
    assert slow(slots, HURRY_S - 0.01) == ()
    assert slots.tired(TIRED_S) == (), "perhaps they are many and honest"
    assert slow(slots, HURRY_S) == (1,)
    assert slots.tired(HURRY_S + TIRED_S - 0.01) == (), "they have had no turn since"
    assert slots.tired(HURRY_S + TIRED_S) == tuple(range(3, 10))
    assert slots.tired(HURRY_S + UNFINISHED_S) == ()


def test_a_login_gives_way_to_no_address_that_has_as_many_under_way() -> None:
    slots = LoginSlots()
    for session, address in ((1, "a"), (2, "a"), (3, "b"), (4, "c")):
        assert ask(slots, session, address)
        slots.asked(session, session / 100)
    for session in range(5, 15):
        ask(slots, session, "a")
    assert slow(slots, 100.0) == (1, 2), "only its own places are of use to it"
    slots.leave(1)
    assert turns(slots, 100.0) == (14,), "the newest: it leaves logins unfinished"
    slots.asked(14, 100.0)
    for session in (15, 16, 17):
        ask(slots, session, "c")
    assert slow(slots, 200.0) == (14, 4), "two of a's places will do for two, and b has as many as c"


def test_one_who_has_none_under_way_is_waited_for_by_whoever_is_silent() -> None:
    slots = LoginSlots()
    for session, address in enumerate("abcd"):
        assert ask(slots, session, address)
        slots.asked(session, 0.0)
    ask(slots, 4, "e")
    assert slow(slots, PATIENCE_S) == (0,)


def test_of_two_addresses_the_one_that_leaves_no_logins_unfinished_comes_first() -> None:
    slots = LoginSlots()
    for session, address in enumerate("abcd"):
        assert ask(slots, session, address)
    slots.asked(0, 0.0)
    ask(slots, 4, "a")
    assert slow(slots, PATIENCE_S) == (0,)
    ask(slots, 5, "e")
    slots.leave(0)
    assert slots.turns(PATIENCE_S, most=4, per_address=2) == (5,)
    ask(slots, 6, "f")
    slots.leave(1)
    assert slots.turns(PATIENCE_S + UNFINISHED_S, most=4, per_address=2) == (4,)


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


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("aaabc"), st.integers(0, 4)), max_size=120))
def test_nobody_is_ended_who_need_not_be(steps: list[tuple[int, str, int]]) -> None:
    slots = LoginSlots()
    asked_at: dict[int, float] = {}
    known: dict[int, str] = {}
    told: set[int] = set()
    for step, (session, address, what) in enumerate(steps):
        now = step * 0.05
        if what <= 1 and session not in known:
            known[session] = address
            ask(slots, session, address)
        elif what == 2 and slots.has_place(session, "n1"):
            slots.asked(session, now)
            asked_at.setdefault(session, now)
        elif what == 3:
            if session in asked_at and session not in told:
                slots.finished(session, now)
            slots.leave(session)
            for gone in (known, asked_at):
                gone.pop(session, None)
            told.discard(session)
            turns(slots, now)
        ended = slow(slots, now)
        assert len(ended) <= slots.waiting
        assert not told.intersection(ended)
        assert all(now - asked_at[each] >= FLOOR_S for each in ended)
        told.update(ended)


# A small world: clients that come, are asked, answer or not, are sent away and come again

MOST, PER_ADDRESS = 32, 16
TICK_S = 0.01
SERVER_S = 0.03
"""How long a server takes until it asks."""
AGAIN_S = 0.02


@dataclass(slots=True)
class _Client:
    address: str
    takes_s: float
    """For its part; a stranger never does it."""
    came_at: float
    acts_at: float = 0.0
    """When it comes again, is asked, or has answered."""
    is_asked: bool = False
    in_at: float | None = None
    refusals: int = 0


@dataclass(slots=True)
class _World:
    slots: LoginSlots = field(default_factory=LoginSlots)
    now: float = 0.0
    away: dict[int, _Client] = field(default_factory=dict[int, _Client])
    queued: dict[int, _Client] = field(default_factory=dict[int, _Client])
    inside: dict[int, _Client] = field(default_factory=dict[int, _Client])
    numbers: Iterator[int] = field(default_factory=count)
    owed: float = 0.0

    def come(self, address: str, takes_s: float) -> _Client:
        client = _Client(address, takes_s, self.now, self.now)
        self.away[next(self.numbers)] = client
        return client

    def run(self, for_s: float, *, strangers_per_s: float = 0.0, addresses: tuple[str, ...] = ("a",)) -> None:
        """Let time pass, with so many strangers a second at these addresses."""
        until = self.now + for_s
        while self.now < until:
            self.owed += strangers_per_s * TICK_S
            while self.owed >= 1:
                self.owed -= 1
                number = next(self.numbers)
                self.away[number] = _Client(addresses[number % len(addresses)], float("inf"), self.now, self.now)
            self._tick()
            self.now += TICK_S

    def _tick(self) -> None:
        for number, client in list(self.away.items()):
            if client.acts_at <= self.now:
                del self.away[number]
                if self.slots.ask(number, "n1", client.address, self.now, most=MOST, per_address=PER_ADDRESS):
                    self._let_in(number, client)
                else:
                    self.queued[number] = client
        for number, client in list(self.inside.items()):
            if client.acts_at <= self.now and not client.is_asked:
                self.slots.asked(number, self.now)
                client.is_asked, client.acts_at = True, self.now + client.takes_s
            elif client.acts_at <= self.now:
                self.slots.finished(number, self.now)
                client.in_at = self.now
                self._gone(self.inside, number)
        for number in self.slots.slow(self.now, most=MOST, per_address=PER_ADDRESS):
            self._send_away(self.inside, number)
        for number in self.slots.tired(self.now):
            self._send_away(self.queued, number)
        for number in self.slots.turns(self.now, most=MOST, per_address=PER_ADDRESS):
            self._let_in(number, self.queued.pop(number))

    def _let_in(self, number: int, client: _Client) -> None:
        self.inside[number] = client
        client.is_asked, client.acts_at = False, self.now + SERVER_S

    def _send_away(self, where: dict[int, _Client], number: int) -> None:
        client = where[number]
        self._gone(where, number)
        client.refusals += 1
        if client.takes_s < float("inf"):
            client.acts_at = self.now + AGAIN_S
            self.away[next(self.numbers)] = client

    def _gone(self, where: dict[int, _Client], number: int) -> None:
        del where[number]
        self.slots.leave(number)


def waited_s(clients: list[_Client]) -> list[float]:
    assert all(client.in_at is not None for client in clients)
    return sorted((client.in_at or 0.0) - client.came_at for client in clients)


@pytest.mark.parametrize(("strangers_per_s", "behind"), [(50, 0), (100, 0), (100, 100)])
def test_logins_that_are_never_finished_hardly_hold_up_one_of_the_same_address(strangers_per_s: int, behind: int) -> None:
    """*behind*: so many strangers come a moment before, as while no writer stood."""
    world = _World()
    for _ in range(20):
        world.come("a", 0.02)
        world.run(0.2)
    world.run(3.0, strangers_per_s=strangers_per_s)
    for _ in range(behind):
        world.come("a", float("inf"))
    clients = [world.come("a", 0.02) for _ in range(4)]
    world.run(20.0, strangers_per_s=strangers_per_s)
    quickest_s, *_, last_s = waited_s(clients)
    assert quickest_s < 4 * TIRED_S
    assert last_s < 6 * TIRED_S


def test_ten_times_more_than_there_are_turns_for_keep_nobody_out() -> None:
    world = _World()
    clients: list[_Client] = []
    for _ in range(30):
        world.run(0.3, strangers_per_s=1000)
        clients.append(world.come("a", 0.02))
    world.run(20.0, strangers_per_s=1000)
    waits_s = waited_s(clients)
    assert waits_s[len(clients) // 2] < 5 * TIRED_S


def test_strangers_of_one_address_cost_another_nothing_even_if_its_clients_are_slow() -> None:
    world = _World()
    world.run(3.0, strangers_per_s=300)
    clients = [world.come("b", 0.9) for _ in range(PER_ADDRESS)]
    world.run(5.0, strangers_per_s=300)
    assert max(waited_s(clients)) < 0.9 + 3 * SERVER_S
    assert not any(client.refusals for client in clients)


def test_strangers_of_many_addresses_hold_up_no_other() -> None:
    world = _World()
    addresses = tuple(f"stranger {number}" for number in range(200))
    world.run(3.0, strangers_per_s=200, addresses=addresses)
    clients = [world.come("honest", 0.02) for _ in range(4)]
    world.run(5.0, strangers_per_s=200, addresses=addresses)
    assert max(waited_s(clients)) < 2 * HURRY_S
    assert not any(client.refusals for client in clients)


def test_a_crowd_far_away_that_was_seen_before_logs_in_by_turns_and_nobody_is_sent_away() -> None:
    """Two hundred behind one address, at the other end of the world, as after a failover."""
    world = _World()
    world.come("a", 0.45)
    world.run(2.0)
    clients = [world.come("a", 0.4 + number % 10 / 100) for number in range(200)]
    world.run(60.0)
    assert max(waited_s(clients)) < 2 * 200 / PER_ADDRESS * 0.5
    assert sum(client.refusals for client in clients) == 0


def test_a_crowd_that_has_become_slower_is_found_out_to_be_slow() -> None:
    world = _World()
    for _ in range(20):
        world.come("a", 0.02)
        world.run(0.2)
    clients = [world.come("a", 0.6) for _ in range(100)]
    world.run(60.0)
    assert max(waited_s(clients)) < 60.0


def test_a_login_that_nobody_waits_for_has_all_the_time_there_is() -> None:
    world = _World()
    client = world.come("a", 14.0)
    world.run(15.0)
    assert client.in_at is not None
    assert client.refusals == 0
