"""What a main process and its workers have in common: who has a place, how loaded each node is, and one answer to /metrics."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from endpointd.gathered import FamiliesCollector
from endpointd.routing.switchboard import Switchboard
from endpointd.session.quota import Place, Quota
from endpointd.settings import (
    FeedSettings,
    HttpSettings,
    InstanceSettings,
    LimitSettings,
    NodedSettings,
    ProxySettings,
    ReaderSettings,
    Settings,
    WriterSettings,
    complaints,
    in_force,
    limits_of_process,
    needs_restart,
)
from endpointd.takeover.words import Standing
from endpointd.workers.crew import Crew
from endpointd.workers.gathering import Family, Tally, families_of, gather
from endpointd.workers.ledger import Ledger
from endpointd.workers.line import Line, LineLost
from endpointd.workers.membership import Membership
from endpointd.workers.words import Asked, Counted, FromMain, FromWorker, Left, Others, Placed, Reload, Told, Turn, Wanted

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens
LIMITS = LimitSettings(sessions_max=3, per_user_max=2)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.sampled_from("ab"), st.sampled_from(["take", "give", "lose"])))
)
def test_no_more_have_places_than_may_whoever_comes_leaves_or_dies(steps: list[tuple[int, int, str, str]]) -> None:
    ledger = Ledger(Quota())
    inside: dict[tuple[int, int], str] = {}
    for worker, count, user, what in steps:
        session = count * 3 + worker  # as the processes number them
        match what:
            case "take":
                place = ledger.take(worker, session, user, "d", LIMITS)
                if (worker, session) in inside:
                    assert place is Place.TAKEN
                    continue
                users = list(inside.values()).count(user)
                assert (place is Place.TAKEN) is (len(inside) < 3 and users < 2)
                if place is Place.TAKEN:
                    inside[worker, session] = user
            case "give":
                ledger.give_back(worker, session)
                inside.pop((worker, session), None)
            case _:
                ledger.lose(worker)
                inside = {key: user for key, user in inside.items() if key[0] != worker}
    for worker in range(3):
        ledger.lose(worker)
    taken = [ledger.take(0, number * 3, "abc"[number], "d", LIMITS) for number in range(3)]
    assert taken == [Place.TAKEN] * 3


def test_each_hears_of_the_load_of_the_others() -> None:
    ledger = Ledger(Quota())
    ledger.count(0, {"n1": 2, "n2": 1})
    ledger.count(1, {"n2": 4})
    ledger.count(2, {"n3": 1})
    assert ledger.load_beside(1) == {"n1": 2, "n2": 1, "n3": 1}
    ledger.count(0, {})
    ledger.lose(2)
    assert (ledger.load_beside(1), ledger.load_beside(0)) == ({}, {"n2": 4})


async def test_the_load_that_a_server_is_chosen_by_is_that_of_all_processes() -> None:
    board = Switchboard(LimitSettings())
    board.load.update(n1=2)
    assert board.load_everywhere == {"n1": 2}
    board.load_elsewhere = {"n1": 1, "n2": 5}
    assert board.load_everywhere == {"n1": 3, "n2": 5}
    assert board.load == {"n1": 2}


def test_what_strangers_and_logins_may_take_is_shared_out_and_the_rest_is_counted_together() -> None:
    whole = LimitSettings(sessions_max=10, strangers_max=9, hold_max=4, logins_max=32, logins_per_address_max=1, per_user_max=3)
    part = limits_of_process(whole, 4)
    assert (part.strangers_max, part.hold_max, part.logins_max, part.logins_per_address_max) == (3, 1, 8, 1)
    assert (part.sessions_max, part.per_user_max, part.strangers_per_address_max) == (10, 3, None)
    assert limits_of_process(whole, 1) == whole


def settings(*instances: InstanceSettings, sessions_max: int = 10, host: str = "127.0.0.1") -> Settings:
    return Settings(
        proxy=ProxySettings(name="p", cache=Path("/c")),
        feed=FeedSettings(urls=("http://127.0.0.1:1",), token_file=Path("/t")),
        nodeds=NodedSettings(token_file=Path("/t")),
        writer=WriterSettings(port=1, host=host),
        reader=ReaderSettings(port=2),
        instances=instances,
        limits=LimitSettings(sessions_max=sessions_max),
        http=HttpSettings(port=3),
    )


def test_what_waits_for_a_restart_is_not_gone_by_before() -> None:
    rules = ("host all all all reject",)
    n1, n2 = InstanceSettings(node="n1", port=4), InstanceSettings(node="n2", port=5)
    begun = settings(n1, n2)
    strict = InstanceSettings(node="n2", port=5, rules=rules)
    assert in_force(begun, settings(n1, strict, sessions_max=5)) == settings(n1, strict, sessions_max=5)
    # A door that is not there any more keeps its own rules, those of no other: it stays open until the restart.
    changed = settings(strict, sessions_max=5, host=EVERYWHERE)
    assert in_force(begun, changed) == settings(n1, strict, sessions_max=5)
    assert needs_restart(begun, changed) == ("[writer]", "[instances]")
    assert needs_restart(begun, settings(n1, strict, sessions_max=5)) == ()


@pytest.mark.parametrize(
    ("host", "port", "clashes"),
    [("127.0.0.1", 2, True), (EVERYWHERE, 2, True), ("", 2, True), ("::", 2, False), ("10.0.0.1", 2, False), ("", 0, False)],
)
def test_nothing_is_to_be_listened_on_twice(host: str, port: int, clashes: bool) -> None:
    given = msgspec.structs.replace(settings(), writer=WriterSettings(port=port, host=host))
    assert any("both are to be at port 2" in said for said in complaints(given)) is clashes


async def test_who_is_to_take_over_says_that_workers_have_not_started() -> None:
    incumbent, mine = Standing(pid=1, version="", epoch=2), Standing(pid=2, version="", epoch=2)
    for count, lacks in ((0, None), (2, "the start of 2 of 2 workers")):
        crew = Crew(count, Path("/c"), settings(), Ledger(Quota()), Switchboard(LimitSettings()), lambda: False)
        assert crew.lacking(mine, incumbent) == lacks


def test_several_answers_to_metrics_are_one() -> None:
    def process(seconds: float, epoch: int, age: float) -> bytes:
        registry = CollectorRegistry()
        Counter("endpointd_connections", "How many.", ["endpoint"], registry=registry).labels("writer").inc(seconds)
        Counter("alone", "Of one.", [f"l{epoch}"], registry=registry).labels("x").inc()
        Gauge("endpointd_epoch", "Which.", registry=registry).set(epoch)
        Gauge("endpointd_feed_age_seconds", "Since.", registry=registry).set(age)
        Histogram("took_seconds", "How long.", buckets=(1, 5), registry=registry).observe(seconds)
        processes.append(families_of(registry.collect()))
        return generate_latest(registry)

    processes = []
    alone = process(0.5, 7, 1.0)
    assert generate_latest(FamiliesCollector(gather(processes))) == alone
    process(3.0, 6, float("inf"))
    text = generate_latest(FamiliesCollector(gather(processes))).decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["endpointd_connections_total", "writer"] == 3.5
    assert found["endpointd_epoch",] == 6
    assert found["endpointd_feed_age_seconds",] == float("inf")
    assert (found["took_seconds_count",], found["took_seconds_sum",]) == (2, 3.5)
    assert (found["took_seconds_bucket", "1.0"], found["took_seconds_bucket", "5.0"]) == (1, 2)


def test_no_counter_falls_when_a_process_ends_or_answers_late() -> None:
    def told(sessions: int) -> tuple[Family, ...]:
        registry = CollectorRegistry()
        Counter("opened", "How many.", ["node"], registry=registry).labels("n1").inc(sessions)
        Gauge("open", "How many.", registry=registry).set(sessions)
        Histogram("took_seconds", "How long.", buckets=(1,), registry=registry).observe(sessions)
        return families_of(registry.collect())

    def total(*alive: int) -> tuple[float, float, float]:
        samples = {each.name: each.value for metric in tally.gather(alive) for each in metric.samples}
        return samples["opened_total"], samples["took_seconds_count"], samples["open"]

    tally = Tally()
    for process, sessions in ((1, 5), (2, 3), (3, 2)):
        tally.note(process, told(sessions))
    assert total(1, 2, 3) == (10, 3, 10)
    tally.note(1, told(6))
    assert total(1, 2, 3) == (11, 3, 11)  # the others are late
    assert total(1, 3) == (11, 3, 8)
    tally.note(4, told(1))
    assert total(1, 4) == (12, 4, 7)
    assert total(1, 4) == (12, 4, 7)


class Worker:
    """The rest of a worker."""

    def __init__(self) -> None:
        self.turns: list[str] = []

    def standing(self) -> Standing:
        return Standing(pid=1, version="")

    upcoming = 2

    def take_turn(self, turn: Turn) -> None:
        self.turns.append(turn.do)

    def reload(self, settings: str) -> None:
        self.turns.append(settings)

    def answer(self, asked: Asked) -> Awaitable[bytes]:
        async def answer() -> bytes:
            return asked.what.encode()

        return answer()


async def test_a_worker_asks_for_places_and_does_what_it_is_told_until_the_line_ends() -> None:
    ours, theirs = socket.socketpair()
    main: Line[FromWorker] = await Line.over(ours, FromWorker)
    line: Line[FromMain] = await Line.over(theirs, FromMain)
    board, rest = Switchboard(LimitSettings()), Worker()
    board.load["n1"] = 3
    membership = Membership(line, board)
    told: list[Place] = []
    heard: list[FromWorker] = []

    async def serve() -> None:
        async for said in main.hear():
            heard.append(said)
            if isinstance(said, Wanted):
                main.say(Placed(session=said.session, place=Place.TAKEN if said.session == 2 else Place.USER_FULL))
            if isinstance(said, Left):
                main.close()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(serve())
        running = group.create_task(membership.run(rest))
        assert membership.take(2, "u", "d", told.append) is Place.ASKED
        assert membership.take(4, "u", "d", told.append) is Place.ASKED
        main.say(Turn(do="accept"))
        main.say(Reload(settings="reload"))
        main.say(Others(load={"n2": 1}, is_full=True))
        main.say(Asked(id=9, what="metrics"))
        while len(told) < 2 or not membership.is_full or not any(isinstance(one, Told) for one in heard):
            await asyncio.sleep(0.01)
        membership.give_back(7)  # one that never asked
        membership.give_back(2)
        await running
    assert told == [Place.TAKEN, Place.USER_FULL]
    assert (dict(board.load_elsewhere), rest.turns) == ({"n2": 1}, ["accept", "reload"])
    assert [one for one in heard if not isinstance(one, Counted)] == [
        Wanted.of(2, "u", "d"),
        Wanted.of(4, "u", "d"),
        Told(id=9, body=b"metrics"),
        Left(session=2),
    ]
    assert {one.load["n1"] for one in heard if isinstance(one, Counted)} == {3}


async def test_a_line_that_makes_no_sense_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        line: Line[FromWorker] = await Line.over(ours, FromWorker)
        theirs.sendall((5).to_bytes(4, "big") + b"hello")
        with pytest.raises(LineLost, match="cannot be understood"):
            async for _ in line.hear():
                pass
        theirs.sendall((1 << 31).to_bytes(4, "big"))
        with pytest.raises(LineLost, match="a message of"):
            async for _ in line.hear():
                pass
        line.close()
